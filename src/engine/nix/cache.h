/*
 * Binary caches of Nix: archives of paths (NAR), what is said of them (narinfo), who signed it.
 *
 * A NAR is the one serialisation of a file tree that Nix hashes.  A narinfo is lines "Key: value";
 * what is signed of it (Ed25519) is "1;PATH;sha256:HASH;SIZE;REFERENCES".  Narinfos and keys come
 * from others: bounded, and checked.  Pure, but nix_nar_*().
 */
#ifndef ENGINE_NIX_CACHE_H
#define ENGINE_NIX_CACHE_H

#include "engine/nix/nix.h"

enum {
    NIX_NARINFO_MAX = 1 << 20, /* bytes */
    NIX_REFERENCES_MAX = 8192,
    NIX_SIGNATURES_MAX = 32,
    NIX_URL_MAX = 256,
    NIX_KEY_NAME_MAX = 128,
    NIX_KEY_SECRET_BYTES = 64,
    NIX_KEY_PUBLIC_BYTES = 32,
    NIX_HASH_TEXT_SIZE = 53, /* SHA-256 in Nix's base 32, with its NUL */
};

/* ---- Nix's base 32: digits 0-9a-z without e, o, t, u; the last bits come first ---- */

void nix_base32_write(const uint8_t bytes[NIX_NAR_HASH_BYTES], char ret_text[NIX_HASH_TEXT_SIZE]);
/* "sha256:" and base 32 (52 digits) or base 16 (64), or "sha256-" and base 64. */
bool nix_sha256_read(const char *text, size_t length, uint8_t ret_bytes[NIX_NAR_HASH_BYTES]);

/* ---- Narinfo ---- */

struct nix_narinfo {
    struct nix_info info;
    char url[NIX_URL_MAX];
    char compression[16]; /* "zstd", "xz", "none", ... */
    bool has_file_hash;
    uint8_t file_hash[NIX_NAR_HASH_BYTES];
    uint64_t file_size_bytes; /* 0: not said */
};
void nix_narinfo_done(struct nix_narinfo *narinfo);
#define NIX_NARINFO_OWNED __attribute__((cleanup(nix_narinfo_done)))

/* INVALID says which line; the URL is relative and has no "..", names are those of paths of the
 * store `folder`. */
int nix_narinfo_parse(const char *text, size_t length, const char *folder,
                      struct nix_narinfo *ret_narinfo, struct error *err);
void nix_narinfo_write(const struct nix_narinfo *narinfo, const char *folder, struct buffer *out);

/* ---- Keys and signatures ---- */

struct nix_key {
    char name[NIX_KEY_NAME_MAX + 1]; /* without ':' and blanks */
    uint8_t secret[NIX_KEY_SECRET_BYTES];
};
int nix_key_make(const char *name, struct nix_key *ret_key, struct error *err);
/* "NAME:BASE64", as nix-store --generate-binary-cache-key writes them. */
void nix_key_write_secret(const struct nix_key *key, struct buffer *out);
void nix_key_write_public(const struct nix_key *key, struct buffer *out);
int nix_key_read(const char *text, struct nix_key *ret_key, struct error *err);
/* Are these public keys, with blanks between them?  None is good, too. */
int nix_keys_check(const char *keys, struct error *err);

/* Append "NAME:BASE64" of what is signed of a path. */
int nix_sign(const struct nix_key *key, const struct nix_info *info, const char *folder,
             struct buffer *out, struct error *err);
/* Did one of the keys sign it? */
bool nix_is_signed(const struct nix_info *info, const char *folder, const char *keys);

/* ---- Archives ---- */

/*
 * Give a path's NAR to `write`, compressed by zstd (level 3; the same bytes for the same content
 * and library).  CORRUPT: what is there has not the hash or the size that `info` says, and what was
 * written is worth nothing.  CANCELLED: `write` has returned false, or *cancel is true.
 */
int nix_nar_pack(const struct nix_store *store, const struct nix_info *info,
                 bool (*write)(const void *bytes, size_t length, void *context), void *context,
                 const volatile bool *cancel, struct error *err);

/* Compare the compressed NAR in `fd` (any of what libarchive knows) with the hash and size of
 * `info`: CORRUPT, or what makes it no archive.  Bounded by the size said. */
int nix_nar_check(int fd, const struct nix_info *info, const volatile bool *cancel,
                  struct error *err);

/* The NAR of any file tree, in pieces, to `sink`, which returns false to stop. */
int nix_nar_write(const char *path, bool (*sink)(const void *bytes, size_t length, void *context),
                  void *context, struct error *err);

#endif
