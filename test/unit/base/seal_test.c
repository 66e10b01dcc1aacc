#include "base/seal.h"

#include "base/buffer.h"
#include "base/error.h"

#include "test/lib/test.h"

TEST(seal, opens_what_it_closed_and_appends)
{
    uint8_t key[SEAL_KEY_SIZE];
    seal_key_make(key);
    static const char *const values[] = {"", "x", "a key that nobody may see"};
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        BUFFER_OWNED struct buffer sealed = {0};
        BUFFER_OWNED struct buffer value = {0};
        struct error err = {0};
        buffer_append_string(&value, "before ");

        seal_close(key, "authority key", values[i], strlen(values[i]), &sealed);
        EXPECT(sealed.used == 1 + 12 + strlen(values[i]) + 16);
        EXPECT(sealed.data[0] == 1);
        int r = seal_open(key, "authority key", sealed.data, sealed.used, &value, &err);

        EXPECT(r == 0);
        EXPECT(value.used == strlen("before ") + strlen(values[i]));
        EXPECT_STRING(buffer_string(&value) + strlen("before "), values[i]);
    }
}

TEST(seal, two_of_the_same_value_differ)
{
    uint8_t key[SEAL_KEY_SIZE];
    seal_key_make(key);
    BUFFER_OWNED struct buffer a = {0};
    BUFFER_OWNED struct buffer b = {0};
    seal_close(key, "c", "value", 5, &a);
    seal_close(key, "c", "value", 5, &b);
    EXPECT(a.used == b.used && memcmp(a.data, b.data, a.used) != 0);
}

/*
 * Goal: nothing but the untouched bytes under the same key and context is opened.
 * Method: flip every bit, cut at every length, change the context and the key.
 */
TEST(seal, refuses_whatever_was_changed)
{
    uint8_t key[SEAL_KEY_SIZE];
    seal_key_make(key);
    BUFFER_OWNED struct buffer sealed = {0};
    BUFFER_OWNED struct buffer value = {0};
    struct error err = {0};
    seal_close(key, "authority key", "secret", 6, &sealed);

    for (size_t bit = 0; bit < sealed.used * 8; bit++) {
        sealed.data[bit / 8] ^= (uint8_t)(1U << (bit % 8));
        EXPECT(seal_open(key, "authority key", sealed.data, sealed.used, &value, &err) ==
               -ERROR_CORRUPT);
        sealed.data[bit / 8] ^= (uint8_t)(1U << (bit % 8));
    }
    for (size_t length = 0; length < sealed.used; length++) {
        EXPECT(seal_open(key, "authority key", sealed.data, length, &value, &err) ==
               -ERROR_CORRUPT);
    }
    EXPECT(seal_open(key, "authority kez", sealed.data, sealed.used, &value, &err) ==
           -ERROR_CORRUPT);
    EXPECT(seal_open(key, "", sealed.data, sealed.used, &value, &err) == -ERROR_CORRUPT);
    key[31] ^= 1;
    EXPECT(seal_open(key, "authority key", sealed.data, sealed.used, &value, &err) ==
           -ERROR_CORRUPT);
    key[31] ^= 1;
    EXPECT(value.used == 0);
    EXPECT(strstr(err.text, "secret") == NULL);
    EXPECT(seal_open(key, "authority key", sealed.data, sealed.used, &value, &err) == 0);
    EXPECT_STRING(buffer_string(&value), "secret");
}
