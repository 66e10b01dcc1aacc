/* See secure.h. */
#include "base/stream/secure.h"

#include <string.h>
#include <sys/stat.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/stream/tls.h"

enum { LOOK_EVERY_MS = 2000, FILE_BYTES_MAX = 256 << 10 };

/* What tells one state of a file from another. */
struct mark {
    uint64_t device;
    uint64_t inode;
    int64_t size;
    struct timespec changed;
};

struct secure {
    char *files[2]; /* certificate, key */
    char *who;
    bool (*asks)(const char *name, void *context);
    void *context;
    struct mark marks[2]; /* as they were read last */
    struct tls_context *tls;
    struct loop_timer *timer;
};

/* A file that is not there is a state as well. */
static void look(const struct secure *secure, struct mark ret_marks[2])
{
    for (int i = 0; i < 2; i++) {
        struct stat status = {0};
        memset(&ret_marks[i], 0, sizeof(ret_marks[i]));
        if (stat(secure->files[i], &status) == 0) {
            ret_marks[i] = (struct mark){.device = status.st_dev,
                                         .inode = status.st_ino,
                                         .size = status.st_size,
                                         .changed = status.st_ctim};
        }
    }
}

static bool is_same(const struct mark *a, const struct mark *b)
{
    return a->device == b->device && a->inode == b->inode && a->size == b->size &&
        a->changed.tv_sec == b->changed.tv_sec && a->changed.tv_nsec == b->changed.tv_nsec;
}

static int use(struct secure *secure, struct buffer *certificate, struct buffer *key,
               struct error *err)
{
    const struct tls_context_options options = {.certificate = buffer_string(certificate),
                                                .key = buffer_string(key),
                                                .verify = TLS_VERIFY_LATER,
                                                .asks = secure->asks,
                                                .context = secure->context};
    int r = secure->tls == NULL ? tls_context_new(&options, &secure->tls, err)
                                : tls_context_update(secure->tls, &options, err);
    return r < 0 ? error_wrap(err, "%s, %s", secure->files[0], secure->files[1]) : 0;
}

static int read_files(struct secure *secure, struct error *err)
{
    BUFFER_OWNED struct buffer certificate = {0};
    BUFFER_WIPED struct buffer key = {0};
    buffer_reserve(&key, FILE_BYTES_MAX + 1); /* it is not to grow: what it leaves is not wiped */
    look(secure, secure->marks); /* before: what changes while it is read is read again */
    int r = file_read(secure->files[0], FILE_BYTES_MAX, &certificate, err);
    r = r < 0 ? r : file_read(secure->files[1], FILE_BYTES_MAX, &key, err);
    return r < 0 ? r : use(secure, &certificate, &key, err);
}

void secure_reload(struct secure *secure)
{
    struct error err = {0};
    if (read_files(secure, &err) < 0) {
        log_error("%s: the certificate stays as it was: %s", secure->who, err.text);
    } else {
        log_info("%s: the certificate was read anew: %s", secure->who, secure->files[0]);
    }
}

static void on_time(void *context)
{
    struct secure *secure = context;
    struct mark now[2];
    look(secure, now);
    if (!is_same(&now[0], &secure->marks[0]) || !is_same(&now[1], &secure->marks[1])) {
        secure_reload(secure);
    }
    loop_timer_start(secure->timer, LOOK_EVERY_MS);
}

int secure_new(struct loop *loop, const struct secure_options *options, struct secure **ret_secure,
               struct error *err)
{
    struct secure *secure = NEW(struct secure);
    secure->files[0] = memory_copy_string(options->certificate_file);
    secure->files[1] = memory_copy_string(options->key_file);
    secure->who = memory_copy_string(options->who);
    secure->asks = options->asks;
    secure->context = options->context;
    int r = read_files(secure, err);
    if (r < 0) {
        secure_free(secure);
        return r;
    }
    secure->timer = loop_timer_new(loop, on_time, secure);
    loop_timer_start(secure->timer, LOOK_EVERY_MS);
    *ret_secure = secure;
    return 0;
}

void secure_free(struct secure *secure)
{
    if (secure == NULL) {
        return;
    }
    loop_timer_free(secure->timer);
    tls_context_unref(secure->tls);
    free(secure->files[0]);
    free(secure->files[1]);
    free(secure->who);
    free(secure);
}

struct tls_context *secure_context(const struct secure *secure)
{
    return secure->tls;
}
