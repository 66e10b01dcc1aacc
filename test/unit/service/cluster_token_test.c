#include <openssl/evp.h>
#include <string.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/memory.h"

#include "service/cluster/token.h"

#include "test/lib/test.h"

TEST(cluster_token, none_is_told_from_one_that_is_wrong)
{
    struct cluster_token token;
    struct error err = {0};
    EXPECT(cluster_token_read(" \n", &token, &err) == -ERROR_INVALID);
    EXPECT(strstr(err.text, "there is no token") != NULL);
    EXPECT(cluster_token_read("x", &token, &err) == -ERROR_INVALID);
    EXPECT(strstr(err.text, "this is no token") != NULL);
}

static struct cluster_token a_token(void)
{
    struct cluster_token token = {.cluster = "00112233445566778899aabbccddeeff",
                                  .address_count = 2};
    memset(token.fingerprint, 'a', 64);
    snprintf(token.addresses[0], sizeof(token.addresses[0]), "%s", "10.0.0.1:7421");
    snprintf(token.addresses[1], sizeof(token.addresses[1]), "%s", "[fd00::1]:7421");
    cluster_token_make_id(token.id);
    cluster_token_make_secret(token.secret);
    return token;
}

static int read_back(const struct cluster_token *token, struct cluster_token *ret_token)
{
    BUFFER_OWNED struct buffer text = {0};
    struct error err = {0};
    cluster_token_write(token, &text);
    EXPECT(text.used < CLUSTER_TOKEN_TEXT_MAX);
    return cluster_token_read(buffer_string(&text), ret_token, &err);
}

TEST(cluster_token, is_read_as_it_was_written)
{
    struct cluster_token token = a_token();
    struct cluster_token back;
    EXPECT(read_back(&token, &back) == 0);
    EXPECT(memcmp(&back, &token, sizeof(token)) == 0);

    token.id[0] = '\0';
    memset(token.id, 0, sizeof(token.id));
    snprintf(token.client, sizeof(token.client), "%s", "laptop");
    EXPECT(read_back(&token, &back) == 0);
    EXPECT(memcmp(&back, &token, sizeof(token)) == 0);

    token.is_bearer = true;
    EXPECT(read_back(&token, &back) == 0);
    EXPECT(back.is_bearer);
    EXPECT_STRING(back.client, "laptop");
}

TEST(cluster_token, the_longest_is_a_token)
{
    struct cluster_token token = a_token();
    struct cluster_token back;
    token.address_count = CLUSTER_TOKEN_ADDRESSES_MAX;
    for (size_t i = 0; i < CLUSTER_TOKEN_ADDRESSES_MAX; i++) {
        memset(token.addresses[i], 'a', CLUSTER_TOKEN_ADDRESS_SIZE - 1);
        memcpy(token.addresses[i] + CLUSTER_TOKEN_ADDRESS_SIZE - 3, ":1", 3);
    }
    EXPECT(read_back(&token, &back) == 0);
    EXPECT(memcmp(&back, &token, sizeof(token)) == 0);
}

TEST(cluster_token, blanks_around_are_those_of_a_paste)
{
    struct cluster_token token = a_token();
    struct cluster_token back;
    BUFFER_OWNED struct buffer text = {0};
    struct error err = {0};
    buffer_append_string(&text, " \n");
    cluster_token_write(&token, &text);
    buffer_append_string(&text, "\r\n");
    EXPECT(cluster_token_read(buffer_string(&text), &back, &err) == 0);
    EXPECT_STRING(back.secret, token.secret);
}

/*
 * Goal: nothing but a token is one, and no error tells the secret.
 * Method: cut at every length; put another byte at every place.
 */
TEST(cluster_token, whatever_was_changed_is_not_the_same_token)
{
    struct cluster_token token = a_token();
    struct cluster_token back;
    BUFFER_OWNED struct buffer text = {0};
    struct error err = {0};
    cluster_token_write(&token, &text);
    MEMORY_OWNED char *copy = memory_copy_string(buffer_string(&text));
    size_t length = text.used;

    for (size_t i = 0; i < length; i++) {
        char was = copy[i];
        copy[i] = '\0';
        EXPECT(cluster_token_read(copy, &back, &err) == -ERROR_INVALID);
        copy[i] = '+';
        EXPECT(cluster_token_read(copy, &back, &err) == -ERROR_INVALID);
        EXPECT(strstr(err.text, token.secret) == NULL);
        copy[i] = was == 'A' ? 'B' : 'A';
        if (cluster_token_read(copy, &back, &err) == 0) {
            EXPECT(memcmp(&back, &token, sizeof(token)) != 0);
        }
        copy[i] = was;
    }
    EXPECT(cluster_token_read(copy, &back, &err) == 0);
    EXPECT(cluster_token_read("", &back, &err) == -ERROR_INVALID);
    EXPECT(cluster_token_read("hello", &back, &err) == -ERROR_INVALID);
}

TEST(cluster_token, addresses_are_a_host_and_a_port)
{
    static const char *const good[] = {"a:1", "10.0.0.1:7421", "node-1.example.org:65535",
                                       "[::1]:7421"};
    static const char *const bad[] = {"",      "a",     ":1",    "a:0",     "a:65536",
                                      "a:",    "a:1x",  "a b:1", "[]:1",    "[::1:1",
                                      "a/b:1", "a:1:2", "a\n:1", "[g::]:1", "user@a:1"};
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        EXPECT(cluster_token_is_address(good[i]));
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        EXPECT(!cluster_token_is_address(bad[i]));
    }
}

TEST(cluster_token, only_the_secret_fits_its_digest)
{
    struct cluster_token token = a_token();
    struct cluster_token other = a_token();
    char digest[65];
    cluster_token_digest(token.secret, digest);
    EXPECT(cluster_token_is_secret(token.secret, digest));
    EXPECT(!cluster_token_is_secret(other.secret, digest));
    EXPECT(!cluster_token_is_secret("", digest));
    EXPECT(!cluster_token_is_secret(token.secret, ""));
    digest[63] = digest[63] == '0' ? '1' : '0';
    EXPECT(!cluster_token_is_secret(token.secret, digest));
}

/* Made by a newer Blixard: it may say more, and where it must be understood otherwise it begins
 * otherwise. */
TEST(cluster_token, of_another_version_is_read_as_far_as_it_is_known)
{
    static const char newer[] =
        "{\"c\":\"00112233445566778899aabbccddeeff\",\"x\":{\"new\":[1]},\"f\":"
        "\"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\",\"a\":[\"a:1\"],"
        "\"t\":\"001122334455\",\"s\":\"0011223344556677889900112233445566778899\"}";
    struct cluster_token back;
    struct error err = {0};
    char text[1024] = CLUSTER_TOKEN_PREFIX;
    EVP_EncodeBlock((unsigned char *)text + strlen(text), (const unsigned char *)newer,
                    (int)strlen(newer));
    text[strcspn(text, "=")] = '\0';
    EXPECT(cluster_token_read(text, &back, &err) == 0);
    EXPECT_STRING(back.id, "001122334455");
    text[3] = '2';
    EXPECT(cluster_token_read(text, &back, &err) == -ERROR_INVALID);
    EXPECT(strstr(err.text, "newer Blixard") != NULL);
}
