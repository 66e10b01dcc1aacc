/*
 * What is news goes to the state.
 *
 * Rows: of a machine one, which the node writes where it runs; of a function one for each node.
 * What this node has said before its start is read first, so that it is not said again, and goes
 * when it is not so any more.
 */
#include <stdlib.h>
#include <string.h>

#include "service/traffic/parts.h"

enum { ROWS_MAX = 256 }; /* of a command */

static void free_said(const char *key, void *value, void *context)
{
    struct said *said = value;
    (void)key;
    (void)context;
    free(said->peers);
    free(said);
}

void publish_done(struct traffic_service *service)
{
    map_each(&service->said, free_said, NULL);
    map_done(&service->said);
    service->said = (struct map){0};
}

static void forget_said(struct traffic_service *service, const char *subject)
{
    struct said *said = map_remove(&service->said, subject);
    if (said != NULL) {
        free_said(subject, said, NULL);
    }
}

static void set_said(struct traffic_service *service, const char *subject, const char *peers)
{
    struct said *said = map_get(&service->said, subject);
    if (said == NULL) {
        said = NEW(struct said);
        map_set(&service->said, subject, said);
    }
    free(said->peers);
    said->peers = memory_copy_string(peers);
    said->look = service->looks;
}

/* ---- What was said before ---- */

static bool take_said(sqlite3_stmt *row, void *context)
{
    struct traffic_service *service = context;
    MEMORY_OWNED char *subject = memory_format("%s%s", store_text(row, 0), store_text(row, 1));
    set_said(service, subject, store_text(row, 2));
    return true;
}

static void load_said(struct traffic_service *service)
{
    struct error err = {0};
    if (service->is_said_loaded) {
        return;
    }
    publish_done(service);
    if (store_query(service->options.store, &err, take_said, service,
                    "SELECT '" KIND_MACHINE "', key, peers FROM machine_traffic WHERE node = ?1 "
                    "UNION ALL SELECT '" KIND_FUNCTION
                    "', function, peers FROM function_traffic WHERE node = ?1",
                    "t", service->options.node_name) < 0) {
        log_warn("traffic: what was learnt before cannot be read: %s", err.text);
    }
    service->is_said_loaded = true;
}

/* ---- What is to be said ---- */

struct publishing {
    struct traffic_service *service;
    struct store_command *command;
    size_t rows;
    char **subjects; /* copies */
    size_t subject_count;
};

static void list_subject(const char *subject, void *context)
{
    struct publishing *publishing = context;
    publishing->subjects[publishing->subject_count++] = memory_copy_string(subject);
}

/* Those that are learnt of are listed already. */
static void list_said(const char *subject, void *value, void *context)
{
    const struct publishing *publishing = context;
    (void)value;
    if (map_get(&publishing->service->learner.subjects, subject) == NULL) {
        list_subject(subject, context);
    }
}

static bool runs_here(struct traffic_service *service, const char *machine_id)
{
    bool runs = false;
    struct error ignored = {0};
    store_query(service->options.store, &ignored, store_take_any, &runs,
                "SELECT 1 FROM machine WHERE id = ? AND node = ? AND state = 'running'", "tt",
                machine_id, service->options.node_name);
    return runs;
}

/* Enough was seen to say so? */
static bool is_due(const struct traffic_service *service, const struct said *said, bool is_silent)
{
    uint64_t since = said != NULL ? service->looks - said->look : service->looks;
    uint64_t wanted = is_silent ? TRAFFIC_MEMORY_LOOKS
        : said != NULL          ? TRAFFIC_QUIET_LOOKS
                                : TRAFFIC_FIRST_LOOKS;
    return since >= wanted;
}

static void add_machine(struct publishing *publishing, const char *id, const char *peers)
{
    const char *node = publishing->service->options.node_name;
    if (peers[0] == '\0') {
        store_command_add(publishing->command,
                          "DELETE FROM machine_traffic WHERE key = ? AND node = ?", "tt", id, node);
        return;
    }
    store_command_add(publishing->command,
                      "INSERT INTO machine_traffic (key, node, peers, at_ms, revision) SELECT id, "
                      "?2, ?3, ?4, ?5 FROM machine WHERE id = ?1 AND node = ?2 ON CONFLICT (key) "
                      "DO UPDATE SET node = excluded.node, peers = excluded.peers, at_ms = "
                      "excluded.at_ms, revision = excluded.revision",
                      "tttur", id, node, peers, clock_real_ms());
}

static void add_function(struct publishing *publishing, const char *function, const char *peers)
{
    const char *node = publishing->service->options.node_name;
    MEMORY_OWNED char *key = memory_format("%s %s", function, node);
    if (peers[0] == '\0') {
        store_command_add(publishing->command, "DELETE FROM function_traffic WHERE key = ?", "t",
                          key);
        return;
    }
    store_command_add(publishing->command,
                      "INSERT INTO function_traffic (key, function, node, peers, at_ms, revision) "
                      "SELECT ?1, key, ?3, ?4, ?5, ?6 FROM function WHERE key = ?2 ON CONFLICT "
                      "(key) DO UPDATE SET peers = excluded.peers, at_ms = excluded.at_ms, "
                      "revision = excluded.revision",
                      "ttttur", key, function, node, peers, clock_real_ms());
}

/* As `learnt`, of what the state has. */
static size_t read_said(const char *peers, struct traffic_peer said[TRAFFIC_PEERS_MAX],
                        char keys[TRAFFIC_PEERS_MAX][LEARN_KEY_SIZE],
                        struct learnt ret_list[TRAFFIC_PEERS_MAX])
{
    static const char *const kinds[] = {
        [TRAFFIC_MACHINE] = KIND_MACHINE, [TRAFFIC_NODE] = KIND_NODE};
    size_t count = peers_read(peers, said);
    for (size_t i = 0; i < count; i++) {
        snprintf(keys[i], LEARN_KEY_SIZE, "%s%s", kinds[said[i].kind], said[i].id);
        ret_list[i] = (struct learnt){keys[i], said[i].bytes_per_second};
    }
    return count;
}

static void publish_one(struct publishing *publishing, const char *subject)
{
    struct traffic_service *service = publishing->service;
    const struct said *said = map_get(&service->said, subject);
    struct traffic_peer peers[TRAFFIC_PEERS_MAX];
    char keys[TRAFFIC_PEERS_MAX][LEARN_KEY_SIZE];
    struct learnt before[TRAFFIC_PEERS_MAX];
    struct learnt now[TRAFFIC_PEERS_MAX];
    BUFFER_OWNED struct buffer text = {0};
    size_t before_count = said != NULL ? read_said(said->peers, peers, keys, before) : 0;
    size_t count = learn_top(&service->learner, subject, now, TRAFFIC_PEERS_MAX);
    bool is_machine = strncmp(subject, KIND_MACHINE, strlen(KIND_MACHINE)) == 0;
    const char *id = subject + (is_machine ? strlen(KIND_MACHINE) : strlen(KIND_FUNCTION));
    if (is_machine && !runs_here(service, id)) { /* its row is not ours, or stays as it is */
        learn_forget(&service->learner, subject);
        forget_said(service, subject);
        return;
    }
    if (!learn_is_news(before, before_count, now, count) || !is_due(service, said, count == 0)) {
        return;
    }
    if (count > 0) {
        peers_write(now, count, &text);
    }
    if (is_machine) {
        add_machine(publishing, id, buffer_string(&text));
    } else {
        add_function(publishing, id, buffer_string(&text));
    }
    publishing->rows++;
    if (count > 0) {
        set_said(service, subject, buffer_string(&text));
    } else {
        forget_said(service, subject);
    }
}

/* ---- All ---- */

static void on_written(const struct error *error, uint64_t index, void *context)
{
    struct traffic_service *service = context;
    (void)index;
    service->pending--;
    if (error != NULL) { /* what the state has is seen at the next look */
        service->is_said_loaded = false;
    }
}

void publish_news(struct traffic_service *service)
{
    if (!traffic_is_known(service->options.store)) {
        return;
    }
    load_said(service);
    size_t most = service->learner.subjects.count + service->said.count;
    struct publishing publishing = {.service = service,
                                    .command = store_command_new(),
                                    .subjects = memory_new(most + 1, sizeof(char *))};
    learn_each(&service->learner, list_subject, &publishing);
    map_each(&service->said, list_said, &publishing);
    for (size_t i = 0; i < publishing.subject_count; i++) {
        if (publishing.rows < ROWS_MAX) {
            publish_one(&publishing, publishing.subjects[i]);
        }
        free(publishing.subjects[i]);
    }
    free(publishing.subjects);
    if (publishing.rows == 0) {
        store_command_free(publishing.command);
        return;
    }
    store_command_add(publishing.command,
                      "DELETE FROM function_traffic WHERE node <> ?1 AND NOT EXISTS (SELECT 1 "
                      "FROM node WHERE node.key = function_traffic.node)",
                      "t", service->options.node_name);
    service->written += publishing.rows;
    service->pending++;
    store_propose(service->options.store, publishing.command, on_written, service);
}
