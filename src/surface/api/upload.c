/* Blobs that are uploaded: written as they come, there when they are whole. */
#include <inttypes.h>

#include "base/memory.h"

#include "engine/image/image.h"

#include "service/replica/replica.h"

#include "surface/api/parts.h"

struct upload {
    struct request *request;
    struct image_writer *writer;
    struct replica_service *replicas; /* or NULL */
    int status;
    struct error err;
    char id[HASH_TEXT_SIZE];
    uint64_t size_bytes;
};

static void upload_end(struct upload *upload)
{
    if (upload->status < 0) {
        api_answer_error(upload->request, &upload->err);
    } else {
        BUFFER_OWNED struct buffer body = {0};
        struct json_writer writer = json_writer_to(&body);
        json_write_begin_object(&writer);
        json_write_field_string(&writer, "id", upload->id);
        json_write_field_u64(&writer, "size_bytes", upload->size_bytes);
        json_write_end_object(&writer);
        api_answer_json(upload->request, upload->request->status, &body);
    }
    free(upload);
}

/* fsync takes its time: off the loop. */
static void upload_work(void *context)
{
    struct upload *upload = context;
    upload->status =
        image_writer_finish(upload->writer, upload->id, &upload->size_bytes, &upload->err);
}

/* It may have been here before, and have been removed in between. */
static void upload_done(void *context)
{
    struct upload *upload = context;
    if (upload->status == 0 && upload->replicas != NULL) {
        replica_expect(upload->replicas, upload->id);
        if (!image_exists(upload->request->api->options.images, upload->id)) {
            upload->status = error_set(&upload->err, ERROR_UNAVAILABLE,
                                       "an older copy of the file was removed just now; upload it "
                                       "again");
        }
    }
    upload_end(upload);
}

static void on_upload_data(const void *bytes, size_t length, void *context)
{
    struct upload *upload = context;
    if (upload->status == 0) {
        upload->status = image_writer_add(upload->writer, bytes, length, &upload->err);
    }
}

static void on_upload_end(const struct error *error, void *context)
{
    struct upload *upload = context;
    if (error != NULL && upload->status == 0) {
        upload->err = *error;
        upload->status = -(int)error->kind;
    }
    if (upload->status < 0) {
        image_writer_abort(upload->writer);
        upload_end(upload);
        return;
    }
    loop_work(upload->request->api->options.loop, upload_work, upload_done, upload);
}

void api_blob_upload(struct request *request, uint64_t most, const char *what,
                     struct replica_service *replicas)
{
    struct error err = {0};
    uint64_t length = http_exchange_body_length(request->exchange);
    if (http_exchange_has_body(request->exchange) && length != UINT64_MAX && length > most) {
        error_set(&err, ERROR_TOO_LARGE,
                  "%s has %" PRIu64 " bytes; at most %" PRIu64 " are allowed", what, length, most);
        api_answer_error(request, &err);
        return;
    }
    struct upload *upload = NEW(struct upload);
    upload->request = request;
    upload->replicas = replicas;
    if (image_writer_new(request->api->options.images, &upload->writer, &err) < 0) {
        free(upload);
        api_answer_error(request, &err);
        return;
    }
    http_exchange_set_body_max(request->exchange, most);
    http_exchange_read(request->exchange, on_upload_data, on_upload_end, upload);
}
