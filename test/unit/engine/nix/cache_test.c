/* Names, narinfos and signatures, against what Nix itself has written. */
#include "engine/nix/cache.h"

#include <string.h>

#include "base/buffer.h"
#include "base/error.h"

#include "test/lib/test.h"

#define FOLDER "/nix/store"
#define HASH   "0c2x5dl6nrnhvxkdmamfb9nq9xqbjqk0"

static const char good_info[] =
    "StorePath: " FOLDER "/" HASH "-hello-2.10\n"
    "URL: nar/" HASH ".nar.zst\n"
    "Compression: zstd\n"
    "FileHash: sha256:1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s\n"
    "FileSize: 41232\n"
    "NarHash: sha256:1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s\n"
    "NarSize: 206000\n"
    "References: " HASH "-hello-2.10 1c2x5dl6nrnhvxkdmamfb9nq9xqbjqk0-glibc\n"
    "Deriver: " HASH "-hello-2.10.drv\n"
    "Unknown: thing\n";

static int parse(const char *text, struct nix_narinfo *ret, struct error *err)
{
    return nix_narinfo_parse(text, strlen(text), FOLDER, ret, err);
}

TEST(nix_path, is_a_hash_a_dash_and_a_name)
{
    struct error err = {0};
    struct nix_path path;
    char text[NIX_TEXT_SIZE];
    EXPECT(nix_path_parse(FOLDER "/" HASH "-a", FOLDER, &path, &err) == 0);
    nix_path_text(&path, FOLDER, text);
    EXPECT_STRING(text, FOLDER "/" HASH "-a");
    EXPECT(nix_path_parse(HASH "-a", FOLDER, &path, &err) == 0);
    static const char *const bad[] = {
        "",
        HASH,
        HASH "-",
        HASH "-.a",
        HASH "-a/b",
        HASH "-a b",
        "/other/" HASH "-a",
        FOLDER "/" HASH "-a/bin",
        "ec2x5dl6nrnhvxkdmamfb9nq9xqbjqk0-a", /* 'e' is no digit */
        "../" HASH "-a",
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        EXPECT(nix_path_parse(bad[i], FOLDER, &path, &err) == -ERROR_INVALID);
    }
}

TEST(nix_path, has_a_name_of_at_most_211_bytes)
{
    struct error err = {0};
    struct nix_path path;
    char text[NIX_HASH_CHARS + 1 + NIX_NAME_MAX + 2] = HASH "-";
    memset(text + NIX_HASH_CHARS + 1, 'a', NIX_NAME_MAX);
    EXPECT(nix_path_parse(text, FOLDER, &path, &err) == 0);
    text[NIX_HASH_CHARS + 1 + NIX_NAME_MAX] = 'a';
    EXPECT(nix_path_parse(text, FOLDER, &path, &err) == -ERROR_INVALID);
}

TEST(nix_base32, is_the_one_of_nix)
{
    /* nix-hash --type sha256 --to-base32 of the SHA-256 of nothing. */
    uint8_t hash[NIX_NAR_HASH_BYTES];
    char text[NIX_HASH_TEXT_SIZE];
    const char *hex = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    EXPECT(nix_sha256_read(hex, strlen(hex), hash));
    nix_base32_write(hash, text);
    EXPECT_STRING(text, "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73");
    char back[80];
    uint8_t again[NIX_NAR_HASH_BYTES];
    snprintf(back, sizeof(back), "sha256:%s", text);
    EXPECT(nix_sha256_read(back, strlen(back), again) && memcmp(hash, again, sizeof(hash)) == 0);
    back[7] = 'z'; /* more than 256 bits */
    EXPECT(!nix_sha256_read(back, strlen(back), again));
    const char *sri = "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
    EXPECT(nix_sha256_read(sri, strlen(sri), again) && memcmp(hash, again, sizeof(hash)) == 0);
}

TEST(nix_narinfo, says_what_it_said_when_it_is_written_again)
{
    struct error err = {0};
    NIX_NARINFO_OWNED struct nix_narinfo info = {0};
    NIX_NARINFO_OWNED struct nix_narinfo again = {0};
    BUFFER_OWNED struct buffer first = {0};
    BUFFER_OWNED struct buffer second = {0};
    EXPECT(parse(good_info, &info, &err) == 0);
    EXPECT(info.info.nar_size_bytes == 206000 && info.info.references.count == 2);
    EXPECT(info.has_file_hash && info.file_size_bytes == 41232);
    nix_narinfo_write(&info, FOLDER, &first);
    EXPECT(parse(buffer_string(&first), &again, &err) == 0);
    nix_narinfo_write(&again, FOLDER, &second);
    EXPECT_STRING(buffer_string(&second), buffer_string(&first));
}

TEST(nix_narinfo, that_leads_elsewhere_or_lacks_something_is_refused)
{
    static const struct {
        const char *line;
        const char *instead;
    } bad[] = {
        {"StorePath: " FOLDER "/" HASH "-hello-2.10\n", ""},
        {"StorePath: " FOLDER "/", "StorePath: /other/"},
        {"StorePath: " FOLDER "/", "StorePath: "},
        {"URL: nar/" HASH ".nar.zst\n", ""},
        {"URL: nar/", "URL: ../"},
        {"URL: nar/", "URL: nar/../"},
        {"URL: nar/", "URL: /"},
        {"URL: nar/", "URL: http://elsewhere/"},
        {"NarHash: sha256:1", "NarHash: sha256:z"},
        {"NarHash: sha256:1", "NarHash: md5:1"},
        {"NarSize: 206000", "NarSize: 0"},
        {"NarSize: 206000", "NarSize: -1"},
        {"NarSize: 206000\n", ""},
        {"NarSize: 206000\n", "NarSize: 206000\nNarSize: 206000\n"},
        {"References: " HASH "-hello-2.10 ", "References: " HASH " "},
        {"References: " HASH "-hello-2.10 ",
         "References: " HASH "-hello-2.10 " HASH "-hello-2.10 "},
        {"Deriver: ", "Deriver: x"},
        {"Unknown: thing", "Unknown"},
    };
    struct error err = {0};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        NIX_NARINFO_OWNED struct nix_narinfo info = {0};
        char text[2048];
        const char *at = strstr(good_info, bad[i].line);
        EXPECT(at != NULL);
        snprintf(text, sizeof(text), "%.*s%s%s", (int)(at - good_info), good_info, bad[i].instead,
                 at + strlen(bad[i].line));
        EXPECT(parse(text, &info, &err) == -ERROR_INVALID);
    }
}

TEST(nix_sign, is_good_for_what_was_signed_and_for_nothing_else)
{
    struct error err = {0};
    struct nix_key key;
    struct nix_key other;
    NIX_NARINFO_OWNED struct nix_narinfo info = {0};
    BUFFER_OWNED struct buffer public = {0};
    BUFFER_OWNED struct buffer stranger = {0};
    BUFFER_OWNED struct buffer signature = {0};
    EXPECT(parse(good_info, &info, &err) == 0);
    EXPECT(nix_key_make("cluster-1", &key, &err) == 0 &&
           nix_key_make("cluster-1", &other, &err) == 0);
    nix_key_write_public(&key, &public);
    nix_key_write_public(&other, &stranger);
    EXPECT(nix_sign(&key, &info.info, FOLDER, &signature, &err) == 0);
    free(info.info.signatures);
    info.info.signatures = buffer_take(&signature);
    EXPECT(nix_is_signed(&info.info, FOLDER, buffer_string(&public)));
    EXPECT(!nix_is_signed(&info.info, FOLDER, buffer_string(&stranger)));
    EXPECT(!nix_is_signed(&info.info, FOLDER, ""));
    EXPECT(!nix_is_signed(&info.info, "/other/store", buffer_string(&public)));
    info.info.references.count--;
    EXPECT(!nix_is_signed(&info.info, FOLDER, buffer_string(&public)));
    info.info.references.count++;
    info.info.nar_hash[0] ^= 1;
    EXPECT(!nix_is_signed(&info.info, FOLDER, buffer_string(&public)));
}

TEST(nix_key, is_read_as_it_was_written)
{
    struct error err = {0};
    struct nix_key key;
    struct nix_key again;
    BUFFER_OWNED struct buffer text = {0};
    EXPECT(nix_key_make("a b", &key, &err) == -ERROR_INVALID);
    EXPECT(nix_key_make("a:b", &key, &err) == -ERROR_INVALID);
    EXPECT(nix_key_make("home", &key, &err) == 0);
    nix_key_write_secret(&key, &text);
    EXPECT(nix_key_read(buffer_string(&text), &again, &err) == 0);
    EXPECT_STRING(again.name, "home");
    EXPECT(memcmp(again.secret, key.secret, sizeof(key.secret)) == 0);
    EXPECT(nix_key_read("home:AAAA", &again, &err) == -ERROR_INVALID);
    EXPECT(nix_keys_check(" ", &err) == 0);
    EXPECT(nix_keys_check("home:AAAA", &err) == -ERROR_INVALID);
}
