#include "base/certificate.h"

#include "base/buffer.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/process.h"

#include "test/lib/test.h"

enum { HOUR_MS = 60 * 60 * 1000 };

static const char node_uri[] = "spiffe://c1/node/7";

struct authority {
    struct buffer certificate;
    struct buffer key;
};

static void authority_done(struct authority *authority)
{
    buffer_done(&authority->certificate);
    buffer_done(&authority->key);
}
#define AUTHORITY_OWNED __attribute__((cleanup(authority_done)))

static struct authority make_authority(void)
{
    struct authority authority = {0};
    struct error err = {0};
    EXPECT(certificate_make_authority("Blixard c1", "spiffe://c1", 3650, &authority.certificate,
                                      &authority.key, &err) == 0);
    buffer_string(&authority.certificate);
    buffer_string(&authority.key);
    return authority;
}

static struct certificate_terms terms_now(void)
{
    return (struct certificate_terms){.common_name = "north",
                                      .uri = node_uri,
                                      .now_ms = clock_real_ms(),
                                      .lifetime_ms = HOUR_MS,
                                      .is_server = true};
}

static int sign_new(struct authority *authority, const struct certificate_terms *terms,
                    struct buffer *ret_certificate, struct error *err)
{
    BUFFER_OWNED struct buffer request = {0};
    BUFFER_OWNED struct buffer key = {0};
    EXPECT(certificate_make_request(&request, &key, err) == 0);
    return certificate_sign(buffer_string(&request), buffer_string(&authority->certificate),
                            buffer_string(&authority->key), terms, ret_certificate, err);
}

static char *write_file(const char *name, struct buffer *text)
{
    char *path = memory_format("%s/%s", test_folder(), name);
    struct error err = {0};
    EXPECT(file_write(path, text->data, text->used, 0600, &err) == 0);
    return path;
}

/* openssl(1), output and complaints as one text; the exit code is returned. */
static int run_openssl(const char *const *argv, struct buffer *ret_output)
{
    struct process_options options = {.argv = argv, .output_max = 65536, .timeout_ms = 20000};
    struct process_result result = {0};
    struct error err = {0};
    int r = process_run(&options, ret_output, ret_output, &result, &err);
    EXPECT(r == 0);
    return result.exit_code;
}

static void need_openssl(void)
{
    MEMORY_OWNED char *program = file_find_program("openssl");
    if (program == NULL) {
        SKIP("no openssl program");
    }
}

static int verify(const char *authority_path, const char *certificate_path, const char *purpose,
                  struct buffer *ret_output)
{
    return run_openssl((const char *const[]){"openssl", "verify", "-x509_strict", "-purpose",
                                             purpose, "-CAfile", authority_path, certificate_path,
                                             NULL},
                       ret_output);
}

TEST(certificate, an_authority_is_read_as_one)
{
    AUTHORITY_OWNED struct authority authority = make_authority();
    struct certificate_info info;
    struct error err = {0};

    EXPECT(certificate_read(buffer_string(&authority.certificate), &info, &err) == 0);

    EXPECT(info.is_authority);
    EXPECT_STRING(info.common_name, "Blixard c1");
    EXPECT_STRING(info.uri, "spiffe://c1");
    EXPECT(strlen(info.fingerprint) == 64);
    EXPECT(info.not_before_ms < clock_real_ms());
    EXPECT(info.not_after_ms > clock_real_ms() + 3649ULL * 24 * HOUR_MS);
}

TEST(certificate, what_was_signed_says_what_the_terms_say)
{
    AUTHORITY_OWNED struct authority authority = make_authority();
    BUFFER_OWNED struct buffer certificate = {0};
    struct certificate_info info;
    struct certificate_info other;
    struct error err = {0};
    struct certificate_terms terms = terms_now();

    EXPECT(sign_new(&authority, &terms, &certificate, &err) == 0);
    EXPECT(certificate_read(buffer_string(&certificate), &info, &err) == 0);
    EXPECT(!info.is_authority);
    EXPECT_STRING(info.common_name, "north");
    EXPECT_STRING(info.uri, node_uri);
    EXPECT(info.not_before_ms <= terms.now_ms);
    EXPECT(info.not_after_ms == (terms.now_ms + HOUR_MS) / 1000 * 1000);

    buffer_clear(&certificate);
    EXPECT(sign_new(&authority, &terms, &certificate, &err) == 0);
    EXPECT(certificate_read(buffer_string(&certificate), &other, &err) == 0);
    EXPECT(strcmp(info.fingerprint, other.fingerprint) != 0);
}

TEST(certificate, lives_no_longer_than_its_authority)
{
    struct authority authority = {0};
    struct error err = {0};
    EXPECT(certificate_make_authority("c", "spiffe://c", 1, &authority.certificate, &authority.key,
                                      &err) == 0);
    struct certificate_info of_authority;
    struct certificate_info info;
    BUFFER_OWNED struct buffer certificate = {0};
    struct certificate_terms terms = terms_now();
    terms.lifetime_ms = 48ULL * HOUR_MS;

    EXPECT(sign_new(&authority, &terms, &certificate, &err) == 0);
    EXPECT(certificate_read(buffer_string(&certificate), &info, &err) == 0);
    EXPECT(certificate_read(buffer_string(&authority.certificate), &of_authority, &err) == 0);
    EXPECT(info.not_after_ms == of_authority.not_after_ms);

    terms.now_ms += 25ULL * HOUR_MS;
    EXPECT(sign_new(&authority, &terms, &certificate, &err) == -ERROR_INVALID);
    authority_done(&authority);
}

/*
 * Goal: others see the same in our certificates as we do.
 * Method: openssl(1) verifies one, for both purposes, and prints its names.
 */
TEST(certificate, openssl_agrees)
{
    need_openssl();
    AUTHORITY_OWNED struct authority authority = make_authority();
    AUTHORITY_OWNED struct authority stranger = make_authority();
    BUFFER_OWNED struct buffer certificate = {0};
    BUFFER_OWNED struct buffer output = {0};
    struct error err = {0};
    struct certificate_terms terms = terms_now();
    terms.names = (const char *const[]){"node1.example", "10.1.2.3", "fd00::1", NULL};
    EXPECT(sign_new(&authority, &terms, &certificate, &err) == 0);
    MEMORY_OWNED char *authority_path = write_file("ca.pem", &authority.certificate);
    MEMORY_OWNED char *stranger_path = write_file("stranger.pem", &stranger.certificate);
    MEMORY_OWNED char *path = write_file("node.pem", &certificate);

    EXPECT(verify(authority_path, path, "sslserver", &output) == 0);
    EXPECT(verify(authority_path, path, "sslclient", &output) == 0);
    EXPECT(verify(stranger_path, path, "sslclient", &output) != 0);

    buffer_clear(&output);
    EXPECT(run_openssl((const char *const[]){"openssl", "x509", "-noout", "-ext",
                                             "subjectAltName,basicConstraints,keyUsage", "-in",
                                             path, NULL},
                       &output) == 0);
    EXPECT(strstr(buffer_string(&output),
                  "URI:spiffe://c1/node/7, DNS:node1.example, "
                  "IP Address:10.1.2.3, IP Address:FD00:0:0:0:0:0:0:1"));
    EXPECT(strstr(buffer_string(&output), "CA:FALSE") != NULL);

    buffer_clear(&output);
    EXPECT(run_openssl((const char *const[]){"openssl", "x509", "-noout", "-fingerprint", "-sha256",
                                             "-in", path, NULL},
                       &output) == 0);
    struct certificate_info info;
    EXPECT(certificate_read(buffer_string(&certificate), &info, &err) == 0);
    char pair[3] = {info.fingerprint[0], info.fingerprint[1], '\0'};
    EXPECT(strcasestr(buffer_string(&output), pair) != NULL);
}

TEST(certificate, openssl_refuses_a_client_as_server_and_the_expired)
{
    need_openssl();
    AUTHORITY_OWNED struct authority authority = make_authority();
    BUFFER_OWNED struct buffer client = {0};
    BUFFER_OWNED struct buffer expired = {0};
    BUFFER_OWNED struct buffer output = {0};
    struct error err = {0};
    struct certificate_terms terms = terms_now();
    MEMORY_OWNED char *authority_path = write_file("ca.pem", &authority.certificate);

    terms.is_server = false;
    EXPECT(sign_new(&authority, &terms, &client, &err) == 0);
    MEMORY_OWNED char *client_path = write_file("client.pem", &client);
    EXPECT(verify(authority_path, client_path, "sslclient", &output) == 0);
    EXPECT(verify(authority_path, client_path, "sslserver", &output) != 0);

    terms.now_ms -= 2ULL * HOUR_MS;
    EXPECT(sign_new(&authority, &terms, &expired, &err) == 0);
    buffer_clear(&output);
    MEMORY_OWNED char *expired_path = write_file("expired.pem", &expired);
    EXPECT(verify(authority_path, expired_path, "sslclient", &output) != 0);
    EXPECT(strstr(buffer_string(&output), "expired") != NULL);
}

/* Goal: a request shows that its sender has the key.  Method: change bytes of its DER. */
TEST(certificate, a_request_that_was_changed_is_refused)
{
    AUTHORITY_OWNED struct authority authority = make_authority();
    BUFFER_OWNED struct buffer request = {0};
    BUFFER_OWNED struct buffer key = {0};
    BUFFER_OWNED struct buffer certificate = {0};
    struct error err = {0};
    struct certificate_terms terms = terms_now();
    EXPECT(certificate_make_request(&request, &key, &err) == 0);
    char *text = buffer_take(&request);
    char *body = strchr(text, '\n') + 1;
    char *end = strstr(body, "\n-----END");
    EXPECT(end != NULL);

    for (char *at = body; at < end; at++) {
        char was = *at;
        if (was == '\n' || was == '=') {
            continue;
        }
        *at = was == 'A' ? 'B' : 'A';
        int r = certificate_sign(text, buffer_string(&authority.certificate),
                                 buffer_string(&authority.key), &terms, &certificate, &err);
        /* The bits of the last character that Base64 does not use say nothing. */
        EXPECT(r == -ERROR_INVALID || at + 3 >= end);
        *at = was;
    }
    free(text);
}

TEST(certificate, refuses_what_is_not_a_request_and_keys_of_other_kinds)
{
    need_openssl();
    AUTHORITY_OWNED struct authority authority = make_authority();
    BUFFER_OWNED struct buffer certificate = {0};
    BUFFER_OWNED struct buffer big = {0};
    struct error err = {0};
    struct certificate_terms terms = terms_now();
    static const char short_one[] =
        "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n";
    static const char *const garbage[] = {"", "hello", "-----BEGIN CERTIFICATE REQUEST-----\n",
                                          short_one};
    for (size_t i = 0; i < sizeof(garbage) / sizeof(garbage[0]); i++) {
        EXPECT(certificate_sign(garbage[i], buffer_string(&authority.certificate),
                                buffer_string(&authority.key), &terms, &certificate,
                                &err) == -ERROR_INVALID);
    }
    while (big.used < 70000) {
        buffer_append_string(&big, "-----BEGIN CERTIFICATE REQUEST-----\n");
    }
    EXPECT(certificate_sign(buffer_string(&big), buffer_string(&authority.certificate),
                            buffer_string(&authority.key), &terms, &certificate,
                            &err) == -ERROR_INVALID);
    EXPECT(certificate_sign(buffer_string(&authority.certificate),
                            buffer_string(&authority.certificate), buffer_string(&authority.key),
                            &terms, &certificate, &err) == -ERROR_INVALID);

    static const struct {
        const char *algorithm;
        const char *option;
        int result;
    } kinds[] = {{"RSA", "rsa_keygen_bits:2048", -ERROR_INVALID},
                 {"EC", "ec_paramgen_curve:P-384", -ERROR_INVALID},
                 {"EC", "ec_paramgen_curve:P-256", 0},
                 {"ED25519", NULL, 0}};
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        BUFFER_OWNED struct buffer output = {0};
        MEMORY_OWNED char *key = memory_format("%s/key", test_folder());
        MEMORY_OWNED char *request = memory_format("%s/request", test_folder());
        EXPECT(run_openssl((const char *const[]){"openssl", "genpkey", "-algorithm",
                                                 kinds[i].algorithm, "-out", key,
                                                 kinds[i].option != NULL ? "-pkeyopt" : NULL,
                                                 kinds[i].option, NULL},
                           &output) == 0);
        EXPECT(run_openssl((const char *const[]){"openssl", "req", "-new", "-key", key, "-subj",
                                                 "/CN=someone", "-out", request, NULL},
                           &output) == 0);
        buffer_clear(&output);
        EXPECT(file_read(request, 65536, &output, &err) == 0);
        int r = certificate_sign(buffer_string(&output), buffer_string(&authority.certificate),
                                 buffer_string(&authority.key), &terms, &certificate, &err);
        EXPECT(r == kinds[i].result);
    }
}

TEST(certificate, terms_that_make_no_certificate_are_refused)
{
    AUTHORITY_OWNED struct authority authority = make_authority();
    BUFFER_OWNED struct buffer certificate = {0};
    struct error err = {0};
    char long_text[300];
    memset(long_text, 'x', sizeof(long_text));
    long_text[sizeof(long_text) - 1] = '\0';

    struct certificate_terms terms = terms_now();
    terms.common_name = "";
    EXPECT(sign_new(&authority, &terms, &certificate, &err) == -ERROR_INVALID);
    terms.common_name = long_text;
    EXPECT(sign_new(&authority, &terms, &certificate, &err) == -ERROR_INVALID);
    terms = terms_now();
    terms.uri = long_text;
    EXPECT(sign_new(&authority, &terms, &certificate, &err) == -ERROR_INVALID);
    terms.uri = "";
    EXPECT(sign_new(&authority, &terms, &certificate, &err) == -ERROR_INVALID);
    terms.uri = "spiffe://c1/node/7\nDNS:evil";
    EXPECT(sign_new(&authority, &terms, &certificate, &err) == -ERROR_INVALID);
    terms = terms_now();
    terms.names = (const char *const[]){"a,DNS:b", NULL}; /* one name, odd as it is */
    EXPECT(sign_new(&authority, &terms, &certificate, &err) == 0);
    terms.names = (const char *const[]){"a b", NULL};
    EXPECT(sign_new(&authority, &terms, &certificate, &err) == -ERROR_INVALID);
}

TEST(certificate, the_key_must_be_the_authoritys_and_the_authority_one)
{
    AUTHORITY_OWNED struct authority authority = make_authority();
    AUTHORITY_OWNED struct authority stranger = make_authority();
    BUFFER_OWNED struct buffer request = {0};
    BUFFER_OWNED struct buffer key = {0};
    BUFFER_OWNED struct buffer node = {0};
    BUFFER_OWNED struct buffer certificate = {0};
    struct error err = {0};
    struct certificate_terms terms = terms_now();
    EXPECT(certificate_make_request(&request, &key, &err) == 0);

    EXPECT(certificate_sign(buffer_string(&request), buffer_string(&authority.certificate),
                            buffer_string(&stranger.key), &terms, &certificate,
                            &err) == -ERROR_INVALID);

    EXPECT(certificate_sign(buffer_string(&request), buffer_string(&authority.certificate),
                            buffer_string(&authority.key), &terms, &node, &err) == 0);
    EXPECT(certificate_sign(buffer_string(&request), buffer_string(&node), buffer_string(&key),
                            &terms, &certificate, &err) == -ERROR_INVALID);
    EXPECT(strstr(err.text, "PRIVATE KEY") == NULL);
    EXPECT(certificate.used == 0);
}

/* Two URIs: which one it is would depend on the reader. */
TEST(certificate, with_two_uris_is_refused)
{
    need_openssl();
    BUFFER_OWNED struct buffer output = {0};
    struct certificate_info info;
    struct error err = {0};
    MEMORY_OWNED char *key = memory_format("%s/key", test_folder());
    MEMORY_OWNED char *path = memory_format("%s/certificate", test_folder());
    EXPECT(
        run_openssl((const char *const[]){"openssl", "req", "-x509", "-newkey", "ed25519", "-nodes",
                                          "-keyout", key, "-out", path, "-subj", "/CN=x", "-addext",
                                          "subjectAltName=URI:spiffe://a,URI:spiffe://b", NULL},
                    &output) == 0);
    buffer_clear(&output);
    EXPECT(file_read(path, 65536, &output, &err) == 0);
    EXPECT(certificate_read(buffer_string(&output), &info, &err) == -ERROR_INVALID);
    EXPECT(certificate_read("", &info, &err) == -ERROR_INVALID);
    EXPECT(certificate_read("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &info,
                            &err) == -ERROR_INVALID);
}
