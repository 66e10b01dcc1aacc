/*
 * A server that says what it understood: each request is answered with @METHOD BODY@, the body in
 * hexadecimal.  Prints its port; ends with its standard input.  With a folder, it speaks TLS as
 * well, puts the authority that answers for it there as authority.pem, and prints the other port,
 * too.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/certificate.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/http/http.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/stream/tls.h"

static struct http_server *server;

static void end_body(struct buffer *body, const struct error *error, void *context)
{
    struct http_exchange *exchange = context;
    struct text method = http_exchange_method_text(exchange);
    BUFFER_OWNED struct buffer answer = {0};
    buffer_append_format(&answer, "@%.*s ", (int)method.length, method.data);
    for (size_t i = 0; i < body->used; i++) {
        buffer_append_format(&answer, "%02x", body->data[i]);
    }
    buffer_append_string(&answer, "@");
    if (error == NULL) {
        http_exchange_respond(exchange, 200, answer.data, answer.used);
    } else {
        http_exchange_respond_error(exchange, error, NULL);
    }
    http_exchange_unref(exchange);
}

static void serve(struct http_exchange *exchange, void *context)
{
    (void)context;
    http_exchange_read_all(exchange, 1 << 20, end_body, exchange);
}

static void end(void *argument)
{
    http_server_free(server);
    loop_stop(argument);
}

/* A context for "localhost", by an authority of our own. */
static int make_context(const char *folder, struct tls_context **ret_context, struct error *err)
{
    static const char *const names[] = {"localhost", "127.0.0.1", NULL};
    const struct certificate_terms terms = {.common_name = "server",
                                            .uri = "spiffe://test/server",
                                            .names = names,
                                            .now_ms = clock_real_ms(),
                                            .lifetime_ms = 86400000,
                                            .is_server = true};
    BUFFER_OWNED struct buffer authority = {0};
    BUFFER_OWNED struct buffer authority_key = {0};
    BUFFER_OWNED struct buffer request = {0};
    BUFFER_OWNED struct buffer key = {0};
    BUFFER_OWNED struct buffer certificate = {0};
    MEMORY_OWNED char *path = memory_format("%s/authority.pem", folder);
    if (certificate_make_authority("Test", "spiffe://test", 2, &authority, &authority_key, err) <
            0 ||
        certificate_make_request(&request, &key, err) < 0 ||
        certificate_sign(buffer_string(&request), buffer_string(&authority),
                         buffer_string(&authority_key), &terms, &certificate, err) < 0 ||
        file_write(path, authority.data, authority.used, 0600, err) < 0) {
        return -(int)err->kind;
    }
    const struct tls_context_options options = {.certificate = buffer_string(&certificate),
                                                .key = buffer_string(&key),
                                                .authority = buffer_string(&authority),
                                                .verify = TLS_VERIFY_OPTIONAL};
    return tls_context_new(&options, ret_context, err);
}

static int listen_on(const char *folder_or_null, struct error *err)
{
    struct tls_context *tls = NULL;
    uint16_t port = 0;
    int r = http_server_listen(server, "127.0.0.1:0", &port, err);
    if (r == 0) {
        printf("%u\n", port);
    }
    if (r == 0 && folder_or_null != NULL) {
        r = make_context(folder_or_null, &tls, err);
    }
    if (r == 0 && tls != NULL) {
        r = http_server_listen_tls(server, "127.0.0.1:0", tls, NULL, NULL, NULL, &port, err);
        tls_context_unref(tls);
        printf("%u\n", port);
    }
    fflush(stdout);
    return r;
}

int main(int argc, char **argv)
{
    struct error err = {0};
    struct loop *loop;
    char byte;
    signal(SIGPIPE, SIG_IGN);
    struct http_server_options options = http_server_defaults();
    if (loop_new("http", &loop, &err) < 0 ||
        http_server_new(loop, &options, serve, NULL, &server, &err) < 0 ||
        listen_on(argc > 1 ? argv[1] : NULL, &err) < 0 || loop_start(loop, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        return EXIT_FAILURE;
    }
    while (read(STDIN_FILENO, &byte, 1) > 0) {
    }
    loop_post(loop, end, loop);
    loop_join(loop);
    loop_free(loop);
    return EXIT_SUCCESS;
}
