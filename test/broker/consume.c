/*
 * A consumer for tests of service/broker:  consume KIND SETTINGS NAME
 *
 * Prints a JSON line per message and per change of its state; reads answers from standard input:
 * "ack TOKEN", "release TOKEN", "pause", "resume", "status", and ends at its end.
 */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/json.h"
#include "base/loop/loop.h"

#include "service/broker/broker.h"

static struct broker *broker;
static struct loop *loop;
static char line[256];
static size_t used;

static void print(struct buffer *text)
{
    printf("%s\n", buffer_string(text));
    fflush(stdout);
}

static void on_message(const struct broker_message *message, void *context)
{
    (void)context;
    BUFFER_OWNED struct buffer text = {0};
    struct json_writer writer = json_writer_to(&text);
    json_write_begin_object(&writer);
    json_write_field_u64(&writer, "token", message->token);
    json_write_field_string(&writer, "id", message->id);
    json_write_field_string(&writer, "source", message->source);
    json_write_field_string(&writer, "subject", message->subject);
    json_write_field_string(&writer, "type", message->type);
    json_write_field_u64(&writer, "time_ms", message->time_ms);
    json_write_field_u64(&writer, "deliveries", message->deliveries);
    json_write_field_u64(&writer, "refused_bytes", message->refused_bytes);
    json_write_key(&writer, "body");
    json_write_text(&writer, message->body, message->length);
    char *fields = json_dumps(message->fields, JSON_SORT_KEYS);
    json_write_key(&writer, "fields");
    json_write_raw(&writer, fields, strlen(fields));
    free(fields);
    json_write_end_object(&writer);
    print(&text);
}

static void on_state(bool is_connected, const char *reason, void *context)
{
    (void)context;
    BUFFER_OWNED struct buffer text = {0};
    struct json_writer writer = json_writer_to(&text);
    json_write_begin_object(&writer);
    json_write_field_bool(&writer, "connected", is_connected);
    json_write_field_string(&writer, "reason", reason);
    json_write_end_object(&writer);
    print(&text);
}

static void print_status(void)
{
    struct broker_status status;
    BUFFER_OWNED struct buffer text = {0};
    struct json_writer writer = json_writer_to(&text);
    broker_status(broker, &status);
    json_write_begin_object(&writer);
    json_write_field_u64(&writer, "taken", status.taken);
    json_write_field_bool(&writer, "knows_lag", status.knows_lag);
    json_write_field_u64(&writer, "lag", status.lag);
    json_write_end_object(&writer);
    print(&text);
}

static void obey(const char *order)
{
    uint64_t token = 0;
    if (sscanf(order, "ack %" SCNu64, &token) == 1) {
        broker_acknowledge(broker, token);
    } else if (sscanf(order, "release %" SCNu64, &token) == 1) {
        broker_release(broker, token);
    } else if (strcmp(order, "pause") == 0) {
        broker_pause(broker);
    } else if (strcmp(order, "resume") == 0) {
        broker_resume(broker);
    } else {
        print_status();
    }
}

static void on_input(uv_poll_t *poll, int status, int events)
{
    (void)status;
    (void)events;
    ssize_t got = read(STDIN_FILENO, line + used, sizeof(line) - 1 - used);
    if (got <= 0) {
        uv_poll_stop(poll);
        loop_stop(loop);
        return;
    }
    used += (size_t)got;
    line[used] = '\0';
    for (char *end = strchr(line, '\n'); end != NULL; end = strchr(line, '\n')) {
        *end = '\0';
        obey(line);
        used -= (size_t)(end + 1 - line);
        memmove(line, end + 1, used + 1);
    }
}

int main(int argc, char **argv)
{
    struct error err = {0};
    struct broker_events events = {.on_message = on_message, .on_state = on_state};
    json_t *settings = NULL;
    uv_poll_t poll;
    signal(SIGPIPE, SIG_IGN);
    if (argc != 4 || json_read(argv[2], strlen(argv[2]), &settings, &err) < 0 ||
        loop_new("consume", &loop, &err) < 0) {
        fprintf(stderr, "consume KIND SETTINGS NAME: %s\n", err.text);
        return 64;
    }
    struct broker_options options = {
        .kind = argv[1],
        .settings = settings,
        .name = argv[3],
        .username = getenv("BROKER_USER"),
        .password = getenv("BROKER_PASSWORD"),
    };
    if (broker_open(loop, &options, &events, NULL, &broker, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        json_decref(settings);
        loop_free(loop);
        return 1;
    }
    uv_poll_init(loop_uv(loop), &poll, STDIN_FILENO);
    uv_poll_start(&poll, UV_READABLE, on_input);
    loop_run(loop);
    broker_close(broker);
    broker_settle();
    uv_close((uv_handle_t *)&poll, NULL);
    json_decref(settings);
    loop_free(loop);
    return 0;
}
