#include "base/certificate.h"

#include <openssl/bio.h>
#include <openssl/bn.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <string.h>
#include <time.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/random.h"

enum {
    TEXT_BYTES_MAX = 64 * 1024, /* of a PEM text that somebody gives us */
    SERIAL_BYTES = 16,
    COMMON_NAME_MAX = 64,          /* RFC 5280, ub-common-name */
    NAMES_MAX = 64,                /* of one certificate */
    BACKDATED_MS = 60 * 60 * 1000, /* clocks of the peers may be behind that much */
    DAY_MS = 24 * 60 * 60 * 1000,
};

#define FREE_SLOT(name)                      \
    static void name##_free_slot(void *slot) \
    {                                        \
        name##_free(*(void **)slot);         \
    }
FREE_SLOT(BIO)
FREE_SLOT(EVP_PKEY)
FREE_SLOT(X509)
FREE_SLOT(X509_REQ)
FREE_SLOT(X509_EXTENSION)
FREE_SLOT(GENERAL_NAMES)
#define BIO_OWNED       __attribute__((cleanup(BIO_free_slot)))
#define KEY_OWNED       __attribute__((cleanup(EVP_PKEY_free_slot)))
#define X509_OWNED      __attribute__((cleanup(X509_free_slot)))
#define REQUEST_OWNED   __attribute__((cleanup(X509_REQ_free_slot)))
#define EXTENSION_OWNED __attribute__((cleanup(X509_EXTENSION_free_slot)))
#define NAMES_OWNED     __attribute__((cleanup(GENERAL_NAMES_free_slot)))

/* What OpenSSL says went wrong; its queue is empty afterwards. */
static int error_openssl(struct error *err, enum error_kind kind, const char *doing)
{
    char reason[160] = "no reason given";
    unsigned long code = ERR_peek_last_error();
    if (code != 0) {
        ERR_error_string_n(code, reason, sizeof(reason));
    }
    ERR_clear_error();
    return error_set(err, kind, "%s: %s", doing, reason);
}

/* ---- PEM ---- */

/* Without this OpenSSL asks at the terminal when a text is encrypted. */
/* NOLINTNEXTLINE(readability-non-const-parameter): OpenSSL gives its type */
static int no_password(char *ret_password, int size, int is_writing, void *context)
{
    (void)ret_password;
    (void)size;
    (void)is_writing;
    (void)context;
    return -1;
}

static int open_text(const char *text, BIO **ret_bio, struct error *err)
{
    size_t length = strnlen(text, TEXT_BYTES_MAX + 1);
    if (length > TEXT_BYTES_MAX) {
        return error_set(err, ERROR_INVALID, "a PEM text of more than %d bytes", TEXT_BYTES_MAX);
    }
    *ret_bio = BIO_new_mem_buf(text, (int)length);
    CHECK(*ret_bio != NULL);
    return 0;
}

static int read_certificate(const char *text, X509 **ret_certificate, struct error *err)
{
    BIO_OWNED BIO *bio = NULL;
    int r = open_text(text, &bio, err);
    if (r < 0) {
        return r;
    }
    X509 *certificate = PEM_read_bio_X509(bio, NULL, no_password, NULL);
    if (certificate == NULL) {
        return error_openssl(err, ERROR_INVALID, "not a certificate in PEM");
    }
    ERR_clear_error();
    *ret_certificate = certificate;
    return 0;
}

static int read_key(const char *text, EVP_PKEY **ret_key, struct error *err)
{
    BIO_OWNED BIO *bio = NULL;
    int r = open_text(text, &bio, err);
    if (r < 0) {
        return r;
    }
    EVP_PKEY *key = PEM_read_bio_PrivateKey(bio, NULL, no_password, NULL);
    if (key == NULL) {
        return error_openssl(err, ERROR_INVALID, "not a private key in PEM");
    }
    ERR_clear_error();
    *ret_key = key;
    return 0;
}

static void append_bio(BIO *bio, struct buffer *ret_text)
{
    char *data = NULL;
    long length = BIO_get_mem_data(bio, &data);
    CHECK(length > 0);
    buffer_append(ret_text, data, (size_t)length);
}

static void write_certificate(X509 *certificate, struct buffer *ret_text)
{
    BIO_OWNED BIO *bio = BIO_new(BIO_s_mem());
    CHECK(bio != NULL);
    int ok = PEM_write_bio_X509(bio, certificate);
    CHECK(ok == 1);
    append_bio(bio, ret_text);
}

static void write_key(EVP_PKEY *key, struct buffer *ret_text)
{
    BIO_OWNED BIO *bio = BIO_new(BIO_s_mem());
    CHECK(bio != NULL);
    int ok = PEM_write_bio_PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL);
    CHECK(ok == 1);
    append_bio(bio, ret_text);
}

/* ---- Parts of a certificate ---- */

static EVP_PKEY *make_key(void)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    CHECK(key != NULL);
    return key;
}

static void set_serial(X509 *certificate)
{
    uint8_t bytes[SERIAL_BYTES];
    random_bytes(bytes, sizeof(bytes));
    bytes[0] = (uint8_t)((bytes[0] & 0x7f) | 0x40); /* positive, and always as long */
    BIGNUM *number = BN_bin2bn(bytes, sizeof(bytes), NULL);
    CHECK(number != NULL);
    ASN1_INTEGER *done = BN_to_ASN1_INTEGER(number, X509_get_serialNumber(certificate));
    BN_free(number);
    CHECK(done != NULL);
}

static int set_times(X509 *certificate, uint64_t from_ms, uint64_t to_ms, struct error *err)
{
    /* The last second of the year 9999, RFC 5280 4.1.2.5. */
    const uint64_t last_ms = 253402300799000;
    if (from_ms > last_ms || to_ms > last_ms || from_ms > to_ms) {
        return error_set(err, ERROR_INVALID, "a certificate cannot be valid from %llu to %llu",
                         (unsigned long long)from_ms, (unsigned long long)to_ms);
    }
    ASN1_TIME *from = ASN1_TIME_set(X509_getm_notBefore(certificate), (time_t)(from_ms / 1000));
    ASN1_TIME *to = ASN1_TIME_set(X509_getm_notAfter(certificate), (time_t)(to_ms / 1000));
    CHECK(from != NULL && to != NULL);
    return 0;
}

static int set_common_name(X509 *certificate, const char *common_name, struct error *err)
{
    X509_NAME *name = X509_get_subject_name(certificate);
    size_t length = strnlen(common_name, COMMON_NAME_MAX + 1);
    if (length == 0 || length > COMMON_NAME_MAX) {
        return error_set(err, ERROR_INVALID, "a common name has 1 to %d bytes", COMMON_NAME_MAX);
    }
    if (X509_NAME_add_entry_by_NID(name, NID_commonName, MBSTRING_UTF8,
                                   (const unsigned char *)common_name, (int)length, -1, 0) != 1) {
        return error_openssl(err, ERROR_INVALID, "the common name");
    }
    return 0;
}

/* `text` is ours, never a peer's: OpenSSL gives some of these texts a meaning. */
static void add_extension(X509 *certificate, X509V3_CTX *context, int nid, const char *text)
{
    EXTENSION_OWNED X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, context, nid, text);
    CHECK(extension != NULL);
    int ok = X509_add_ext(certificate, extension, -1);
    CHECK(ok == 1);
}

static void push_name(GENERAL_NAMES *names, int type, ASN1_STRING *owned_value)
{
    GENERAL_NAME *name = GENERAL_NAME_new();
    CHECK(name != NULL);
    GENERAL_NAME_set0_value(name, type, owned_value);
    int count = sk_GENERAL_NAME_push(names, name);
    CHECK(count > 0);
}

/* URIs, DNS names and addresses are visible ASCII; anything else is somebody's trick. */
static int push_text(GENERAL_NAMES *names, int type, const char *text, struct error *err)
{
    size_t length = strnlen(text, sizeof(((struct certificate_info *)NULL)->uri));
    if (length == 0 || length == sizeof(((struct certificate_info *)NULL)->uri)) {
        return error_set(err, ERROR_INVALID, "a name in a certificate has 1 to 255 bytes");
    }
    for (size_t i = 0; i < length; i++) {
        if (text[i] <= ' ' || text[i] > '~') {
            return error_set(err, ERROR_INVALID,
                             "a name in a certificate has a byte that is not "
                             "visible ASCII");
        }
    }
    if (type == GEN_DNS) {
        ASN1_OCTET_STRING *address = a2i_IPADDRESS(text);
        ERR_clear_error();
        if (address != NULL) {
            push_name(names, GEN_IPADD, address);
            return 0;
        }
    }
    ASN1_IA5STRING *value = ASN1_IA5STRING_new();
    CHECK(value != NULL);
    int ok = ASN1_STRING_set(value, text, (int)length);
    CHECK(ok == 1);
    push_name(names, type, value);
    return 0;
}

static int add_names(X509 *certificate, const char *uri, const char *const *more, struct error *err)
{
    NAMES_OWNED GENERAL_NAMES *names = sk_GENERAL_NAME_new_null();
    CHECK(names != NULL);
    int r = push_text(names, GEN_URI, uri, err);
    for (size_t i = 0; r == 0 && more != NULL && more[i] != NULL; i++) {
        r = i < NAMES_MAX ? push_text(names, GEN_DNS, more[i], err)
                          : error_set(err, ERROR_INVALID, "more than %d names", NAMES_MAX);
    }
    if (r < 0) {
        return r;
    }
    int ok = X509_add1_ext_i2d(certificate, NID_subject_alt_name, names, 0, X509V3_ADD_DEFAULT);
    CHECK(ok == 1);
    return 0;
}

static void sign(X509 *certificate, EVP_PKEY *key)
{
    /* Ed25519 has its own hash. */
    const EVP_MD *hash = EVP_PKEY_is_a(key, "ED25519") ? NULL : EVP_sha256();
    int size = X509_sign(certificate, key, hash);
    CHECK(size > 0);
}

/* ---- Making and signing ---- */

int certificate_make_authority(const char *common_name, const char *uri, uint64_t days,
                               struct buffer *ret_certificate, struct buffer *ret_key,
                               struct error *err)
{
    if (days == 0 || days > 36500) {
        return error_set(err, ERROR_INVALID, "an authority lives 1 to 36500 days");
    }
    X509_OWNED X509 *certificate = X509_new();
    CHECK(certificate != NULL);
    KEY_OWNED EVP_PKEY *key = make_key();
    int ok = X509_set_version(certificate, X509_VERSION_3);
    CHECK(ok == 1);
    ok = X509_set_pubkey(certificate, key);
    CHECK(ok == 1);
    set_serial(certificate);
    uint64_t now_ms = clock_real_ms();
    uint64_t from_ms = now_ms > BACKDATED_MS ? now_ms - BACKDATED_MS : 0;
    int r = set_times(certificate, from_ms, now_ms + days * DAY_MS, err);
    r = r < 0 ? r : set_common_name(certificate, common_name, err);
    r = r < 0 ? r : add_names(certificate, uri, NULL, err);
    if (r < 0) {
        return r;
    }
    ok = X509_set_issuer_name(certificate, X509_get_subject_name(certificate));
    CHECK(ok == 1);

    X509V3_CTX context;
    X509V3_set_ctx(&context, certificate, certificate, NULL, NULL, 0);
    add_extension(certificate, &context, NID_basic_constraints, "critical,CA:TRUE,pathlen:0");
    add_extension(certificate, &context, NID_key_usage, "critical,keyCertSign,cRLSign");
    add_extension(certificate, &context, NID_subject_key_identifier, "hash");
    sign(certificate, key);

    write_certificate(certificate, ret_certificate);
    write_key(key, ret_key);
    return 0;
}

int certificate_make_request(struct buffer *ret_request, struct buffer *ret_key, struct error *err)
{
    (void)err; /* nothing here can fail on a machine that works */
    KEY_OWNED EVP_PKEY *key = make_key();
    REQUEST_OWNED X509_REQ *request = X509_REQ_new();
    CHECK(request != NULL);
    int ok = X509_REQ_set_version(request, X509_REQ_VERSION_1);
    CHECK(ok == 1);
    ok = X509_REQ_set_pubkey(request, key);
    CHECK(ok == 1);
    int size = X509_REQ_sign(request, key, EVP_sha256());
    CHECK(size > 0);

    BIO_OWNED BIO *bio = BIO_new(BIO_s_mem());
    CHECK(bio != NULL);
    ok = PEM_write_bio_X509_REQ(bio, request);
    CHECK(ok == 1);
    append_bio(bio, ret_request);
    write_key(key, ret_key);
    return 0;
}

static bool key_is_good(EVP_PKEY *key)
{
    if (EVP_PKEY_is_a(key, "ED25519")) {
        return true;
    }
    char group[32] = "";
    return EVP_PKEY_is_a(key, "EC") &&
        EVP_PKEY_get_group_name(key, group, sizeof(group), NULL) == 1 &&
        strcmp(group, SN_X9_62_prime256v1) == 0;
}

/* The key that a request is for; that its sender has it is what the signature shows. */
static int read_request(const char *text, EVP_PKEY **ret_key, struct error *err)
{
    BIO_OWNED BIO *bio = NULL;
    int r = open_text(text, &bio, err);
    if (r < 0) {
        return r;
    }
    REQUEST_OWNED X509_REQ *request = PEM_read_bio_X509_REQ(bio, NULL, no_password, NULL);
    if (request == NULL) {
        return error_openssl(err, ERROR_INVALID, "not a certificate request in PEM");
    }
    KEY_OWNED EVP_PKEY *key = X509_REQ_get_pubkey(request);
    if (key == NULL) {
        return error_openssl(err, ERROR_INVALID, "the key of the certificate request");
    }
    if (!key_is_good(key)) {
        ERR_clear_error();
        return error_set(err, ERROR_INVALID,
                         "the key of a certificate request is P-256 or Ed25519");
    }
    if (X509_REQ_verify(request, key) != 1) {
        return error_openssl(err, ERROR_INVALID, "the signature of the certificate request");
    }
    ERR_clear_error();
    *ret_key = key;
    key = NULL;
    return 0;
}

static uint64_t time_ms(const ASN1_TIME *time)
{
    struct tm parts = {0};
    if (ASN1_TIME_to_tm(time, &parts) != 1) {
        return 0;
    }
    time_t seconds = timegm(&parts);
    return seconds > 0 ? (uint64_t)seconds * 1000 : 0;
}

static int read_authority(const char *text, const char *key_text, X509 **ret_authority,
                          EVP_PKEY **ret_key, struct error *err)
{
    X509_OWNED X509 *authority = NULL;
    KEY_OWNED EVP_PKEY *key = NULL;
    int r = read_certificate(text, &authority, err);
    r = r < 0 ? r : read_key(key_text, &key, err);
    if (r < 0) {
        return error_wrap(err, "the authority");
    }
    if (X509_check_private_key(authority, key) != 1) {
        return error_openssl(err, ERROR_INVALID,
                             "the authority's key is not that of its certificate");
    }
    if (X509_check_ca(authority) != 1 || !key_is_good(key)) {
        ERR_clear_error();
        return error_set(err, ERROR_INVALID,
                         "the certificate of the authority is not one of an "
                         "authority that we make");
    }
    *ret_authority = authority;
    *ret_key = key;
    authority = NULL;
    key = NULL;
    return 0;
}

static int write_terms(X509 *certificate, X509 *authority, const struct certificate_terms *terms,
                       struct error *err)
{
    uint64_t from_ms = terms->now_ms > BACKDATED_MS ? terms->now_ms - BACKDATED_MS : 0;
    uint64_t end_ms = time_ms(X509_get0_notAfter(authority));
    if (terms->now_ms > end_ms) {
        return error_set(err, ERROR_INVALID, "the certificate of the authority has expired");
    }
    uint64_t left_ms = end_ms - terms->now_ms;
    uint64_t to_ms = terms->now_ms + (terms->lifetime_ms < left_ms ? terms->lifetime_ms : left_ms);
    int r = set_times(certificate, from_ms, to_ms, err);
    r = r < 0 ? r : set_common_name(certificate, terms->common_name, err);
    return r < 0 ? r : add_names(certificate, terms->uri, terms->names, err);
}

int certificate_sign(const char *request, const char *authority_text, const char *authority_key,
                     const struct certificate_terms *terms, struct buffer *ret_certificate,
                     struct error *err)
{
    KEY_OWNED EVP_PKEY *key = NULL;
    X509_OWNED X509 *authority = NULL;
    KEY_OWNED EVP_PKEY *signing_key = NULL;
    int r = read_request(request, &key, err);
    r = r < 0 ? r : read_authority(authority_text, authority_key, &authority, &signing_key, err);
    if (r < 0) {
        return r;
    }

    X509_OWNED X509 *certificate = X509_new();
    CHECK(certificate != NULL);
    int ok = X509_set_version(certificate, X509_VERSION_3);
    CHECK(ok == 1);
    ok = X509_set_pubkey(certificate, key);
    CHECK(ok == 1);
    ok = X509_set_issuer_name(certificate, X509_get_subject_name(authority));
    CHECK(ok == 1);
    set_serial(certificate);
    r = write_terms(certificate, authority, terms, err);
    if (r < 0) {
        return r;
    }

    X509V3_CTX context;
    X509V3_set_ctx(&context, authority, certificate, NULL, NULL, 0);
    add_extension(certificate, &context, NID_basic_constraints, "critical,CA:FALSE");
    add_extension(certificate, &context, NID_key_usage, "critical,digitalSignature");
    add_extension(certificate, &context, NID_ext_key_usage,
                  terms->is_server ? "clientAuth,serverAuth" : "clientAuth");
    add_extension(certificate, &context, NID_subject_key_identifier, "hash");
    add_extension(certificate, &context, NID_authority_key_identifier, "keyid");
    sign(certificate, signing_key);
    write_certificate(certificate, ret_certificate);
    return 0;
}

/* ---- Reading ---- */

/* A name with a NUL in it, or one that does not fit, is not the name it seems to be. */
static int copy_name(const unsigned char *text, int length, char *ret_text, size_t size,
                     const char *what, struct error *err)
{
    if (length < 0 || (size_t)length >= size || memchr(text, '\0', (size_t)length) != NULL) {
        return error_set(err, ERROR_INVALID, "the %s of a certificate is too long or has a NUL",
                         what);
    }
    memcpy(ret_text, text, (size_t)length);
    ret_text[length] = '\0';
    return 0;
}

static int read_common_name(X509 *certificate, struct certificate_info *info, struct error *err)
{
    X509_NAME *name = X509_get_subject_name(certificate);
    int at = X509_NAME_get_index_by_NID(name, NID_commonName, -1);
    if (at < 0) {
        return 0;
    }
    unsigned char *text = NULL;
    int length =
        ASN1_STRING_to_UTF8(&text, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, at)));
    if (length < 0) {
        return error_openssl(err, ERROR_INVALID, "the common name of a certificate");
    }
    int r =
        copy_name(text, length, info->common_name, sizeof(info->common_name), "common name", err);
    OPENSSL_free(text);
    return r;
}

/* SPIFFE has exactly one URI; with two, readers would disagree about who it is. */
static int read_uri(X509 *certificate, struct certificate_info *info, struct error *err)
{
    int critical = -1;
    NAMES_OWNED GENERAL_NAMES *names =
        X509_get_ext_d2i(certificate, NID_subject_alt_name, &critical, NULL);
    if (names == NULL) {
        return critical == -1 ? 0 : error_openssl(err, ERROR_INVALID, "the names of a certificate");
    }
    bool found = false;
    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
        if (name->type != GEN_URI) {
            continue;
        }
        if (found) {
            return error_set(err, ERROR_INVALID, "a certificate with more than one URI");
        }
        const ASN1_IA5STRING *uri = name->d.uniformResourceIdentifier;
        int r = copy_name(ASN1_STRING_get0_data(uri), ASN1_STRING_length(uri), info->uri,
                          sizeof(info->uri), "URI", err);
        if (r < 0) {
            return r;
        }
        found = true;
    }
    return 0;
}

static void read_fingerprint(X509 *certificate, struct certificate_info *info)
{
    unsigned char *der = NULL;
    int length = i2d_X509(certificate, &der);
    CHECK(length > 0);
    hash_bytes(der, (size_t)length, info->fingerprint);
    OPENSSL_free(der);
}

int certificate_read(const char *text, struct certificate_info *ret_info, struct error *err)
{
    X509_OWNED X509 *certificate = NULL;
    int r = read_certificate(text, &certificate, err);
    if (r < 0) {
        return r;
    }
    struct certificate_info info = {0};
    r = read_common_name(certificate, &info, err);
    r = r < 0 ? r : read_uri(certificate, &info, err);
    if (r < 0) {
        return r;
    }
    read_fingerprint(certificate, &info);
    info.not_before_ms = time_ms(X509_get0_notBefore(certificate));
    info.not_after_ms = time_ms(X509_get0_notAfter(certificate));
    info.is_authority = X509_check_ca(certificate) == 1;
    ERR_clear_error();
    *ret_info = info;
    return 0;
}
