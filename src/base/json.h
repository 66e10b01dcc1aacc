/*
 * JSON out: a writer that appends to a buffer, without a tree in between.  (JSON in is jansson,
 * called with JSON_REJECT_DUPLICATES; see json_read().)
 *
 * Commas and quotes are the writer's business.  Text that is not UTF-8 is written with U+FFFD in
 * place of each bad byte, so that the output is always valid (RFC 8259).
 */
#ifndef BASE_JSON_H
#define BASE_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer;
struct error;

struct json_writer {
    struct buffer *out;
    bool needs_comma;
};

static inline struct json_writer json_writer_to(struct buffer *out)
{
    return (struct json_writer){.out = out};
}

void json_write_begin_object(struct json_writer *writer);
void json_write_end_object(struct json_writer *writer);
void json_write_begin_array(struct json_writer *writer);
void json_write_end_array(struct json_writer *writer);
void json_write_key(struct json_writer *writer, const char *key);

/* NULL writes null. */
void json_write_string(struct json_writer *writer, const char *string);
/* NUL, and bytes that are no UTF-8, become U+FFFD. */
void json_write_text(struct json_writer *writer, const char *text, size_t length);
void json_write_u64(struct json_writer *writer, uint64_t value);
void json_write_i64(struct json_writer *writer, int64_t value);
void json_write_double(struct json_writer *writer, double value); /* finite, 6 significant digits */
void json_write_bool(struct json_writer *writer, bool value);
void json_write_null(struct json_writer *writer);

/* Text that is JSON already. */
void json_write_raw(struct json_writer *writer, const char *json, size_t length);

/* The members of a JSON object, into the one that is open. */
void json_write_members(struct json_writer *writer, const json_t *object);

/* key + value. */
void json_write_field_string(struct json_writer *writer, const char *key, const char *string);
void json_write_field_u64(struct json_writer *writer, const char *key, uint64_t value);
void json_write_field_double(struct json_writer *writer, const char *key, double value);
void json_write_field_bool(struct json_writer *writer, const char *key, bool value);

/* A time as RFC 3339 text; 0 writes null. */
void json_write_field_time_ms(struct json_writer *writer, const char *key, uint64_t real_ms);

/*
 * Parse a whole document, strictly (no duplicate keys, no trailing text, depth at most 64 by
 * jansson's own limit).  The caller ends *ret_value with json_decref().  Fails with INVALID,
 * naming line and column.
 */
int json_read(const void *bytes, size_t length, json_t **ret_value, struct error *err);

/* Are these attributes: a JSON object of texts, at most length_max bytes of it?  TOO_LARGE,
 * INVALID. */
int json_check_attributes(const char *text, size_t length_max, struct error *err);

/* A member of an object: "" when it is absent, or no text; lent as long as the object is. */
const char *json_text(const json_t *object, const char *key);
/* 0 when it is absent, no number, or below 0. */
uint64_t json_u64(const json_t *object, const char *key);
/* The member is there, or another one now; of 63 bits, as many as a number of jansson has. */
void json_set_u64(json_t *object, const char *key, uint64_t value);

/* json_decref() on scope exit. */
#define JSON_OWNED __attribute__((cleanup(json_decref_slot)))

static inline void json_decref_slot(json_t **slot)
{
    json_decref(*slot);
}

#endif
