/* Inside surface/cli: what queues and streams share: flags as fields, and content. */
#ifndef SURFACE_CLI_PAYLOAD_H
#define SURFACE_CLI_PAYLOAD_H

#include "surface/cli/private.h"

struct payload_flag {
    const char *flag;
    const char *field;
    enum { FLAG_DURATION, FLAG_COUNT, FLAG_SIZE, FLAG_TEXT } kind;
};

/* The flags that are given, as fields of `ret_object`.  INVALID. */
int payload_take_flags(const struct arguments *arguments, const struct payload_flag *flags,
                       size_t count, json_t *ret_object, struct error *err);

/* --data, --file or, for the word "-", standard input; INVALID when there is none or more. */
int payload_read(const struct arguments *arguments, struct buffer *ret_bytes, struct error *err);

/* A message or record with this content, and its --content-type and --attribute. */
int payload_make(const struct arguments *arguments, const void *bytes, size_t length,
                 json_t **ret_object, struct error *err);

/* Send a body; *ret_document may be NULL. */
int payload_send(const char *method, const char *target, const json_t *body, json_t **ret_document,
                 struct error *err);

/* "/v1/queues/NAME/rest" */
char *payload_target(const char *folder, const char *name, const char *rest);

/* Content as one line for people: text as far as it fits, or "1234 bytes". */
void payload_describe(json_t *message);

#endif
