/*
 * New projects: a template's files, which this program carries, with the project's name in them.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/embed.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "surface/cli/private.h"

#define NAME_MARK "@NAME@"

struct template
{
    const char *language;
    const char *name;
    const char *folder; /* of the project */
};

static int write_file(const struct template *template, const struct embed_file *file,
                      const char *path, struct error *err)
{
    BUFFER_OWNED struct buffer text = {0};
    const size_t mark_length = strlen(NAME_MARK);
    const char *at = (const char *)file->data;
    const char *end = at + file->length;
    for (const char *found = memmem(at, (size_t)(end - at), NAME_MARK, mark_length); found != NULL;
         found = memmem(at, (size_t)(end - at), NAME_MARK, mark_length)) {
        buffer_append(&text, at, (size_t)(found - at));
        buffer_append_string(&text, template->name);
        at = found + mark_length;
    }
    buffer_append(&text, at, (size_t)(end - at));
    MEMORY_OWNED char *parent = memory_copy_text(path, (size_t)(strrchr(path, '/') - path));
    int r = file_make_folder(parent, 0755, err);
    return r < 0 ? r : file_write(path, text.data, text.used, 0644, err);
}

static int refuse_existing(const char *path, struct error *err)
{
    return file_exists(path) ? error_set(err, ERROR_EXISTS, "%s exists already", path) : 0;
}

/* With all files of a template: look whether one is there already, or write it. */
static int walk(const struct template *template, bool writes, struct error *err)
{
    MEMORY_OWNED char *prefix = memory_format("templates/%s/", template->language);
    int r = 0;
    for (size_t i = 0; i < cli_files_count && r == 0; i++) {
        if (text_starts_with(cli_files[i].name, prefix)) {
            MEMORY_OWNED char *path =
                memory_format("%s/%s", template->folder, cli_files[i].name + strlen(prefix));
            r = writes ? write_file(template, &cli_files[i], path, err)
                       : refuse_existing(path, err);
        }
    }
    return r;
}

static int make(const struct template *template, struct error *err)
{
    if (!text_is_name(template->name)) {
        return error_set(err, ERROR_INVALID,
                         "\"%.64s\" is not a name: a-z, 0-9 and '-', beginning with a letter",
                         template->name);
    }
    int r = walk(template, false, err);
    return r < 0 ? r : walk(template, true, err);
}

static int print_made(const struct arguments *arguments, const struct template *template,
                      const char *next, struct error *err)
{
    JSON_OWNED json_t *document = json_pack("{s:s, s:s, s:s}", "name", template->name, "language",
                                            template->language, "folder", template->folder);
    return print_done(arguments, document, err, "%s is a project in %s; next: %s", template->name,
                      template->language, next);
}

static const char *language_of(const struct arguments *arguments, const char *flag)
{
    const char *language = flag_value(arguments, flag);
    return language != NULL ? language : "c";
}

int verb_fn_new(const struct arguments *arguments, struct error *err)
{
    const char *name = arguments->words[0];
    struct template template = {language_of(arguments, "lang"), name, name};
    MEMORY_OWNED char *next = memory_format("blixard fn deploy %s %s", name, name);
    if (refuse_existing(name, err) < 0 || make(&template, err) < 0) {
        return -(int)err->kind;
    }
    return print_made(arguments, &template, next, err);
}

int verb_fn_init(const struct arguments *arguments, struct error *err)
{
    const char *folder = arguments->word_count > 0 ? arguments->words[0] : ".";
    int r = file_make_folder(folder, 0755, err);
    if (r < 0) {
        return r;
    }
    MEMORY_OWNED char *whole = realpath(folder, NULL);
    if (whole == NULL) {
        return error_os(err, errno, "examining %s", folder);
    }
    const char *name = flag_value(arguments, "name");
    struct template template = {language_of(arguments, "template"),
                                name != NULL ? name : strrchr(whole, '/') + 1, folder};
    bool is_here = strcmp(folder, ".") == 0;
    MEMORY_OWNED char *next = memory_format("%s%s%sblixard fn deploy", is_here ? "" : "cd ",
                                            is_here ? "" : folder, is_here ? "" : " && ");
    r = make(&template, err);
    return r < 0 ? r : print_made(arguments, &template, next, err);
}
