/* `vm top`: what machines use, as rates between two looks. */
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "surface/cli/private.h"

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

enum { FIRST_MS = 1000, EACH_MS = 2000, INTERRUPT = 3, END_OF_INPUT = 4 };

/* ---- Looks ---- */

struct look {
    json_t *nodes; /* name: { measured_ms, machines: { name: MachineUsage } } */
};

static int ask(const char *node, void *context, struct error *err)
{
    const struct look *look = context;
    JSON_OWNED json_t *document = NULL;
    BUFFER_OWNED struct buffer target = {0};
    buffer_append_string(&target, "/v1/machine-usage");
    request_add_query(&target, "node", node);
    int r = request_json("GET", buffer_string(&target), NULL, &document, err);
    if (r < 0) {
        return r;
    }
    json_t *machines = json_object();
    size_t index = 0;
    json_t *machine = NULL;
    json_array_foreach(json_object_get(document, "machines"), index, machine)
    {
        const char *name = json_string_value(json_object_get(machine, "name"));
        if (name != NULL) {
            json_object_set(machines, name, machine);
        }
    }
    json_object_set_new(look->nodes, node,
                        json_pack("{s:O?, s:o}", "measured_ms",
                                  json_object_get(document, "measured_ms"), "machines", machines));
    return 0;
}

static int look_around(const json_t *names, struct look *ret_look, struct error *err)
{
    *ret_look = (struct look){json_object()};
    return everywhere_ask(names, ask, ret_look, err);
}

static json_int_t number(const json_t *object, const char *key)
{
    return json_integer_value(json_object_get(object, key));
}

/* A counter that became smaller is of another VMM, or another boot. */
static void add_rate(json_t *row, const char *field, const json_t *before, const json_t *now,
                     const char *key, json_int_t elapsed_ms, json_int_t factor)
{
    json_int_t change = number(now, key) - number(before, key);
    if (json_object_get(now, key) != NULL && json_object_get(before, key) != NULL && change >= 0 &&
        elapsed_ms > 0) {
        json_object_set_new(
            row, field,
            json_integer((json_int_t)((double)change * (double)factor / (double)elapsed_ms)));
    }
}

/* By name. */
static void insert(json_t *rows, json_t *owned_row)
{
    const char *name = json_string_value(json_object_get(owned_row, "name"));
    size_t place = json_array_size(rows);
    while (place > 0 &&
           strcmp(json_string_value(json_object_get(json_array_get(rows, place - 1), "name")),
                  name) > 0) {
        place--;
    }
    json_array_insert_new(rows, place, owned_row);
}

static json_t *row_of(const char *node, const char *name, const json_t *was, const json_t *is,
                      json_int_t elapsed_ms)
{
    static const char *const kept[] = {"state", "cpus", "memory_bytes", "resident_bytes"};
    json_t *row = json_pack("{s:s, s:s}", "name", name, "node", node);
    for (size_t i = 0; i < COUNT(kept); i++) {
        json_t *value = json_object_get(is, kept[i]);
        if (value != NULL) {
            json_object_set(row, kept[i], value);
        }
    }
    add_rate(row, "cpu_percent", was, is, "cpu_ms", elapsed_ms, 100);
    add_rate(row, "read_bytes_per_second", was, is, "read_bytes", elapsed_ms, 1000);
    add_rate(row, "written_bytes_per_second", was, is, "written_bytes", elapsed_ms, 1000);
    add_rate(row, "received_bytes_per_second", was, is, "received_bytes", elapsed_ms, 1000);
    add_rate(row, "sent_bytes_per_second", was, is, "sent_bytes", elapsed_ms, 1000);
    return row;
}

static json_t *compare(const struct look *before, const struct look *now)
{
    json_t *rows = json_array();
    const char *node = NULL;
    json_t *seen = NULL;
    json_object_foreach(now->nodes, node, seen)
    {
        const json_t *then = json_object_get(before->nodes, node);
        json_int_t elapsed_ms = number(seen, "measured_ms") - number(then, "measured_ms");
        const char *name = NULL;
        json_t *machine = NULL;
        json_object_foreach(json_object_get(seen, "machines"), name, machine)
        {
            const json_t *was = json_object_get(json_object_get(then, "machines"), name);
            insert(rows, row_of(node, name, was, machine, elapsed_ms));
        }
    }
    return rows;
}

/* ---- The screen ---- */

static struct termios terminal_before;
static bool terminal_is_changed;

static void restore_terminal(void)
{
    if (terminal_is_changed) {
        tcsetattr(STDIN_FILENO, TCSADRAIN, &terminal_before);
        terminal_is_changed = false;
    }
}

/* Keys come as they are pressed, Ctrl-C as well. */
static void take_keys(void)
{
    if (tcgetattr(STDIN_FILENO, &terminal_before) == 0) {
        struct termios changed = terminal_before;
        changed.c_lflag &= ~(tcflag_t)(ICANON | ECHO | ISIG);
        terminal_is_changed = tcsetattr(STDIN_FILENO, TCSADRAIN, &changed) == 0;
        atexit(restore_terminal);
    }
}

/* Until it is time for the next look; true: a key ends it. */
static bool wait_for_key(int wait_ms, bool has_keys)
{
    uint64_t until_ms = clock_monotonic_ms() + (uint64_t)wait_ms;
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    for (;;) {
        uint64_t now_ms = clock_monotonic_ms();
        int left_ms = now_ms < until_ms ? (int)(until_ms - now_ms) : 0;
        if (poll(&input, has_keys ? 1 : 0, left_ms) <= 0) {
            return false;
        }
        char key = 0;
        ssize_t got = read(STDIN_FILENO, &key, 1);
        if (got <= 0 || key == 'q' || key == 'Q' || key == INTERRUPT || key == END_OF_INPUT) {
            return true;
        }
    }
}

static void show(const json_t *rows, enum output output, bool is_live)
{
    static const struct column columns[] = {
        {"NAME", "name", AS_TEXT},
        {"NODE", "node", AS_TEXT},
        {"STATE", "state", AS_TEXT},
        {"CPUS", "cpus", AS_TEXT},
        {"CPU %", "cpu_percent", AS_TEXT},
        {"RESIDENT", "resident_bytes", AS_BYTES},
        {"MEMORY", "memory_bytes", AS_BYTES},
        {"READ/S", "read_bytes_per_second", AS_BYTES},
        {"WRITTEN/S", "written_bytes_per_second", AS_BYTES},
        {"RECEIVED/S", "received_bytes_per_second", AS_BYTES},
        {"SENT/S", "sent_bytes_per_second", AS_BYTES},
    };
    if (is_live) {
        printf("\033[H\033[J");
    }
    if (output == OUTPUT_TABLE) {
        print_table(rows, columns, COUNT(columns));
    } else {
        JSON_OWNED json_t *document = json_pack("{s:O}", "machines", rows);
        print_document(document, output);
    }
    if (is_live) {
        printf("\nq ends\n");
    }
    print_flush();
}

int verb_vm_top(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *names = NULL;
    struct look before = {0};
    enum output output = OUTPUT_TABLE;
    int r = output_of(arguments, &output, err);
    r = r < 0 ? r : everywhere_nodes(flag_value(arguments, "node"), &names, err);
    bool is_live = flag_value(arguments, "once") == NULL && output == OUTPUT_TABLE &&
        isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
    r = r < 0 ? r : look_around(names, &before, err);
    if (r == 0 && is_live) {
        take_keys();
    }
    bool is_over = false;
    for (int wait_ms = FIRST_MS; r == 0 && !is_over; wait_ms = EACH_MS) {
        struct look now = {0};
        if (wait_for_key(wait_ms, is_live)) {
            break;
        }
        r = look_around(names, &now, err);
        if (r == 0) {
            JSON_OWNED json_t *rows = compare(&before, &now);
            show(rows, output, is_live);
        }
        json_decref(before.nodes);
        before = now;
        is_over = !is_live;
    }
    json_decref(before.nodes);
    restore_terminal();
    return r;
}
