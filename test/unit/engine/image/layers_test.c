/* Layers laid over each other: what stays, what goes, and that nothing leads out. */
#include "engine/image/layers.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/memory.h"

#include "test/lib/test.h"

/*
 * A layer is said in words: "a/" is a folder, "a=text" a file, "a>target" a symbolic link,
 * "a~target" a hard link, "a!" a device.
 */
static void add_word(struct archive *out, const char *word)
{
    size_t length = strcspn(word, "=>~!");
    MEMORY_OWNED char *path = memory_copy_text(word, length);
    const char *value = word[length] != '\0' ? word + length + 1 : "";
    struct archive_entry *entry = archive_entry_new();
    bool is_file = word[length] == '=';
    archive_entry_set_pathname(entry, path);
    archive_entry_set_mode(entry, (is_file ? S_IFREG : S_IFDIR) | 0755);
    archive_entry_set_size(entry, is_file ? (la_int64_t)strlen(value) : 0);
    if (word[length] == '>') {
        archive_entry_set_mode(entry, S_IFLNK | 0777);
        archive_entry_set_symlink(entry, value);
    } else if (word[length] == '~') {
        archive_entry_set_mode(entry, S_IFREG | 0644);
        archive_entry_set_hardlink(entry, value);
    } else if (word[length] == '!') {
        archive_entry_set_mode(entry, S_IFCHR | 0600);
        archive_entry_set_rdevmajor(entry, 1);
    }
    EXPECT(archive_write_header(out, entry) == ARCHIVE_OK);
    if (is_file) {
        EXPECT(archive_write_data(out, value, strlen(value)) == (la_ssize_t)strlen(value));
    }
    archive_entry_free(entry);
}

static char *write_layer(const char *const *words)
{
    static unsigned count;
    char *path = memory_format("%s/layer-%u.tar", test_folder(), count);
    struct archive *out = archive_write_new();
    archive_write_set_format_pax_restricted(out);
    if (count++ % 2 == 1) {
        archive_write_add_filter_gzip(out);
    }
    EXPECT(archive_write_open_filename(out, path) == ARCHIVE_OK);
    for (; *words != NULL; words++) {
        add_word(out, *words);
    }
    EXPECT(archive_write_close(out) == ARCHIVE_OK);
    archive_write_free(out);
    return path;
}

static int add(struct layers *layers, const char *const *words, struct error *err)
{
    MEMORY_OWNED char *path = write_layer(words);
    return layers_add(layers, path, err);
}
#define LAYER(layers, err, ...) add(layers, (const char *const[]){__VA_ARGS__, NULL}, err)

static void write_out(struct layers *layers, const char *path)
{
    struct error err = {0};
    FD_OWNED int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    EXPECT(fd >= 0 && layers_write(layers, fd, &err) == 0);
}

/* What came out, in the words of above, in its order. */
static char *written(struct layers *layers)
{
    struct archive_entry *entry = NULL;
    BUFFER_OWNED struct buffer text = {0};
    MEMORY_OWNED char *path = memory_format("%s/out.tar", test_folder());
    write_out(layers, path);
    struct archive *in = archive_read_new();
    archive_read_support_format_tar(in);
    EXPECT(archive_read_open_filename(in, path, 4096) == ARCHIVE_OK);
    while (archive_read_next_header(in, &entry) == ARCHIVE_OK) {
        char content[64] = "";
        const char *link = archive_entry_hardlink(entry);
        if (link != NULL) {
            buffer_append_format(&text, "%s~%s ", archive_entry_pathname(entry), link);
        } else if (archive_entry_filetype(entry) == AE_IFREG) {
            EXPECT(archive_read_data(in, content, sizeof(content) - 1) >= 0);
            buffer_append_format(&text, "%s=%s ", archive_entry_pathname(entry), content);
        } else if (archive_entry_filetype(entry) == AE_IFLNK) {
            buffer_append_format(&text, "%s>%s ", archive_entry_pathname(entry),
                                 archive_entry_symlink(entry));
        } else {
            buffer_append_format(&text, "%s ", archive_entry_pathname(entry));
        }
    }
    archive_read_free(in);
    return buffer_take(&text);
}

#define EXPECT_WRITTEN(layers, expected)           \
    do {                                           \
        MEMORY_OWNED char *text = written(layers); \
        EXPECT_STRING(text, expected);             \
    } while (0)

TEST(layers, upper_layers_replace_what_lower_ones_have)
{
    struct error err = {0};
    struct layers *layers = layers_new();
    EXPECT(LAYER(layers, &err, "b=1", "a/", "a/x=1", "c>b", "d=file") == 0);
    EXPECT(LAYER(layers, &err, "./a/y=2", "b=2", "c=now a file", "/d/", "d/e=3") == 0);
    EXPECT_WRITTEN(layers, "./ ./a/ ./d/ ./a/x=1 ./a/y=2 ./b=2 ./c=now a file ./d/e=3 ");
    layers_free(layers);
}

TEST(layers, whiteouts_remove_what_is_below_and_nothing_of_their_own_layer)
{
    struct error err = {0};
    struct layers *layers = layers_new();
    EXPECT(LAYER(layers, &err, "a/", "a/x=1", "a/y/", "a/y/z=1", "b=1", "o/", "o/1=1", "o/s/",
                 "o/s/t=1") == 0);
    EXPECT(LAYER(layers, &err, "a/.wh.x", "a/.wh.none", ".wh.b", "o/new=2", "o/.wh..wh..opq",
                 "o/s/", "b2=2", ".wh.b2") == 0);
    EXPECT_WRITTEN(layers, "./ ./a/ ./a/y/ ./o/ ./o/s/ ./a/y/z=1 ./o/new=2 ./b2=2 ");
    layers_free(layers);
}

TEST(layers, names_lead_through_links_inside_the_root_only)
{
    struct error err = {0};
    struct layers *layers = layers_new();
    EXPECT(LAYER(layers, &err, "usr/", "usr/bin/", "bin>usr/bin", "up>../../..", "abs>/usr/bin",
                 "loop>loop") == 0);
    EXPECT(LAYER(layers, &err, "bin/sh=1", "up/top=2", "abs/cat=3", "bin/.wh.none") == 0);
    EXPECT_WRITTEN(layers,
                   "./ ./abs>/usr/bin ./bin>usr/bin ./loop>loop ./up>../../.. ./usr/ "
                   "./usr/bin/ ./usr/bin/sh=1 ./top=2 ./usr/bin/cat=3 ");
    EXPECT(LAYER(layers, &err, "loop/x=1") == -ERROR_INVALID);
    layers_free(layers);
}

TEST(layers, names_that_lead_out_are_refused)
{
    static const char *const names[] = {
        "../x=1", "a/../../x=1", "a/..", "usr/x/y=1", "a~../../etc/passwd", "a~nowhere", "a~usr"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        struct error err = {0};
        struct layers *layers = layers_new();
        EXPECT(LAYER(layers, &err, "usr/", "usr/x=1") == 0);
        EXPECT(LAYER(layers, &err, names[i]) == -ERROR_INVALID);
        layers_free(layers);
    }
}

TEST(layers, hard_links_keep_their_content_when_the_first_name_goes)
{
    struct error err = {0};
    struct layers *layers = layers_new();
    EXPECT(LAYER(layers, &err, "a=one", "b~a", "c~b") == 0);
    EXPECT(LAYER(layers, &err, ".wh.a", "d~c", "c=other") == 0);
    EXPECT_WRITTEN(layers, "./ ./b=one ./c=other ./d~./b ");
    layers_free(layers);
}

TEST(layers, devices_are_left_out_and_counted)
{
    struct error err = {0};
    struct layers *layers = layers_new();
    EXPECT(LAYER(layers, &err, "dev/", "dev/null!", "a=1") == 0);
    EXPECT(layers_left_out(layers) == 1);
    EXPECT_WRITTEN(layers, "./ ./dev/ ./a=1 ");
    layers_free(layers);
}

TEST(layers, folders_are_made_where_nothing_else_is)
{
    struct error err = {0};
    struct layers *layers = layers_new();
    EXPECT(LAYER(layers, &err, "a=1", "l>d") == 0);
    EXPECT(layers_make_folder(layers, "/srv/data", &err) == 0);
    EXPECT(layers_make_folder(layers, "l/x", &err) == 0);
    EXPECT(layers_make_folder(layers, "", &err) == 0);
    EXPECT(layers_make_folder(layers, "a", &err) == -ERROR_INVALID);
    EXPECT(layers_make_folder(layers, "../a", &err) == -ERROR_INVALID);
    EXPECT_WRITTEN(layers, "./ ./d/ ./d/x/ ./l>d ./srv/ ./srv/data/ ./a=1 ");
    layers_free(layers);
}

TEST(layers, what_is_no_archive_is_refused)
{
    struct error err = {0};
    struct layers *layers = layers_new();
    MEMORY_OWNED char *path = memory_format("%s/none", test_folder());
    FD_OWNED int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    EXPECT(layers_add(layers, path, &err) == 0); /* an empty one changes nothing */
    EXPECT(write(fd, "no archive at all, whatever you do with it", 42) == 42);
    EXPECT(layers_add(layers, path, &err) == -ERROR_INVALID);
    layers_free(layers);
}
