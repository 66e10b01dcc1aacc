#include "base/buffer.h"
#include "base/error.h"
#include "base/memory.h"

#include "service/gateway/cgi.h"

#include "test/lib/test.h"

static const char *variable(const struct buffer *environment, const char *name)
{
    size_t length = strlen(name);
    const char *at = (const char *)environment->data;
    const char *found = NULL;
    for (const char *end = at + environment->used; at < end; at += strlen(at) + 1) {
        if (strncmp(at, name, length) == 0 && at[length] == '=') {
            EXPECT(found == NULL); /* once */
            found = at + length + 1;
        }
    }
    return found;
}

static struct text text(const char *string)
{
    return text_of(string, strlen(string));
}

static struct cgi_request simple_request(void)
{
    return (struct cgi_request){
        .method = text("GET"),
        .path = text("/fn/hello/a%20b/c"),
        .query = text("x=1&y=%20"),
        .script_length = 9,
        .host = text("example.org:8080"),
        .protocol = "HTTP/1.1",
        .address = "127.0.0.1:7480",
        .port = 7480,
        .peer = "127.0.0.1:4711",
        .request_id = "id",
    };
}

TEST(gateway_cgi, writes_the_meta_variables)
{
    BUFFER_OWNED struct buffer out = {0};
    struct error err = {0};
    struct cgi_request request = simple_request();
    EXPECT(cgi_write_environment(&request, 65536, &out, &err) == 0);
    EXPECT_STRING(variable(&out, "GATEWAY_INTERFACE"), "CGI/1.1");
    EXPECT_STRING(variable(&out, "REQUEST_METHOD"), "GET");
    EXPECT_STRING(variable(&out, "SCRIPT_NAME"), "/fn/hello");
    EXPECT_STRING(variable(&out, "PATH_INFO"), "/a b/c");
    EXPECT_STRING(variable(&out, "QUERY_STRING"), "x=1&y=%20");
    EXPECT_STRING(variable(&out, "REQUEST_URI"), "/fn/hello/a%20b/c?x=1&y=%20");
    EXPECT_STRING(variable(&out, "SERVER_PROTOCOL"), "HTTP/1.1");
    EXPECT_STRING(variable(&out, "SERVER_NAME"), "example.org");
    EXPECT_STRING(variable(&out, "SERVER_PORT"), "7480");
    EXPECT_STRING(variable(&out, "REMOTE_ADDR"), "127.0.0.1");
    EXPECT_STRING(variable(&out, "BLIXARD_REQUEST_ID"), "id");
    EXPECT(variable(&out, "CONTENT_LENGTH") == NULL && variable(&out, "CONTENT_TYPE") == NULL);
}

TEST(gateway_cgi, names_who_showed_a_certificate)
{
    BUFFER_OWNED struct buffer out = {0};
    struct error err = {0};
    struct cgi_request request = simple_request();
    EXPECT(cgi_write_environment(&request, 65536, &out, &err) == 0);
    EXPECT_STRING(variable(&out, "REQUEST_SCHEME"), "http");
    EXPECT(variable(&out, "HTTPS") == NULL && variable(&out, "REMOTE_USER") == NULL);
    EXPECT(variable(&out, "SSL_CLIENT_VERIFY") == NULL);
    out.used = 0;
    request.is_secure = true;
    request.subject = "CN=ann,O=Example";
    request.fingerprint = "ab01";
    EXPECT(cgi_write_environment(&request, 65536, &out, &err) == 0);
    EXPECT_STRING(variable(&out, "HTTPS"), "on");
    EXPECT_STRING(variable(&out, "AUTH_TYPE"), "CLIENT_CERT");
    EXPECT_STRING(variable(&out, "REMOTE_USER"), "CN=ann,O=Example");
    EXPECT_STRING(variable(&out, "SSL_CLIENT_FINGERPRINT"), "ab01");
}

TEST(gateway_cgi, tells_where_in_the_trace_the_function_is)
{
    static const char parent[] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    static const struct cgi_field fields[] = {
        {{"Traceparent", 11}, {"of the client", 13}},
        {{"Tracestate", 10}, {"a=1", 3}},
        {{"tracestate", 10}, {"b=2", 3}},
    };
    BUFFER_OWNED struct buffer out = {0};
    struct error err = {0};
    struct cgi_request request = simple_request();
    request.traceparent = parent;
    request.fields = fields;
    request.field_count = 3;
    request.environment = "TRACEPARENT=own\0TRACESTATE=own";
    request.environment_length = 31;
    EXPECT(cgi_write_environment(&request, 65536, &out, &err) == 0);
    EXPECT_STRING(variable(&out, "HTTP_TRACEPARENT"), parent);
    EXPECT_STRING(variable(&out, "TRACEPARENT"), parent);
    EXPECT_STRING(variable(&out, "HTTP_TRACESTATE"), "a=1, b=2");
    EXPECT_STRING(variable(&out, "TRACESTATE"), "a=1, b=2");
}

TEST(gateway_cgi, tells_the_length_of_a_body_if_it_is_known)
{
    struct cgi_request request = simple_request();
    struct error err = {0};
    request.has_body = true;
    for (unsigned i = 0; i < 2; i++) {
        BUFFER_OWNED struct buffer out = {0};
        request.body_length = i == 0 ? 0 : UINT64_MAX;
        EXPECT(cgi_write_environment(&request, 65536, &out, &err) == 0);
        const char *length = variable(&out, "CONTENT_LENGTH");
        EXPECT(i == 0 ? length != NULL && strcmp(length, "0") == 0 : length == NULL);
    }
}

TEST(gateway_cgi, names_hosts_and_peers_of_every_shape)
{
    static const char *const cases[][4] = {
        {"[::1]:80", "[::1]:4711", "[::1]", "::1"},
        {"", "unix", "127.0.0.1", "unix"},
        {"a", "10.0.0.1:1", "a", "10.0.0.1"},
        {"[::1", "[::1", "[", "["},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        BUFFER_OWNED struct buffer out = {0};
        struct error err = {0};
        struct cgi_request request = simple_request();
        request.host = text(cases[i][0]);
        request.peer = cases[i][1];
        EXPECT(cgi_write_environment(&request, 65536, &out, &err) == 0);
        EXPECT_STRING(variable(&out, "SERVER_NAME"), cases[i][2]);
        EXPECT_STRING(variable(&out, "REMOTE_ADDR"), cases[i][3]);
    }
}

#define FIELD(name, value)                                    \
    {                                                         \
        {name, sizeof(name) - 1}, {value, sizeof(value) - 1}, \
    }

/*
 * Goal: fields arrive as HTTP_NAME, and those that would do harm do not.
 * Method: one request with each sort.
 */
TEST(gateway_cgi, passes_fields_but_not_those_that_would_do_harm)
{
    static const struct cgi_field fields[] = {
        FIELD("Accept", "a"),
        FIELD("X-Two", "1"),
        FIELD("Cookie", "a=1"),
        FIELD("proxy", "evil"),
        FIELD("x-two", "2"),
        FIELD("cookie", "b=2"),
        FIELD("TE", "trailers"),
        FIELD("Connection", "close , X-Hop"),
        FIELD("X-Hop", "1"),
        FIELD("X_Two", "spoof"),
        FIELD("Content-Type", "t/x"),
        FIELD("Content-Length", "9"),
        FIELD("Expect", "100-continue"),
        FIELD("X-Nul", "a\0B=1"),
        FIELD("Transfer-Encoding", "chunked"),
        FIELD("Authorization", "Bearer x"),
        FIELD("X-Empty", ""),
    };
    BUFFER_OWNED struct buffer out = {0};
    struct error err = {0};
    struct cgi_request request = simple_request();
    request.fields = fields;
    request.field_count = sizeof(fields) / sizeof(fields[0]);
    EXPECT(cgi_write_environment(&request, 65536, &out, &err) == 0);
    EXPECT_STRING(variable(&out, "HTTP_ACCEPT"), "a");
    EXPECT_STRING(variable(&out, "HTTP_X_TWO"), "1, 2");
    EXPECT_STRING(variable(&out, "HTTP_COOKIE"), "a=1; b=2");
    EXPECT_STRING(variable(&out, "CONTENT_TYPE"), "t/x");
    EXPECT_STRING(variable(&out, "HTTP_AUTHORIZATION"), "Bearer x");
    EXPECT_STRING(variable(&out, "HTTP_X_EMPTY"), "");
    static const char *const absent[] = {
        "HTTP_PROXY",
        "HTTP_TE",
        "HTTP_CONNECTION",
        "HTTP_X_HOP",
        "HTTP_CONTENT_TYPE",
        "HTTP_CONTENT_LENGTH",
        "HTTP_EXPECT",
        "HTTP_X_NUL",
        "B",
        "HTTP_TRANSFER_ENCODING",
        "CONTENT_LENGTH",
    };
    for (size_t i = 0; i < sizeof(absent) / sizeof(absent[0]); i++) {
        EXPECT(variable(&out, absent[i]) == NULL);
    }
}

TEST(gateway_cgi, lets_the_functions_environment_replace_nothing)
{
    static const char own[] =
        "A=1\0REQUEST_METHOD=PUT\0HTTP_PROXY=evil\0http_proxy=evil\0=x\0noname\0"
        "HTTPS=on\0SSL_CLIENT_S_DN=CN=root\0B=\0PATH=/bin\0last=one";
    BUFFER_OWNED struct buffer out = {0};
    struct error err = {0};
    struct cgi_request request = simple_request();
    request.environment = own;
    request.environment_length = sizeof(own) - 1; /* the last NUL is missing: it is added */
    EXPECT(cgi_write_environment(&request, 65536, &out, &err) == 0);
    EXPECT_STRING(variable(&out, "A"), "1");
    EXPECT_STRING(variable(&out, "B"), "");
    EXPECT_STRING(variable(&out, "PATH"), "/bin");
    EXPECT_STRING(variable(&out, "last"), "one");
    EXPECT_STRING(variable(&out, "REQUEST_METHOD"), "GET");
    EXPECT(variable(&out, "HTTP_PROXY") == NULL && variable(&out, "http_proxy") == NULL);
    EXPECT(variable(&out, "HTTPS") == NULL && variable(&out, "SSL_CLIENT_S_DN") == NULL);
    EXPECT(out.data[out.used - 1] == '\0');
}

TEST(gateway_cgi, refuses_bad_paths_and_environments_beyond_the_bound)
{
    BUFFER_OWNED struct buffer out = {0};
    struct error err = {0};
    struct cgi_request request = simple_request();
    EXPECT(cgi_write_environment(&request, 65536, &out, &err) == 0);
    size_t size = out.used;
    buffer_clear(&out);
    EXPECT(cgi_write_environment(&request, size, &out, &err) == 0);
    buffer_clear(&out);
    EXPECT(cgi_write_environment(&request, size - 1, &out, &err) == -ERROR_TOO_LARGE);
    request.path = text("/fn/hello/%00");
    EXPECT(cgi_write_environment(&request, 65536, &out, &err) == -ERROR_INVALID);
}

/* ---- Heads ---- */

struct head_case {
    const char *output;
    enum cgi_verdict partial; /* while more may come */
    enum cgi_verdict whole;
    int status;
    size_t body; /* where it begins */
};

static const struct head_case head_cases[] = {
    {"", CGI_MORE, CGI_BODY, 0, 0},
    {"Content-Type: a/b\n\nbody", CGI_HEAD, CGI_HEAD, 200, 19},
    {"Content-Type: a/b\r\n\r\nbody", CGI_HEAD, CGI_HEAD, 200, 21},
    {"content-type:a/b\r\n\n", CGI_HEAD, CGI_HEAD, 200, 19},
    {"Status: 404 Not Found\n\n", CGI_HEAD, CGI_HEAD, 404, 23},
    {"Status: 599\n\n", CGI_HEAD, CGI_HEAD, 599, 13},
    {"Status: 600\n\n", CGI_BAD, CGI_BAD, 0, 0},
    {"Status: 100\n\n", CGI_BAD, CGI_BAD, 0, 0},
    {"Status: 20\n\n", CGI_BAD, CGI_BAD, 0, 0},
    {"Status: 2000\n\n", CGI_BAD, CGI_BAD, 0, 0},
    {"Status: 200\nStatus: 200\n\n", CGI_BAD, CGI_BAD, 0, 0},
    {"Location: http://x/\n\n", CGI_HEAD, CGI_HEAD, 302, 21},
    {"Location: /x\nStatus: 301\n\n", CGI_HEAD, CGI_HEAD, 301, 26},
    {"Status: 200\nContent-Length: x\n\n", CGI_BAD, CGI_BAD, 0, 0},
    {"Status: 200\nContent-Length: 1\nContent-Length: 2\n\n", CGI_BAD, CGI_BAD, 0, 0},
    /* Not heads. */
    {"Hello", CGI_MORE, CGI_BODY, 0, 0},
    {"Hello world", CGI_BODY, CGI_BODY, 0, 0},
    {"Hello\n", CGI_BODY, CGI_BODY, 0, 0},
    {"Note: this\n\nis prose", CGI_BODY, CGI_BODY, 0, 0},
    {"\n\nStatus: 200\n\n", CGI_BODY, CGI_BODY, 0, 0},
    {" Status: 200\n\n", CGI_BODY, CGI_BODY, 0, 0},
    {"Status : 200\n\n", CGI_BODY, CGI_BODY, 0, 0},
    {"Status: 200\n folded\n\n", CGI_BODY, CGI_BODY, 0, 0},
    {"{\"a\": 1}", CGI_BODY, CGI_BODY, 0, 0},
    {"HTTP/1.1 200 OK\n\n", CGI_BODY, CGI_BODY, 0, 0},
    /* Cut. */
    {"Status: 200", CGI_MORE, CGI_BODY, 0, 0},
    {"Status: 200\n", CGI_MORE, CGI_BODY, 0, 0},
    {"Status: 200\n\r", CGI_MORE, CGI_BODY, 0, 0},
    {"Status: 200\nX", CGI_MORE, CGI_BODY, 0, 0},
    {"Status: 200\n=", CGI_BODY, CGI_BODY, 0, 0},
};

TEST(gateway_cgi, tells_heads_from_bodies)
{
    static struct cgi_head head;
    for (size_t i = 0; i < sizeof(head_cases) / sizeof(head_cases[0]); i++) {
        const struct head_case *this = &head_cases[i];
        struct error err = {0};
        size_t length = strlen(this->output);
        enum cgi_verdict partial = cgi_parse_head(this->output, length, false, &head, &err);
        enum cgi_verdict whole = cgi_parse_head(this->output, length, true, &head, &err);
        if (partial != this->partial || whole != this->whole) {
            fprintf(stderr, "case %zu: %d %d\n", i, partial, whole);
            EXPECT(false);
        }
        if (whole == CGI_HEAD) {
            EXPECT(head.status == this->status && head.length == this->body);
        }
        EXPECT(whole != CGI_BAD || err.kind == ERROR_PROTOCOL);
    }
}

/*
 * Goal: what was seen of a head never changes what it is found to be.
 * Method: each case byte by byte; once it is no longer "more", it stays.
 */
TEST(gateway_cgi, comes_to_the_same_verdict_in_pieces)
{
    static struct cgi_head head;
    for (size_t i = 0; i < sizeof(head_cases) / sizeof(head_cases[0]); i++) {
        const char *output = head_cases[i].output;
        enum cgi_verdict verdict = CGI_MORE;
        for (size_t length = 0; length <= strlen(output); length++) {
            struct error err = {0};
            enum cgi_verdict now = cgi_parse_head(output, length, false, &head, &err);
            EXPECT(verdict == CGI_MORE || now == verdict);
            verdict = now;
        }
        EXPECT(verdict == head_cases[i].partial);
    }
}

TEST(gateway_cgi, bounds_the_head)
{
    static struct cgi_head head;
    struct error err = {0};
    char *output = memory_new(1, CGI_HEAD_BYTES_MAX + 8);
    memset(output, 'a', CGI_HEAD_BYTES_MAX + 8);
    memcpy(output, "Status: 200\nX: ", 15);
    EXPECT(cgi_parse_head(output, CGI_HEAD_BYTES_MAX - 1, false, &head, &err) == CGI_MORE);
    EXPECT(cgi_parse_head(output, CGI_HEAD_BYTES_MAX, false, &head, &err) == CGI_BODY);
    memcpy(output + CGI_HEAD_BYTES_MAX - 2, "\n\n", 2);
    EXPECT(cgi_parse_head(output, CGI_HEAD_BYTES_MAX + 8, false, &head, &err) == CGI_HEAD);
    EXPECT(head.length == CGI_HEAD_BYTES_MAX);

    memset(output, 'a', CGI_NAME_BYTES_MAX + 1);
    EXPECT(cgi_parse_head(output, CGI_NAME_BYTES_MAX, false, &head, &err) == CGI_MORE);
    EXPECT(cgi_parse_head(output, CGI_NAME_BYTES_MAX + 1, false, &head, &err) == CGI_BODY);
    memcpy(output + CGI_NAME_BYTES_MAX, ": 1\nStatus: 201\n\n", 18);
    EXPECT(cgi_parse_head(output, CGI_NAME_BYTES_MAX + 18, false, &head, &err) == CGI_HEAD);
    EXPECT(head.status == 201 && head.fields[0].name.length == CGI_NAME_BYTES_MAX);
    free(output);

    BUFFER_OWNED struct buffer many = {0};
    buffer_append_string(&many, "Status: 200\n");
    for (unsigned i = 0; i < CGI_FIELDS_MAX; i++) {
        buffer_append_format(&many, "X-%u: 1\n", i);
    }
    size_t used = many.used;
    buffer_append_string(&many, "\n");
    EXPECT(cgi_parse_head(many.data, many.used, true, &head, &err) == CGI_HEAD);
    EXPECT(head.field_count == CGI_FIELDS_MAX);
    many.used = used;
    buffer_append_string(&many, "X-more: 1\n\n");
    EXPECT(cgi_parse_head(many.data, many.used, true, &head, &err) == CGI_BAD);
}

TEST(gateway_cgi, keeps_only_fields_that_may_pass)
{
    static const char output[] =
        "Content-Type: a/b\nContent-Type: c/d\nConnection: close\nTransfer-Encoding: chunked\n"
        "X-Ok:  v \nX-Request-Id: mine\nDate: now\nX-Bad: a\rb\nContent-Length: 4\n\nbody";
    static struct cgi_head head;
    struct error err = {0};
    EXPECT(cgi_parse_head(output, strlen(output), true, &head, &err) == CGI_HEAD);
    EXPECT(head.field_count == 2 && head.has_content_type);
    EXPECT(text_equal(head.fields[0].value, "a/b"));
    EXPECT(text_equal(head.fields[1].name, "X-Ok") && text_equal(head.fields[1].value, "v"));
    EXPECT(head.has_content_length && head.content_length == 4);
}

TEST(gateway_cgi, guesses_text_when_it_is_utf8)
{
    EXPECT(strstr(cgi_guess_type("h\xc3\xa9", 3, true), "text/plain") != NULL);
    EXPECT(strstr(cgi_guess_type("h\xc3", 2, true), "octet-stream") != NULL);
    EXPECT(strstr(cgi_guess_type("h\xc3", 2, false), "text/plain") != NULL);
    EXPECT(strstr(cgi_guess_type("\xf0\x9f\x98", 3, false), "text/plain") != NULL);
    EXPECT(strstr(cgi_guess_type("\xff", 1, false), "octet-stream") == NULL ||
           strstr(cgi_guess_type("\xff\xff", 2, false), "octet-stream") != NULL);
    EXPECT(strstr(cgi_guess_type("\x80\x80\x80\x80\x80", 5, false), "octet-stream") != NULL);
}
