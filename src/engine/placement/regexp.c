/*
 * The pattern is parsed into a tree, the tree is written out as steps, and the steps are walked in
 * all states at once.  See regexp.h.
 */
#include "engine/placement/regexp.h"

#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "base/memory.h"

enum {
    NODES_MAX = 2 * REGEXP_PATTERN_MAX + 2,
    REPEAT_MAX = 255,
    FOREVER = UINT16_MAX,
    VISITS_MAX = 1 << 16
};

enum node_kind { NODE_EMPTY, NODE_SET, NODE_BEGIN, NODE_END, NODE_CAT, NODE_OR, NODE_REPEAT };

struct set {
    uint8_t bits[32];
};

struct node {
    enum node_kind kind;
    uint16_t left, right; /* of CAT and OR; REPEAT has left */
    uint16_t least, most; /* of REPEAT */
    struct set set;
};

enum step_kind { STEP_SET, STEP_BEGIN, STEP_END, STEP_SPLIT, STEP_JUMP, STEP_MATCH };

struct step {
    enum step_kind kind;
    uint16_t a, b; /* where SPLIT and JUMP lead */
    struct set set;
};

struct regexp {
    size_t count;
    struct step steps[REGEXP_STEPS_MAX];
};

struct parser {
    const char *pattern;
    size_t at;
    unsigned depth;
    uint16_t count;
    struct node nodes[NODES_MAX];
    struct error *err;
    int failed; /* 0, or what was reported */
};

/* ---- Pattern to tree ---- */

static uint16_t parse_or(struct parser *parser);

static uint16_t fail(struct parser *parser, const char *what)
{
    if (parser->failed == 0) {
        parser->failed = error_set(parser->err, ERROR_INVALID, "the pattern %s: %s at byte %zu",
                                   parser->pattern, what, parser->at + 1);
    }
    return 0;
}

static uint16_t make(struct parser *parser, enum node_kind kind, uint16_t left, uint16_t right)
{
    if (parser->count == NODES_MAX) {
        return fail(parser, "too long");
    }
    parser->nodes[parser->count] = (struct node){.kind = kind, .left = left, .right = right};
    return parser->count++;
}

static void set_add(struct set *set, unsigned first, unsigned last)
{
    for (unsigned byte = first; byte <= last; byte++) {
        set->bits[byte / 8] |= (uint8_t)(1U << (byte % 8));
    }
}

static void set_invert(struct set *set)
{
    for (size_t i = 0; i < sizeof(set->bits); i++) {
        set->bits[i] = (uint8_t)~set->bits[i];
    }
}

static bool set_has(const struct set *set, uint8_t byte)
{
    return (set->bits[byte / 8] >> (byte % 8)) & 1;
}

/* \d and its like; false: an ordinary character. */
static bool set_add_escape(struct set *set, char letter)
{
    struct set named = {0};
    switch (letter) {
    case 'd':
    case 'D':
        set_add(&named, '0', '9');
        break;
    case 'w':
    case 'W':
        set_add(&named, '0', '9');
        set_add(&named, 'a', 'z');
        set_add(&named, 'A', 'Z');
        set_add(&named, '_', '_');
        break;
    case 's':
    case 'S':
        set_add(&named, ' ', ' ');
        set_add(&named, '\t', '\r');
        break;
    default:
        return false;
    }
    if (letter < 'a') {
        set_invert(&named);
    }
    for (size_t i = 0; i < sizeof(named.bits); i++) {
        set->bits[i] |= named.bits[i];
    }
    return true;
}

/* The character at the place inside [ ], an escape resolved; -1: it was a named set. */
static int parse_member(struct parser *parser, struct set *set)
{
    char c = parser->pattern[parser->at];
    if (c == 0) {
        fail(parser, "[ without ]");
        return -1;
    }
    parser->at++;
    if (c != '\\') {
        return (uint8_t)c;
    }
    char escaped = parser->pattern[parser->at];
    if (escaped == 0) {
        fail(parser, "\\ at the end");
        return -1;
    }
    parser->at++;
    return set_add_escape(set, escaped) ? -1 : (uint8_t)escaped;
}

static uint16_t parse_set(struct parser *parser)
{
    uint16_t node = make(parser, NODE_SET, 0, 0);
    struct set set = {0};
    bool inverted = parser->pattern[parser->at] == '^';
    parser->at += inverted;
    for (bool first = true; parser->failed == 0; first = false) {
        if (parser->pattern[parser->at] == ']' && !first) {
            parser->at++;
            break;
        }
        int from = parse_member(parser, &set);
        if (from < 0) {
            continue;
        }
        int to = from;
        if (parser->pattern[parser->at] == '-' && parser->pattern[parser->at + 1] != ']') {
            parser->at++;
            to = parse_member(parser, &set);
            if (to < from) {
                return fail(parser, "a range that is none");
            }
        }
        set_add(&set, (unsigned)from, (unsigned)to);
    }
    if (inverted) {
        set_invert(&set);
    }
    parser->nodes[node].set = set;
    return node;
}

static uint16_t parse_group(struct parser *parser)
{
    if (++parser->depth > REGEXP_DEPTH_MAX) {
        return fail(parser, "too many parentheses in each other");
    }
    uint16_t inside = parse_or(parser);
    if (parser->failed == 0 && parser->pattern[parser->at] != ')') {
        return fail(parser, "( without )");
    }
    parser->at++;
    parser->depth--;
    return inside;
}

static uint16_t parse_literal(struct parser *parser, char c)
{
    uint16_t node = make(parser, NODE_SET, 0, 0);
    struct set *set = &parser->nodes[node].set;
    if (c == '.') {
        set_add(set, 0, 255);
    } else if (c != '\\') {
        set_add(set, (uint8_t)c, (uint8_t)c);
    } else {
        uint8_t escaped = (uint8_t)parser->pattern[parser->at];
        if (escaped == 0) {
            return fail(parser, "\\ at the end");
        }
        parser->at++;
        if (!set_add_escape(set, (char)escaped)) {
            set_add(set, escaped, escaped);
        }
    }
    return node;
}

static uint16_t parse_atom(struct parser *parser)
{
    char c = parser->pattern[parser->at++];
    switch (c) {
    case '(':
        return parse_group(parser);
    case '[':
        return parse_set(parser);
    case '^':
        return make(parser, NODE_BEGIN, 0, 0);
    case '$':
        return make(parser, NODE_END, 0, 0);
    case '*':
    case '+':
    case '?':
    case '{':
        parser->at--;
        return fail(parser, "a repetition of nothing");
    default:
        return parse_literal(parser, c);
    }
}

static bool parse_number(struct parser *parser, uint16_t *ret_value)
{
    unsigned value = 0;
    size_t begun = parser->at;
    while (parser->pattern[parser->at] >= '0' && parser->pattern[parser->at] <= '9') {
        value = value * 10 + (unsigned)(parser->pattern[parser->at++] - '0');
        if (value > REPEAT_MAX) {
            fail(parser, "a repetition of more than 255");
            return false;
        }
    }
    *ret_value = (uint16_t)value;
    return parser->at > begun;
}

/* What follows `{`. */
static void parse_bounds(struct parser *parser, struct node *repeat)
{
    if (!parse_number(parser, &repeat->least)) {
        fail(parser, "{ without a number");
        return;
    }
    repeat->most = repeat->least;
    if (parser->pattern[parser->at] == ',') {
        parser->at++;
        if (!parse_number(parser, &repeat->most)) {
            repeat->most = FOREVER;
        }
    }
    if (parser->failed == 0 && parser->pattern[parser->at] != '}') {
        fail(parser, "{ without }");
    } else if (repeat->most < repeat->least) {
        fail(parser, "a repetition from more to less");
    }
    parser->at++;
}

static uint16_t parse_repeat(struct parser *parser)
{
    uint16_t node = parse_atom(parser);
    for (;;) {
        char c = parser->failed == 0 ? parser->pattern[parser->at] : 0;
        if (c != '*' && c != '+' && c != '?' && c != '{') {
            return node;
        }
        parser->at++;
        node = make(parser, NODE_REPEAT, node, 0);
        struct node *repeat = &parser->nodes[node];
        repeat->least = c == '+' ? 1 : 0;
        repeat->most = c == '?' ? 1 : FOREVER;
        if (c == '{') {
            parse_bounds(parser, repeat);
        }
    }
}

static uint16_t parse_cat(struct parser *parser)
{
    uint16_t node = make(parser, NODE_EMPTY, 0, 0);
    for (;;) {
        char c = parser->failed == 0 ? parser->pattern[parser->at] : 0;
        if (c == 0 || c == '|' || c == ')') {
            return node;
        }
        uint16_t next = parse_repeat(parser);
        node = make(parser, NODE_CAT, node, next);
    }
}

static uint16_t parse_or(struct parser *parser)
{
    uint16_t node = parse_cat(parser);
    while (parser->failed == 0 && parser->pattern[parser->at] == '|') {
        parser->at++;
        uint16_t other = parse_cat(parser);
        node = make(parser, NODE_OR, node, other);
    }
    return node;
}

/* ---- Tree to steps ---- */

struct writer {
    const struct parser *parser;
    struct regexp *regexp;
    unsigned visits; /* (){255}{255}{255} writes nothing, and very often */
    bool is_full;
};

static struct step *emit(struct writer *writer, enum step_kind kind)
{
    static struct step spare;
    if (writer->regexp->count == REGEXP_STEPS_MAX) {
        writer->is_full = true;
        spare = (struct step){0};
        return &spare;
    }
    struct step *step = &writer->regexp->steps[writer->regexp->count++];
    *step = (struct step){.kind = kind};
    return step;
}

static uint16_t here(const struct writer *writer)
{
    return (uint16_t)writer->regexp->count;
}

static void write_node(struct writer *writer, uint16_t index);

static void write_repeat(struct writer *writer, const struct node *node)
{
    for (unsigned i = 0; i < node->least && !writer->is_full; i++) {
        write_node(writer, node->left);
    }
    if (node->most == FOREVER) {
        uint16_t begin = here(writer);
        struct step *split = emit(writer, STEP_SPLIT);
        split->a = here(writer);
        write_node(writer, node->left);
        emit(writer, STEP_JUMP)->a = begin;
        split->b = here(writer);
        return;
    }
    for (unsigned i = node->least; i < node->most && !writer->is_full; i++) {
        struct step *split = emit(writer, STEP_SPLIT);
        split->a = here(writer);
        write_node(writer, node->left);
        split->b = here(writer);
    }
}

static void write_or(struct writer *writer, const struct node *node)
{
    struct step *split = emit(writer, STEP_SPLIT);
    split->a = here(writer);
    write_node(writer, node->left);
    struct step *jump = emit(writer, STEP_JUMP);
    split->b = here(writer);
    write_node(writer, node->right);
    jump->a = here(writer);
}

/* Recursion is as deep as the pattern is long: at most REGEXP_PATTERN_MAX of it. */
static void write_node(struct writer *writer, uint16_t index)
{
    const struct node *node = &writer->parser->nodes[index];
    if (writer->is_full || ++writer->visits > VISITS_MAX) {
        writer->is_full = true;
        return;
    }
    switch (node->kind) {
    case NODE_EMPTY:
        return;
    case NODE_SET:
        emit(writer, STEP_SET)->set = node->set;
        return;
    case NODE_BEGIN:
        emit(writer, STEP_BEGIN);
        return;
    case NODE_END:
        emit(writer, STEP_END);
        return;
    case NODE_CAT:
        write_node(writer, node->left);
        write_node(writer, node->right);
        return;
    case NODE_OR:
        write_or(writer, node);
        return;
    case NODE_REPEAT:
        write_repeat(writer, node);
        return;
    }
}

int regexp_new(const char *pattern, struct regexp **ret_regexp, struct error *err)
{
    if (strlen(pattern) > REGEXP_PATTERN_MAX) {
        return error_set(err, ERROR_LIMIT, "a pattern has at most %d bytes", REGEXP_PATTERN_MAX);
    }
    struct parser *parser = NEW(struct parser);
    *parser = (struct parser){.pattern = pattern, .err = err};
    uint16_t root = parse_or(parser);
    if (parser->failed == 0 && pattern[parser->at] != 0) {
        fail(parser, ") without (");
    }
    int r = parser->failed;
    struct regexp *regexp = NEW(struct regexp);
    if (r == 0) {
        struct writer writer = {.parser = parser, .regexp = regexp};
        write_node(&writer, root);
        emit(&writer, STEP_MATCH);
        if (writer.is_full) {
            r = error_set(err, ERROR_LIMIT, "the pattern %s: its repetitions are too many",
                          pattern);
        }
    }
    free(parser);
    if (r < 0) {
        free(regexp);
        return r;
    }
    CHECK(regexp->count >= 1);
    *ret_regexp =
        memory_resize(regexp, offsetof(struct regexp, steps) + regexp->count * sizeof(struct step));
    return 0;
}

void regexp_free(struct regexp *regexp)
{
    free(regexp);
}

/* ---- Matching ---- */

struct states {
    size_t count;
    uint16_t items[REGEXP_STEPS_MAX];
    uint64_t seen[REGEXP_STEPS_MAX / 64];
};

/* Add a state and all that follow without a byte being read; true: the match is complete.  Each
 * state is opened once and leaves at most one more than it took, so `open` cannot overflow. */
static bool reach(const struct regexp *regexp, struct states *states, uint16_t first, bool at_begin,
                  bool at_end)
{
    uint16_t open[REGEXP_STEPS_MAX + 1];
    size_t count = 0;
    open[count++] = first;
    while (count > 0) {
        uint16_t at = open[--count];
        if ((states->seen[at / 64] >> (at % 64)) & 1) {
            continue;
        }
        states->seen[at / 64] |= 1ULL << (at % 64);
        const struct step *step = &regexp->steps[at];
        switch (step->kind) {
        case STEP_MATCH:
            return true;
        case STEP_SET:
            states->items[states->count++] = at;
            break;
        case STEP_BEGIN:
        case STEP_END:
            if (step->kind == STEP_BEGIN ? at_begin : at_end) {
                open[count++] = (uint16_t)(at + 1);
            }
            break;
        case STEP_SPLIT:
            open[count++] = step->b;
            open[count++] = step->a;
            break;
        case STEP_JUMP:
            open[count++] = step->a;
            break;
        }
    }
    return false;
}

bool regexp_matches(const struct regexp *regexp, const char *text)
{
    struct states now = {0};
    if (reach(regexp, &now, 0, true, text[0] == 0)) {
        return true;
    }
    for (size_t i = 0; text[i] != 0; i++) {
        struct states next = {0};
        bool at_end = text[i + 1] == 0;
        for (size_t s = 0; s < now.count; s++) {
            uint16_t at = now.items[s];
            if (set_has(&regexp->steps[at].set, (uint8_t)text[i]) &&
                reach(regexp, &next, (uint16_t)(at + 1), false, at_end)) {
                return true;
            }
        }
        if (reach(regexp, &next, 0, false, at_end)) {
            return true;
        }
        now = next;
    }
    return false;
}
