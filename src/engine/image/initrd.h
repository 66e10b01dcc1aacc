/*
 * What Linux boots from: kernels as QEMU enters them, and initial root file systems.
 *
 * An initrd is cpio archives behind each other (Documentation/driver-api/early-userspace/
 * buffer-format.rst): one with the modules of a kernel, made once, and one with the agent, which is
 * of the release that starts the machine.  Any thread; nothing is kept.
 */
#ifndef ENGINE_IMAGE_INITRD_H
#define ENGINE_IMAGE_INITRD_H

#include <stdbool.h>
#include <stddef.h>

struct buffer;
struct error;

/*
 * The kernel as an ELF file, which is entered in less time than its bzImage unpacks itself
 * (Documentation/x86/boot.rst: setup header, payload_offset, payload_length).  An ELF file is taken
 * as it is.  INVALID: neither of both, or packed in a way that libarchive does not know.
 */
int kernel_unpack(const void *bytes, size_t length, struct buffer *out, struct error *err);

/* "6.1.0-56-cloud-amd64" of a bzImage's header, or "". */
void kernel_version(const void *bytes, size_t length, char *ret_version, size_t size);

/*
 * Append an archive with the kernel's modules that a machine needs (virtio, erofs, overlay and the
 * like), in the order in which the agent loads them (/etc/blixard/modules); those that the kernel
 * has built in are not there, and not missed.  `folder`: lib/modules/VERSION.
 */
int initrd_add_modules(struct buffer *out, const char *folder, struct error *err);

/* Append an archive with the agent as /init. */
int initrd_add_agent(struct buffer *out, const void *agent, size_t length, struct error *err);

/* Append an archive with what the agent is to run instead of an init (/etc/blixard/entrypoint): the
 * bytes of agent_entrypoint_encode(). */
int initrd_add_entrypoint(struct buffer *out, const void *bytes, size_t length, struct error *err);

#endif
