/*
 * CESQL: a recursive descent parser and an evaluator.
 *
 *     or    := xor/and { (OR | XOR) and }
 *     and   := not { AND not }
 *     not   := NOT not | compare
 *     compare := sum [ op sum | [NOT] LIKE 'text' | [NOT] IN ( or, ... ) ]
 *     sum   := product { (+ | -) product }      product := unary { (* | / | %) unary }
 *     unary := - unary | ( or ) | EXISTS path | literal | NAME ( or, ... ) | path
 *
 * What is missing or cannot be cast makes the nearest comparison unknown, never an error: a filter
 * has nobody to tell.  Unknown is neither true nor, to NOT, false, and makes all that was asked of
 * it unknown, so that what has no answer does not pass ("if any errors are returned, the event MUST
 * NOT pass the filter", CESQL 1.2).  Only what is not looked at has no errors: the right side of
 * `false AND` and of `true OR`.
 */
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/text.h"

#include "service/event/parts.h"

enum { DEPTH_MAX = 32, NODES_MAX = 512, PATH_MAX_STEPS = 16 };

enum node_kind {
    NODE_LITERAL,
    NODE_PATH,
    NODE_EXISTS,
    NODE_NOT,
    NODE_NEGATE,
    NODE_AND,
    NODE_OR,
    NODE_XOR,
    NODE_COMPARE,
    NODE_ARITHMETIC,
    NODE_LIKE,
    NODE_IN,
    NODE_CALL,
};

struct sql_node {
    enum node_kind kind;
    char op[3];             /* of COMPARE and ARITHMETIC */
    bool is_negated;        /* NOT LIKE, NOT IN */
    struct sql_value value; /* LITERAL; the pattern of LIKE */
    char *steps[PATH_MAX_STEPS];
    unsigned step_count;
    const struct sql_function *function;
    struct sql_node *parts[SQL_ARGUMENTS_MAX + 1];
    unsigned part_count;
};

struct parser {
    const char *start;
    const char *at;
    unsigned depth;
    unsigned nodes;
    struct error *err;
};

void sql_free(struct sql_node *node)
{
    if (node == NULL) {
        return;
    }
    for (unsigned i = 0; i < node->part_count; i++) {
        sql_free(node->parts[i]);
    }
    for (unsigned i = 0; i < node->step_count; i++) {
        free(node->steps[i]);
    }
    sql_value_done(&node->value);
    free(node);
}

/* ---- Parsing ---- */

static struct sql_node *fail(struct parser *parser, const char *what)
{
    if (parser->err->kind == ERROR_NONE) {
        bool is_end = parser->at[0] == '\0';
        error_set(parser->err, ERROR_INVALID, "filter, at %zu: %s, not %s%.20s%s",
                  (size_t)(parser->at - parser->start) + 1, what, is_end ? "the end" : "\"",
                  parser->at, is_end ? "" : "\"");
    }
    return NULL;
}

static struct sql_node *node_new(struct parser *parser, enum node_kind kind)
{
    parser->nodes++;
    struct sql_node *node = NEW(struct sql_node);
    node->kind = kind;
    return node;
}

static void skip_blanks(struct parser *parser)
{
    parser->at += strspn(parser->at, " \t\r\n");
}

static bool is_word_part(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

static struct text peek_word(struct parser *parser)
{
    skip_blanks(parser);
    size_t length = 0;
    while (is_word_part(parser->at[length])) {
        length++;
    }
    return text_of(parser->at, length);
}

static bool take_word(struct parser *parser, const char *word)
{
    struct text next = peek_word(parser);
    bool is_it = text_equal_ignoring_case(next, word);
    parser->at += is_it ? next.length : 0;
    return is_it;
}

static bool take_sign(struct parser *parser, const char *sign)
{
    skip_blanks(parser);
    bool is_it = text_starts_with(parser->at, sign);
    parser->at += is_it ? strlen(sign) : 0;
    return is_it;
}

static struct sql_node *parse_or(struct parser *parser);

static struct sql_node *add(struct sql_node *node, struct sql_node *part)
{
    if (part == NULL) {
        sql_free(node);
        return NULL;
    }
    node->parts[node->part_count++] = part;
    return node;
}

static struct sql_node *binary(struct parser *parser, enum node_kind kind, const char *op,
                               struct sql_node *left, struct sql_node *right)
{
    struct sql_node *node = node_new(parser, kind);
    memcpy(node->op, op, strlen(op) + 1);
    node = add(node, left);
    return add(node, right);
}

/* 'it\'s' and "so": a backslash before a quote; before anything else it stays, for LIKE. */
static bool parse_text(struct parser *parser, struct sql_value *ret_value)
{
    skip_blanks(parser);
    char quote = *parser->at;
    BUFFER_OWNED struct buffer text = {0};
    const char *at = parser->at + 1;
    if (quote != '\'' && quote != '"') {
        return false;
    }
    while (*at != '\0' && *at != quote) {
        if (*at == '\\' && at[1] == quote) {
            at++;
        }
        buffer_append_byte(&text, (uint8_t)*at++);
    }
    if (*at == '\0') {
        fail(parser, "the text has no end");
        return false;
    }
    parser->at = at + 1;
    *ret_value = sql_value_text(buffer_string(&text), text.used);
    return true;
}

static struct sql_node *parse_path(struct parser *parser, enum node_kind kind)
{
    struct text word = peek_word(parser);
    if (word.length == 0) {
        return fail(parser, "a value or a name is expected");
    }
    struct sql_node *node = node_new(parser, kind);
    for (;;) {
        word = peek_word(parser);
        if (word.length == 0 || node->step_count == PATH_MAX_STEPS) {
            sql_free(node);
            return fail(parser, "a name of the path is expected");
        }
        node->steps[node->step_count++] = memory_copy_text(word.data, word.length);
        parser->at += word.length;
        if (*parser->at != '.') {
            return node;
        }
        parser->at++;
    }
}

static struct sql_node *parse_list(struct parser *parser, struct sql_node *node)
{
    if (take_sign(parser, ")")) {
        return node;
    }
    for (;;) {
        if (node->part_count > SQL_ARGUMENTS_MAX - 1 + (node->kind == NODE_IN)) {
            sql_free(node);
            return fail(parser, "a list has at most 16 items");
        }
        node = add(node, parse_or(parser));
        if (node == NULL || take_sign(parser, ")")) {
            return node;
        }
        if (!take_sign(parser, ",")) {
            sql_free(node);
            return fail(parser, "\",\" or \")\" is expected");
        }
    }
}

static struct sql_node *parse_call(struct parser *parser, struct text name)
{
    const struct sql_function *function = sql_function_find(name);
    if (function == NULL) {
        return fail(parser, "there is no such function");
    }
    const char *at = parser->at;
    parser->at += name.length;
    take_sign(parser, "(");
    struct sql_node *node = node_new(parser, NODE_CALL);
    node->function = function;
    node = parse_list(parser, node);
    if (node != NULL && (node->part_count < function->least || node->part_count > function->most)) {
        parser->at = at;
        sql_free(node);
        return fail(parser, "the function takes another number of arguments");
    }
    return node;
}

static struct sql_node *parse_number(struct parser *parser)
{
    size_t length = strspn(parser->at, "0123456789");
    if (parser->at[length] == '.') {
        length += 1 + strspn(parser->at + length + 1, "0123456789");
    }
    if (length > 30) {
        return fail(parser, "the number is too long");
    }
    MEMORY_OWNED char *digits = memory_copy_text(parser->at, length);
    struct sql_node *node = node_new(parser, NODE_LITERAL);
    node->value = sql_value_number(strtod(digits, NULL));
    parser->at += length;
    return node;
}

static struct sql_node *parse_unary(struct parser *parser)
{
    struct sql_value text = {0};
    if (parser->nodes > NODES_MAX || parser->depth > DEPTH_MAX) {
        return fail(parser, "the expression is too long or too deep");
    }
    if (take_sign(parser, "-")) {
        parser->depth++;
        struct sql_node *node = add(node_new(parser, NODE_NEGATE), parse_unary(parser));
        parser->depth--;
        return node;
    }
    if (take_sign(parser, "(")) {
        struct sql_node *inner = parse_or(parser);
        if (inner != NULL && !take_sign(parser, ")")) {
            sql_free(inner);
            return fail(parser, "\")\" is expected");
        }
        return inner;
    }
    if (parse_text(parser, &text)) {
        struct sql_node *node = node_new(parser, NODE_LITERAL);
        node->value = text;
        return node;
    }
    struct text word = peek_word(parser);
    if (word.length > 0 && word.data[0] >= '0' && word.data[0] <= '9') {
        return parse_number(parser);
    }
    if (take_word(parser, "EXISTS")) {
        return parse_path(parser, NODE_EXISTS);
    }
    bool is_true = text_equal_ignoring_case(word, "TRUE");
    if (is_true || text_equal_ignoring_case(word, "FALSE")) {
        struct sql_node *node = node_new(parser, NODE_LITERAL);
        node->value = sql_value_boolean(is_true);
        parser->at += word.length;
        return node;
    }
    static const char *const reserved[] = {"AND", "OR", "XOR", "NOT", "LIKE", "IN"};
    for (size_t i = 0; i < sizeof(reserved) / sizeof(reserved[0]); i++) {
        if (text_equal_ignoring_case(word, reserved[i])) {
            return fail(parser, "a value is expected");
        }
    }
    const char *behind = word.data + word.length;
    behind += strspn(behind, " \t\r\n");
    return word.length > 0 && *behind == '(' ? parse_call(parser, word)
                                             : parse_path(parser, NODE_PATH);
}

static struct sql_node *parse_product(struct parser *parser)
{
    struct sql_node *left = parse_unary(parser);
    while (left != NULL) {
        const char *op = take_sign(parser, "*") ? "*"
            : take_sign(parser, "/")            ? "/"
            : take_sign(parser, "%")            ? "%"
                                                : NULL;
        if (op == NULL) {
            break;
        }
        left = binary(parser, NODE_ARITHMETIC, op, left, parse_unary(parser));
    }
    return left;
}

static struct sql_node *parse_sum(struct parser *parser)
{
    struct sql_node *left = parse_product(parser);
    while (left != NULL) {
        const char *op = take_sign(parser, "+") ? "+" : take_sign(parser, "-") ? "-" : NULL;
        if (op == NULL) {
            break;
        }
        left = binary(parser, NODE_ARITHMETIC, op, left, parse_product(parser));
    }
    return left;
}

static struct sql_node *parse_like(struct parser *parser, struct sql_node *left, bool is_negated)
{
    struct sql_node *node = add(node_new(parser, NODE_LIKE), left);
    node->is_negated = is_negated;
    if (!parse_text(parser, &node->value)) {
        sql_free(node);
        return fail(parser, "LIKE takes a text in quotes");
    }
    return node;
}

static struct sql_node *parse_in(struct parser *parser, struct sql_node *left, bool is_negated)
{
    struct sql_node *node = add(node_new(parser, NODE_IN), left);
    node->is_negated = is_negated;
    if (!take_sign(parser, "(")) {
        sql_free(node);
        return fail(parser, "IN takes a list in parentheses");
    }
    return parse_list(parser, node);
}

static struct sql_node *parse_compare(struct parser *parser)
{
    static const char *const ops[] = {"!=", "<>", "<=", ">=", "=", "<", ">"};
    struct sql_node *left = parse_sum(parser);
    if (left == NULL) {
        return NULL;
    }
    const char *before = parser->at;
    bool is_negated = take_word(parser, "NOT");
    if (take_word(parser, "LIKE")) {
        return parse_like(parser, left, is_negated);
    }
    if (take_word(parser, "IN")) {
        return parse_in(parser, left, is_negated);
    }
    parser->at = before;
    for (size_t i = 0; i < sizeof(ops) / sizeof(ops[0]); i++) {
        if (take_sign(parser, ops[i])) {
            const char *op = strcmp(ops[i], "<>") == 0 ? "!=" : ops[i];
            return binary(parser, NODE_COMPARE, op, left, parse_sum(parser));
        }
    }
    return left;
}

static struct sql_node *parse_not(struct parser *parser)
{
    if (parser->depth > DEPTH_MAX) {
        return fail(parser, "the expression is too deep");
    }
    if (!take_word(parser, "NOT")) {
        return parse_compare(parser);
    }
    parser->depth++;
    struct sql_node *node = add(node_new(parser, NODE_NOT), parse_not(parser));
    parser->depth--;
    return node;
}

static struct sql_node *parse_and(struct parser *parser)
{
    struct sql_node *left = parse_not(parser);
    while (left != NULL && take_word(parser, "AND")) {
        left = binary(parser, NODE_AND, "", left, parse_not(parser));
    }
    return left;
}

static struct sql_node *parse_or(struct parser *parser)
{
    parser->depth++;
    struct sql_node *left = parse_and(parser);
    while (left != NULL) {
        if (take_word(parser, "OR")) {
            left = binary(parser, NODE_OR, "", left, parse_and(parser));
        } else if (take_word(parser, "XOR")) {
            left = binary(parser, NODE_XOR, "", left, parse_and(parser));
        } else {
            break;
        }
    }
    parser->depth--;
    return left;
}

int sql_parse(const char *text, struct sql_node **ret_root, struct error *err)
{
    struct parser parser = {.start = text, .at = text, .err = err};
    struct error problem = {0};
    parser.err = &problem;
    struct sql_node *root = parse_or(&parser);
    skip_blanks(&parser);
    if (root != NULL && *parser.at != '\0') {
        fail(&parser, "the end, AND or OR is expected");
        sql_free(root);
        root = NULL;
    }
    if (root == NULL) {
        *err = problem;
        return -(int)err->kind;
    }
    *ret_root = root;
    return 0;
}

/* ---- Evaluating ---- */

static struct sql_value evaluate(const struct sql_node *node, const json_t *document);

static const json_t *look_up(const struct sql_node *node, const json_t *document)
{
    const json_t *value = document;
    for (unsigned i = 0; i < node->step_count && value != NULL; i++) {
        uint64_t index = 0;
        value = json_is_array(value)
            ? (text_parse_u64(text_of(node->steps[i], strlen(node->steps[i])), &index)
                   ? json_array_get(value, index)
                   : NULL)
            : json_object_get(value, node->steps[i]);
    }
    return value;
}

/* -1, 0, 1; false: they cannot be compared.  For equality the left one is cast to the right one's
 * kind; for order both are numbers, where they can be, as of attributes that came as text. */
static bool compare(struct sql_value *left, struct sql_value *right, bool is_order, int *ret_order)
{
    if (left->kind == SQL_MISSING || right->kind == SQL_MISSING) {
        return false;
    }
    if (is_order || right->kind == SQL_NUMBER) {
        double a = 0;
        double b = 0;
        if (sql_value_is_number(left, &a) && sql_value_is_number(right, &b)) {
            *ret_order = a < b ? -1 : a > b;
            return true;
        }
        if (left->kind != SQL_TEXT || right->kind != SQL_TEXT) {
            return false;
        }
    }
    if (right->kind == SQL_BOOLEAN) {
        bool can = sql_value_to_boolean(left);
        *ret_order = (int)left->boolean - (int)right->boolean;
        return can;
    }
    bool can = sql_value_to_text(left);
    *ret_order = can ? strcmp(left->text, right->text) : 0;
    return can;
}

static bool order_fits(const char *op, int order)
{
    if (op[0] == '!') {
        return order != 0;
    }
    if (op[0] == '=') {
        return order == 0;
    }
    return (op[1] == '=' && order == 0) || (op[0] == '<' ? order < 0 : order > 0);
}

/* True, false, or unknown: MISSING. */
static struct sql_value truth(const struct sql_node *node, const json_t *document)
{
    struct sql_value value = evaluate(node, document);
    if (!sql_value_to_boolean(&value)) {
        sql_value_done(&value);
    }
    return value;
}

static bool is_true(const struct sql_node *node, const json_t *document)
{
    struct sql_value value = truth(node, document);
    return value.kind == SQL_BOOLEAN && value.boolean;
}

/* The right side is looked at where the left one does not decide. */
static struct sql_value evaluate_logic(const struct sql_node *node, const json_t *document)
{
    struct sql_value left = truth(node->parts[0], document);
    if (left.kind != SQL_BOOLEAN) {
        return left;
    }
    if (node->kind == NODE_NOT) {
        return sql_value_boolean(!left.boolean);
    }
    if (node->kind != NODE_XOR && left.boolean == (node->kind == NODE_OR)) {
        return left;
    }
    struct sql_value right = truth(node->parts[1], document);
    bool is_different = node->kind == NODE_XOR && right.kind == SQL_BOOLEAN;
    return is_different ? sql_value_boolean(left.boolean != right.boolean) : right;
}

static struct sql_value evaluate_compare(const struct sql_node *node, const json_t *document)
{
    struct sql_value left = evaluate(node->parts[0], document);
    struct sql_value right = evaluate(node->parts[1], document);
    int order = 0;
    bool is_order = node->op[0] == '<' || node->op[0] == '>';
    bool can = compare(&left, &right, is_order, &order);
    sql_value_done(&left);
    sql_value_done(&right);
    return can ? sql_value_boolean(order_fits(node->op, order)) : (struct sql_value){0};
}

static struct sql_value evaluate_arithmetic(const struct sql_node *node, const json_t *document)
{
    struct sql_value left = evaluate(node->parts[0], document);
    struct sql_value right = evaluate(node->parts[1], document);
    bool can = sql_value_to_number(&left) && sql_value_to_number(&right);
    double a = left.number;
    double b = right.number;
    sql_value_done(&left);
    sql_value_done(&right);
    if (!can || ((node->op[0] == '/' || node->op[0] == '%') && b == 0)) {
        return (struct sql_value){0};
    }
    switch (node->op[0]) {
    case '+':
        return sql_value_number(a + b);
    case '-':
        return sql_value_number(a - b);
    case '*':
        return sql_value_number(a * b);
    case '/': /* of integers truncated; data may have others */
        return sql_value_number(a == trunc(a) && b == trunc(b) ? trunc(a / b) : a / b);
    default:
        return sql_value_number(fmod(a, b));
    }
}

static struct sql_value evaluate_in(const struct sql_node *node, const json_t *document)
{
    struct sql_value wanted = evaluate(node->parts[0], document);
    bool is_known = wanted.kind != SQL_MISSING;
    bool found = false;
    for (unsigned i = 1; i < node->part_count && is_known && !found; i++) {
        struct sql_value left = evaluate(node->parts[0], document);
        struct sql_value item = evaluate(node->parts[i], document);
        int order = 0;
        is_known = item.kind != SQL_MISSING;
        found = compare(&left, &item, false, &order) && order == 0;
        sql_value_done(&left);
        sql_value_done(&item);
    }
    sql_value_done(&wanted);
    return is_known ? sql_value_boolean(found != node->is_negated) : (struct sql_value){0};
}

static struct sql_value evaluate_like(const struct sql_node *node, const json_t *document)
{
    struct sql_value text = evaluate(node->parts[0], document);
    bool can = sql_value_to_text(&text);
    bool holds = can && sql_like(text.text, node->value.text) != node->is_negated;
    sql_value_done(&text);
    return can ? sql_value_boolean(holds) : (struct sql_value){0};
}

static struct sql_value evaluate_call(const struct sql_node *node, const json_t *document)
{
    struct sql_value values[SQL_ARGUMENTS_MAX] = {{0}};
    bool is_known = true;
    for (unsigned i = 0; i < node->part_count; i++) {
        values[i] = evaluate(node->parts[i], document);
        is_known = is_known && values[i].kind != SQL_MISSING;
    }
    struct sql_value result =
        is_known ? node->function->call(values, node->part_count) : (struct sql_value){0};
    for (unsigned i = 0; i < node->part_count; i++) {
        sql_value_done(&values[i]);
    }
    return result;
}

static struct sql_value negate(struct sql_value value)
{
    bool can = sql_value_to_number(&value);
    return can ? sql_value_number(-value.number) : (struct sql_value){0};
}

static struct sql_value evaluate(const struct sql_node *node, const json_t *document)
{
    if (!filter_spend(1)) {
        return (struct sql_value){0};
    }
    switch (node->kind) {
    case NODE_LITERAL:
        return node->value.kind == SQL_TEXT
            ? sql_value_text(node->value.text, strlen(node->value.text))
            : node->value;
    case NODE_PATH:
        return sql_value_of(look_up(node, document));
    case NODE_EXISTS:
        return sql_value_boolean(look_up(node, document) != NULL);
    case NODE_NOT:
    case NODE_AND:
    case NODE_OR:
    case NODE_XOR:
        return evaluate_logic(node, document);
    case NODE_NEGATE:
        return negate(evaluate(node->parts[0], document));
    case NODE_COMPARE:
        return evaluate_compare(node, document);
    case NODE_ARITHMETIC:
        return evaluate_arithmetic(node, document);
    case NODE_LIKE:
        return evaluate_like(node, document);
    case NODE_IN:
        return evaluate_in(node, document);
    case NODE_CALL:
        return evaluate_call(node, document);
    }
    return (struct sql_value){0};
}

bool sql_match(const struct sql_node *root, const json_t *document)
{
    return is_true(root, document);
}
