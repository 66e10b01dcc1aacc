/* Images of machines, and the upload of what they consist of. */
#include <inttypes.h>

#include "base/buffer.h"
#include "base/json.h"
#include "base/memory.h"

#include "engine/image/image.h"
#include "engine/store/store.h"

#include "service/machine/machine.h"
#include "service/operation/operation.h"
#include "service/secret/secret.h"

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

static void verify(struct request *request, const json_t *body)
{
    machine_image_verify(service_of(request), request->project, body, api_answer_begun,
                         api_begin(request, NULL));
}

void api_image_verify(struct request *request)
{
    api_body_read(request, "ImageVerify", verify);
}

/* ---- From registries, with what only the node knows ---- */

static void pull(struct request *request, const json_t *body)
{
    BUFFER_WIPED struct buffer logins = {0};
    struct error err = {0};
    const char *secret = json_text(body, "credentials");
    if (secret_read(request->api->options.secrets, request->project, secret, &logins, &err) < 0) {
        api_answer_error(request, &err);
        return;
    }
    const struct machine_pull what = {.reference = json_text(body, "reference"),
                                      .secret = secret,
                                      .logins = logins.data,
                                      .logins_length = logins.used,
                                      .mirror = json_text(body, "mirror"),
                                      .authority = json_text(body, "authority")};
    machine_pull_begin(service_of(request), request->project, &what, api_answer_begun,
                       api_begin(request, NULL));
}

void api_image_pull(struct request *request)
{
    api_body_read(request, "ImagePull", pull);
}

/* It is at the node that has carried the operation out.  True: it is answered. */
static bool is_elsewhere(struct request *request)
{
    struct store_status status;
    struct error err = {0};
    uint64_t node = 0;
    store_status(request->api->options.store, &status);
    if (operation_node(request->api->options.operations, request->parameters[0], &node, &err) < 0) {
        api_answer_error(request, &err);
        return true;
    }
    bool is_others = node != 0 && node != status.node_id && !api_is_passed_on(request);
    if (is_others) {
        api_pass_on(request, node);
    }
    return is_others;
}

void api_image_pulled_get(struct request *request)
{
    struct error err = {0};
    int fd = -1;
    uint64_t size = 0;
    if (is_elsewhere(request)) {
        return;
    }
    if (machine_pulled_open(service_of(request), request->project, request->parameters[0],
                            request->parameters[1], &fd, &size, &err) < 0) {
        api_answer_error(request, &err);
    } else {
        api_blob_send(request, fd, size);
    }
}

void api_image_pulled_delete(struct request *request)
{
    if (!is_elsewhere(request)) {
        machine_pulled_delete(service_of(request), request->project, request->parameters[0],
                              api_answer_done, request);
    }
}

/* ---- Uploads ---- */

void api_image_blob_put(struct request *request)
{
    uint64_t most = request->api->options.image_bytes_max;
    api_blob_upload(request, most > 0 ? most : UPLOAD_DEFAULT, "the file",
                    request->api->options.replicas);
}
