/*
 * Heads and chunks: each row is a shape and its verdict.  Every row is also given cut at every
 * place, in memory of the piece's size: a piece wants more, or has the verdict of the whole.
 */
#include "base/http/parse.h"

#include "test/lib/test.h"

enum { HEAD_MAX = 512, FIELDS_MAX = 6, TARGET_MAX = 64 };

static const struct parse_limits limits = {HEAD_MAX, FIELDS_MAX, TARGET_MAX};

typedef long parser(const uint8_t *bytes, size_t length, const struct parse_limits *limits,
                    struct parse_head *ret_head);

static long parse_cut(parser *parse, const char *bytes, size_t length, struct parse_head *ret_head)
{
    static struct parse_head early_head;
    long whole = parse((const uint8_t *)bytes, length, &limits, ret_head);
    for (size_t cut = 0; cut < length; cut++) {
        uint8_t *piece = malloc(cut + 1);
        EXPECT(piece != NULL);
        memcpy(piece, bytes, cut);
        long early = parse(piece, cut, &limits, &early_head);
        free(piece);
        EXPECT(early == 0 || early == whole);
        EXPECT(early <= 0 || (size_t)early <= cut);
    }
    return whole;
}

struct row {
    const char *bytes;
    long verdict;  /* negative: refused; 0: wants more; 1: accepted, all of it */
    size_t length; /* 0: up to the NUL */
};

static void check_rows(parser *parse, const struct row *rows, size_t count)
{
    static struct parse_head head;
    for (size_t i = 0; i < count; i++) {
        size_t length = rows[i].length > 0 ? rows[i].length : strlen(rows[i].bytes);
        long verdict = parse_cut(parse, rows[i].bytes, length, &head);
        long expected = rows[i].verdict == 1 ? (long)length : rows[i].verdict;
        if (verdict != expected) {
            fprintf(stderr, "row %zu: %ld instead of %ld:\n%s\n", i, verdict, expected,
                    rows[i].bytes);
        }
        EXPECT(verdict == expected);
    }
}

#define COUNT(rows) (sizeof(rows) / sizeof((rows)[0]))
#define WITH_NUL(literal, verdict)            \
    {                                         \
        literal, verdict, sizeof(literal) - 1 \
    }

TEST(http_parse, judges_request_lines)
{
    static const struct row rows[] = {
        {"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 1, 0},
        {"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 1, 0},
        {"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", -400, 0},
        {"GET / HTTP/1.0\r\n\r\n", 1, 0},
        {"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 1, 0},
        {"BREW /pot HTTP/1.1\r\nHost: a\r\n\r\n", 1, 0},
        {"GET / HTTP/2.0\r\nHost: a\r\n\r\n", -505, 0},
        {"GET / HTTP/0.9\r\nHost: a\r\n\r\n", -505, 0},
        {"GET / HTTP/1.10\r\nHost: a\r\n\r\n", -400, 0},
        {"GET / HTTP/11\r\nHost: a\r\n\r\n", -400, 0},
        {"GET / HTTP/1.x\r\nHost: a\r\n\r\n", -400, 0},
        {"GET / http/1.1\r\nHost: a\r\n\r\n", -400, 0},
        {"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", -400, 0},
        {"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", -400, 0},
        {"GET /  HTTP/1.1\r\nHost: a\r\n\r\n", -400, 0},
        {" GET / HTTP/1.1\r\nHost: a\r\n\r\n", -400, 0},
        {"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", -400, 0},
        {"GET /\r\nHost: a\r\n\r\n", -400, 0},
        {"GET HTTP/1.1\r\nHost: a\r\n\r\n", -400, 0},
        {"GET\r\nHost: a\r\n\r\n", -400, 0},
        {"G(T / HTTP/1.1\r\nHost: a\r\n\r\n", -400, 0},
        {"/ HTTP/1.1\r\nHost: a\r\n\r\n", -400, 0},
        {"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", -400, 0},
        {"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", -400, 0},
        {"GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n", -400, 0},
        {"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n", -400, 0},
        {"GET a HTTP/1.1\r\nHost: a\r\n\r\n", -400, 0},
        WITH_NUL("GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", -400),
        {"GET / HTTP/1.1\r\nHost: a\r\n", 0, 0},
        {"", 0, 0},
    };
    check_rows(parse_request, rows, COUNT(rows));
}

TEST(http_parse, judges_hosts_and_the_forms_of_targets)
{
    static const struct row rows[] = {
        {"GET / HTTP/1.1\r\n\r\n", -400, 0},
        {"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", -400, 0},
        {"GET / HTTP/1.0\r\nHost: a\r\nhost: b\r\n\r\n", -400, 0},
        {"GET / HTTP/1.1\r\nHost:\r\n\r\n", 1, 0},
        {"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", 1, 0},
        {"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", -400, 0},
        {"GET / HTTP/1.1\r\nHost: a\tb\r\n\r\n", -400, 0},
        {"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", -400, 0},
        {"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", -400, 0},
        {"GET / HTTP/1.1\r\nHost: a\xff\r\n\r\n", -400, 0},
        {"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 1, 0},
        {"GET * HTTP/1.1\r\nHost: a\r\n\r\n", -400, 0},
        {"OPTIONS ** HTTP/1.1\r\nHost: a\r\n\r\n", -400, 0},
        {"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", -400, 0},
        {"GET http://a/b HTTP/1.1\r\nHost: a\r\n\r\n", 1, 0},
        {"GET HTTP://A:8?b HTTP/1.1\r\nHost: a:8\r\n\r\n", 1, 0},
        {"GET https://a HTTP/1.1\r\nHost: a\r\n\r\n", 1, 0},
        {"GET http://a/ HTTP/1.0\r\n\r\n", 1, 0},
        {"GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n", -400, 0},
        {"GET http://a/ HTTP/1.1\r\nHost: ab\r\n\r\n", -400, 0},
        {"GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", -400, 0},
        {"GET http:///x HTTP/1.1\r\nHost:\r\n\r\n", -400, 0},
        {"GET http:// HTTP/1.1\r\nHost:\r\n\r\n", -400, 0},
        {"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", -400, 0},
    };
    check_rows(parse_request, rows, COUNT(rows));
}

#define POST "POST / HTTP/1.1\r\nHost: a\r\n"

TEST(http_parse, refuses_what_smuggling_lives_from)
{
    static const struct row rows[] = {
        {POST "Content-Length: 5\r\n\r\n", 1, 0},
        {POST "Content-Length: 0\r\n\r\n", 1, 0},
        {POST "content-LENGTH:5\r\n\r\n", 1, 0},
        {POST "Content-Length: \t 5 \t\r\n\r\n", 1, 0},
        {POST "Content-Length: 9999999999999999999\r\n\r\n", 1, 0},
        {POST "Content-Length: 18446744073709551616\r\n\r\n", -400, 0},
        {POST "Content-Length: 99999999999999999999999\r\n\r\n", -400, 0},
        {POST "Content-Length: +1\r\n\r\n", -400, 0},
        {POST "Content-Length: -1\r\n\r\n", -400, 0},
        {POST "Content-Length: 0x5\r\n\r\n", -400, 0},
        {POST "Content-Length: 5 5\r\n\r\n", -400, 0},
        {POST "Content-Length: 5, 5\r\n\r\n", -400, 0},
        {POST "Content-Length: 5,6\r\n\r\n", -400, 0},
        {POST "Content-Length: 5.0\r\n\r\n", -400, 0},
        {POST "Content-Length:\r\n\r\n", -400, 0},
        {POST "Content-Length: 5\r\nContent-Length: 5\r\n\r\n", -400, 0},
        {POST "Content-Length: 5\r\nContent-Length: 6\r\n\r\n", -400, 0},
        {POST "Transfer-Encoding: chunked\r\n\r\n", 1, 0},
        {POST "Transfer-Encoding: Chunked\r\n\r\n", 1, 0},
        {POST "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", -400, 0},
        {POST "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", -400, 0},
        {POST "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n", -400, 0},
        {POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", -400, 0},
        {POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n", -400, 0},
        {POST "Transfer-Encoding: identity\r\n\r\n", -501, 0},
        {POST "Transfer-Encoding: gzip, chunked\r\n\r\n", -501, 0},
        {POST "Transfer-Encoding: chunked, gzip\r\n\r\n", -501, 0},
        {POST "Transfer-Encoding: chunked, chunked\r\n\r\n", -501, 0},
        {POST "Transfer-Encoding: xchunked\r\n\r\n", -501, 0},
        {POST "Transfer-Encoding: \"chunked\"\r\n\r\n", -501, 0},
        {POST "Transfer-Encoding: chunked;a\r\n\r\n", -501, 0},
        {POST "Transfer-Encoding:\r\n\r\n", -501, 0},
        {POST "Transfer-Encoding:\x0b"
              "chunked\r\n\r\n",
         -400, 0},
        {POST "Transfer-Encoding : chunked\r\n\r\n", -400, 0},
        {POST "Transfer-Encoding\t: chunked\r\n\r\n", -400, 0},
        {POST " Transfer-Encoding: chunked\r\n\r\n", -400, 0},
        {POST "Transfer-Encoding:\r\n chunked\r\n\r\n", -501, 0},
        {"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", -400, 0},
        {POST "Expect: 100-continue\r\n\r\n", 1, 0},
        {POST "Expect: 200-ok\r\n\r\n", -417, 0},
    };
    check_rows(parse_request, rows, COUNT(rows));
}

TEST(http_parse, refuses_malformed_fields)
{
    static const struct row rows[] = {
        {POST "A: b\r\n\r\n", 1, 0},
        {POST "A:\r\n\r\n", 1, 0},
        {POST "A: \xff\t\x80\r\n\r\n", 1, 0},
        {POST "A: b\r\n c\r\n\r\n", -400, 0},
        {POST "A: b\r\n\tc: d\r\n\r\n", -400, 0},
        {POST "A : b\r\n\r\n", -400, 0},
        {POST ": b\r\n\r\n", -400, 0},
        {POST "A\r\n\r\n", -400, 0},
        {POST "A b: c\r\n\r\n", -400, 0},
        {POST "A(: c\r\n\r\n", -400, 0},
        {POST "\xc3\xa9: c\r\n\r\n", -400, 0},
        {POST "A: b\rC: d\r\n\r\n", -400, 0},
        {POST "A: b\nC: d\r\n\r\n", -400, 0},
        {POST "A: b\r\r\n\r\n", -400, 0},
        {POST "A: b\n\r\n\r\n", -400, 0},
        {POST "A: \x01\r\n\r\n", -400, 0},
        {POST "A: \x7f\r\n\r\n", -400, 0},
        WITH_NUL(POST "A: b\0c\r\n\r\n", -400),
        WITH_NUL(POST "A\0: b\r\n\r\n", -400),
        {"GET / HTTP/1.1\nHost: a\r\n\r\n", -400, 0},
    };
    check_rows(parse_request, rows, COUNT(rows));
}

static size_t write_head(char *out, size_t size, size_t target, size_t fields, size_t total)
{
    int used = snprintf(out, size, "GET /%0*d HTTP/1.1\r\nHost: a\r\n", (int)target - 1, 0);
    for (size_t i = 1; i < fields; i++) {
        used += snprintf(out + used, size - (size_t)used, "B: c\r\n");
    }
    if (total > 0) {
        used += snprintf(out + used, size - (size_t)used, "C: %0*d\r\n",
                         (int)(total - (size_t)used - strlen("C: \r\n\r\n")), 0);
    }
    return (size_t)(used + snprintf(out + used, size - (size_t)used, "\r\n"));
}

/* Goal: the last that fits passes, the first that does not is refused with its own status. */
/*
 * Goal: a control character is found wherever in a value it stands, and nothing else is one.
 * Method: each byte at each place of a value of several words and a rest.
 */
TEST(http_parse, finds_control_characters_everywhere)
{
    char value[21];
    for (unsigned byte = 0; byte < 256; byte++) {
        bool is_good = byte == '\t' || (byte >= ' ' && byte != 0x7f);
        for (size_t at = 0; at < sizeof(value); at++) {
            memset(value, byte % 2 == 0 ? ' ' : '\xff', sizeof(value));
            value[at] = (char)byte;
            EXPECT(parse_is_value(text_of(value, sizeof(value))) == is_good);
        }
    }
}

TEST(http_parse, keeps_its_limits_to_the_byte)
{
    static struct parse_head head;
    char bytes[2 * HEAD_MAX];
    size_t length = write_head(bytes, sizeof(bytes), TARGET_MAX, 1, 0);
    EXPECT(parse_cut(parse_request, bytes, length, &head) == (long)length);
    EXPECT(head.target.length == TARGET_MAX);
    length = write_head(bytes, sizeof(bytes), TARGET_MAX + 1, 1, 0);
    EXPECT(parse_cut(parse_request, bytes, length, &head) == -414);

    length = write_head(bytes, sizeof(bytes), 4, FIELDS_MAX, 0);
    EXPECT(parse_cut(parse_request, bytes, length, &head) == (long)length);
    length = write_head(bytes, sizeof(bytes), 4, FIELDS_MAX + 1, 0);
    EXPECT(parse_cut(parse_request, bytes, length, &head) == -431);

    length = write_head(bytes, sizeof(bytes), 4, 1, HEAD_MAX);
    EXPECT(length == HEAD_MAX);
    EXPECT(parse_cut(parse_request, bytes, length, &head) == HEAD_MAX);
    length = write_head(bytes, sizeof(bytes), 4, 1, HEAD_MAX + 1);
    EXPECT(parse_cut(parse_request, bytes, length, &head) == -431);

    memset(bytes, 'a', sizeof(bytes));
    EXPECT(parse_cut(parse_request, bytes, HEAD_MAX, &head) == 0);
    EXPECT(parse_cut(parse_request, bytes, HEAD_MAX + 1, &head) == -414);
}

TEST(http_parse, tells_framing_and_connection)
{
    static struct parse_head head;
    static const char bytes[] = "PUT /x?y HTTP/1.1\r\nHost: a\r\nConnection: x, Keep-Alive\r\n"
                                "CONNECTION:close\r\nContent-Length: 12\r\n\r\n";
    EXPECT(parse_request((const uint8_t *)bytes, strlen(bytes), &limits, &head) > 0);
    EXPECT(text_equal(head.method, "PUT") && text_equal(head.target, "/x?y"));
    EXPECT(head.has_length && head.length == 12 && !head.is_chunked);
    EXPECT(head.wants_close && head.wants_keep_alive && head.minor == 1);
    EXPECT(text_equal(parse_find(&head, "connection"), "x, Keep-Alive"));
    EXPECT(parse_find(&head, "absent").data == NULL);
}

TEST(http_parse, judges_answers)
{
    static const struct row rows[] = {
        {"HTTP/1.1 200 OK\r\n\r\n", 1, 0},
        {"HTTP/1.1 200 \r\n\r\n", 1, 0},
        {"HTTP/1.1 200\r\n\r\n", 1, 0},
        {"HTTP/1.0 404 Not Found\r\nContent-Length: 0\r\n\r\n", 1, 0},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 1, 0},
        {"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", -400, 0},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", -400, 0},
        {"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", -400, 0},
        {"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", -400, 0},
        {"HTTP/1.1 200 OK\r\n A: b\r\n\r\n", -400, 0},
        {"HTTP/1.1 99 No\r\n\r\n", -400, 0},
        {"HTTP/1.1 099 No\r\n\r\n", -400, 0},
        {"HTTP/1.1 2000 No\r\n\r\n", -400, 0},
        {"HTTP/1.1 +20 No\r\n\r\n", -400, 0},
        {"HTTP/1.1  200 No\r\n\r\n", -400, 0},
        {"HTTP/2.0 200 OK\r\n\r\n", -400, 0},
        {"HTTP 200 OK\r\n\r\n", -400, 0},
        {"HTTP/1.1 200 O\x01K\r\n\r\n", -400, 0},
        {"\r\nHTTP/1.1 200 OK\r\n\r\n", -400, 0},
        {"HTTP/1.1 200 OK\r\n", 0, 0},
    };
    check_rows(parse_answer, rows, COUNT(rows));
}

/* ---- Chunks ---- */

struct chunk_row {
    const char *bytes;
    int verdict;
    const char *content;
    const char *rest; /* left when it is complete */
};

static void check_chunks(const struct chunk_row *row, size_t cut, size_t step)
{
    struct parse_chunks chunks = {0};
    char content[256] = "";
    size_t length = strlen(row->bytes);
    size_t used = 0;
    size_t got = 0;
    int verdict = 0;
    while (used < length && verdict == 0) {
        size_t stop = used < cut ? cut : used + step < length ? used + step : length;
        size_t took = 0;
        struct text part;
        verdict =
            parse_chunk(&chunks, (const uint8_t *)row->bytes + used, stop - used, &took, &part);
        EXPECT(took > 0 && took <= stop - used);
        used += took;
        if (verdict >= 0 && part.length > 0) {
            memcpy(content + got, part.data, part.length);
            got += part.length;
        }
    }
    content[got] = '\0';
    if (verdict != row->verdict) {
        fprintf(stderr, "%d instead of %d:\n%s\n", verdict, row->verdict, row->bytes);
    }
    EXPECT(verdict == row->verdict);
    if (verdict == 1) {
        EXPECT_STRING(content, row->content);
        EXPECT_STRING(row->bytes + used, row->rest);
    }
}

TEST(http_parse, judges_chunks)
{
    static const struct chunk_row rows[] = {
        {"0\r\n\r\n", 1, "", ""},
        {"5\r\nhello\r\n0\r\n\r\nGET", 1, "hello", "GET"},
        {"5\r\nhello\r\n00006\r\n world\r\n0\r\n\r\n", 1, "hello world", ""},
        {"A\r\n0123456789\r\na\r\n0123456789\r\n000\r\n\r\n", 1, "01234567890123456789", ""},
        {"5;a=\"b\"\r\nhello\r\n0;c\r\n\r\n", 1, "hello", ""},
        {"5;a=\"\\\"\\\\\";b\r\nhello\r\n0\r\n\r\n", 1, "hello", ""},
        {"5;\r\n", -1, "", ""},
        {"5;;a\r\n", -1, "", ""},
        {"5;a=\"b\r\n", -1, "", ""},
        {"5;a=\"\\\"\r\n", -1, "", ""},
        {"0\r\nA: b\r\nC:\r\n\r\nX", 1, "", "X"},
        {"5\r\nhello\r\n0\r\n", 0, "", ""},
        {"5\r\nhel", 0, "", ""},
        {"\r\n", -1, "", ""},
        {";\r\n", -1, "", ""},
        {"g\r\n", -1, "", ""},
        {"0x5\r\n", -1, "", ""},
        {"+5\r\n", -1, "", ""},
        {"-5\r\n", -1, "", ""},
        {" 5\r\n", -1, "", ""},
        {"5 \r\n", -1, "", ""},
        {"5\n", -1, "", ""},
        {"5\rhello", -1, "", ""},
        {"5\r\nhelloX", -1, "", ""},
        {"5\r\nhello\n", -1, "", ""},
        {"5\r\nhello\r0", -1, "", ""},
        {"5\r\nhello\r\n\r\n", -1, "", ""},
        {"5;\x01\r\n", -1, "", ""},
        {"5;a\nhello", -1, "", ""},
        {"1000000000000000\r\n", -1, "", ""},
        {"ffffffffffffffffff\r\n", -1, "", ""},
        {"0\r\n A: b\r\n", -1, "", ""},
        {"0\r\nA\r\n", -1, "", ""},
        {"0\r\nA : b\r\n", -1, "", ""},
        {"0\r\n: b\r\n", -1, "", ""},
        {"0\r\nA: b\n", -1, "", ""},
        {"0\r\nA: b\r\n c\r\n", -1, "", ""},
        {"0\r\n\n", -1, "", ""},
        {"0\r\n\rX", -1, "", ""},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        for (size_t cut = 0; cut <= strlen(rows[i].bytes); cut++) {
            check_chunks(&rows[i], cut, 1);
            check_chunks(&rows[i], cut, 1000);
        }
    }
}

/* Goal: extensions and trailers cannot go on for ever, however they are spread. */
TEST(http_parse, bounds_extensions_and_trailers)
{
    struct parse_chunks chunks = {0};
    static const char bytes[] = "1;0123456789012345678901234567890123456789\r\nx\r\n";
    int verdict = 0;
    size_t given = 0;
    while (verdict == 0 && given < 1000000) {
        size_t at = 0;
        while (verdict == 0 && at < sizeof(bytes) - 1) {
            size_t used = 0;
            struct text part;
            verdict = parse_chunk(&chunks, (const uint8_t *)bytes + at, sizeof(bytes) - 1 - at,
                                  &used, &part);
            at += used;
        }
        given += at;
    }
    EXPECT(verdict == -1 && given < 20000);
}
