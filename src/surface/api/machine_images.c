/* Images of machines, and the upload of what they consist of. */
#include <inttypes.h>

#include "base/memory.h"

#include "engine/image/image.h"

#include "service/machine/machine.h"

#include "surface/api/parts.h"

#define UPLOAD_DEFAULT (UINT64_C(16) << 30)

static struct machine_service *service_of(const struct request *request)
{
    return request->api->options.machines;
}

static void write_one(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    int r = machine_image_write(service_of(request), request->project, request->parameters[0],
                                &body, &err);
    api_answer_written(request, r, &body, &err);
}

void api_machine_image_get(struct request *request)
{
    write_one(request);
}

void api_machine_image_list(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    int r = machine_image_write_list(service_of(request), request->project, &body, &err);
    api_answer_written(request, r, &body, &err);
}

static void on_set(const struct error *error, uint64_t index, void *context)
{
    (void)index;
    if (error != NULL) {
        api_answer_error(context, error);
    } else {
        write_one(context);
    }
}

static void set(struct request *request, const json_t *body)
{
    machine_image_set(service_of(request), request->project, request->parameters[0], body, on_set,
                      request);
}

void api_machine_image_set(struct request *request)
{
    api_body_read(request, "ImageSet", set);
}

void api_machine_image_delete(struct request *request)
{
    machine_image_delete(service_of(request), request->project, request->parameters[0],
                         api_answer_done, request);
}

/* ---- Uploads ---- */

void api_image_blob_put(struct request *request)
{
    uint64_t most = request->api->options.image_bytes_max;
    api_blob_upload(request, most > 0 ? most : UPLOAD_DEFAULT, "the file");
}
