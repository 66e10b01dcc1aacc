/*
 * DNS over TCP: see dns_tcp.h.  Each message has its length in front, in two bytes.
 *
 * A connection asks one question after another.  What is not ours goes over a connection of its own
 * to a resolver of the host's, and what comes back goes to the machine as it is.
 */
#include "engine/net/dns_tcp.h"

#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/list.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/stream/stream.h"

#include "engine/net/dns_message.h"
#include "engine/net/net.h"

enum {
    CONNECTIONS_MAX = 64,
    PATIENCE_MS = 10000, /* with all of a connection that says nothing, or waits */
    DIAL_MS = 3000,
    QUERY_MAX = 1500,
    WAITING_MAX = 8 << 10, /* questions that came before the answer */
};

struct dns_tcp {
    struct loop *loop;
    const struct net_dns_options *options;
    bool (*resolver)(unsigned n, char ret_address[64], void *context);
    void *context;
    struct stream_listener *listener;
    struct list connections;
    size_t count;
};

struct connection {
    struct list_node link;
    struct dns_tcp *tcp;
    struct stream *client;
    struct stream *upstream;
    struct stream_dial *dial;
    struct loop_timer *timer;
    unsigned attempt;
    bool is_asking; /* a resolver */
    bool has_ended; /* its half: it asks no more */
    struct buffer questions;
    struct buffer answer;
};

static void connection_free(struct connection *connection)
{
    list_remove(&connection->link);
    connection->tcp->count--;
    stream_close(connection->client);
    stream_close(connection->upstream);
    if (connection->dial != NULL) {
        stream_dial_cancel(connection->dial);
    }
    loop_timer_free(connection->timer);
    buffer_done(&connection->questions);
    buffer_done(&connection->answer);
    free(connection);
}

static void on_patience(void *context)
{
    connection_free(context);
}

static size_t length_of(const struct buffer *buffer)
{
    return buffer->used < 2 ? SIZE_MAX : (size_t)(buffer->data[0] << 8 | buffer->data[1]) + 2;
}

static void say(struct connection *connection, const uint8_t *bytes, size_t length)
{
    const uint8_t head[2] = {(uint8_t)(length >> 8), (uint8_t)length};
    stream_write(connection->client, head, sizeof(head));
    stream_write(connection->client, bytes, length);
}

static void take_questions(struct connection *connection);

static void end_question(struct connection *connection)
{
    stream_close(connection->upstream);
    connection->upstream = NULL;
    connection->is_asking = false;
    buffer_clear(&connection->answer);
    buffer_consume(&connection->questions, length_of(&connection->questions));
    loop_timer_start(connection->timer, PATIENCE_MS);
}

/* ---- A resolver of the host's ---- */

static bool try_next(struct connection *connection);

static void try_next_later(struct connection *connection)
{
    if (!try_next(connection)) {
        take_questions(connection);
    }
}

static void on_upstream_data(const void *bytes, size_t length, void *context)
{
    struct connection *connection = context;
    buffer_append(&connection->answer, bytes, length);
    size_t whole = length_of(&connection->answer);
    if (connection->answer.used >= whole) {
        stream_write(connection->client, connection->answer.data, whole);
        end_question(connection);
        take_questions(connection);
    }
}

static void on_upstream_end(const struct error *error, void *context)
{
    struct connection *connection = context;
    (void)error;
    stream_close(connection->upstream);
    connection->upstream = NULL;
    buffer_clear(&connection->answer);
    try_next_later(connection);
}

static void on_dialled(struct stream *owned_stream, const struct error *error, void *context)
{
    static const struct stream_events events = {.on_data = on_upstream_data,
                                                .on_end = on_upstream_end};
    struct connection *connection = context;
    (void)error;
    connection->dial = NULL;
    if (owned_stream == NULL) {
        try_next_later(connection);
        return;
    }
    connection->upstream = owned_stream;
    stream_write(owned_stream, connection->questions.data, length_of(&connection->questions));
    stream_start(owned_stream, &events, connection);
}

/* False: none is left, and that was said. */
static bool try_next(struct connection *connection)
{
    char address[64];
    static const struct stream_dial_options options = {.timeout_ms = DIAL_MS};
    const struct dns_tcp *tcp = connection->tcp;
    if (tcp->resolver(connection->attempt++, address, tcp->context)) {
        connection->dial = stream_dial(tcp->loop, address, &options, on_dialled, connection);
        return true;
    }
    uint8_t bytes[DNS_ANSWER_MAX];
    struct dns_question question;
    enum dns_code code;
    const uint8_t *query = connection->questions.data + 2;
    if (dns_read_query(query, length_of(&connection->questions) - 2, &question, &code)) {
        say(connection, bytes, dns_empty_answer(query, question.length, DNS_FAILED, false, bytes));
    }
    end_question(connection);
    return false;
}

/* ---- A machine ---- */

/* False: it said what no client says. */
static bool take_question(struct connection *connection, const uint8_t *query, size_t length)
{
    struct dns_question question;
    enum dns_code code;
    uint8_t bytes[DNS_ANSWER_MAX];
    size_t answer_length = 0;
    if (!dns_read_query(query, length, &question, &code)) {
        return false;
    }
    switch (dns_answer(connection->tcp->options, query, &question, bytes, &answer_length)) {
    case DNS_ANSWERED:
        say(connection, bytes, answer_length);
        end_question(connection);
        break;
    case DNS_PASS_ON:
        connection->is_asking = true;
        connection->attempt = 0;
        try_next(connection);
        break;
    }
    return true;
}

static void take_questions(struct connection *connection)
{
    while (!connection->is_asking) {
        size_t whole = length_of(&connection->questions);
        if (whole != SIZE_MAX && whole > QUERY_MAX + 2) {
            connection_free(connection);
            return;
        }
        if (connection->questions.used < whole) {
            break;
        }
        if (!take_question(connection, connection->questions.data + 2, whole - 2)) {
            connection_free(connection);
            return;
        }
    }
    if (!connection->is_asking && connection->has_ended) {
        stream_shutdown(connection->client);
    }
}

static void on_data(const void *bytes, size_t length, void *context)
{
    struct connection *connection = context;
    if (connection->questions.used + length > WAITING_MAX) {
        connection_free(connection);
        return;
    }
    buffer_append(&connection->questions, bytes, length);
    take_questions(connection);
}

/* It may have asked and want to hear the answer still: patience ends it. */
static void on_end(const struct error *error, void *context)
{
    struct connection *connection = context;
    if (error != NULL || !connection->is_asking) {
        connection_free(connection);
        return;
    }
    connection->has_ended = true;
}

static void on_stream(struct stream *owned_stream, void *context)
{
    static const struct stream_events events = {.on_data = on_data, .on_end = on_end};
    struct dns_tcp *tcp = context;
    if (tcp->count >= CONNECTIONS_MAX) {
        connection_free(LIST_FIRST(&tcp->connections, struct connection, link)); /* the oldest */
    }
    struct connection *connection = NEW(struct connection);
    connection->tcp = tcp;
    connection->client = owned_stream;
    connection->timer = loop_timer_new(tcp->loop, on_patience, connection);
    loop_timer_start(connection->timer, PATIENCE_MS);
    list_push_back(&tcp->connections, &connection->link);
    tcp->count++;
    stream_start(owned_stream, &events, connection);
}

int dns_tcp_open(struct loop *loop, const struct net_dns_options *options,
                 bool (*resolver)(unsigned n, char ret_address[64], void *context), void *context,
                 struct dns_tcp **ret_tcp, struct error *err)
{
    char text[NET_ADDRESS_TEXT_SIZE];
    char address[NET_ADDRESS_TEXT_SIZE + 8];
    uint16_t port = 0;
    struct dns_tcp *tcp = NEW(struct dns_tcp);
    tcp->loop = loop;
    tcp->options = options;
    tcp->resolver = resolver;
    tcp->context = context;
    list_init(&tcp->connections);
    snprintf(address, sizeof(address), "%s:53", net_address_format(options->address, text));
    int r = stream_listen(loop, address, NULL, NULL, on_stream, tcp, &tcp->listener, &port, err);
    if (r < 0) {
        free(tcp);
        return r;
    }
    *ret_tcp = tcp;
    return 0;
}

void dns_tcp_close(struct dns_tcp *tcp)
{
    if (tcp == NULL) {
        return;
    }
    stream_listener_close(tcp->listener);
    LIST_EACH(node, &tcp->connections)
    {
        connection_free(LIST_ITEM(node, struct connection, link));
    }
    free(tcp);
}
