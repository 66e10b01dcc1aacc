/*
 * Markdown in, HTML out: the parts of CommonMark that documents use (headings, paragraphs, lists,
 * block quotes, fenced and indented code, rules, emphasis, code, links, images) and GitHub's
 * tables.  HTML in the input is escaped, so that the output can be shown to people.
 *
 * Blocks are found line by line with recursion for what nests; text inside a block is scanned once.
 */
#include "markdown.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { NESTING_MAX = 16, CODE_INDENT = 4 };

struct line {
    const char *text;
    size_t length;
};

/* ---- Output ---- */

static void put(struct html *html, const char *text, size_t length)
{
    if (html->used + length > html->size) {
        html->size = (html->used + length) * 2 + 1024;
        html->data = realloc(html->data, html->size);
        if (html->data == NULL) {
            abort();
        }
    }
    memcpy(html->data + html->used, text, length);
    html->used += length;
}

static void puts_html(struct html *html, const char *text)
{
    put(html, text, strlen(text));
}

static void put_escaped(struct html *html, const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        switch (text[i]) {
        case '<':
            puts_html(html, "&lt;");
            break;
        case '>':
            puts_html(html, "&gt;");
            break;
        case '&':
            puts_html(html, "&amp;");
            break;
        case '"':
            puts_html(html, "&quot;");
            break;
        default:
            put(html, text + i, 1);
        }
    }
}

/* ---- Text inside a block ---- */

static void render_inline(struct html *html, const char *text, size_t length, int depth);

static size_t count_run(const char *text, size_t length, char c)
{
    size_t n = 0;
    while (n < length && text[n] == c) {
        n++;
    }
    return n;
}

/* `code`, with as many backticks behind it as before it.  Returns what was used, or 0. */
static size_t render_code(struct html *html, const char *text, size_t length)
{
    size_t ticks = count_run(text, length, '`');
    for (size_t i = ticks; i < length; i++) {
        size_t run = count_run(text + i, length - i, '`');
        if (run == ticks) {
            size_t from = ticks;
            size_t to = i;
            if (to - from > 2 && text[from] == ' ' && text[to - 1] == ' ') {
                from++;
                to--;
            }
            puts_html(html, "<code>");
            put_escaped(html, text + from, to - from);
            puts_html(html, "</code>");
            return i + ticks;
        }
        i += run;
    }
    return 0;
}

/* Where the bracket that opens at text[0] closes, or 0. */
static size_t find_closing(const char *text, size_t length, char open, char close)
{
    int level = 0;
    for (size_t i = 0; i < length; i++) {
        if (text[i] == '\\') {
            i++;
        } else if (text[i] == open) {
            level++;
        } else if (text[i] == close && --level == 0) {
            return i;
        }
    }
    return 0;
}

/* Addresses that run code in a browser are shown, not linked. */
static bool address_is_safe(const char *text, size_t length)
{
    size_t colon = 0;
    while (colon < length && text[colon] != ':' && text[colon] != '/' && text[colon] != '#') {
        colon++;
    }
    if (colon == length || text[colon] != ':') {
        return true; /* relative */
    }
    static const char *const schemes[] = {"http", "https", "mailto"};
    for (size_t i = 0; i < sizeof(schemes) / sizeof(schemes[0]); i++) {
        if (strlen(schemes[i]) == colon && strncmp(schemes[i], text, colon) == 0) {
            return true;
        }
    }
    return false;
}

/* [text](address) and ![text](address). */
static size_t render_link(struct html *html, const char *text, size_t length, int depth)
{
    bool is_image = text[0] == '!';
    size_t open = is_image ? 1 : 0;
    size_t label_end = find_closing(text + open, length - open, '[', ']');
    if (label_end == 0 || open + label_end + 1 >= length || text[open + label_end + 1] != '(') {
        return 0;
    }
    size_t paren = open + label_end + 1;
    size_t address_length = find_closing(text + paren, length - paren, '(', ')');
    if (address_length == 0) {
        return 0;
    }
    const char *address = text + paren + 1;
    size_t shown = 0;
    while (shown < address_length - 1 && address[shown] != ' ') {
        shown++; /* a title behind the address is left out */
    }
    if (!address_is_safe(address, shown)) {
        return 0;
    }
    puts_html(html, is_image ? "<img src=\"" : "<a href=\"");
    put_escaped(html, address, shown);
    puts_html(html, is_image ? "\" alt=\"" : "\">");
    if (is_image) {
        put_escaped(html, text + open + 1, label_end - 1);
        puts_html(html, "\">");
    } else {
        render_inline(html, text + open + 1, label_end - 1, depth + 1);
        puts_html(html, "</a>");
    }
    return paren + address_length + 1;
}

/* *emphasis*, **strong**, and the same with underscores between words. */
static size_t render_emphasis(struct html *html, const char *text, size_t length, int depth)
{
    char mark = text[0];
    size_t marks = count_run(text, length, mark);
    marks = marks > 2 ? 2 : marks;
    if (marks >= length || text[marks] == ' ') {
        return 0;
    }
    for (size_t i = marks; i + marks <= length; i++) {
        bool closes = count_run(text + i, length - i, mark) >= marks && text[i - 1] != ' ';
        bool ends_word = mark == '*' || i + marks == length || text[i + marks] < 'A' ||
            (text[i + marks] > 'Z' && text[i + marks] < 'a') || text[i + marks] > 'z';
        if (closes && ends_word && i > marks) {
            puts_html(html, marks == 2 ? "<strong>" : "<em>");
            render_inline(html, text + marks, i - marks, depth + 1);
            puts_html(html, marks == 2 ? "</strong>" : "</em>");
            return i + marks;
        }
    }
    return 0;
}

/* <https://...> */
static size_t render_autolink(struct html *html, const char *text, size_t length)
{
    size_t end = 1;
    while (end < length && text[end] != '>' && text[end] != ' ' && text[end] != '<') {
        end++;
    }
    bool is_address = length > 8 &&
        (strncmp(text, "<http://", 8) == 0 || (length > 9 && strncmp(text, "<https://", 9) == 0));
    if (end == length || text[end] != '>' || !is_address) {
        return 0;
    }
    puts_html(html, "<a href=\"");
    put_escaped(html, text + 1, end - 1);
    puts_html(html, "\">");
    put_escaped(html, text + 1, end - 1);
    puts_html(html, "</a>");
    return end + 1;
}

static bool is_punctuation(char c)
{
    return c != '\0' && strchr("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", c) != NULL;
}

static void render_inline(struct html *html, const char *text, size_t length, int depth)
{
    for (size_t i = 0; i < length;) {
        const char *at = text + i;
        size_t left = length - i;
        size_t used = 0;
        bool in_word = i > 0 && !is_punctuation(at[-1]) && at[-1] != ' ' && at[-1] != '\n';

        if (depth < NESTING_MAX && *at == '`') {
            used = render_code(html, at, left);
        } else if (depth < NESTING_MAX &&
                   (*at == '[' || (*at == '!' && left > 1 && at[1] == '['))) {
            used = render_link(html, at, left, depth);
        } else if (depth < NESTING_MAX && (*at == '*' || (*at == '_' && !in_word))) {
            used = render_emphasis(html, at, left, depth);
        } else if (*at == '<') {
            used = render_autolink(html, at, left);
        } else if (*at == '\\' && left > 1 && is_punctuation(at[1])) {
            put_escaped(html, at + 1, 1);
            used = 2;
        }
        if (used == 0) {
            /* An unmatched run of marks is text as a whole, or "**" would be tried again as "*". */
            used = strchr("`*_", *at) != NULL && *at != '\0' ? count_run(at, left, *at) : 1;
            put_escaped(html, at, used);
        }
        i += used;
    }
}

/* ---- Blocks ---- */

static size_t indent_of(const struct line *line)
{
    return count_run(line->text, line->length, ' ');
}

static bool is_blank(const struct line *line)
{
    return indent_of(line) == line->length;
}

static struct line without(const struct line *line, size_t count)
{
    size_t indent = indent_of(line);
    count = count < indent ? count : indent;
    return (struct line){line->text + count, line->length - count};
}

static size_t heading_level(const struct line *line)
{
    size_t level = count_run(line->text, line->length, '#');
    return level <= 6 && level < line->length && line->text[level] == ' ' ? level : 0;
}

static bool is_fence(const struct line *line)
{
    struct line bare = without(line, 3);
    return bare.length >= 3 &&
        (strncmp(bare.text, "```", 3) == 0 || strncmp(bare.text, "~~~", 3) == 0);
}

static bool is_rule(const struct line *line)
{
    size_t marks = 0;
    char mark = '\0';
    for (size_t i = 0; i < line->length; i++) {
        char c = line->text[i];
        if (c == ' ') {
            continue;
        }
        if ((c != '-' && c != '*' && c != '_') || (mark != '\0' && c != mark)) {
            return false;
        }
        mark = c;
        marks++;
    }
    return marks >= 3;
}

/* Bytes up to an item's text ("- ", "12. "), or 0. */
static size_t item_marker(const struct line *line, bool *ret_ordered)
{
    size_t at = indent_of(line);
    size_t digits = 0;
    while (at + digits < line->length && digits < 9 && line->text[at + digits] >= '0' &&
           line->text[at + digits] <= '9') {
        digits++;
    }
    *ret_ordered = digits > 0;
    size_t mark = at + digits;
    if (mark + 1 >= line->length || line->text[mark + 1] != ' ') {
        return 0;
    }
    char c = line->text[mark];
    bool good = digits > 0 ? c == '.' || c == ')' : c == '-' || c == '*' || c == '+';
    return good ? mark + 2 : 0;
}

static bool is_table_rule(const struct line *line)
{
    size_t dashes = 0;
    size_t bars = 0;
    for (size_t i = 0; i < line->length; i++) {
        dashes += line->text[i] == '-';
        bars += line->text[i] == '|';
        if (strchr("-|: ", line->text[i]) == NULL || line->text[i] == '\0') {
            return false;
        }
    }
    return dashes >= 3 && bars >= 1;
}

static bool begins_block(const struct line *line)
{
    bool ordered = false;
    return is_blank(line) || heading_level(line) > 0 || is_fence(line) || is_rule(line) ||
        line->text[indent_of(line)] == '>' || item_marker(line, &ordered) > 0;
}

static void render_blocks(struct html *html, struct line *lines, size_t count, int depth,
                          bool is_tight);

static size_t render_fence(struct html *html, const struct line *lines, size_t count)
{
    size_t indent = indent_of(&lines[0]);
    struct line open = without(&lines[0], indent);
    size_t ticks = count_run(open.text, open.length, open.text[0]);
    struct line info = {open.text + ticks, open.length - ticks};
    info = without(&info, info.length);

    puts_html(html, "<pre><code");
    if (info.length > 0) {
        puts_html(html, " class=\"language-");
        size_t word = 0;
        while (word < info.length && info.text[word] != ' ') {
            word++;
        }
        put_escaped(html, info.text, word);
        puts_html(html, "\"");
    }
    puts_html(html, ">");
    size_t i = 1;
    for (; i < count; i++) {
        struct line line = without(&lines[i], indent);
        if (count_run(line.text, line.length, open.text[0]) >= ticks) {
            i++;
            break;
        }
        put_escaped(html, line.text, line.length);
        puts_html(html, "\n");
    }
    puts_html(html, "</code></pre>\n");
    return i;
}

/* Lines indented by four; blank ones between them belong to it, those behind do not. */
static size_t render_indented(struct html *html, const struct line *lines, size_t count)
{
    size_t end = 0;
    for (size_t i = 0; i < count && (is_blank(&lines[i]) || indent_of(&lines[i]) >= CODE_INDENT);
         i++) {
        end = is_blank(&lines[i]) ? end : i + 1;
    }
    puts_html(html, "<pre><code>");
    for (size_t i = 0; i < end; i++) {
        struct line line = without(&lines[i], CODE_INDENT);
        put_escaped(html, line.text, line.length);
        puts_html(html, "\n");
    }
    puts_html(html, "</code></pre>\n");
    return end;
}

static void render_row(struct html *html, const struct line *line, const char *cell)
{
    struct line row = without(line, line->length);
    while (row.length > 0 && (row.text[row.length - 1] == ' ' || row.text[row.length - 1] == '|')) {
        row.length--;
    }
    size_t at = row.length > 0 && row.text[0] == '|' ? 1 : 0;
    puts_html(html, "<tr>");
    while (at <= row.length && row.length > 0) {
        size_t end = at;
        bool in_code = false;
        while (end < row.length && (row.text[end] != '|' || in_code || row.text[end - 1] == '\\')) {
            in_code ^= row.text[end] == '`';
            end++;
        }
        size_t from = at + count_run(row.text + at, end - at, ' ');
        size_t to = end;
        while (to > from && row.text[to - 1] == ' ') {
            to--;
        }
        puts_html(html, "<");
        puts_html(html, cell);
        puts_html(html, ">");
        render_inline(html, row.text + from, to - from, 0);
        puts_html(html, "</");
        puts_html(html, cell);
        puts_html(html, ">");
        at = end + 1;
    }
    puts_html(html, "</tr>\n");
}

static size_t render_table(struct html *html, const struct line *lines, size_t count)
{
    puts_html(html, "<table>\n");
    render_row(html, &lines[0], "th");
    size_t i = 2;
    for (; i < count && !is_blank(&lines[i]) && memchr(lines[i].text, '|', lines[i].length); i++) {
        render_row(html, &lines[i], "td");
    }
    puts_html(html, "</table>\n");
    return i;
}

static size_t render_quote(struct html *html, struct line *lines, size_t count, int depth)
{
    size_t n = 0;
    while (n < count && !is_blank(&lines[n]) && lines[n].text[indent_of(&lines[n])] == '>') {
        struct line bare = without(&lines[n], 3);
        size_t skip = bare.length > 1 && bare.text[1] == ' ' ? 2 : 1;
        lines[n] = (struct line){bare.text + skip, bare.length - skip};
        n++;
    }
    puts_html(html, "<blockquote>\n");
    render_blocks(html, lines, n, depth + 1, false);
    puts_html(html, "</blockquote>\n");
    return n;
}

/* Lines that belong to the item that begins at lines[0]; sets *ret_loose when a blank line parts
 * it. */
static size_t item_extent(const struct line *lines, size_t count, size_t width, bool *ret_loose)
{
    size_t n = 1;
    size_t blanks = 0;
    for (; n < count; n++) {
        bool ordered = false;
        if (is_blank(&lines[n])) {
            blanks++;
            continue;
        }
        if (indent_of(&lines[n]) < width) {
            bool continues = blanks == 0 && !begins_block(&lines[n]);
            if (!continues) {
                *ret_loose = *ret_loose || (blanks > 0 && item_marker(&lines[n], &ordered) > 0);
                break;
            }
        } else if (blanks > 0) {
            *ret_loose = true;
        }
        blanks = 0;
    }
    return n - blanks;
}

static size_t render_list(struct html *html, struct line *lines, size_t count, int depth)
{
    bool ordered = false;
    size_t base = indent_of(&lines[0]);
    item_marker(&lines[0], &ordered);
    puts_html(html, ordered ? "<ol>\n" : "<ul>\n");
    size_t i = 0;
    while (i < count) {
        bool same = false;
        size_t width = item_marker(&lines[i], &same);
        if (width == 0 || same != ordered || indent_of(&lines[i]) > base + 3) {
            break;
        }
        bool loose = false;
        size_t n = item_extent(lines + i, count - i, width, &loose);
        lines[i] = (struct line){lines[i].text + width, lines[i].length - width};
        for (size_t k = 1; k < n; k++) {
            lines[i + k] = without(&lines[i + k], width);
        }
        puts_html(html, "<li>");
        render_blocks(html, lines + i, n, depth + 1, !loose);
        puts_html(html, "</li>\n");
        i += n;
        while (i < count && is_blank(&lines[i])) {
            i++;
        }
    }
    puts_html(html, ordered ? "</ol>\n" : "</ul>\n");
    return i;
}

static size_t render_paragraph(struct html *html, const struct line *lines, size_t count,
                               bool is_tight)
{
    size_t n = 1;
    while (n < count && !begins_block(&lines[n])) {
        n++;
    }
    /* One piece of text, so that emphasis may cross a line end. */
    size_t length = 0;
    for (size_t i = 0; i < n; i++) {
        length += lines[i].length + 1;
    }
    char *text = malloc(length + 1);
    if (text == NULL) {
        abort();
    }
    size_t used = 0;
    for (size_t i = 0; i < n; i++) {
        struct line bare = without(&lines[i], lines[i].length);
        if (i > 0) {
            text[used++] = '\n';
        }
        memcpy(text + used, bare.text, bare.length);
        used += bare.length;
    }
    puts_html(html, is_tight ? "" : "<p>");
    render_inline(html, text, used, 0);
    puts_html(html, is_tight ? "\n" : "</p>\n");
    free(text);
    return n;
}

static size_t render_heading(struct html *html, const struct line *line)
{
    size_t level = heading_level(line);
    char tag[] = "<h1>";
    tag[2] = (char)('0' + level);
    puts_html(html, tag);
    size_t end = line->length;
    while (end > level && (line->text[end - 1] == '#' || line->text[end - 1] == ' ')) {
        end--;
    }
    render_inline(html, line->text + level + 1, end > level ? end - level - 1 : 0, 0);
    puts_html(html, "</");
    puts_html(html, tag + 1);
    puts_html(html, "\n");
    return 1;
}

/* One block; returns how many lines it took. */
static size_t render_block(struct html *html, struct line *lines, size_t count, int depth,
                           bool is_tight)
{
    bool ordered = false;
    if (is_blank(&lines[0])) {
        return 1;
    }
    if (indent_of(&lines[0]) >= CODE_INDENT) {
        return render_indented(html, lines, count);
    }
    if (heading_level(&lines[0]) > 0) {
        return render_heading(html, &lines[0]);
    }
    if (is_fence(&lines[0])) {
        return render_fence(html, lines, count);
    }
    if (is_rule(&lines[0])) {
        puts_html(html, "<hr>\n");
        return 1;
    }
    if (depth < NESTING_MAX && lines[0].text[indent_of(&lines[0])] == '>') {
        return render_quote(html, lines, count, depth);
    }
    if (depth < NESTING_MAX && item_marker(&lines[0], &ordered) > 0) {
        return render_list(html, lines, count, depth);
    }
    if (count > 1 && memchr(lines[0].text, '|', lines[0].length) != NULL &&
        is_table_rule(&lines[1])) {
        return render_table(html, lines, count);
    }
    return render_paragraph(html, lines, count, is_tight);
}

static void render_blocks(struct html *html, struct line *lines, size_t count, int depth,
                          bool is_tight)
{
    for (size_t i = 0; i < count;) {
        i += render_block(html, lines + i, count - i, depth, is_tight);
    }
}

void markdown_render(const char *text, size_t length, struct html *html)
{
    size_t count = 1;
    for (size_t i = 0; i < length; i++) {
        count += text[i] == '\n';
    }
    struct line *lines = calloc(count, sizeof(*lines));
    if (lines == NULL) {
        abort();
    }
    size_t n = 0;
    for (size_t at = 0; at < length; n++) {
        const char *end = memchr(text + at, '\n', length - at);
        size_t size = end != NULL ? (size_t)(end - text) - at : length - at;
        size_t shown = size > 0 && text[at + size - 1] == '\r' ? size - 1 : size;
        lines[n] = (struct line){text + at, shown};
        at += size + 1;
    }
    render_blocks(html, lines, n, 0, false);
    free(lines);
}
