/* Inside service/machine: the volumes of machines.  See volumes.c. */
#ifndef SERVICE_MACHINE_VOLUMES_H
#define SERVICE_MACHINE_VOLUMES_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

struct error;
struct json_writer;
struct machine;
struct machine_service;
struct store_command;

/* Volumes ask this service about machines from now on. */
void machine_volumes_open(struct machine_service *service);

/* ---- A start ---- */

/* Something is being done to one: the machine waits, and is stepped again. */
bool machine_volumes_are_busy(const struct machine *machine);
/* Has it any, and how many? */
bool machine_volumes_are_there(const struct machine *machine);
size_t machine_volumes_count(const struct machine *machine);
/* Can all be opened? */
int machine_volumes_check(const struct machine *machine, struct error *err);
/* For the kernel's command line: what its initrd mounts. */
void machine_volumes_add_words(const struct machine *machine, char *words, size_t size);
/* The VMM is there.  machine->volumes_on when they are. */
void machine_volumes_plug(struct machine *machine);
/* The agent is up. */
void machine_volumes_mount(struct machine *machine);
/* It does not stand still any more: what is to be done to its volumes goes on. */
void machine_volumes_settled(struct machine *machine);
/* The VMM is not there any more. */
void machine_volumes_gone(struct machine *machine);

/* ---- Rows ---- */

/* Those of a machine that is being made: [NAME[:PATH][:ro]...]. */
int machine_volumes_add(struct machine_service *service, const char *project, const char *name,
                        const char *driver, const json_t *texts, struct store_command *command,
                        struct error *err);
/* It is being deleted. */
void machine_volumes_add_release(struct machine *machine, struct store_command *command);
/* Member "volumes", if it has any. */
void machine_volumes_write(struct machine_service *service, const char *project, const char *name,
                           struct json_writer *writer);

#endif
