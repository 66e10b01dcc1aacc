/* Inside surface/cli: what queues and streams share: flags as fields, and content. */
#ifndef SURFACE_CLI_PAYLOAD_H
#define SURFACE_CLI_PAYLOAD_H

#include "surface/cli/private.h"

struct payload_flag {
    const char *flag;
    const char *field;
    enum { FLAG_DURATION, FLAG_COUNT, FLAG_SIZE, FLAG_RATE, FLAG_TEXT } kind;
};

/* The flags that are given, as fields of `ret_object`.  INVALID. */
int payload_take_flags(const struct arguments *arguments, const struct payload_flag *flags,
                       size_t count, json_t *ret_object, struct error *err);

/* --data, --file or, for the word "-", standard input; INVALID when there is none or more. */
int payload_read(const struct arguments *arguments, struct buffer *ret_bytes, struct error *err);

/* A message or record with this content, and its --content-type and --attribute. */
int payload_make(const struct arguments *arguments, const void *bytes, size_t length,
                 json_t **ret_object, struct error *err);

/* What is sent: messages to a queue, records to a stream. */
struct payload_batch {
    const char *target;
    const char *member; /* of the body and of the answer: "messages" */
    const char *done;   /* for people: "messages were accepted" */
    size_t count_max;   /* in one request, as the next */
    size_t bytes_max;
    const struct payload_flag *flags; /* of each of them */
    size_t flag_count;
};

/* One, or with --lines one per line of the input, in as many requests as it takes; what is answered
 * of each is added to ret_accepted, also when a later one is refused. */
int payload_send_all(const struct arguments *arguments, const struct payload_batch *batch,
                     const struct buffer *input, json_t *ret_accepted, struct error *err);

/* Content as one line for people: text as far as it fits, or "1234 bytes". */
void payload_describe(json_t *message);

#endif
