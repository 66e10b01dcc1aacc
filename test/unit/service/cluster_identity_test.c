#include <sys/stat.h>

#include "base/buffer.h"
#include "base/certificate.h"
#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"

#include "service/cluster/identity.h"

#include "test/lib/test.h"

#define CLUSTER "00112233445566778899aabbccddeeff"

enum { NOW_MS = 1000000, LIFE_MS = 100000 };

static struct buffer authority;
static struct buffer authority_key;

static void certify(struct identity *identity, uint64_t id)
{
    struct error err = {0};
    struct buffer request = {0};
    struct buffer key = {0};
    struct buffer certificate = {0};
    char uri[128];
    identity_format_uri(CLUSTER, id, uri, sizeof(uri));
    const struct certificate_terms terms = {.common_name = "north",
                                            .uri = uri,
                                            .now_ms = NOW_MS,
                                            .lifetime_ms = LIFE_MS,
                                            .is_server = true};
    EXPECT(certificate_make_request(&request, &key, &err) == 0);
    EXPECT(certificate_sign(buffer_string(&request), buffer_string(&authority),
                            buffer_string(&authority_key), &terms, &certificate, &err) == 0);
    free(identity->key);
    free(identity->certificate);
    identity->key = buffer_take(&key);
    identity->certificate = buffer_take(&certificate);
    buffer_done(&request);
}

static struct identity make_identity(void)
{
    struct error err = {0};
    struct identity identity = {.cluster = CLUSTER,
                                .cluster_name = "home",
                                .id = 7,
                                .name = "north",
                                .is_server = true,
                                .has_voted = true,
                                .has_log = true,
                                .schema = 3,
                                .has_servers_key = true,
                                .peer_count = 1};
    EXPECT(certificate_make_authority("home", "spiffe://" CLUSTER, 10, &authority, &authority_key,
                                      &err) == 0);
    identity.authority = memory_copy_string(buffer_string(&authority));
    identity.peers = memory_new(1, sizeof(struct identity_peer));
    identity.peers[0] = (struct identity_peer){
        .id = UINT64_C(1) << 60, .name = "south", .address = "10.0.0.2:7421", .is_server = true};
    memset(identity.servers_key, 0xa5, SEAL_KEY_SIZE);
    certify(&identity, 7);
    return identity;
}

static void done(struct identity *identity)
{
    identity_done(identity);
    buffer_done(&authority);
    buffer_done(&authority_key);
}

static void spoil(const char *folder, const char *name, const char *text)
{
    struct error err = {0};
    MEMORY_OWNED char *path = memory_format("%s/%s", folder, name);
    EXPECT(file_write(path, text, strlen(text), 0600, &err) == 0);
}

TEST(cluster_identity, comes_back_as_it_was_written)
{
    struct error err = {0};
    struct identity identity = make_identity();
    struct identity back;
    MEMORY_OWNED char *folder = memory_format("%s/cluster", test_folder());
    EXPECT(identity_read(folder, &back, &err) == -ERROR_NOT_FOUND);
    EXPECT(identity_create(folder, &identity, &err) == 0);
    EXPECT(identity_read(folder, &back, &err) == 0);
    EXPECT_STRING(back.cluster, CLUSTER);
    EXPECT_STRING(back.cluster_name, "home");
    EXPECT_STRING(back.name, "north");
    EXPECT_STRING(back.key, identity.key);
    EXPECT(back.id == 7 && back.is_server && back.has_voted && back.has_log);
    EXPECT(back.has_servers_key && back.servers_key[31] == 0xa5);
    EXPECT(back.schema == 3);
    EXPECT(back.peer_count == 1 && back.peers[0].id == UINT64_C(1) << 60);
    EXPECT(back.peers[0].is_server);
    EXPECT_STRING(back.peers[0].address, "10.0.0.2:7421");
    identity_done(&back);
    EXPECT(identity_create(folder, &identity, &err) == -ERROR_EXISTS);
    done(&identity);
}

TEST(cluster_identity, is_for_its_owner_alone)
{
    static const char *const names[] = {"node.json", "ca.pem", "node.pem", "node.key",
                                        "servers.key"};
    struct error err = {0};
    struct identity identity = make_identity();
    MEMORY_OWNED char *folder = memory_format("%s/cluster", test_folder());
    EXPECT(identity_create(folder, &identity, &err) == 0);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        struct stat status;
        MEMORY_OWNED char *path = memory_format("%s/%s", folder, names[i]);
        EXPECT(stat(path, &status) == 0 && (status.st_mode & 0777) == 0600);
    }
    done(&identity);
}

/*
 * Goal: an exchange of certificate and key that was broken off leaves one whole pair.
 * Method: leave the folder as each step of the exchange leaves it, and read it.
 */
TEST(cluster_identity, survives_a_crash_in_the_middle_of_a_renewal)
{
    struct error err = {0};
    struct identity identity = make_identity();
    struct identity back;
    MEMORY_OWNED char *folder = memory_format("%s/cluster", test_folder());
    EXPECT(identity_create(folder, &identity, &err) == 0);
    MEMORY_OWNED char *old_key = memory_copy_string(identity.key);
    certify(&identity, 7);

    spoil(folder, "node.key.new", identity.key); /* only the new key was written */
    EXPECT(identity_read(folder, &back, &err) == 0);
    EXPECT_STRING(back.key, old_key);
    identity_done(&back);

    spoil(folder, "node.pem", identity.certificate); /* and the certificate */
    EXPECT(identity_read(folder, &back, &err) == 0);
    EXPECT_STRING(back.key, identity.key);
    identity_done(&back);
    EXPECT(identity_read(folder, &back, &err) == 0); /* the exchange was carried through */
    EXPECT_STRING(back.key, identity.key);
    identity_done(&back);
    done(&identity);
}

/* A node that was given another id died before it wrote node.json: the certificate is right. */
TEST(cluster_identity, has_the_id_of_its_certificate)
{
    struct error err = {0};
    struct identity identity = make_identity();
    struct identity back;
    MEMORY_OWNED char *folder = memory_format("%s/cluster", test_folder());
    EXPECT(identity_create(folder, &identity, &err) == 0);
    certify(&identity, 8);
    EXPECT(identity_write_certificate(folder, &identity, &err) == 0);
    EXPECT(identity_read(folder, &back, &err) == 0);
    EXPECT(back.id == 8 && !back.has_voted);
    identity_done(&back);
    done(&identity);
}

TEST(cluster_identity, says_which_file_is_damaged)
{
    static const char *const names[] = {"node.json", "ca.pem", "node.pem", "node.key",
                                        "servers.key"};
    struct error err = {0};
    struct identity identity = make_identity();
    struct identity back;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        MEMORY_OWNED char *folder = memory_format("%s/cluster-%zu", test_folder(), i);
        EXPECT(identity_create(folder, &identity, &err) == 0);
        spoil(folder, names[i], "{}");
        EXPECT(identity_read(folder, &back, &err) == -ERROR_CORRUPT);
        EXPECT(strstr(err.text, "node.key") != NULL || strstr(err.text, names[i]) != NULL);
    }
    done(&identity);
}

TEST(cluster_identity, names_are_read_as_they_are_written_and_no_others)
{
    char uri[128];
    uint64_t id = 0;
    identity_format_uri(CLUSTER, INT64_MAX, uri, sizeof(uri));
    EXPECT_STRING(uri, "spiffe://" CLUSTER "/node/9223372036854775807");
    EXPECT(identity_parse_uri(CLUSTER, uri, &id) && id == INT64_MAX);
    static const char *const others[] = {
        "",
        "spiffe://" CLUSTER "/node/",
        "spiffe://" CLUSTER "/node/0",
        "spiffe://" CLUSTER "/node/07",
        "spiffe://" CLUSTER "/node/7x",
        "spiffe://" CLUSTER "/node/99999999999999999999",
        "spiffe://" CLUSTER "/client/7",
        "spiffe://" CLUSTER "0/node/7",
        "https://" CLUSTER "/node/7",
    };
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        EXPECT(!identity_parse_uri(CLUSTER, others[i], &id));
    }
}
