/* Inside surface/cli: where images of machines are made before they are uploaded. */
#ifndef SURFACE_CLI_IMAGE_H
#define SURFACE_CLI_IMAGE_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

struct arguments;
struct buffer;
struct error;

/* Where things are made; removed at the end. */
struct workshop {
    char *folder;
    char *tree;    /* an unpacked root */
    char *archive; /* that it is of, or NULL */
};

int workshop_open(struct workshop *workshop, struct error *err);
void workshop_close(struct workshop *workshop);

/* On standard error: what takes its time. */
void workshop_say(const char *text);

/* Upload a kernel and (NULL: none) its modules; `image`, an ImageSet, names them then. */
int workshop_add_kernel(const struct workshop *workshop, const char *kernel, const char *modules,
                        json_t *image, struct error *err);
/* Make a file system of tree (root's) or archive (anybody's), and upload it. */
int workshop_add_root(const struct workshop *workshop, json_t *image, struct error *err);
/* Upload a file as that part of it; a root with what kind of file system it is. */
int workshop_upload(const char *path, const char *key, json_t *image, struct error *err);
int workshop_upload_root(const char *path, json_t *image, struct error *err);
/* The image is there under this name from now on. */
int workshop_name_image(const struct arguments *arguments, const char *name, const json_t *image,
                        struct error *err);

/* ---- image_login.c ---- */

/* Who asks that registry, by --username or --auth-file; without either both stay empty.  The name
 * is the caller's. */
int image_read_login(const struct arguments *arguments, const char *registry, char **ret_username,
                     struct buffer *ret_password, struct error *err);

/* ---- image_pull.c ---- */

struct image_store;
struct oci_image;
/* Have the node fetch it, with --credentials; its layers come into `store`. */
int image_pull_by_node(const struct arguments *arguments, struct image_store *store,
                       void (*on_layer)(size_t index, size_t count, uint64_t size_bytes,
                                        void *context),
                       struct oci_image *ret_oci, struct error *err);

/* ---- image_oci.c ---- */

/* image import --oci */
int image_import_oci(const struct arguments *arguments, struct workshop *workshop, json_t *image,
                     struct error *err);

/* ---- image_runner.c ---- */

/* image import --runner|--flake */
int image_import_runner(const struct arguments *arguments, const struct workshop *workshop,
                        json_t *image, struct error *err);

#endif
