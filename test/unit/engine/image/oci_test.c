/* Documents, references and challenges of OCI images. */
#include "engine/image/oci.h"

#include <string.h>

#include "base/error.h"
#include "base/memory.h"

#include "test/lib/test.h"

#define D1 "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
#define D2 "sha256:00000000000000000000000000000000000000000000000000000000000000ff"
#define GZ "application/vnd.oci.image.layer.v1.tar+gzip"

static int parse(const char *text, const char *tag, bool *ret_is_index,
                 struct oci_descriptor *ret_next, struct oci_manifest *ret_manifest)
{
    struct error err = {0};
    return oci_parse_manifest(text, strlen(text), tag, ret_is_index, ret_next, ret_manifest, &err);
}

TEST(oci, a_manifest_names_its_configuration_and_layers)
{
    bool is_index = true;
    struct oci_descriptor next = {0};
    struct oci_manifest manifest;
    EXPECT(parse("{\"schemaVersion\":2,\"config\":{\"digest\":\"" D1 "\",\"size\":7},\"layers\":[{"
                 "\"mediaType\":\"" GZ "\",\"digest\":\"" D2 "\",\"size\":9}]}",
                 NULL, &is_index, &next, &manifest) == 0);
    EXPECT(!is_index && manifest.layer_count == 1 && manifest.layers[0].size_bytes == 9);
    EXPECT_STRING(manifest.config.id, &D1[7]);
}

TEST(oci, what_is_not_as_it_should_be_is_refused)
{
    static const char *const texts[] = {
        "",
        "[]",
        "{",
        "{\"schemaVersion\":2}",
        "{\"schemaVersion\":2,\"config\":{\"digest\":\"" D1 "\",\"size\":-1},\"layers\":[]}",
        "{\"schemaVersion\":2,\"config\":{\"digest\":\"sha512:00\",\"size\":1},\"layers\":[]}",
        "{\"schemaVersion\":2,\"config\":{\"digest\":\"sha256:../../../etc/passwd\",\"size\":1},"
        "\"layers\":[]}",
        "{\"schemaVersion\":2,\"config\":{\"digest\":\"" D1 "\",\"size\":1},\"layers\":[1]}",
        "{\"schemaVersion\":1,\"config\":{\"digest\":\"" D1 "\",\"size\":1},\"layers\":[]}",
        "{\"schemaVersion\":2,\"config\":{\"digest\":\"" D1 "\",\"size\":1},\"layers\":[{"
        "\"mediaType\":\"application/wasm\",\"digest\":\"" D2 "\",\"size\":9}]}",
    };
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        bool is_index = false;
        struct oci_descriptor next = {0};
        struct oci_manifest manifest;
        EXPECT(parse(texts[i], NULL, &is_index, &next, &manifest) < 0);
    }
}

TEST(oci, of_an_index_the_one_for_this_machine_is_taken)
{
    static const char index[] =
        "{\"schemaVersion\":2,\"manifests\":["
        "{\"digest\":\"" D1
        "\",\"size\":1,\"platform\":{\"os\":\"linux\",\"architecture\":\"arm64\"},"
        "\"annotations\":{\"org.opencontainers.image.ref.name\":\"arm\"}},"
        "{\"digest\":\"" D2
        "\",\"size\":1,\"platform\":{\"os\":\"linux\",\"architecture\":\"amd64\"},"
        "\"annotations\":{\"org.opencontainers.image.ref.name\":\"example.com/x:one\"}}]}";
    bool is_index = false;
    struct oci_descriptor next = {0};
    struct oci_manifest manifest;
    EXPECT(parse(index, NULL, &is_index, &next, &manifest) == 0 && is_index);
    EXPECT_STRING(next.id, &D2[7]);
    EXPECT(parse(index, "one", &is_index, &next, &manifest) == 0);
    EXPECT(parse(index, "arm", &is_index, &next, &manifest) == -ERROR_NOT_FOUND);
    EXPECT(parse(index, "two", &is_index, &next, &manifest) == -ERROR_NOT_FOUND);
}

TEST(oci, a_configuration_says_what_is_to_be_run)
{
    static const char text[] =
        "{\"os\":\"linux\",\"architecture\":\"amd64\",\"config\":{\"Entrypoint\":[\"/e\"],\"Cmd\":["
        "\"a\",\"b\"],\"Env\":null,\"ExposedPorts\":{\"80/tcp\":{},\"443/"
        "tcp\":{}},\"User\":\"u:g\","
        "\"WorkingDir\":\"/w\"},\"rootfs\":{\"diff_ids\":[\"" D1 "\"]}}";
    static const char arm[] = "{\"os\":\"linux\",\"architecture\":\"arm64\"}";
    OCI_CONFIG_OWNED struct oci_config config = {0};
    struct error err = {0};
    EXPECT(oci_parse_config(text, strlen(text), &config, &err) == 0);
    EXPECT_STRING(config.arguments[0], "/e");
    EXPECT_STRING(config.arguments[2], "b");
    EXPECT(config.arguments[3] == NULL && config.environment[0] == NULL);
    EXPECT_STRING(config.ports[0], "443/tcp");
    EXPECT_STRING(config.folder, "/w");
    EXPECT(config.diff_count == 1);
    struct oci_config other = {0};
    EXPECT(oci_parse_config(arm, strlen(arm), &other, &err) == -ERROR_UNSUPPORTED);
}

TEST(oci, references_are_read_as_docker_does)
{
    static const struct {
        const char *text;
        const char *registry;
        const char *repository;
        const char *tag;
        const char *id;
    } rows[] = {
        {"nginx", "registry-1.docker.io", "library/nginx", "latest", ""},
        {"docker://nginx:1.27", "registry-1.docker.io", "library/nginx", "1.27", ""},
        {"team/app", "registry-1.docker.io", "team/app", "latest", ""},
        {"docker.io/team/app", "registry-1.docker.io", "team/app", "latest", ""},
        {"localhost:5000/a/b_c:V1", "localhost:5000", "a/b_c", "V1", ""},
        {"r.example.com/a@" D1, "r.example.com", "a", "", &D1[7]},
        {"r.example.com/a:t@" D1, "r.example.com", "a", "t", &D1[7]},
    };
    static const char *const wrong[] = {"",          "/",          "docker://",    "A",
                                        "a:",        "a:.x",       "a//b",         "../a",
                                        "a/../b",    "r.example/", "a b",          "a@sha256:0",
                                        "a@" D1 "0", "a:b c",      "r.example/..", "x%2f:1"};
    struct oci_reference reference;
    struct error err = {0};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        EXPECT(oci_parse_reference(rows[i].text, &reference, &err) == 0);
        EXPECT_STRING(reference.registry, rows[i].registry);
        EXPECT_STRING(reference.repository, rows[i].repository);
        EXPECT_STRING(reference.tag, rows[i].tag);
        EXPECT_STRING(reference.id, rows[i].id);
    }
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        EXPECT(oci_parse_reference(wrong[i], &reference, &err) == -ERROR_INVALID);
    }
}

TEST(oci, a_challenge_says_where_tokens_are)
{
    struct oci_challenge challenge;
    EXPECT(oci_parse_challenge(
        " Bearer realm=\"https://auth.example/token?a=b,c\",service=\"r\\\"x\", "
        "scope=\"repository:a:pull\",error=invalid",
        &challenge));
    EXPECT_STRING(challenge.realm, "https://auth.example/token?a=b,c");
    EXPECT_STRING(challenge.service, "r\"x");
    EXPECT_STRING(challenge.scope, "repository:a:pull");
    EXPECT(!oci_parse_challenge("Basic realm=\"x\"", &challenge));
    EXPECT(!oci_parse_challenge("Bearer", &challenge));
    EXPECT(oci_parse_challenge("bearer realm=\"unended", &challenge));
}
