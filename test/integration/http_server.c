/*
 * A server that says what it understood: each request is answered with @METHOD BODY@, the body in
 * hexadecimal.  Prints its port; ends with its standard input.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/http/http.h"
#include "base/loop/loop.h"

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

int main(void)
{
    struct error err = {0};
    struct loop *loop;
    uint16_t port;
    char byte;
    struct http_server_options options = http_server_defaults();
    if (loop_new("http", &loop, &err) < 0 ||
        http_server_new(loop, &options, serve, NULL, &server, &err) < 0 ||
        http_server_listen(server, "127.0.0.1:0", &port, &err) < 0 || loop_start(loop, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        return EXIT_FAILURE;
    }
    printf("%u\n", port);
    fflush(stdout);
    while (read(STDIN_FILENO, &byte, 1) > 0) {
    }
    loop_post(loop, end, loop);
    loop_join(loop);
    loop_free(loop);
    return EXIT_SUCCESS;
}
