/*
 * Templates: a machine that has booted, kept on disk so that others start from it in some ten
 * milliseconds, with its memory shared until they write.
 *
 *   FOLDER/TEMPLATE_STATE    devices and registers, about 80 KB
 *   FOLDER/TEMPLATE_MEMORY   its memory as one sparse file, which each clone maps privately
 *
 * Making one, of a machine whose agent is up and which is to go on:
 *   1. hypervisor_save(vm, fd of a new file, false, ...): it stands still from here on;
 *   2. copy its writable disks: no later, or memory and disks do not fit;
 *   3. hypervisor_resume(vm, ...);
 *   4. template_stamp() reads that file into a VMM which never runs, whose memory is
 *      TEMPLATE_MEMORY, and has it write TEMPLATE_STATE.  The file can go then.
 * One that is made for this alone takes the short way: it is started with memory =
 * HYPERVISOR_MEMORY_SHARED and memory_file = FOLDER/TEMPLATE_MEMORY (an empty file: see
 * template_make_memory()), and once its agent is up: hypervisor_save(vm, fd of
 * FOLDER/TEMPLATE_STATE, true, ...), hypervisor_kill().  Its memory must not be written afterwards.
 *
 * Firecracker and Cloud Hypervisor have no such machine: of theirs template_stamp() makes the files
 * without a VMM, Cloud Hypervisor's without TEMPLATE_MEMORY: its state has all (memory =
 * HYPERVISOR_MEMORY_OWN then).
 *
 * Starting a clone: the spec of the one it was made of (the same number of disks and NICs in the
 * same order, the same CPUs and memory, the same driver in the same version), with
 *   .folder       its own           .disks  its own: copies, or template_make_overlay()
 *   .memory       HYPERVISOR_MEMORY_COPY, .memory_file FOLDER/TEMPLATE_MEMORY
 *   .is_incoming  true,               .state_file FOLDER/TEMPLATE_STATE
 * by hypervisor_start(); on_started comes when it runs on.  The guest does not know: open its agent
 * in on_started, no sooner, and when it is up call agent_renew(), which gives it a name, addresses,
 * a clock and random numbers of its own.  Its session begins anew; what ran for the old one's is
 * killed.  The files of a template may be hard links, and be unlinked while clones run.
 *
 * A clone's VMM cannot punch holes in any file: what its guest gives back (balloon, free pages)
 * stays allocated, as the file is its siblings' as well, and disks are not trimmed on the host.
 *
 * Where the VMM is QEMU before 8.2, it opens the memory's file for writing, though it never writes:
 * one that a guest has taken over could change the memory of its siblings, and of nobody else.
 */
#ifndef ENGINE_HYPERVISOR_TEMPLATE_H
#define ENGINE_HYPERVISOR_TEMPLATE_H

#include <stdint.h>

#include "engine/hypervisor/hypervisor.h"

#define TEMPLATE_STATE  "state"
#define TEMPLATE_MEMORY "memory"

/*
 * FOLDER/TEMPLATE_MEMORY, empty and of that size; as root it may be written by the VMM of any
 * user that it is shown to: the folder above is to keep others out.  EXISTS, FULL, OS.
 */
int template_make_memory(const char *folder, uint64_t memory_bytes, struct error *err);

/*
 * Make FOLDER's two files of a whole state (hypervisor_save() with memory), read from `fd` (lent:
 * it is duplicated).  `spec`: as the machine was started, with disks that are to go with the
 * template; its folder, memory, and published ports do not matter.  Main loop; `done` once, later;
 * the files are on disk then.  On failure whatever was made is the caller's to remove.  It cannot
 * be broken off: an owner that ends waits for `done`.
 */
void template_stamp(struct hypervisor *hypervisor, const struct hypervisor_spec *spec, int fd,
                    const char *folder, hypervisor_done done, void *context);

/* Of a machine whose memory is of huge pages or in several NUMA nodes the state stays whole, and
 * there is no memory's file: clones of it have memory of their own, of the same kind. */

/* Would the template in FOLDER be read, with these disks?  By a VMM that never runs; its place is
 * FOLDER/stamping.  Where there is none: is it whole?  As template_stamp(). */
void template_try(struct hypervisor *hypervisor, const struct hypervisor_spec *spec,
                  const char *folder, hypervisor_done done, void *context);

/* What a daemon that ended in the middle of these has left in FOLDER: the VMM is ended, and its
 * place goes.  Blocks for a moment. */
void template_sweep(const char *folder);

/*
 * A new qcow2 file of `size_bytes` (a multiple of 512) at `path`, over another one ("raw" or
 * "qcow2", not larger), which is not to be written any more; for a struct hypervisor_disk with
 * format "qcow2" and `base`.  Takes 256 KiB, and the space of what is written.  EXISTS, FULL, OS.
 */
int template_make_overlay(const char *path, const char *base_name, const char *base_format,
                          uint64_t size_bytes, struct error *err);
/* What it is laid over has moved: the same, under another name.  CORRUPT: it is no such file. */
int template_rebase(const char *path, const char *base_name, struct error *err);

#endif
