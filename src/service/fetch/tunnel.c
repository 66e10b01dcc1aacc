/*
 * Tunnels: connections whose bytes are neither looked at nor kept, to addresses that were checked.
 * See fetch.h.  A tunnel is a fetch without curl: it is admitted, resolved, counted and timed as
 * one.
 */
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/stream/stream.h"

#include "service/fetch/private.h"

static void dial_next(struct fetch *fetch, const struct error *last);

static void on_data(const void *bytes, size_t length, void *context)
{
    struct fetch *fetch = context;
    reached_count(fetch, length);
    buffer_append(&fetch->received, bytes, length);
    fetch->received_bytes += length;
    fetch->service->received_bytes += length;
    if (fetch_is_full(fetch)) {
        fetch->is_paused = true;
        stream_pause(fetch->stream);
    }
    fetch_note_change(fetch);
}

static void on_drained(void *context)
{
    fetch_note_change(context);
}

static void on_end(const struct error *error, void *context)
{
    struct fetch *fetch = context;
    if (error != NULL) {
        fetch_fail(fetch, FETCH_CLOSED, "%s: %s", fetch->url.host, error->text);
    } else {
        fetch_end_well(fetch);
    }
}

static void on_dialled(struct stream *owned_stream, const struct error *error, void *context)
{
    static const struct stream_events events = {on_data, on_drained, on_end};
    struct fetch *fetch = context;
    fetch->dial = NULL;
    if (owned_stream == NULL) {
        dial_next(fetch, error);
        return;
    }
    fetch->stream = owned_stream;
    reached_begin(fetch, &fetch->tried[fetch->tried_next - 1], fetch->url.port);
    stream_start(owned_stream, &events, fetch);
    if (fetch->early.used > 0) {
        stream_write(owned_stream, fetch->early.data, fetch->early.used);
        reached_count(fetch, fetch->early.used);
        buffer_done(&fetch->early);
    }
    if (fetch->is_finished) {
        stream_shutdown(owned_stream);
    }
    fetch_note_change(fetch);
}

static void dial_next(struct fetch *fetch, const struct error *last)
{
    const struct stream_dial_options options = {.timeout_ms = CONNECT_MS};
    char number[FETCH_ADDRESS_TEXT_SIZE];
    char address[FETCH_ADDRESS_TEXT_SIZE + 16];
    if (fetch->tried_next == fetch->tried_count) {
        fetch_fail(fetch, FETCH_CONNECT, "%s: %s", fetch->url.host,
                   last != NULL ? last->text : "it has no address");
        return;
    }
    const struct fetch_address *next = &fetch->tried[fetch->tried_next++];
    fetch_address_write(next, number);
    snprintf(address, sizeof(address), fetch_address_is_v4(next) ? "%s:%u" : "[%s]:%u", number,
             (unsigned)fetch->url.port);
    fetch->dial = stream_dial(fetch->service->loop, address, &options, on_dialled, fetch);
}

void tunnel_begin(struct fetch *fetch, const struct fetch_address *addresses, size_t count)
{
    fetch->tried_count = count > 0 ? count : 1;
    fetch->tried_next = 0;
    memcpy(fetch->tried, count > 0 ? addresses : &fetch->url.address,
           fetch->tried_count * sizeof(fetch->tried[0]));
    dial_next(fetch, NULL);
}

void tunnel_end(struct fetch *fetch)
{
    if (fetch->dial != NULL) {
        stream_dial_cancel(fetch->dial);
        fetch->dial = NULL;
    }
    stream_close(fetch->stream);
    fetch->stream = NULL;
}

bool fetch_tunnel_is_full(const struct fetch *fetch)
{
    size_t waiting = fetch->stream != NULL ? stream_waiting(fetch->stream) : fetch->early.used;
    return !fetch->is_over && waiting > FETCH_BUFFER_BYTES;
}

bool fetch_tunnel_write(struct fetch *fetch, const void *bytes, size_t length)
{
    if (fetch->is_over || fetch->is_finished) {
        return true;
    }
    if (fetch->stream != NULL) {
        stream_write(fetch->stream, bytes, length);
        reached_count(fetch, length);
    } else {
        buffer_append(&fetch->early, bytes, length);
    }
    return !fetch_tunnel_is_full(fetch);
}

void fetch_tunnel_finish(struct fetch *fetch)
{
    if (fetch->stream != NULL && !fetch->is_finished) {
        stream_shutdown(fetch->stream);
    }
    fetch->is_finished = true;
}
