/* What functions may fetch: addresses, allow-lists, URLs, fields.  Pure. */
#include "service/fetch/fetch.h"

#include "base/buffer.h"
#include "base/error.h"

#include "service/fetch/allow.h"
#include "service/fetch/fields.h"

#include "lib/test.h"

static struct text text_in(const char *string)
{
    return text_of(string, strlen(string));
}

static bool is_address(const char *string)
{
    struct fetch_address address;
    return fetch_address_parse(text_in(string), &address);
}

static const char *special(const char *string)
{
    struct fetch_address address;
    EXPECT(fetch_address_parse(text_in(string), &address));
    const char *what = fetch_address_special(&address);
    return what != NULL ? what : "public";
}

/* ---- Addresses ---- */

TEST(fetch_address, has_one_way_to_be_written)
{
    EXPECT(is_address("127.0.0.1") && is_address("::1") && is_address("::ffff:1.2.3.4"));
    static const char *const none[] = {"",          "127.1",        "0177.0.0.1", "0x7f.0.0.1",
                                       "1.2.3.256", "1.2.3.4.5",    " 1.2.3.4",   "1.2.3.4 ",
                                       "[::1]",     "fe80::1%eth0", "2130706433", ":::"};
    for (size_t i = 0; i < sizeof(none) / sizeof(none[0]); i++) {
        EXPECT(!is_address(none[i]));
    }
}

TEST(fetch_address, that_is_mapped_is_the_one_inside)
{
    struct fetch_address mapped;
    struct fetch_address plain;
    char text[FETCH_ADDRESS_TEXT_SIZE];
    EXPECT(fetch_address_parse(text_in("::ffff:10.0.0.1"), &mapped));
    EXPECT(fetch_address_parse(text_in("10.0.0.1"), &plain));
    EXPECT(memcmp(&mapped, &plain, sizeof(plain)) == 0);
    fetch_address_write(&mapped, text);
    EXPECT_STRING(text, "10.0.0.1");
}

TEST(fetch_address, is_public_or_is_called_what_it_is)
{
    static const char *const table[][2] = {
        {"8.8.8.8", "public"},
        {"2606:4700::1111", "public"},
        {"0.0.0.0", "this host"},
        {"10.255.255.255", "private"},
        {"11.0.0.0", "public"},
        {"100.64.0.1", "shared by a carrier"},
        {"100.128.0.0", "public"},
        {"127.255.255.255", "loopback"},
        {"169.254.169.254", "link-local"},
        {"172.15.255.255", "public"},
        {"172.16.0.0", "private"},
        {"172.31.255.255", "private"},
        {"172.32.0.0", "public"},
        {"192.168.1.1", "private"},
        {"224.0.0.1", "multicast"},
        {"255.255.255.255", "reserved"},
        {"::", "this host"},
        {"::1", "loopback"},
        {"::2", "reserved"},
        {"::ffff:127.0.0.1", "loopback"},
        {"::ffff:8.8.8.8", "public"},
        {"::127.0.0.1", "reserved"},
        {"64:ff9b::a9fe:a9fe", "link-local"},
        {"64:ff9b::8.8.8.8", "public"},
        {"64:ff9b:1::8.8.8.8", "reserved"},
        {"2002:7f00:1::", "of 6to4"},
        {"2001:0:7f00:1::", "of protocols"},
        {"fd00:ec2::254", "private"},
        {"fe80::1", "link-local"},
        {"ff02::1", "multicast"},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        EXPECT_STRING(special(table[i][0]), table[i][1]);
    }
}

TEST(fetch_address, networks_have_no_bits_behind_their_prefix)
{
    struct fetch_network network;
    struct fetch_address address;
    static const char *const good[] = {"10.0.0.0/8", "10.0.0.1", "0.0.0.0/0", "::/0",
                                       "fc00::/7",   "::1/128",  "1.2.3.4/32"};
    static const char *const bad[] = {"10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/",      "10.0.0.0/-1",
                                      "fd00::/7",   "::/129",      "::ffff:0:0/96",  "/8",
                                      "name/8",     "10.0.0.0/8/", "::ffff:1.2.3.4", ""};
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        EXPECT(fetch_network_parse(text_in(good[i]), &network));
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        EXPECT(!fetch_network_parse(text_in(bad[i]), &network));
    }
    EXPECT(fetch_network_parse(text_in("172.16.0.0/12"), &network));
    EXPECT(fetch_address_parse(text_in("172.31.255.255"), &address));
    EXPECT(fetch_network_has(&network, &address));
    EXPECT(fetch_address_parse(text_in("172.32.0.0"), &address));
    EXPECT(!fetch_network_has(&network, &address));
    EXPECT(fetch_network_parse(text_in("::/0"), &network)); /* is IPv6, and not what is mapped */
    EXPECT(!fetch_network_has(&network, &address));
}

/* ---- URLs ---- */

static const char *url_of(const char *string, const char *base)
{
    static struct buffer out;
    struct fetch_url from = {0};
    struct fetch_url url;
    struct error err = {0};
    buffer_clear(&out);
    EXPECT(base == NULL || fetch_url_parse(text_in(base), NULL, &from, &err) == 0);
    int r = fetch_url_parse(text_in(string), base != NULL ? &from : NULL, &url, &err);
    if (r < 0) {
        EXPECT(r == -ERROR_INVALID);
        buffer_append_string(&out, "none");
    } else {
        fetch_url_write(&url, &out);
        fetch_url_done(&url);
    }
    fetch_url_done(&from);
    return buffer_string(&out);
}

TEST(fetch_url, is_sent_as_it_was_understood)
{
    EXPECT_STRING(url_of("http://Example.COM", NULL), "http://example.com/");
    EXPECT_STRING(url_of("HTTPS://example.com:443/a?b#c", NULL), "https://example.com/a?b");
    EXPECT_STRING(url_of("http://example.com.:8080?q", NULL), "http://example.com:8080/?q");
    EXPECT_STRING(url_of("http://example.com:/", NULL), "http://example.com/");
    EXPECT_STRING(url_of("http://[::1]:80/", NULL), "http://[::1]/");
    EXPECT_STRING(url_of("http://[::ffff:127.0.0.1]/", NULL), "http://127.0.0.1/");
    EXPECT_STRING(url_of("https://[2001:DB8:0::1]:8443/x", NULL), "https://[2001:db8::1]:8443/x");
    EXPECT_STRING(url_of("http://a_b.example/%2e%2e/..", NULL), "http://a_b.example/%2e%2e/..");
    EXPECT_STRING(url_of("http://a.example/\xc3\xa4?\xc3\xb6", NULL),
                  "http://a.example/%C3%A4?%C3%B6");
}

TEST(fetch_url, that_readers_could_differ_about_is_none)
{
    static const char *const none[] = {
        "",
        "example.com",
        "//example.com/",
        "file:///etc/passwd",
        "ftp://example.com/",
        "gopher://example.com/",
        "javascript:alert(1)",
        "http:example.com",
        "http:/example.com",
        "http://",
        "http:///path",
        "http://user@example.com/",
        "http://user:secret@example.com/",
        "http://example.com@evil.example/",
        "http://example.com\\@evil.example/",
        "http://example.com:80:81/",
        "http://example.com:0/",
        "http://example.com:65536/",
        "http://example.com:8o/",
        "http://exa mple.com/",
        "http://example.com/a b",
        "http://example.com/a\r\nHost: b",
        "http://example.com/\t",
        " http://example.com/",
        "http://example..com/",
        "http://.example.com/",
        "http://-a.example/",
        "http://a-.example/",
        "http://ex%61mple.com/",
        "http://ex\xc3\xa4mple.com/",
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7f.0.0.1/",
        "http://0177.0.0.1/",
        "http://1.2.3/",
        "http://a.1/",
        "http://a.0x1/",
        "http://[::1/",
        "http://::1/",
        "http://[127.0.0.1]/",
        "http://[fe80::1%25eth0]/",
        "http://[::1]x/",
        "http://*/",
        "http://a,b/",
    };
    for (size_t i = 0; i < sizeof(none) / sizeof(none[0]); i++) {
        EXPECT_STRING(url_of(none[i], NULL), "none");
    }
    struct fetch_url url;
    struct error err = {0};
    char long_text[FETCH_URL_MAX + 2];
    memset(long_text, 'a', sizeof(long_text));
    memcpy(long_text, "http://a.example/", 17);
    EXPECT(fetch_url_parse(text_of(long_text, FETCH_URL_MAX), NULL, &url, &err) == 0);
    fetch_url_done(&url);
    EXPECT(fetch_url_parse(text_of(long_text, FETCH_URL_MAX + 1), NULL, &url, &err) < 0);
    EXPECT(fetch_url_parse(text_of("http://a\0b/", 11), NULL, &url, &err) < 0);
}

/* RFC 3986, 5.4, with its base. */
TEST(fetch_url, of_a_redirect_is_seen_from_where_it_came)
{
    static const char base[] = "http://a.example/b/c/d;p?q";
    static const char *const table[][2] = {
        {"g", "http://a.example/b/c/g"},
        {"./g", "http://a.example/b/c/g"},
        {"g/", "http://a.example/b/c/g/"},
        {"/g", "http://a.example/g"},
        {"//g.example", "http://g.example/"},
        {"?y", "http://a.example/b/c/d;p?y"},
        {"g?y", "http://a.example/b/c/g?y"},
        {"#s", "http://a.example/b/c/d;p?q"},
        {";x", "http://a.example/b/c/;x"},
        {".", "http://a.example/b/c/"},
        {"..", "http://a.example/b/"},
        {"../g", "http://a.example/b/g"},
        {"../../g", "http://a.example/g"},
        {"../../../g", "http://a.example/g"},
        {"/./g", "http://a.example/g"},
        {"/../g", "http://a.example/g"},
        {"g.", "http://a.example/b/c/g."},
        {"..g", "http://a.example/b/c/..g"},
        {"./../g", "http://a.example/b/g"},
        {"g;x=1/../y", "http://a.example/b/c/y"},
        {"g?y/../x", "http://a.example/b/c/g?y/../x"},
        {"https://other.example/x", "https://other.example/x"},
        {"file:///etc/passwd", "none"},
        {"http:g", "none"},
        {"//user@b.example/", "none"},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        EXPECT_STRING(url_of(table[i][0], base), table[i][1]);
    }
}

/* ---- Allow-lists ---- */

static bool allows(const char *entry, const char *string)
{
    struct fetch_rule rule;
    struct fetch_url url;
    struct error err = {0};
    EXPECT(fetch_rule_parse(text_in(entry), &rule, &err) == 0);
    EXPECT(fetch_url_parse(text_in(string), NULL, &url, &err) == 0);
    bool is_allowed = fetch_rules_have_url(&rule, 1, &url);
    fetch_url_done(&url);
    return is_allowed;
}

TEST(fetch_allow, is_a_name_or_what_is_below_it)
{
    EXPECT(allows("api.example.com", "https://api.example.com/"));
    EXPECT(allows("API.example.com.", "http://api.EXAMPLE.com:8080/"));
    EXPECT(!allows("api.example.com", "https://x.api.example.com/"));
    EXPECT(!allows("api.example.com", "https://api.example.com.evil.example/"));
    EXPECT(!allows("api.example.com", "https://xapi.example.com/"));
    EXPECT(allows("*.example.com", "https://a.example.com/"));
    EXPECT(allows("*.example.com", "https://a.b.example.com/"));
    EXPECT(!allows("*.example.com", "https://example.com/"));
    EXPECT(!allows("*.example.com", "https://evilexample.com/"));
    EXPECT(!allows("*.example.com", "https://example.com.evil.example/"));
}

TEST(fetch_allow, has_a_scheme_and_a_port_when_it_says_so)
{
    EXPECT(allows("a.example:8443", "https://a.example:8443/"));
    EXPECT(allows("a.example:8443", "http://a.example:8443/"));
    EXPECT(!allows("a.example:8443", "https://a.example/"));
    EXPECT(allows("https://a.example", "https://a.example/"));
    EXPECT(!allows("https://a.example", "http://a.example/"));
    EXPECT(!allows("https://a.example", "http://a.example:443/"));
    EXPECT(!allows("https://a.example", "https://a.example:8443/"));
    EXPECT(allows("http://a.example", "http://a.example:80/"));
    EXPECT(allows("http://127.0.0.1:9000", "http://127.0.0.1:9000/"));
    EXPECT(!allows("http://127.0.0.1:9000", "http://127.0.0.1:9001/"));
    EXPECT(allows("*.example.com:443", "https://a.example.com/"));
    EXPECT(!allows("*.example.com:443", "https://a.example.com:444/"));
}

TEST(fetch_allow, is_an_address_or_a_network)
{
    EXPECT(allows("10.0.0.0/8", "http://10.1.2.3:8080/"));
    EXPECT(!allows("10.0.0.0/8", "http://11.0.0.1/"));
    EXPECT(!allows("10.0.0.0/8", "http://a.example/")); /* a name needs its own */
    EXPECT(allows("10.0.0.0/8", "http://[::ffff:10.0.0.1]/"));
    EXPECT(allows("10.0.0.0/8:80", "http://10.0.0.1/"));
    EXPECT(!allows("10.0.0.0/8:80", "https://10.0.0.1/"));
    EXPECT(allows("::1", "http://[::1]:7/"));
    EXPECT(allows("[::1]:7", "http://[::1]:7/"));
    EXPECT(!allows("[::1]:7", "http://[::1]:8/"));
    EXPECT(allows("[fc00::/7]:443", "https://[fd00::1]/"));
    EXPECT(allows("https://[fc00::/7]", "https://[fd00::1]/"));
    EXPECT(allows("*", "https://8.8.8.8/"));
    EXPECT(allows("*", "https://anything.example:99/"));
    EXPECT(!allows("*", "http://127.0.0.1/"));
    EXPECT(!allows("*", "http://169.254.169.254/"));
    EXPECT(!allows("*", "http://[::1]/"));
    EXPECT(!allows("https://*", "http://a.example/"));
}

/* DNS rebinding: the name is allowed, where it leads to is another question. */
TEST(fetch_allow, of_a_name_is_none_of_the_addresses_that_are_not_public)
{
    struct fetch_rule rules[2];
    struct fetch_url url;
    struct fetch_address address;
    struct error err = {0};
    EXPECT(fetch_rule_parse(text_in("inside.example"), &rules[0], &err) == 0);
    EXPECT(fetch_rule_parse(text_in("10.0.0.0/8:80"), &rules[1], &err) == 0);
    EXPECT(fetch_url_parse(text_in("http://inside.example/"), NULL, &url, &err) == 0);
    EXPECT(fetch_address_parse(text_in("93.184.216.34"), &address));
    EXPECT(fetch_rules_have_address(rules, 1, &url, &address));
    EXPECT(fetch_address_parse(text_in("10.0.0.1"), &address));
    EXPECT(!fetch_rules_have_address(rules, 1, &url, &address));
    EXPECT(fetch_rules_have_address(rules, 2, &url, &address));
    url.port = 81;
    EXPECT(!fetch_rules_have_address(rules, 2, &url, &address));
    url.port = 80;
    EXPECT(fetch_address_parse(text_in("::ffff:127.0.0.1"), &address));
    EXPECT(!fetch_rules_have_address(rules, 2, &url, &address));
    fetch_url_done(&url);
}

TEST(fetch_allow, refuses_entries_that_would_never_match)
{
    static const char *const bad[] = {
        "",
        " ",
        "ftp://a.example",
        "a.example/path",
        "https://a.example/",
        "a.*.b",
        "*a.example",
        "**",
        "a.example:",
        "a.example:0",
        "a.example:99999",
        "user@a.example",
        "10.0.0.1/8",
        "[::1",
        "[a.example]",
        "127.1",
        "http://",
        "*.",
        "a b",
        "a.example:80:81",
        "[::1]80",
        "a.example\r\n",
        "[]",
        "[:80",
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct fetch_rule rule;
        struct error err = {0};
        EXPECT(fetch_rule_parse(text_in(bad[i]), &rule, &err) == -ERROR_INVALID);
        EXPECT(fetch_allow_check(bad[i], &err) == -ERROR_INVALID);
    }
    struct error err = {0};
    char long_text[FETCH_ENTRY_MAX + 2];
    memset(long_text, 'a', sizeof(long_text));
    long_text[FETCH_ENTRY_MAX + 1] = '\0';
    EXPECT(fetch_allow_check(long_text, &err) == -ERROR_INVALID);
    EXPECT(fetch_allow_check("*.example.com:443", &err) == 0);
}

/* ---- Fields ---- */

static int read_fields(struct text fields, struct buffer *out)
{
    struct error err = {0};
    buffer_clear(out);
    int r = fields_read(fields, out, &err);
    EXPECT(r == 0 || (r == -ERROR_INVALID && err.kind == ERROR_INVALID));
    return r;
}

TEST(fetch_fields, of_the_connection_are_left_out)
{
    BUFFER_OWNED struct buffer out = {0};
    EXPECT(read_fields(text_in("Accept: a\r\nHOST: evil\r\ncontent-length: 5\r\nX-Empty:\r\n"
                               "Transfer-Encoding: chunked\r\nTraceparent: x\r\nX-Last:  b \t"),
                       &out) == 0);
    EXPECT(out.used == 30);
    EXPECT(memcmp(out.data, "Accept: a\0X-Empty: \0X-Last: b\0", 30) == 0);
    struct text found = fields_find(&out, "x-last");
    EXPECT(text_equal(found, "b"));
    EXPECT(fields_find(&out, "Host").data == NULL);
    EXPECT(fields_find(&out, "X-Empty").data != NULL);
}

TEST(fetch_fields, with_ends_of_lines_in_them_are_refused)
{
    BUFFER_OWNED struct buffer out = {0};
    static const char *const bad[] = {
        "no colon\r\n",
        "A: b\nHost: c\r\n",
        "A: b\rHost: c\r\n",
        ": empty\r\n",
        "A b: c\r\n",
        "A : c\r\n",
        "\r\n",
        "A: b\r\n\r\nGET / HTTP/1.1\r\n",
        "A: \x01\r\n",
        " folded: a\r\n",
        "A\xc3\xa4: b\r\n",
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        EXPECT(read_fields(text_in(bad[i]), &out) < 0);
    }
    EXPECT(read_fields(text_of("A: b\0c\r\n", 8), &out) < 0);
    EXPECT(read_fields(text_of(NULL, 0), &out) == 0 && out.used == 0);
    BUFFER_OWNED struct buffer many = {0};
    for (int i = 0; i < FETCH_FIELDS_MAX; i++) {
        buffer_append_string(&many, "A: b\r\n");
    }
    EXPECT(read_fields(text_of((const char *)many.data, many.used), &out) == 0);
    buffer_append_string(&many, "A: b\r\n");
    EXPECT(read_fields(text_of((const char *)many.data, many.used), &out) < 0);
}

TEST(fetch_fields, methods_are_words_that_servers_answer)
{
    struct error err = {0};
    EXPECT(fields_check_method(text_in("GET"), &err) == 0);
    EXPECT(fields_check_method(text_in("PROPFIND"), &err) == 0);
    static const char *const bad[] = {
        "",        "GET /", "GET\r\n", "CONNECT",
        "connect", "TRACE", "Track",   "ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFG"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        EXPECT(fields_check_method(text_in(bad[i]), &err) == -ERROR_INVALID);
    }
}
