#include "base/hash.h"

#include "test/lib/test.h"

/* FIPS 180-2, appendix B.1 and B.2. */
TEST(hash, agrees_with_the_standard_whole_and_in_pieces)
{
    static const char message[] = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
    char text[HASH_TEXT_SIZE];

    hash_bytes("abc", 3, text);
    EXPECT_STRING(text, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");

    struct hash *hash = hash_new();
    hash_add(hash, message, 10);
    hash_add(hash, message + 10, 46);
    hash_finish(hash, text);
    EXPECT_STRING(text, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}
