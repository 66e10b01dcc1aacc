/* What engine.c and host.c share. */
#ifndef ENGINE_H
#define ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quickjs.h"

/* The bytes of a string, an ArrayBuffer or a view of one; false: an exception.  *ret_text is to be
 * freed with JS_FreeCString(); it is NULL when the bytes are the value's own. */
bool bytes_of(JSContext *js, JSValueConst value, const uint8_t **ret_bytes, size_t *ret_length,
              const char **ret_text);

/* host.c: what fetch() of fetch.js is made of, into its natives; and the module "blixard". */
void add_fetch(JSContext *js, JSValueConst native);
JSModuleDef *load_host(JSContext *js, const char *name);

#endif
