/*
 * Root file systems of machines: from a tar archive to a read-only image.
 *
 * As root the archive is unpacked, with owners, and made into EROFS (mkfs.erofs); as an ordinary
 * user, who may not give files away, it becomes squashfs straight from the archive (sqfstar).  Both
 * are the same, byte for byte, for the same archive.  Blocks; any thread.
 */
#ifndef ENGINE_IMAGE_ROOTFS_H
#define ENGINE_IMAGE_ROOTFS_H

#include <stdbool.h>

struct error;

/*
 * Unpack an archive (tar, packed in any way that libarchive knows) below `folder`; nothing is
 * written outside of it, whatever names and links the archive has.  `kernel_only`: just what
 * kernels are found by, boot and lib/modules.  INVALID (no archive), FULL, OS.
 */
int rootfs_unpack(const char *archive, const char *folder, bool kernel_only, struct error *err);

/* Copy a folder's content over another one's, links as links. */
int rootfs_overlay(const char *from, const char *folder, struct error *err);

/* Append a folder to a tar archive made at `fd`; names begin at the folder. */
int rootfs_archive(const char *folder, int fd, struct error *err);

/* The folder as EROFS at `path`; UNSUPPORTED: there is no mkfs.erofs. */
int rootfs_make_erofs(const char *folder, const char *path, struct error *err);
/* The archive as squashfs; UNSUPPORTED: there is no sqfstar. */
int rootfs_make_squashfs(const char *archive, const char *path, struct error *err);

/* The newest kernel in an unpacked root, boot/vmlinuz-VERSION, and its lib/modules/VERSION; the
 * caller's.  NOT_FOUND. */
int rootfs_find_kernel(const char *folder, char **ret_kernel, char **ret_modules,
                       struct error *err);

#endif
