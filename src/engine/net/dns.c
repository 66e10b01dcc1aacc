/* The name server of a bridge: see dns.h. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/list.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/random.h"
#include "base/stream/stream.h"

#include "engine/net/datagram.h"
#include "engine/net/dns_message.h"
#include "engine/net/dns_tcp.h"

enum {
    DNS_PORT = 53,
    PER_TURN_MAX = 32,
    PER_CLIENT_MAX = 64, /* one machine does not take the others' turn */
    ROUNDS = 2,
    PATIENCE_MS = 2500, /* clients usually ask again after five seconds */
    QUERY_MAX = 1500,
    RESOLV_CONF_MAX = 64 << 10,
};

struct net_dns {
    struct net_dns_options options;
    char bridge[16];
    char domain[NET_DNS_NAME_SIZE];
    char *resolv_conf;
    struct loop *loop;
    struct datagram_watch *watch;
    struct dns_tcp *tcp;
    struct list waiting; /* struct passed */
    size_t waiting_count;
    char resolvers[NET_DNS_RESOLVERS_MAX][46];
    size_t resolver_count;
    bool has_own;                 /* resolvers: the file does not matter */
    struct timespec resolvers_of; /* when the file was written that they are from */
};

/* A query that was passed on. */
struct passed {
    struct list_node link;
    struct net_dns *dns;
    struct datagram_watch *watch; /* NULL: between two resolvers */
    struct loop_timer *timer;
    struct sockaddr_in client;
    uint8_t client_id[2];
    unsigned attempt;
    struct dns_question question;
    size_t length;
    uint8_t bytes[QUERY_MAX];
};

/* ---- The host's resolvers ---- */

/* "9.9.9.9 2620:fe::fe" */
static void take_own_resolvers(struct net_dns *dns, const char *text)
{
    dns->has_own = true;
    for (size_t length; dns->resolver_count < NET_DNS_RESOLVERS_MAX; text += length) {
        char *to = dns->resolvers[dns->resolver_count];
        uint8_t bytes[16];
        text += strspn(text, " ");
        length = strcspn(text, " ");
        if (length == 0) {
            return;
        }
        snprintf(to, sizeof(dns->resolvers[0]), "%.*s", (int)length, text);
        bool is_one = inet_pton(AF_INET, to, bytes) == 1 || inet_pton(AF_INET6, to, bytes) == 1;
        dns->resolver_count += is_one ? 1 : 0;
    }
}

static void look_for_resolvers(struct net_dns *dns)
{
    struct stat status = {0};
    struct error err = {0};
    BUFFER_OWNED struct buffer text = {0};
    if (dns->has_own || stat(dns->resolv_conf, &status) < 0 ||
        memcmp(&status.st_mtim, &dns->resolvers_of, sizeof(status.st_mtim)) == 0) {
        return;
    }
    dns->resolvers_of = status.st_mtim;
    dns->resolver_count = 0;
    if (file_read(dns->resolv_conf, RESOLV_CONF_MAX, &text, &err) == 0) {
        dns->resolver_count =
            dns_read_resolvers(buffer_string(&text), dns->resolvers, NET_DNS_RESOLVERS_MAX);
    }
}

static socklen_t resolver_at(const struct net_dns *dns, unsigned attempt,
                             struct sockaddr_storage *ret_address)
{
    const char *text = dns->resolvers[attempt % dns->resolver_count];
    uint16_t port = htons(dns->options.upstream_port != 0 ? dns->options.upstream_port : DNS_PORT);
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = port};
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = port};
    memset(ret_address, 0, sizeof(*ret_address));
    if (inet_pton(AF_INET, text, &four.sin_addr) == 1) {
        memcpy(ret_address, &four, sizeof(four));
        return sizeof(four);
    }
    CHECK(inet_pton(AF_INET6, text, &six.sin6_addr) == 1);
    memcpy(ret_address, &six, sizeof(six));
    return sizeof(six);
}

/* For the questions that came by TCP: each is tried once. */
static bool resolver_text(unsigned n, char ret_address[64], void *context)
{
    struct net_dns *dns = context;
    struct sockaddr_storage address;
    look_for_resolvers(dns);
    if (n >= dns->resolver_count) {
        return false;
    }
    resolver_at(dns, n, &address);
    stream_address_format(&address, ret_address);
    return true;
}

/* ---- Passing on ---- */

static void passed_end(struct passed *passed)
{
    list_remove(&passed->link);
    passed->dns->waiting_count--;
    datagram_unwatch(passed->watch);
    loop_timer_free(passed->timer);
    free(passed);
}

static void reply(const struct net_dns *dns, const struct sockaddr_in *client, const uint8_t *bytes,
                  size_t length)
{
    ssize_t sent = sendto(datagram_fd(dns->watch), bytes, length, MSG_DONTWAIT,
                          (const struct sockaddr *)client, sizeof(*client));
    (void)sent; /* lost like any other datagram */
}

static void reply_empty(const struct net_dns *dns, const struct sockaddr_in *client,
                        const uint8_t *query, size_t question_length, enum dns_code code)
{
    uint8_t bytes[DNS_ANSWER_MAX];
    size_t length = dns_empty_answer(query, question_length, code, false, bytes);
    reply(dns, client, bytes, length);
}

static void on_upstream(int fd, void *context);

/* A port and an identifier of its own for each: both are to be guessed by whoever forges an answer.
 */
static bool send_upstream(struct passed *passed)
{
    struct sockaddr_storage to;
    socklen_t length = resolver_at(passed->dns, passed->attempt, &to);
    FD_OWNED int fd = socket(to.ss_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    random_bytes(passed->bytes, 2);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, length) < 0 ||
        send(fd, passed->bytes, passed->length, MSG_DONTWAIT) < 0) {
        return false;
    }
    passed->watch = datagram_watch(passed->dns->loop, fd_take(&fd), on_upstream, passed);
    loop_timer_start(passed->timer, PATIENCE_MS);
    return true;
}

/* The next resolver, until none is left. */
static void try_upstream(struct passed *passed)
{
    const struct net_dns *dns = passed->dns;
    datagram_unwatch(passed->watch);
    passed->watch = NULL;
    while (passed->attempt < ROUNDS * dns->resolver_count) {
        bool was_sent = send_upstream(passed);
        passed->attempt++;
        if (was_sent) {
            return;
        }
    }
    memcpy(passed->bytes, passed->client_id, 2);
    reply_empty(dns, &passed->client, passed->bytes, passed->question.length, DNS_FAILED);
    passed_end(passed);
}

static void on_patience(void *context)
{
    try_upstream(context);
}

static void on_upstream(int fd, void *context)
{
    struct passed *passed = context;
    uint8_t bytes[DNS_MESSAGE_MAX];
    ssize_t got = recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT);
    if (got < 0 && errno != EAGAIN && errno != EINTR) {
        try_upstream(passed); /* nobody listens there */
        return;
    }
    if (got > 0 && dns_is_answer(passed->bytes, &passed->question, bytes, (size_t)got)) {
        memcpy(bytes, passed->client_id, 2);
        reply(passed->dns, &passed->client, bytes, (size_t)got);
        passed_end(passed);
    }
}

static size_t count_waiting(const struct net_dns *dns, const struct sockaddr_in *client)
{
    size_t count = 0;
    LIST_EACH(node, &dns->waiting)
    {
        count +=
            LIST_ITEM(node, struct passed, link)->client.sin_addr.s_addr == client->sin_addr.s_addr;
    }
    return count;
}

static void pass_on(struct net_dns *dns, const struct sockaddr_in *client, const uint8_t *query,
                    size_t length, const struct dns_question *question)
{
    look_for_resolvers(dns);
    if (dns->resolver_count == 0 || dns->waiting_count >= NET_DNS_WAITING_MAX ||
        count_waiting(dns, client) >= PER_CLIENT_MAX) {
        reply_empty(dns, client, query, question->length, DNS_FAILED);
        return;
    }
    struct passed *passed = NEW(struct passed);
    passed->dns = dns;
    passed->client = *client;
    passed->question = *question;
    passed->length = length;
    memcpy(passed->bytes, query, length);
    memcpy(passed->client_id, query, 2);
    passed->timer = loop_timer_new(dns->loop, on_patience, passed);
    list_push_back(&dns->waiting, &passed->link);
    dns->waiting_count++;
    try_upstream(passed);
}

/* ---- Being asked ---- */

static void take_query(struct net_dns *dns, const struct sockaddr_in *client, const uint8_t *query,
                       size_t length)
{
    struct dns_question question;
    enum dns_code code;
    uint8_t bytes[DNS_ANSWER_MAX];
    size_t answer_length = 0;
    if (!dns_read_query(query, length, &question, &code)) {
        if (code != DNS_OK) {
            reply_empty(dns, client, query, 0, code);
        }
        return;
    }
    switch (dns_answer(&dns->options, query, &question, bytes, &answer_length)) {
    case DNS_ANSWERED:
        reply(dns, client, bytes, answer_length);
        break;
    case DNS_PASS_ON:
        pass_on(dns, client, query, length, &question);
        break;
    }
}

static void on_readable(int fd, void *context)
{
    struct net_dns *dns = context;
    uint8_t query[QUERY_MAX];
    for (int i = 0; i < PER_TURN_MAX; i++) {
        struct sockaddr_in client = {0};
        socklen_t client_length = sizeof(client);
        ssize_t got = recvfrom(fd, query, sizeof(query), MSG_DONTWAIT, (struct sockaddr *)&client,
                               &client_length);
        if (got < 0) {
            return;
        }
        take_query(dns, &client, query, (size_t)got);
    }
}

int net_dns_open(struct loop *loop, const struct net_dns_options *options, struct net_dns **ret_dns,
                 struct error *err)
{
    int fd = -1;
    int r = datagram_bind(options->bridge, options->address, DNS_PORT, &fd, err);
    if (r < 0) {
        return error_wrap(err, "answering DNS");
    }
    struct net_dns *dns = NEW(struct net_dns);
    dns->options = *options;
    dns->loop = loop;
    snprintf(dns->bridge, sizeof(dns->bridge), "%s", options->bridge);
    snprintf(dns->domain, sizeof(dns->domain), "%s",
             options->domain != NULL ? options->domain : NET_DNS_DOMAIN);
    dns->options.bridge = dns->bridge;
    dns->options.domain = dns->domain;
    dns->resolv_conf = memory_copy_string(options->resolv_conf != NULL ? options->resolv_conf
                                                                       : "/etc/resolv.conf");
    dns->options.resolv_conf = dns->resolv_conf;
    if (options->resolvers != NULL && options->resolvers[0] != '\0') {
        take_own_resolvers(dns, options->resolvers);
    }
    dns->options.resolvers = NULL;
    list_init(&dns->waiting);
    dns->watch = datagram_watch(loop, fd, on_readable, dns);
    /* Another program that has all addresses at TCP has this one, too: there is still UDP. */
    struct error ignored;
    if (dns_tcp_open(loop, &dns->options, resolver_text, dns, &dns->tcp, &ignored) < 0) {
        dns->tcp = NULL;
    }
    *ret_dns = dns;
    return 0;
}

void net_dns_close(struct net_dns *dns)
{
    if (dns == NULL) {
        return;
    }
    LIST_EACH(node, &dns->waiting)
    {
        passed_end(LIST_ITEM(node, struct passed, link));
    }
    datagram_unwatch(dns->watch);
    dns_tcp_close(dns->tcp);
    free(dns->resolv_conf);
    free(dns);
}
