/* Quotas of projects. */
#include "service/quota/quota.h"

#include "surface/api/parts.h"

static struct quota_service *service_of(const struct request *request)
{
    return request->api->options.quotas;
}

void api_quota_list(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    int r = quota_write_list(service_of(request), &body, &err);
    api_answer_written(request, r, &body, &err);
}

void api_quota_get(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    int r = quota_write(service_of(request), request->parameters[0], &body, &err);
    api_answer_written(request, r, &body, &err);
}

static void on_set(const struct error *error, uint64_t index, void *context)
{
    (void)index;
    if (error != NULL) {
        api_answer_error(context, error);
    } else {
        api_quota_get(context);
    }
}

static void set(struct request *request, const json_t *body)
{
    quota_set(service_of(request), request->parameters[0], body, on_set, request);
}

void api_quota_set(struct request *request)
{
    api_body_read(request, "QuotaSet", set);
}

static void update(struct request *request, const json_t *body)
{
    quota_update(service_of(request), request->parameters[0], body, on_set, request);
}

void api_quota_update(struct request *request)
{
    api_body_read(request, "QuotaSet", update);
}

void api_quota_delete(struct request *request)
{
    quota_delete(service_of(request), request->parameters[0], api_answer_done, request);
}
