/* Handing the rules to the kernel: see rules.h. */
#include <errno.h>
#include <linux/netlink.h>
#include <nftables/libnftables.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/net/flows.h"
#include "engine/net/nft.h"
#include "engine/net/rules.h"

/* The library keeps some tables of names that all its contexts share. */
static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;

/* The library ends the process when it gets no socket: so one is had first. */
static int try_socket(struct error *err)
{
    FD_OWNED int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
    if (fd < 0 && errno == EPROTONOSUPPORT) {
        return error_set(err, ERROR_UNSUPPORTED, "this kernel has no packet filter (nf_tables)");
    }
    return fd < 0 ? error_os(err, errno, "a socket to the packet filter") : 0;
}

/* "PLACE: Error: TEXT\nthe line\n    ^^^\n": what matters is in the first two lines. */
static int explain(const char *said, struct error *err)
{
    char text[320];
    const char *start = strstr(said, "Error: ");
    start = start != NULL ? start + strlen("Error: ") : said;
    snprintf(text, sizeof(text), "%s", start);
    char *end = strchr(text, '\n');
    end = end != NULL ? strchr(end + 1, '\n') : NULL;
    if (end != NULL) {
        *end = '\0';
    }
    text_make_printable(text, false);
    if (strstr(said, "not permitted") != NULL) {
        return error_set(err, ERROR_DENIED, "the packet filter needs root (CAP_NET_ADMIN): %s",
                         text);
    }
    if (strstr(said, "not supported") != NULL || strstr(said, "No such file") != NULL ||
        strstr(said, "Protocol error") != NULL) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "the packet filter of this kernel lacks something (nf_tables with inet, "
                         "bridge, nat, fib): %s",
                         text);
    }
    return error_set(err, ERROR_OS, "the packet filter: %s", text);
}

/* With the lock. */
static int run(const char *commands, bool as_json, char **ret_said_or_null, struct error *err)
{
    int r = try_socket(err);
    if (r < 0) {
        return r;
    }
    struct nft_ctx *nft = nft_ctx_new(NFT_CTX_DEFAULT);
    if (nft == NULL) {
        return error_set(err, ERROR_OS, "libnftables does not start");
    }
    CHECK(nft_ctx_buffer_output(nft) == 0 && nft_ctx_buffer_error(nft) == 0);
    if (as_json) {
        nft_ctx_output_set_flags(nft, NFT_CTX_OUTPUT_JSON);
    }
    if (nft_run_cmd_from_buffer(nft, commands) != 0) {
        r = explain(nft_ctx_get_error_buffer(nft), err);
    } else if (ret_said_or_null != NULL) {
        *ret_said_or_null = memory_copy_string(nft_ctx_get_output_buffer(nft));
    }
    nft_ctx_free(nft);
    return r;
}

int nft_do(const char *commands, struct error *err)
{
    pthread_mutex_lock(&one_at_a_time);
    int r = run(commands, false, NULL, err);
    pthread_mutex_unlock(&one_at_a_time);
    return r;
}

int nft_ask(const char *command, bool as_json, char **ret_said, struct error *err)
{
    pthread_mutex_lock(&one_at_a_time);
    int r = run(command, as_json, ret_said, err);
    pthread_mutex_unlock(&one_at_a_time);
    return r;
}

int net_rules_apply(const struct net_rules *rules, struct error *err)
{
    BUFFER_OWNED struct buffer commands = {0};
    int r = net_rules_render(rules, &commands, err);
    if (r < 0) {
        return r;
    }
    return nft_do(buffer_string(&commands), err);
}

/* "table ip filter {", "chain FORWARD {", "type filter hook forward priority filter; policy drop;"
 */
bool net_rules_read_foreign(const char *listing, char *ret_name, size_t size)
{
    char table[64] = "";
    char family[16] = "";
    char chain[64] = "";
    for (const char *line = listing; *line != '\0';) {
        size_t length = strcspn(line, "\n");
        char text[192];
        char one[64];
        char two[64];
        snprintf(text, sizeof(text), "%.*s", (int)(length < 190 ? length : 190), line);
        if (sscanf(text, " table %15s %63s", one, two) == 2) {
            snprintf(family, sizeof(family), "%.15s", one);
            snprintf(table, sizeof(table), "%s", two);
        } else if (sscanf(text, " chain %63s", one) == 1) {
            snprintf(chain, sizeof(chain), "%s", one);
        } else if ((strcmp(family, "ip") == 0 || strcmp(family, "inet") == 0) &&
                   strstr(text, "hook forward ") != NULL && strstr(text, "policy drop") != NULL) {
            snprintf(ret_name, size, "table %s %s, chain %s", family, table, chain);
            return true;
        }
        line += length + (line[length] == '\n' ? 1 : 0);
    }
    return false;
}

/* What nft says to that, or NULL. */
static char *ask(const char *command)
{
    struct error ignored;
    char *said = NULL;
    return nft_ask(command, false, &said, &ignored) == 0 ? said : NULL;
}

bool net_rules_find_foreign(char *ret_name, size_t size)
{
    MEMORY_OWNED char *said = ask("list chains");
    return said != NULL && net_rules_read_foreign(said, ret_name, size);
}

bool net_rules_are_there(const char *owner)
{
    char table[NET_OWNER_SIZE];
    net_rules_table_name(owner, table);
    MEMORY_OWNED char *said = ask("list tables");
    MEMORY_OWNED char *inet = memory_format("table inet %s\n", table);
    MEMORY_OWNED char *bridge = memory_format("table bridge %s\n", table);
    return said != NULL && strstr(said, inet) != NULL && strstr(said, bridge) != NULL;
}

int net_rules_remove(const char *owner, struct error *err)
{
    const struct net_rules none = {.owner = owner};
    int r = net_rules_apply(&none, err);
    return r < 0 ? r : net_flows_remove(owner, err);
}
