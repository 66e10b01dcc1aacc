/*
 * OCI images: their documents (image-spec 1.1: manifest.md, image-index.md, config.md,
 * descriptor.md; and what Docker calls the same), as they lie on this machine (image-layout.md) or
 * in a registry (distribution-spec).
 *
 * Everything in them is input: bounded, checked, and what has a digest is compared with it. Blocks;
 * any thread, one at a time.
 */
#ifndef ENGINE_IMAGE_OCI_H
#define ENGINE_IMAGE_OCI_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/hash.h"

struct buffer;
struct error;
struct image_store;

enum {
    OCI_LAYERS_MAX = 127,
    OCI_DOCUMENT_BYTES_MAX = 4 << 20, /* what registries take as a manifest */
    OCI_WORDS_MAX = 1024,
    OCI_NAME_SIZE = 256,
    OCI_TAG_SIZE = 129,
};

/* ---- Documents ---- */

/* Something with a digest: SHA-256, the only one that is taken. */
struct oci_descriptor {
    char id[HASH_TEXT_SIZE];
    uint64_t size_bytes;
};

struct oci_manifest {
    struct oci_descriptor config;
    struct oci_descriptor layers[OCI_LAYERS_MAX];
    size_t layer_count;
};

/* What is to be run, and how; lists end with NULL, texts are "" when nothing is said. */
struct oci_config {
    char **arguments;  /* Entrypoint, then Cmd */
    char **entrypoint; /* each alone */
    char **command;
    char **environment; /* NAME=VALUE */
    char **ports;       /* "80/tcp", by name */
    char **volumes;     /* folders, by name */
    char *folder;       /* WorkingDir */
    char *user;         /* name or number, and a group behind ':' */
    char *stop_signal;
    char diff_ids[OCI_LAYERS_MAX][HASH_TEXT_SIZE]; /* of the layers, not packed */
    size_t diff_count;
};
void oci_config_done(struct oci_config *config);
#define OCI_CONFIG_OWNED __attribute__((cleanup(oci_config_done)))

/* "sha256:" and 64 digits; INVALID. */
int oci_parse_digest(const char *text, char ret_id[HASH_TEXT_SIZE], struct error *err);

/*
 * A manifest, or an index with one for linux/amd64: then *ret_is_index, and ret_next says where
 * that is.  `tag` (may be NULL) chooses among those of a layout's index, by its annotation
 * org.opencontainers.image.ref.name.  NOT_FOUND: there is none for this platform, or of that tag.
 */
int oci_parse_manifest(const void *bytes, size_t length, const char *tag, bool *ret_is_index,
                       struct oci_descriptor *ret_next, struct oci_manifest *ret_manifest,
                       struct error *err);

/* End it with oci_config_done().  UNSUPPORTED: it is not for linux/amd64. */
int oci_parse_config(const void *bytes, size_t length, struct oci_config *ret_config,
                     struct error *err);

/* ---- An image that was fetched ---- */

struct oci_image {
    struct oci_config config;
    char digest[8 + HASH_TEXT_SIZE]; /* "sha256:..." of its manifest; of its config with Docker's */
    char config_id[HASH_TEXT_SIZE];  /* of oci_pull(): the blob that the config was read from */
    char *layers[OCI_LAYERS_MAX];    /* paths, from the lowest up */
    size_t layer_count;
};
void oci_image_done(struct oci_image *image);
#define OCI_IMAGE_OWNED __attribute__((cleanup(oci_image_done)))

/*
 * Open an unpacked layout: a folder with oci-layout, or what `docker save` writes (manifest.json).
 * Its layers stay where they are.  CORRUPT: a digest is another one.
 */
int oci_open_layout(const char *folder, const char *tag, struct oci_image *ret_image,
                    struct error *err);

/* ---- Registries ---- */

struct oci_reference {
    char registry[OCI_NAME_SIZE];   /* HOST[:PORT] */
    char repository[OCI_NAME_SIZE]; /* "library/nginx" */
    char tag[OCI_TAG_SIZE];         /* "latest" when nothing is said, "" with a digest alone */
    char id[HASH_TEXT_SIZE];        /* of the digest, or "" */
};

/* "[docker://][REGISTRY/]NAME[:TAG][@sha256:...]", with Docker's own registry when none is named;
 * INVALID. */
int oci_parse_reference(const char *text, struct oci_reference *ret_reference, struct error *err);

/*
 * Who asks that registry, by what `docker login` and the like write; the name is the caller's, and
 * the password is his to wipe.  Nothing of the text is in the errors: INVALID, NOT_FOUND.
 */
int oci_read_login(const void *text, size_t length, const char *registry, char **ret_username,
                   struct buffer *ret_password, struct error *err);

struct oci_registry_options {
    const char *username; /* NULL: nobody in particular */
    const char *password;
    const char *mirror;    /* HOST[:PORT], asked first, without a password; NULL: none */
    const char *authority; /* a file of certificates to trust instead of the system's; NULL */
    bool is_insecure;      /* plain HTTP, which only a registry on this machine is spoken to in */
    /* A layer begins, of `count`; may be NULL. */
    void (*on_layer)(size_t index, size_t count, uint64_t size_bytes, void *context);
    void *context;
    const atomic_bool *is_cancelled; /* looked at every second: CANCELLED; may be NULL */
};

/*
 * Fetch an image: its layers come into `store`, those that are there already are not fetched, and
 * one that breaks off goes on where it was, also in another call.  UNAUTHENTICATED, DENIED,
 * NOT_FOUND, UNAVAILABLE, CORRUPT (a digest is another one).
 */
int oci_pull(const struct oci_reference *reference, const struct oci_registry_options *options,
             struct image_store *store, struct oci_image *ret_image, struct error *err);

/* The value of a WWW-Authenticate field (RFC 9110, 11.6.1) of the scheme Bearer: what it names, ""
 * when it does not.  False: it is none. */
struct oci_challenge {
    char realm[1024];
    char service[256];
    char scope[512];
};
bool oci_parse_challenge(const char *field, struct oci_challenge *ret_challenge);

#endif
