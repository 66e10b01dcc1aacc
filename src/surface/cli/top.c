/*
 * What is used, as rates between two looks at all nodes: once, or on a terminal again and again.
 *
 * Counters are compared with those of the same node alone.  Who did not answer in one of the two
 * looks is named, since there are no rates of it.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "surface/cli/private.h"

enum {
    FIRST_MS = 1000,
    EACH_MS = 2000,
    LEAST_MS = 100,
    MOST_MS = 3600000,
    INTERRUPT = 3,
    END_OF_INPUT = 4,
};

/* ---- The terminal ---- */

static struct termios terminal_before;
static volatile sig_atomic_t terminal_is_changed;

static void restore_terminal(void)
{
    if (terminal_is_changed) {
        tcsetattr(STDIN_FILENO, TCSADRAIN, &terminal_before);
        terminal_is_changed = 0;
    }
}

/* Whoever ends this from elsewhere gets the terminal back as it was, too. */
static void on_signal(int number)
{
    int saved = errno;
    struct sigaction action = {.sa_handler = SIG_DFL};
    restore_terminal();
    sigaction(number, &action, NULL);
    raise(number); /* when this returns */
    errno = saved;
}

/* Keys come as they are pressed, Ctrl-C as well. */
static void take_keys(void)
{
    static const int endings[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction action = {.sa_handler = on_signal};
    if (tcgetattr(STDIN_FILENO, &terminal_before) == 0) {
        struct termios changed = terminal_before;
        changed.c_lflag &= ~(tcflag_t)(ICANON | ECHO | ISIG);
        terminal_is_changed = tcsetattr(STDIN_FILENO, TCSADRAIN, &changed) == 0;
        atexit(restore_terminal);
        for (size_t i = 0; i < sizeof(endings) / sizeof(endings[0]); i++) {
            sigaction(endings[i], &action, NULL);
        }
    }
}

/* Until it is time for the next look; true: a key ends it. */
static bool wait_for_key(uint64_t wait_ms, bool has_keys)
{
    uint64_t until_ms = clock_monotonic_ms() + wait_ms;
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

/* ---- Rows ---- */

static const char *order_field; /* qsort(3) tells its function nothing else */

static int compare_by_field(const void *a, const void *b)
{
    double one = json_number_value(json_object_get(*(json_t *const *)a, order_field));
    double other = json_number_value(json_object_get(*(json_t *const *)b, order_field));
    if (one != other) {
        return one < other ? 1 : -1;
    }
    return strcmp(json_text(*(json_t *const *)a, "name"), json_text(*(json_t *const *)b, "name"));
}

static json_t *sort_rows(const struct arguments *arguments, const struct top *top, json_t *rows)
{
    const char *wanted = flag_value(arguments, "sort");
    const struct top_order *order = top->orders;
    while (wanted != NULL && order->name != NULL && strcmp(order->name, wanted) != 0) {
        order++;
    }
    if (wanted == NULL || order->name == NULL || order->field == NULL) {
        return json_incref(rows);
    }
    order_field = order->field;
    return rows_sort(rows, compare_by_field);
}

/* Who was silent in either look. */
static json_t *silent_in(const struct gathered *before, const struct gathered *now)
{
    json_t *silent = json_deep_copy(now->silent);
    size_t index = 0;
    json_t *node = NULL;
    json_array_foreach(before->silent, index, node)
    {
        if (json_object_get(now->answers, json_text(node, "node")) != NULL) {
            json_array_append(silent, node);
        }
    }
    return silent;
}

static void show(const struct top *top, json_t *rows, const json_t *silent, enum output output,
                 bool is_live)
{
    size_t index = 0;
    json_t *row = NULL;
    if (is_live) {
        printf("\033[H\033[J");
    }
    if (output == OUTPUT_TABLE) {
        json_array_foreach(rows, index, row)
        {
            if (top->add_texts != NULL) {
                top->add_texts(row);
            }
        }
        print_table(rows, top->columns, top->column_count);
        gathered_say_silent(silent, is_live ? stdout : stderr);
    } else {
        JSON_OWNED json_t *document = json_pack("{s:O, s:O}", top->member, rows, "silent", silent);
        print_document(document, output);
    }
    if (is_live) {
        printf("\nq ends\n");
    }
    print_flush();
}

/* ---- Again and again ---- */

static int interval_of(const struct arguments *arguments, uint64_t *ret_ms, struct error *err)
{
    const char *text = flag_value(arguments, "interval");
    *ret_ms = 0;
    if (text != NULL &&
        (!text_parse_duration_ms(text, ret_ms) || *ret_ms < LEAST_MS || *ret_ms > MOST_MS)) {
        return error_set(err, ERROR_INVALID,
                         "--interval %.40s is not a duration of 100ms to 1h, as 500ms or 5s", text);
    }
    return 0;
}

static int look_again(const struct arguments *arguments, const struct top *top,
                      struct gathered *before, enum output output, bool is_live, struct error *err)
{
    struct gathered now = {0};
    int r = gather(flag_value(arguments, "node"), top->path, &now, err);
    if (r == 0) {
        JSON_OWNED json_t *rows = top->compare(before->answers, now.answers, top->context);
        JSON_OWNED json_t *sorted = sort_rows(arguments, top, rows);
        JSON_OWNED json_t *silent = silent_in(before, &now);
        show(top, sorted, silent, output, is_live);
    }
    gathered_done(before);
    *before = now;
    return r;
}

int top_run(const struct arguments *arguments, const struct top *top, struct error *err)
{
    GATHERED_OWNED struct gathered before = {0};
    enum output output = OUTPUT_TABLE;
    uint64_t interval_ms = 0;
    int r = output_of(arguments, &output, err);
    r = r < 0 ? r : interval_of(arguments, &interval_ms, err);
    bool is_live = flag_value(arguments, "once") == NULL && output == OUTPUT_TABLE &&
        isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
    r = r < 0 ? r : gather(flag_value(arguments, "node"), top->path, &before, err);
    if (r == 0 && is_live) {
        take_keys();
    }
    uint64_t wait_ms =
        interval_ms > 0 && (!is_live || interval_ms < FIRST_MS) ? interval_ms : FIRST_MS;
    while (r == 0 && !wait_for_key(wait_ms, is_live)) {
        r = look_again(arguments, top, &before, output, is_live, err);
        if (!is_live) {
            break;
        }
        wait_ms = interval_ms > 0 ? interval_ms : EACH_MS;
    }
    restore_terminal();
    return r;
}
