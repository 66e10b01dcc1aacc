/* Calls that other nodes run, and calls that other nodes pass on. */
#include "service/gateway/choose.h"

#include "test/lib/test.h"
#include "test/unit/service/faked/fakes.h"

static void fail_pass(enum error_kind kind, bool is_untouched)
{
    struct error error;
    error_set(&error, kind, "node x: no");
    fake_pass_end(&error, is_untouched);
}

static void body_passed_on(void)
{
    static const char *const fields[] = {"Host", "shop.example", "X-Request-Id", "r1", NULL};
    fake_has_others = true;
    struct http_exchange *exchange = fake_request(
        &(struct fake_request){.path = "/fn/away/a%20b", .query = "q=1", .fields = fields});
    EXPECT(fake_pass != NULL && (fake_pass->node == 2 || fake_pass->node == 3));
    EXPECT_STRING(fake_pass->target, "/fn/away/a%20b?q=1");
    EXPECT(strstr(fake_pass->fields, "X-Blixard-Hop: 1\n") != NULL);
    EXPECT(strstr(fake_pass->fields, "X-Blixard-Function: default/away:7\n") != NULL);
    EXPECT(strstr(fake_pass->fields, "X-Blixard-Script: 8\n") != NULL);
    EXPECT(strstr(fake_pass->fields, "X-Blixard-Host: shop.example\n") != NULL);
    EXPECT(strstr(fake_pass->fields, "X-Blixard-Client: 127.0.0.1:4711\n") != NULL);
    EXPECT(strstr(fake_pass->fields, "X-Blixard-Deadline-Ms: 2000\n") != NULL);
    EXPECT(strstr(fake_pass->fields, "X-Request-Id: r1\n") != NULL);
    EXPECT(strstr(fake_pass->fields, "traceparent: 00-") != NULL);
    EXPECT(fake_pass->timeout_ms == 3000);
    fake_pass_answer();
    EXPECT(exchange->status == 200 && fake_pass == NULL);
    EXPECT_STRING(fake_answer(exchange), "passed");
    http_exchange_unref(exchange);
}

TEST(gateway_forward, tells_the_node_all_that_the_client_said)
{
    fake_world_run(1, 1, body_passed_on);
}

static void body_retried(void)
{
    fake_has_others = true;
    struct http_exchange *exchange = fake_get("/fn/away");
    uint64_t first = fake_pass->node;
    EXPECT(fake_pass->takes_refusal);
    fail_pass(ERROR_UNAVAILABLE, true);
    EXPECT(fake_pass != NULL && fake_pass->node != first && !fake_pass->takes_refusal);
    fail_pass(ERROR_UNAVAILABLE, true); /* two are enough */
    EXPECT(exchange->status == 503 && fake_pass == NULL);
    EXPECT_STRING(fake_field(exchange, "X-Blixard-Node"), "a");
    http_exchange_unref(exchange);

    exchange = fake_get("/fn/away");
    fail_pass(ERROR_UNAVAILABLE, false); /* a function may have seen it */
    EXPECT(exchange->status == 503 && fake_pass == NULL);
    EXPECT(strstr(exchange->error.text, "node x") != NULL);
    http_exchange_unref(exchange);
}

TEST(gateway_forward, tries_another_node_once_and_only_what_nobody_has_seen)
{
    fake_world_run(1, 1, body_retried);
}

static void body_gone(void)
{
    fake_has_others = true;
    struct http_exchange *exchange = fake_get("/fn/away");
    fake_hang_up(exchange);
    EXPECT(fake_pass == NULL && exchange->status == 0);
    http_exchange_unref(exchange);
}

TEST(gateway_forward, ends_when_the_client_goes_away)
{
    fake_world_run(1, 1, body_gone);
}

static void body_cordoned(void)
{
    fake_has_others = true;
    fake_cordon(true);
    struct http_exchange *exchange = fake_get("/fn/hello");
    EXPECT(fake_pass != NULL && fake_pass->takes_refusal);
    EXPECT(strstr(fake_pass->fields, "X-Blixard-Function: default/hello:7\n") != NULL);
    fake_pass_answer();
    EXPECT(exchange->status == 200);
    http_exchange_unref(exchange);

    exchange = fake_get("/fn/hello"); /* nobody takes it: here, after all */
    fail_pass(ERROR_UNAVAILABLE, true);
    EXPECT(fake_pass != NULL && fake_pass->takes_refusal);
    fail_pass(ERROR_UNAVAILABLE, true);
    EXPECT(fake_pass == NULL && exchange->status == 0);
    fake_turn();
    struct runner_call *call = fake_call(0);
    EXPECT(call != NULL);
    fake_output(call, "hi");
    fake_end(call, VMM_END_EXIT, 0, "");
    EXPECT(exchange->status == 200);
    EXPECT_STRING(fake_answer(exchange), "hi");
    http_exchange_unref(exchange);

    exchange = fake_get("/fn/hello");
    fail_pass(ERROR_UNAVAILABLE, false); /* a function may have seen it */
    EXPECT(exchange->status == 503 && fake_pass == NULL);
    http_exchange_unref(exchange);

    fake_cordon(false);
    exchange = fake_get("/fn/hello");
    fake_turn();
    EXPECT(fake_pass == NULL && fake_call(0) != NULL);
    fake_end(fake_call(0), VMM_END_EXIT, 0, "");
    http_exchange_unref(exchange);
}

TEST(gateway_forward, of_a_node_that_takes_nothing_new_passes_on_what_could_run_here)
{
    fake_world_run(1, 1, body_cordoned);
}

static void body_alone(void)
{
    struct http_exchange *exchange = fake_get("/fn/away");
    EXPECT(exchange->status == 503 && fake_pass == NULL);
    http_exchange_unref(exchange);
}

TEST(gateway_forward, needs_another_node)
{
    fake_world_run(1, 1, body_alone);
}

static void body_deadline(void)
{
    static const char *const fields[] = {
        "X-Blixard-Deadline-Ms", "50", "X-Blixard-Hop", "1", "X-Blixard-Subject", "CN=ann", NULL};
    fake_has_others = true;
    struct http_exchange *exchange =
        fake_request(&(struct fake_request){.path = "/fn/away", .fields = fields});
    EXPECT(strstr(fake_pass->fields, "X-Blixard-Deadline-Ms: 51\n") != NULL);
    fake_pass_answer();
    http_exchange_unref(exchange);
    /* Here, too; and what only nodes may say does not reach a function. */
    static const char *const later[] = {"X-Blixard-Deadline-Ms",
                                        "60000",
                                        "X-Blixard-Hop",
                                        "1",
                                        "X-Blixard-Subject",
                                        "CN=ann",
                                        NULL};
    exchange = fake_request(&(struct fake_request){.path = "/fn/hello", .fields = later});
    fake_turn();
    struct runner_call *call = fake_call(0);
    EXPECT(call != NULL && fake_variable(call, "HTTP_X_BLIXARD_HOP") == NULL);
    EXPECT(fake_variable(call, "HTTP_X_BLIXARD_DEADLINE_MS") == NULL);
    EXPECT(fake_variable(call, "HTTP_X_BLIXARD_SUBJECT") == NULL);
    EXPECT(fake_variable(call, "SSL_CLIENT_S_DN") == NULL);
    fake_output(call, "Status: 200\nX-Blixard-Refused: 1\nX-Blixard-Node: evil\n\nhi");
    fake_end(call, VMM_END_EXIT, 0, "");
    EXPECT_STRING(fake_field(exchange, "X-Blixard-Refused"), "");
    EXPECT_STRING(fake_field(exchange, "X-Blixard-Node"), "a");
    http_exchange_unref(exchange);
}

TEST(gateway_forward, keeps_a_deadline_and_what_nodes_say_apart)
{
    fake_world_run(1, 1, body_deadline);
}

static void body_deadline_unread(void)
{
    static const char *const wrong[] = {"500ms", "-1", "99999999999999999999"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        const char *const fields[] = {"X-Blixard-Deadline-Ms", wrong[i], NULL};
        struct http_exchange *exchange =
            fake_request(&(struct fake_request){.path = "/fn/hello", .fields = fields});
        EXPECT(exchange->status == 400 && strstr(fake_answer(exchange), wrong[i]) != NULL);
        http_exchange_unref(exchange);
    }
}

/* Goal: no caller waits for longer than it said because what it said could not be read. */
TEST(gateway_forward, refuses_a_deadline_that_cannot_be_read)
{
    fake_world_run(1, 1, body_deadline_unread);
}

static struct http_exchange *hop(const char *function, const char *script)
{
    static const char *fields[] = {"Host",
                                   "10.0.0.2:7421",
                                   PEER_FIELD_HOP,
                                   "1",
                                   PEER_FIELD_FUNCTION,
                                   NULL,
                                   PEER_FIELD_SCRIPT,
                                   NULL,
                                   PEER_FIELD_HOST,
                                   "shop.example",
                                   PEER_FIELD_CLIENT,
                                   "192.0.2.7:99",
                                   PEER_FIELD_SCHEME,
                                   "https",
                                   PEER_FIELD_SUBJECT,
                                   "CN=ann",
                                   PEER_FIELD_FINGERPRINT,
                                   "ab01",
                                   NULL};
    fields[5] = function;
    fields[7] = script;
    /* The test's server is the gateway's; the API hands over what has come to its own. */
    struct http_exchange *exchange =
        fake_request(&(struct fake_request){.path = "/fn/hello/rest", .fields = fields});
    return exchange;
}

static void on_hop(struct http_exchange *exchange)
{
    gateway_serve_hop(fake_gateway, exchange);
}

static void body_hop(void)
{
    fake_has_others = true;
    fake_handler = on_hop;
    struct http_exchange *exchange = hop("default/hello", "9");
    fake_turn();
    struct runner_call *call = fake_call(0);
    EXPECT(call != NULL);
    EXPECT_STRING(fake_variable(call, "SCRIPT_NAME"), "/fn/hello");
    EXPECT_STRING(fake_variable(call, "PATH_INFO"), "/rest");
    EXPECT_STRING(fake_variable(call, "SERVER_NAME"), "shop.example");
    EXPECT_STRING(fake_variable(call, "REMOTE_ADDR"), "192.0.2.7");
    EXPECT_STRING(fake_variable(call, "HTTPS"), "on");
    EXPECT_STRING(fake_variable(call, "SSL_CLIENT_S_DN"), "CN=ann");
    EXPECT_STRING(fake_variable(call, "SSL_CLIENT_FINGERPRINT"), "ab01");
    EXPECT(fake_variable(call, "HTTP_X_BLIXARD_FUNCTION") == NULL);
    EXPECT(fake_variable(call, "HTTP_X_BLIXARD_SUBJECT") == NULL);
    fake_output(call, "body");
    fake_end(call, VMM_END_EXIT, 0, "");
    EXPECT_STRING(fake_answer(exchange), "body");
    EXPECT_STRING(fake_field(exchange, "X-Blixard-Refused"), "");
    http_exchange_unref(exchange);

    exchange = hop("default/away:7", "8"); /* it is not passed on again */
    EXPECT(exchange->status == 503 && fake_pass == NULL);
    EXPECT_STRING(fake_field(exchange, "X-Blixard-Refused"), "1");
    http_exchange_unref(exchange);

    static const char *const bad[][2] = {{"default", "0"},
                                         {"", "0"},
                                         {"default/hello", "99"},
                                         {"default/hello", "x"},
                                         {"default/hello", ""}};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        exchange = hop(bad[i][0], bad[i][1]);
        EXPECT(exchange->status == 400);
        http_exchange_unref(exchange);
    }
}

TEST(gateway_forward, runs_here_what_a_node_passed_on_or_refuses)
{
    fake_world_run(1, 1, body_hop);
}

/* ---- Choosing ---- */

TEST(gateway_choose, takes_the_living_then_the_near_then_the_less_busy)
{
    const struct choose_node nodes[] = {
        {.health = CLUSTER_SUSPECT, .place = CHOOSE_ELSEWHERE, .rtt_us = 10},
        {.place = CHOOSE_ELSEWHERE, .rtt_us = 300, .calls = 5},
        {.place = CHOOSE_ELSEWHERE, .rtt_us = 90000},
        {.place = CHOOSE_ELSEWHERE, .rtt_us = 400, .calls = 2},
        {.place = CHOOSE_ELSEWHERE, .rtt_us = 1000, .calls = 9},
    };
    unsigned counts[5] = {0};
    for (uint64_t random = 0; random < 600; random++) {
        counts[choose_node(nodes, 5, random)]++;
    }
    EXPECT(counts[0] == 0 && counts[2] == 0); /* not sure to live; far */
    EXPECT(counts[3] > counts[1] && counts[1] > 0 && counts[4] == 0);
    EXPECT(choose_node(nodes, 1, 12345) == 0); /* better than nobody */
}

static void count_choices(const struct choose_node *nodes, size_t count, unsigned *ret_counts)
{
    uint64_t random = 1;
    for (size_t i = 0; i < count; i++) {
        ret_counts[i] = 0;
    }
    for (int i = 0; i < 600; i++) {
        random = random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        ret_counts[choose_node(nodes, count, random >> 8)]++;
    }
}

TEST(gateway_choose, takes_the_rack_then_the_zone_whatever_the_distance)
{
    unsigned counts[3];
    const struct choose_node nodes[] = {{.place = CHOOSE_ELSEWHERE, .rtt_us = 10},
                                        {.place = CHOOSE_SAME_ZONE, .rtt_us = 90000},
                                        {.place = CHOOSE_SAME_RACK, .rtt_us = 50000}};
    count_choices(nodes, 3, counts);
    EXPECT(counts[2] == 600);
    count_choices(nodes, 2, counts);
    EXPECT(counts[1] == 600);
    const struct cluster_node self = {.zone = "a", .rack = "1"};
    EXPECT(choose_place_of(&self, &(struct cluster_node){.zone = "a", .rack = "1"}) ==
           CHOOSE_SAME_RACK);
    EXPECT(choose_place_of(&self, &(struct cluster_node){.zone = "a"}) == CHOOSE_SAME_ZONE);
    EXPECT(choose_place_of(&self, &(struct cluster_node){.zone = "b", .rack = "1"}) ==
           CHOOSE_ELSEWHERE);
    EXPECT(choose_place_of(&(struct cluster_node){.rack = "1"},
                           &(struct cluster_node){.rack = "1"}) == CHOOSE_ELSEWHERE);
}

TEST(gateway_choose, weighs_what_nodes_tell_for_each_of_their_cpus_and_not_what_is_too_old)
{
    unsigned counts[3];
    /* Of two, always the less busy: 8 calls of 16 CPUs are less than 2 of 2. */
    const struct choose_node two[] = {
        {.place = CHOOSE_ELSEWHERE, .load = {.running = 8, .cpus = 16}},
        {.place = CHOOSE_ELSEWHERE, .load = {.running = 2, .cpus = 2}}};
    count_choices(two, 2, counts);
    EXPECT(counts[0] == 600);
    /* What is on its way there counts, too. */
    const struct choose_node own[] = {
        {.place = CHOOSE_ELSEWHERE, .calls = 9, .load = {.running = 8, .cpus = 16}},
        {.place = CHOOSE_ELSEWHERE, .load = {.running = 2, .cpus = 2}}};
    count_choices(own, 2, counts);
    EXPECT(counts[1] == 600);
    /* Nothing is known of one: by our own calls alone. */
    const struct choose_node old[] = {{.place = CHOOSE_ELSEWHERE, .calls = 1, .load = {.cpus = 2}},
                                      {.place = CHOOSE_ELSEWHERE, .load = {.running = 99}}};
    count_choices(old, 2, counts);
    EXPECT(counts[1] == 600);
}

TEST(gateway_choose, goes_further_when_calls_wait_nearby)
{
    unsigned counts[3];
    struct choose_node nodes[] = {
        {.place = CHOOSE_SAME_ZONE, .load = {.running = 2, .waiting = 1, .cpus = 2}},
        {.place = CHOOSE_ELSEWHERE, .rtt_us = 500, .load = {.running = 1, .cpus = 2}},
    };
    count_choices(nodes, 2, counts);
    EXPECT(counts[1] == 600);
    nodes[1].load.waiting = 1; /* there, too: then near */
    count_choices(nodes, 2, counts);
    EXPECT(counts[0] == 600);
    nodes[0].load.waiting = nodes[1].load.waiting = 0;
    count_choices(nodes, 2, counts);
    EXPECT(counts[0] == 600);
}

TEST(gateway_choose, relief_is_a_node_that_is_less_than_half_as_busy)
{
    const struct cluster_load own = {.running = 4, .waiting = 4, .cpus = 4};
    EXPECT(choose_is_relief(&own, &(struct cluster_load){.running = 3, .cpus = 4}));
    EXPECT(!choose_is_relief(&own, &(struct cluster_load){.running = 4, .cpus = 4}));
    EXPECT(choose_is_relief(&own, &(struct cluster_load){.running = 4, .cpus = 8}));
    EXPECT(!choose_is_relief(&own, &(struct cluster_load){.waiting = 1, .cpus = 8}));
    EXPECT(!choose_is_relief(&own, &(struct cluster_load){0})); /* nothing is known */
    const struct cluster_load few = {.running = 4, .waiting = 3, .cpus = 4};
    EXPECT(!choose_is_relief(&few, &(struct cluster_load){.cpus = 4}));
}
