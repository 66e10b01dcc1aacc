/* NATS JetStream: a durable pull consumer with explicit acknowledgement (docs.nats.io, JetStream).
 */
#include <inttypes.h>
#include <nats/nats.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/clock.h"

#include "service/broker/private.h"
#include "service/broker/slots.h"

enum { FETCH_MS = 250, BATCH_MAX = 256, END_MS = 2000 };

struct client {
    struct broker *broker;
    natsConnection *connection;
    jsCtx *jetstream;
    natsSubscription *subscription;
    struct slots slots; /* natsMsg */
    uint64_t ack_wait_ms;
    uint64_t extended_ms;
};

/* ---- Connecting ---- */

static natsStatus dial(struct client *client)
{
    struct broker *broker = client->broker;
    natsOptions *options = NULL;
    const char *url = broker_text(broker, "url", "");
    natsStatus status = natsOptions_Create(&options);
    status = status != NATS_OK ? status : natsOptions_SetURL(options, url);
    status = status != NATS_OK ? status : natsOptions_SetName(options, broker->name);
    status = status != NATS_OK ? status : natsOptions_SetTimeout(options, 5000);
    status = status != NATS_OK ? status : natsOptions_SetAllowReconnect(options, false);
    if (status == NATS_OK && strncmp(url, "tls:", 4) == 0) {
        status = natsOptions_SetSecure(options, true);
    }
    if (status == NATS_OK && broker->username != NULL) {
        status = natsOptions_SetUserInfo(options, broker->username,
                                         broker->password != NULL ? broker->password : "");
    } else if (status == NATS_OK && broker->password != NULL) {
        status = natsOptions_SetToken(options, broker->password);
    }
    status = status != NATS_OK ? status : natsConnection_Connect(&client->connection, options);
    natsOptions_Destroy(options);
    return status;
}

static natsStatus subscribe(struct client *client, jsErrCode *ret_code)
{
    struct broker *broker = client->broker;
    jsSubOptions options;
    jsOptions js;
    jsOptions_Init(&js);
    jsSubOptions_Init(&options);
    options.Stream = broker_text(broker, "stream", NULL);
    options.Config.AckPolicy = js_AckExplicit;
    options.Config.AckWait = (int64_t)client->ack_wait_ms * 1000000;
    options.Config.DeliverPolicy = broker_starts_with_all(broker) ? js_DeliverAll : js_DeliverNew;
    options.Config.MaxAckPending = BROKER_IN_FLIGHT_MAX;
    natsStatus status = natsConnection_JetStream(&client->jetstream, client->connection, &js);
    return status != NATS_OK
        ? status
        : js_PullSubscribe(&client->subscription, client->jetstream,
                           broker_text(broker, "subject", ""),
                           broker_text(broker, "durable", "blixard"), &js, &options, ret_code);
}

/* Without where in the library it was found: "(conn.c:2088): ". */
static const char *without_place(const char *text)
{
    const char *end = text[0] == '(' ? strstr(text, "): ") : NULL;
    return end != NULL ? end + 3 : text;
}

static bool connect_all(struct client *client)
{
    jsErrCode code = 0;
    natsStatus status = dial(client);
    if (status == NATS_OK) {
        status = subscribe(client, &code);
    }
    if (status != NATS_OK) {
        const char *text = nats_GetLastError(NULL);
        broker_note_state(client->broker, false, "%s",
                          text != NULL && text[0] != '\0' ? without_place(text)
                                                          : natsStatus_GetText(status));
        return false;
    }
    broker_note_state(client->broker, true, "%s", "");
    return true;
}

static void disconnect(struct client *client)
{
    natsSubscription_Destroy(client->subscription); /* the durable consumer stays */
    jsCtx_Destroy(client->jetstream);
    natsConnection_Destroy(client->connection);
    client->subscription = NULL;
    client->jetstream = NULL;
    client->connection = NULL;
}

/* ---- Messages ---- */

static json_t *fields_of(natsMsg *message, const char **ret_type)
{
    json_t *fields = json_object();
    const char **names = NULL;
    int count = 0;
    if (natsMsgHeader_Keys(message, &names, &count) != NATS_OK) {
        return fields;
    }
    for (int i = 0; i < count; i++) {
        const char *value = NULL;
        if (natsMsgHeader_Get(message, names[i], &value) != NATS_OK || value == NULL) {
            continue;
        }
        if (strcasecmp(names[i], "Content-Type") == 0) {
            *ret_type = value;
        } else {
            broker_add_field(fields, names[i], value, strlen(value));
        }
    }
    free((void *)names);
    return fields;
}

static void give(struct client *client, natsMsg *owned)
{
    struct broker_message message = {
        .source = natsMsg_GetSubject(owned),
        .body = natsMsg_GetData(owned),
        .length = (size_t)natsMsg_GetDataLength(owned),
    };
    char id[96] = "";
    jsMsgMetaData *facts = NULL;
    if (natsMsg_GetMetaData(&facts, owned) == NATS_OK && facts != NULL) {
        snprintf(id, sizeof(id), "%.64s-%" PRIu64, facts->Stream, facts->Sequence.Stream);
        message.time_ms = (uint64_t)(facts->Timestamp / 1000000);
        message.deliveries = (unsigned)facts->NumDelivered;
        broker_note_lag(client->broker, facts->NumPending);
    }
    jsMsgMetaData_Destroy(facts);
    message.id = id;
    json_t *fields = fields_of(owned, &message.type);
    /* Where its answer goes, not the message: that is of a subscription, which may have ended with
     * its connection by then. */
    const char *reply = natsMsg_GetReply(owned);
    message.token = slots_put(&client->slots, memory_copy_string(reply != NULL ? reply : ""));
    broker_give(client->broker, &message, fields);
    natsMsg_Destroy(owned);
}

static void answer(struct client *client, const char *reply, const char *what)
{
    if (reply[0] != '\0') {
        natsConnection_PublishString(client->connection, reply, what);
    }
}

static void take_verdicts(struct client *client)
{
    uint64_t token = 0;
    bool is_acknowledged = false;
    while (broker_next_verdict(client->broker, &token, &is_acknowledged)) {
        MEMORY_OWNED char *reply = slots_take(&client->slots, token);
        answer(client, reply, is_acknowledged ? "+ACK" : "-NAK");
    }
}

static void answer_held(struct client *client, const char *what)
{
    for (unsigned i = 0; i < client->slots.size; i++) {
        if (client->slots.held[i] != NULL) {
            answer(client, client->slots.held[i], what);
        }
    }
}

/* What is being worked on is not to be delivered again. */
static void extend(struct client *client)
{
    uint64_t now_ms = clock_monotonic_ms();
    if (now_ms - client->extended_ms < client->ack_wait_ms / 3) {
        return;
    }
    client->extended_ms = now_ms;
    answer_held(client, "+WPI");
}

static bool fetch(struct client *client, unsigned room)
{
    natsMsgList list = {0};
    jsErrCode code = 0;
    natsStatus status = natsSubscription_Fetch(
        &list, client->subscription, (int)(room > BATCH_MAX ? BATCH_MAX : room), FETCH_MS, &code);
    for (int i = 0; i < list.Count; i++) {
        give(client, list.Msgs[i]);
        list.Msgs[i] = NULL;
    }
    natsMsgList_Destroy(&list);
    if (status == NATS_OK || status == NATS_TIMEOUT || status == NATS_NOT_FOUND) {
        return true;
    }
    broker_note_state(client->broker, false, "%s", natsStatus_GetText(status));
    return false;
}

static void serve(struct client *client)
{
    bool good = true;
    while (good && !broker_is_stopping(client->broker)) {
        take_verdicts(client);
        extend(client);
        unsigned room = broker_room(client->broker);
        if (room == 0) {
            broker_wait(client->broker, 1000);
            good = natsConnection_Status(client->connection) == NATS_CONN_STATUS_CONNECTED;
            if (!good) {
                broker_note_state(client->broker, false, "the connection was lost");
            }
        } else {
            good = fetch(client, room);
        }
    }
    take_verdicts(client);
    if (broker_is_stopping(client->broker)) {
        answer_held(client, "-NAK"); /* or nobody gets it before ack_wait is over */
    }
    if (client->connection != NULL) {
        natsConnection_FlushTimeout(client->connection, 1000);
    }
}

static atomic_bool was_used;

void broker_nats_end(void)
{
    if (atomic_exchange(&was_used, false)) {
        nats_CloseAndWait(END_MS);
    }
}

static void run(struct broker *broker)
{
    struct client client = {
        .broker = broker,
        .ack_wait_ms = broker_number(broker, "ack_wait_ms", 60000),
    };
    uint64_t delay_ms = 0;
    was_used = true;
    slots_init(&client.slots, broker->in_flight_max);
    while (!broker_is_stopping(broker)) {
        if (connect_all(&client)) {
            delay_ms = 0;
            serve(&client);
        }
        disconnect(&client);
        broker_back_off(broker, &delay_ms);
    }
    slots_done(&client.slots, free);
    nats_ReleaseThreadMemory();
}

static const char *const schemes[] = {"nats", "tls", NULL};
static const char *const keys[] = {"subject", "stream", "durable", "start", "ack_wait_ms", NULL};
static const char *const needed[] = {"subject", NULL};

const struct broker_kind broker_nats = {
    .name = "nats", .schemes = schemes, .keys = keys, .needed = needed, .run = run};
