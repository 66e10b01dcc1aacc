#include <string.h>

#include "base/json.h"
#include "base/text.h"

#include "service/cluster/parts.h"

bool message_take_id(const json_t *object, const char *key, uint64_t *ret_id)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text != NULL && text_parse_u64(text_of(text, strlen(text)), ret_id) && *ret_id != 0 &&
        *ret_id <= INT64_MAX;
}

bool message_take_u64(const json_t *object, const char *key, uint64_t *ret_value)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_integer(value) || json_integer_value(value) < 0) {
        return false;
    }
    *ret_value = (uint64_t)json_integer_value(value);
    return true;
}

bool message_copy(const json_t *object, const char *key, char *ret_text, size_t size)
{
    const char *text = json_string_value(json_object_get(object, key));
    if (text == NULL || strlen(text) >= size) {
        return false;
    }
    memcpy(ret_text, text, strlen(text) + 1);
    return true;
}

/* ---- Answers ---- */

struct reply {
    struct cluster_reply to;
    struct error error;
    struct buffer answer;
    bool has_answer;
};

static void send_reply(void *context)
{
    struct reply *reply = context;
    if (reply->error.kind != ERROR_NONE) {
        reply->to.done(&reply->error, NULL, reply->to.context);
    } else {
        reply->to.done(NULL, reply->has_answer ? &reply->answer : NULL, reply->to.context);
    }
    if (reply->answer.data != NULL) {
        explicit_bzero(reply->answer.data, reply->answer.used); /* tokens, keys */
    }
    buffer_done(&reply->answer);
    free(reply);
}

void reply_with(struct cluster *cluster, struct cluster_reply to, struct buffer *answer_or_null)
{
    struct reply *reply = NEW(struct reply);
    reply->to = to;
    if (answer_or_null != NULL) {
        reply->has_answer = true;
        reply->answer = *answer_or_null;
        *answer_or_null = (struct buffer){0};
    }
    loop_post(cluster->loop, send_reply, reply);
}

void reply_error(struct cluster *cluster, struct cluster_reply to, const struct error *error)
{
    struct reply *reply = NEW(struct reply);
    reply->to = to;
    reply->error = *error;
    loop_post(cluster->loop, send_reply, reply);
}
