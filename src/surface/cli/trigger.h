/* Triggers as files and flags say them; private to this room. */
#ifndef SURFACE_CLI_TRIGGER_H
#define SURFACE_CLI_TRIGGER_H

#include "surface/cli/private.h"

/* "key: value" lines of a trigger into a TriggerSpec.  INVALID names the key. */
int trigger_read_document(const json_t *document, json_t *spec, struct error *err);

/* What the flag --NAME of a trigger says, into the field of its own name.  INVALID. */
int trigger_take_flag(json_t *spec, const char *name, const char *value, struct error *err);

/* Of kind http: what the flags of a route say, into its settings; *ret_any: there are some. */
int route_take_flags(const struct arguments *arguments, json_t *settings, bool *ret_any,
                     struct error *err);

/* Could the triggers of a project (NAME: {...}) be made, once its function is there? */
int trigger_check_deploy(const json_t *triggers, const char *function, struct error *err);
/* Make or change them. */
int trigger_deploy(const json_t *triggers, const char *function, struct error *err);

#endif
