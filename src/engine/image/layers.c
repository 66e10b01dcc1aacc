/* Layers laid over each other: see layers.h. */
#include "engine/image/layers.h"

#include <archive.h>
#include <archive_entry.h>
#include <locale.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/check.h"
#include "base/error.h"
#include "base/map.h"
#include "base/memory.h"
#include "base/text.h"

enum {
    PIECE_BYTES = 1 << 20,
    PATH_BYTES_MAX = 4096,
    NAME_BYTES_MAX = 255,
    DEPTH_MAX = 256,
    LINKS_MAX = 40, /* symbolic links on the way to one name, as Linux has it */
};

static const char whiteout[] = ".wh.";
static const char opaque[] = ".wh..wh..opq";

/* What names stand for.  Several may stand for one: hard links. */
struct inode {
    struct archive_entry *entry;
    size_t names;
    size_t layer;
    uint64_t index;    /* of the entry in its layer: where the content is */
    const char *first; /* while it is written: the name that has the content */
};

struct node {
    struct inode *inode;
    struct node *parent; /* NULL: the root */
    struct map children;
    size_t layer; /* that it was named by last */
};

struct layers {
    struct node *root;
    char *paths[LAYERS_MAX];
    size_t count;
    size_t names;
    size_t left_out;
    uint64_t bytes;
    locale_t locale; /* names are UTF-8, wherever this runs */
};

/* ---- Nodes ---- */

static void inode_unref(struct inode *inode)
{
    if (--inode->names == 0) {
        archive_entry_free(inode->entry);
        free(inode);
    }
}

static struct inode *inode_new(struct archive_entry *owned_entry, size_t layer, uint64_t index)
{
    struct inode *inode = NEW(struct inode);
    *inode = (struct inode){.entry = owned_entry, .names = 1, .layer = layer, .index = index};
    return inode;
}

static bool is_folder(const struct node *node)
{
    return archive_entry_filetype(node->inode->entry) == AE_IFDIR;
}

static void free_child(const char *key, void *value, void *context);

/* Depth is bounded by DEPTH_MAX. */
static void node_free(struct layers *layers, struct node *node)
{
    map_each(&node->children, free_child, layers);
    map_done(&node->children);
    inode_unref(node->inode);
    layers->names--;
    free(node);
}

static void free_child(const char *key, void *value, void *context)
{
    (void)key;
    node_free(context, value);
}

static struct archive_entry *plain_folder(void)
{
    struct archive_entry *entry = archive_entry_new();
    archive_entry_set_mode(entry, S_IFDIR | 0755);
    archive_entry_set_uid(entry, 0);
    archive_entry_set_gid(entry, 0);
    archive_entry_set_mtime(entry, 0, 0);
    return entry;
}

static struct node *add_child(struct layers *layers, struct node *parent, const char *name,
                              struct inode *owned_inode)
{
    struct node *node = NEW(struct node);
    *node = (struct node){.inode = owned_inode, .parent = parent, .layer = layers->count};
    layers->names++;
    if (parent != NULL) {
        struct node *before = map_set(&parent->children, name, node);
        CHECK(before == NULL);
    }
    return node;
}

static void remove_child(struct layers *layers, struct node *parent, const char *name)
{
    struct node *node = map_remove(&parent->children, name);
    if (node != NULL) {
        node_free(layers, node);
    }
}

struct layers *layers_new(void)
{
    struct layers *layers = NEW(struct layers);
    layers->locale = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
    layers->root = add_child(layers, NULL, "", inode_new(plain_folder(), 0, 0));
    return layers;
}

void layers_free(struct layers *layers)
{
    if (layers == NULL) {
        return;
    }
    node_free(layers, layers->root);
    CHECK(layers->names == 0);
    for (size_t i = 0; i < layers->count; i++) {
        free(layers->paths[i]);
    }
    if (layers->locale != (locale_t)0) {
        freelocale(layers->locale);
    }
    free(layers);
}

size_t layers_left_out(const struct layers *layers)
{
    return layers->left_out;
}

/* ---- Finding the folder of a name ---- */

/* A path that is being walked: what is left of it, behind the links that were followed. */
struct walk {
    struct node *at;
    char *rest; /* the walk's */
    unsigned depth;
    unsigned links;
    bool makes;
};

static struct text next_word(const char *path)
{
    const char *begin = path + strspn(path, "/");
    return text_of(begin, strcspn(begin, "/"));
}

/* Names with "..", as those of a link, do not lead above the root: that is what a chroot does. */
static int step_into(struct layers *layers, struct walk *walk, const char *name, const char *rest,
                     struct error *err)
{
    struct node *child = map_get(&walk->at->children, name);
    if (strcmp(name, "..") == 0 || strcmp(name, ".") == 0) {
        bool is_up = name[1] == '.' && walk->at->parent != NULL;
        walk->at = is_up ? walk->at->parent : walk->at;
        walk->depth -= is_up ? 1 : 0;
        return 0;
    }
    if (child == NULL && !walk->makes) {
        return error_set(err, ERROR_INVALID, "there is no %.200s", name);
    }
    if (child == NULL) {
        child =
            add_child(layers, walk->at, name, inode_new(plain_folder(), layers->count, UINT64_MAX));
    }
    if (archive_entry_filetype(child->inode->entry) == AE_IFLNK) {
        const char *target = archive_entry_symlink(child->inode->entry);
        if (++walk->links > LINKS_MAX || target == NULL ||
            strlen(target) + strlen(rest) + 2 > PATH_BYTES_MAX) {
            return error_set(err, ERROR_INVALID, "%.200s: too many symbolic links", name);
        }
        char *path = memory_format("%s/%s", target, rest);
        free(walk->rest);
        walk->rest = path;
        if (path[0] == '/') {
            walk->at = layers->root;
            walk->depth = 0;
        }
        return 1;
    }
    if (!is_folder(child)) {
        return error_set(err, ERROR_INVALID, "%.200s is no folder", name);
    }
    walk->at = child;
    if (++walk->depth > DEPTH_MAX) {
        return error_set(err, ERROR_INVALID, "more than %d folders in each other", DEPTH_MAX);
    }
    return layers->names <= LAYERS_NAMES_MAX
        ? 0
        : error_set(err, ERROR_TOO_LARGE, "more than %d names", LAYERS_NAMES_MAX);
}

/* Go to a folder by its path from the root, by way of the symbolic links that the image has.
 * `makes`: what is missing is made. */
static int walk_to(struct layers *layers, const char *path, bool makes, struct node **ret_node,
                   struct error *err)
{
    struct walk walk = {
        .at = layers->root, .rest = memory_copy_string(path), .depth = 0, .makes = makes};
    size_t at = 0;
    int r = 0;
    while (r >= 0) {
        char name[NAME_BYTES_MAX + 1];
        struct text word = next_word(walk.rest + at);
        if (word.length == 0) {
            break;
        }
        if (word.length > NAME_BYTES_MAX) {
            r = error_set(err, ERROR_INVALID, "a name of more than %d bytes", NAME_BYTES_MAX);
            break;
        }
        snprintf(name, sizeof(name), "%.*s", (int)word.length, word.data);
        size_t after = (size_t)(word.data - walk.rest) + word.length;
        r = step_into(layers, &walk, name, walk.rest + after, err);
        at = r > 0 ? 0 : after;
    }
    free(walk.rest);
    *ret_node = walk.at;
    return r < 0 ? r : 0;
}

/* A name of an archive: the folder it is in, and the last word.  "": the root itself. */
struct place {
    struct node *folder;
    char name[NAME_BYTES_MAX + 1];
};

static bool has_dots(const char *path)
{
    for (struct text word = next_word(path); word.length > 0;
         word = next_word(word.data + word.length)) {
        if (text_equal(word, "..")) {
            return true;
        }
    }
    return false;
}

static int find_place(struct layers *layers, const char *path, bool makes, struct place *ret_place,
                      struct error *err)
{
    size_t end = strlen(path);
    if (end > PATH_BYTES_MAX || has_dots(path)) {
        return error_set(err, ERROR_INVALID, "the name %.100s leads out of the root", path);
    }
    while (end > 0 &&
           (path[end - 1] == '/' || (path[end - 1] == '.' && (end == 1 || path[end - 2] == '/')))) {
        end--;
    }
    size_t begin = end;
    while (begin > 0 && path[begin - 1] != '/') {
        begin--;
    }
    if (end - begin > NAME_BYTES_MAX) {
        return error_set(err, ERROR_INVALID, "a name of more than %d bytes", NAME_BYTES_MAX);
    }
    snprintf(ret_place->name, sizeof(ret_place->name), "%.*s", (int)(end - begin), path + begin);
    MEMORY_OWNED char *above = memory_copy_text(path, begin);
    return walk_to(layers, above, makes, &ret_place->folder, err);
}

/* ---- What a layer takes away ---- */

struct hiding {
    struct layers *layers;
    const char **names;
    size_t count;
    size_t size;
};

static void note_name(const char *key, void *value, void *context)
{
    struct hiding *hiding = context;
    (void)value;
    if (hiding->count == hiding->size) {
        hiding->size = hiding->size * 2 + 16;
        hiding->names = memory_resize(hiding->names, hiding->size * sizeof(*hiding->names));
    }
    hiding->names[hiding->count++] = key;
}

static struct hiding names_of(struct layers *layers, const struct node *folder)
{
    struct hiding hiding = {.layers = layers};
    map_each(&folder->children, note_name, &hiding);
    return hiding;
}

/* All in it that layers below have; what this layer has named stays, wherever in the archive the
 * removal stands. */
static void hide_content(struct layers *layers, struct node *folder)
{
    struct hiding hiding = names_of(layers, folder);
    for (size_t i = 0; i < hiding.count; i++) {
        struct node *child = map_get(&folder->children, hiding.names[i]);
        if (child->layer < layers->count) {
            remove_child(layers, folder, hiding.names[i]);
        } else {
            hide_content(layers, child);
        }
    }
    free(hiding.names);
}

static void hide(struct layers *layers, const struct place *place)
{
    if (strcmp(place->name, opaque) == 0) {
        hide_content(layers, place->folder);
        return;
    }
    const char *name = place->name + sizeof(whiteout) - 1;
    struct node *child = map_get(&place->folder->children, name);
    if (child != NULL && child->layer < layers->count) {
        remove_child(layers, place->folder, name);
    } else if (child != NULL) {
        hide_content(layers, child);
    }
}

/* ---- What a layer adds ---- */

/* Of the extended attributes those that mean something in a guest; an overlay's own would be
 * obeyed by the guest's overlay. */
static void keep_attributes(struct archive_entry *entry)
{
    const char *name = NULL;
    const void *value = NULL;
    size_t size = 0;
    struct archive_entry *kept = archive_entry_new();
    archive_entry_xattr_reset(entry);
    while (archive_entry_xattr_next(entry, &name, &value, &size) == ARCHIVE_OK) {
        if (strcmp(name, "security.capability") == 0 || text_starts_with(name, "user.")) {
            archive_entry_xattr_add_entry(kept, name, value, size);
        }
    }
    archive_entry_xattr_clear(entry);
    archive_entry_xattr_reset(kept);
    while (archive_entry_xattr_next(kept, &name, &value, &size) == ARCHIVE_OK) {
        archive_entry_xattr_add_entry(entry, name, value, size);
    }
    archive_entry_free(kept);
    archive_entry_acl_clear(entry);
}

/* What differs from machine to machine, and is no part of an image. */
static struct archive_entry *copy_entry(struct archive_entry *entry)
{
    struct archive_entry *copy = archive_entry_clone(entry);
    keep_attributes(copy);
    archive_entry_unset_atime(copy);
    archive_entry_unset_ctime(copy);
    archive_entry_unset_birthtime(copy);
    archive_entry_sparse_clear(copy);
    archive_entry_set_uname(copy, NULL);
    archive_entry_set_gname(copy, NULL);
    archive_entry_set_fflags(copy, 0, 0);
    return copy;
}

static void replace_inode(struct node *node, struct inode *owned_inode, size_t layer)
{
    inode_unref(node->inode);
    node->inode = owned_inode;
    node->layer = layer;
}

static void set(struct layers *layers, const struct place *place, struct inode *owned_inode)
{
    struct node *there =
        place->name[0] == '\0' ? layers->root : map_get(&place->folder->children, place->name);
    bool is_new_folder = archive_entry_filetype(owned_inode->entry) == AE_IFDIR;
    if (there != NULL && is_new_folder && is_folder(there)) {
        replace_inode(there, owned_inode, layers->count);
    } else if (there == layers->root) {
        inode_unref(owned_inode); /* the root is a folder, whatever it is called */
    } else {
        remove_child(layers, place->folder, place->name);
        add_child(layers, place->folder, place->name, owned_inode);
    }
}

static int link_to(struct layers *layers, const struct place *place, const char *target,
                   struct error *err)
{
    struct place other;
    int r = find_place(layers, target, false, &other, err);
    const struct node *node = r < 0 ? NULL : map_get(&other.folder->children, other.name);
    if (node == NULL || is_folder(node) || place->name[0] == '\0') {
        return error_set(err, ERROR_INVALID, "a hard link to %.200s, which is no file of it",
                         target);
    }
    if (other.folder == place->folder && strcmp(other.name, place->name) == 0) {
        return 0;
    }
    node->inode->names++;
    set(layers, place, node->inode);
    return 0;
}

static int add_entry(struct layers *layers, struct archive_entry *entry, uint64_t index,
                     struct error *err)
{
    struct place place;
    const char *path = archive_entry_pathname(entry);
    const char *target = archive_entry_hardlink(entry);
    __LA_MODE_T kind = archive_entry_filetype(entry);
    int r = path == NULL ? error_set(err, ERROR_INVALID, "a name that is no UTF-8")
                         : find_place(layers, path, true, &place, err);
    if (r < 0) {
        return r;
    }
    if (text_starts_with(place.name, whiteout)) {
        hide(layers, &place);
        return 0;
    }
    if (target != NULL) {
        return link_to(layers, &place, target, err);
    }
    bool is_link = kind == AE_IFLNK && archive_entry_symlink(entry) != NULL;
    if (kind != AE_IFREG && kind != AE_IFDIR && kind != AE_IFIFO && !is_link) {
        layers->left_out++;
        return 0;
    }
    la_int64_t size = kind == AE_IFREG ? archive_entry_size(entry) : 0;
    if (size < 0 || (uint64_t)size > LAYERS_BYTES_MAX - layers->bytes) {
        return error_set(err, ERROR_TOO_LARGE, "its files have more than %llu bytes",
                         (unsigned long long)LAYERS_BYTES_MAX);
    }
    layers->bytes += (uint64_t)size;
    set(layers, &place, inode_new(copy_entry(entry), layers->count, index));
    return layers->names <= LAYERS_NAMES_MAX
        ? 0
        : error_set(err, ERROR_TOO_LARGE, "more than %d names", LAYERS_NAMES_MAX);
}

/* ---- Reading an archive ---- */

static struct archive *open_layer(const char *path, struct error *err)
{
    struct archive *archive = archive_read_new();
    archive_read_support_filter_gzip(archive);
    archive_read_support_filter_zstd(archive);
    archive_read_support_filter_xz(archive);
    archive_read_support_filter_bzip2(archive);
    archive_read_support_format_tar(archive);
    archive_read_support_format_empty(archive);
    if (archive_read_open_filename(archive, path, PIECE_BYTES) != ARCHIVE_OK) {
        error_set(err, ERROR_INVALID, "%.300s", archive_error_string(archive));
        archive_read_free(archive);
        return NULL;
    }
    return archive;
}

/* 1: an entry, 0: the end. */
static int next_entry(struct archive *archive, struct archive_entry **ret_entry, struct error *err)
{
    int r = archive_read_next_header(archive, ret_entry);
    if (r == ARCHIVE_OK || r == ARCHIVE_WARN) {
        return 1;
    }
    return r == ARCHIVE_EOF ? 0
                            : error_set(err, ERROR_INVALID, "it is no good archive: %.300s",
                                        archive_error_string(archive));
}

static int add_all(struct layers *layers, const char *path, struct error *err)
{
    struct archive_entry *entry = NULL;
    struct archive *archive = open_layer(path, err);
    if (archive == NULL) {
        return -(int)err->kind;
    }
    uint64_t index = 0;
    int r = next_entry(archive, &entry, err);
    while (r > 0) {
        r = add_entry(layers, entry, index++, err);
        r = r < 0 ? r : next_entry(archive, &entry, err);
    }
    archive_read_free(archive);
    return r;
}

int layers_add(struct layers *layers, const char *path, struct error *err)
{
    if (layers->count == LAYERS_MAX) {
        return error_set(err, ERROR_TOO_LARGE, "more than %d layers", LAYERS_MAX);
    }
    locale_t before = uselocale(layers->locale);
    int r = add_all(layers, path, err);
    uselocale(before);
    layers->paths[layers->count++] = memory_copy_string(path);
    return r < 0 ? error_wrap(err, "layer %zu", layers->count) : 0;
}

int layers_make_folder(struct layers *layers, const char *path, struct error *err)
{
    struct node *there = NULL;
    if (strlen(path) > PATH_BYTES_MAX || has_dots(path)) {
        return error_set(err, ERROR_INVALID, "%.200s is no folder of an image", path);
    }
    locale_t before = uselocale(layers->locale);
    int r = walk_to(layers, path, true, &there, err);
    uselocale(before);
    return r < 0 ? error_wrap(err, "%.200s", path) : 0;
}

/* ---- Writing ---- */

struct name {
    char *path;
    struct inode *inode;
};

struct writing {
    struct layers *layers;
    struct archive *out;
    struct name *names; /* of files: the first of each has the content */
    size_t count;
    size_t size;
    struct error *err;
};

static int fail(struct writing *writing, const char *path)
{
    const char *text = archive_error_string(writing->out);
    return error_set(writing->err, ERROR_OS, "writing %.200s: %.200s", path,
                     text != NULL ? text : "it cannot be written");
}

static int write_header(struct writing *writing, struct archive_entry *entry, const char *path)
{
    archive_entry_set_pathname(entry, path);
    return archive_write_header(writing->out, entry) < ARCHIVE_WARN ? fail(writing, path) : 0;
}

static void note_file(struct writing *writing, const char *path, struct inode *inode)
{
    if (writing->count == writing->size) {
        writing->size = writing->size * 2 + 1024;
        writing->names = memory_resize(writing->names, writing->size * sizeof(*writing->names));
    }
    writing->names[writing->count++] = (struct name){memory_copy_string(path), inode};
}

static int compare_texts(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Folders, links and pipes at once; files are noted.  A link has its own entry for each name: what
 * it costs is nothing.  Depth is bounded by DEPTH_MAX. */
static int write_below(struct writing *writing, const struct node *folder, const char *above)
{
    struct hiding names = names_of(writing->layers, folder);
    int r = 0;
    if (names.count > 0) {
        qsort(names.names, names.count, sizeof(*names.names), compare_texts);
    }
    for (size_t i = 0; i < names.count && r == 0; i++) {
        const struct node *child = map_get(&folder->children, names.names[i]);
        MEMORY_OWNED char *path = memory_format("%s/%s", above, names.names[i]);
        if (archive_entry_filetype(child->inode->entry) == AE_IFREG) {
            note_file(writing, path, child->inode);
            continue;
        }
        r = write_header(writing, child->inode->entry, path);
        if (r == 0 && is_folder(child)) {
            r = write_below(writing, child, path);
        }
    }
    free(names.names);
    return r;
}

/* By layer, then by place in it, then by name. */
static int compare_names(const void *a, const void *b)
{
    const struct name *one = a;
    const struct name *other = b;
    if (one->inode->layer != other->inode->layer) {
        return one->inode->layer < other->inode->layer ? -1 : 1;
    }
    if (one->inode->index != other->inode->index) {
        return one->inode->index < other->inode->index ? -1 : 1;
    }
    return strcmp(one->path, other->path);
}

static int copy_content(struct writing *writing, struct archive *from, const char *path,
                        uint8_t *piece)
{
    la_ssize_t got = archive_read_data(from, piece, PIECE_BYTES);
    while (got > 0) {
        if (archive_write_data(writing->out, piece, (size_t)got) != got) {
            return fail(writing, path);
        }
        got = archive_read_data(from, piece, PIECE_BYTES);
    }
    return got == 0 ? 0
                    : error_set(writing->err, ERROR_INVALID, "%.200s: %.200s", path,
                                archive_error_string(from));
}

/* The files whose content is in this layer: names[*at] on, in the layer's own order. */
static int write_layer(struct writing *writing, size_t layer, size_t *at)
{
    struct archive_entry *entry = NULL;
    struct archive *from = open_layer(writing->layers->paths[layer], writing->err);
    MEMORY_OWNED uint8_t *piece = memory_new(1, PIECE_BYTES);
    int r = from == NULL ? -(int)writing->err->kind : 0;
    for (uint64_t index = 0; r == 0 && *at < writing->count; index++) {
        struct name *name = &writing->names[*at];
        if (name->inode->layer != layer) {
            break;
        }
        r = next_entry(from, &entry, writing->err);
        if (r <= 0) {
            r = r < 0 ? r : error_set(writing->err, ERROR_CORRUPT, "the layer has changed");
            break;
        }
        r = 0;
        if (name->inode->index != index) {
            continue;
        }
        r = write_header(writing, name->inode->entry, name->path);
        r = r < 0 ? r : copy_content(writing, from, name->path, piece);
        name->inode->first = name->path;
        while (*at < writing->count && writing->names[*at].inode == name->inode) {
            (*at)++;
        }
    }
    archive_read_free(from);
    return r;
}

static int write_files(struct writing *writing)
{
    size_t at = 0;
    int r = 0;
    if (writing->count > 0) {
        qsort(writing->names, writing->count, sizeof(*writing->names), compare_names);
    }
    for (size_t layer = 0; layer < writing->layers->count && r == 0; layer++) {
        if (at < writing->count && writing->names[at].inode->layer == layer) {
            r = write_layer(writing, layer, &at);
        }
    }
    return r;
}

static int write_other_names(struct writing *writing)
{
    int r = 0;
    for (size_t i = 0; i < writing->count && r == 0; i++) {
        const struct name *name = &writing->names[i];
        if (name->inode->first != name->path) {
            struct archive_entry *entry = archive_entry_clone(name->inode->entry);
            archive_entry_set_hardlink(entry, name->inode->first);
            archive_entry_set_size(entry, 0);
            r = write_header(writing, entry, name->path);
            archive_entry_free(entry);
        }
    }
    return r;
}

static int write_all(struct writing *writing)
{
    int r = write_header(writing, writing->layers->root->inode->entry, ".");
    r = r < 0 ? r : write_below(writing, writing->layers->root, ".");
    r = r < 0 ? r : write_files(writing);
    return r < 0 ? r : write_other_names(writing);
}

int layers_write(struct layers *layers, int fd, struct error *err)
{
    struct writing writing = {.layers = layers, .out = archive_write_new(), .err = err};
    locale_t before = uselocale(layers->locale);
    archive_write_set_format_pax_restricted(writing.out);
    int r = archive_write_open_fd(writing.out, fd) == ARCHIVE_OK ? write_all(&writing)
                                                                 : fail(&writing, "an archive");
    if (archive_write_close(writing.out) != ARCHIVE_OK && r == 0) {
        r = fail(&writing, "an archive");
    }
    archive_write_free(writing.out);
    uselocale(before);
    for (size_t i = 0; i < writing.count; i++) {
        free(writing.names[i].path);
    }
    free(writing.names);
    return r;
}
