/* Reading the guest of a runner: see guest.h. */
#include "engine/image/guest.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"

enum { SCRIPT_BYTES_MAX = 256 << 10, WORDS_MAX = 400 };

/* ---- Words of a shell ---- */

struct words {
    char *list[WORDS_MAX]; /* NULL: it is made when the program runs */
    size_t count;
    const char *at;
    const char *end;
};

static void words_done(struct words *words)
{
    for (size_t i = 0; i < words->count; i++) {
        free(words->list[i]);
    }
}

static bool is_blank(char letter)
{
    return letter == ' ' || letter == '\t';
}

static bool is_continued(const struct words *words)
{
    return words->end - words->at > 1 && words->at[0] == '\\' && words->at[1] == '\n';
}

static void skip_blanks(struct words *words)
{
    while (words->at < words->end && (is_blank(*words->at) || is_continued(words))) {
        words->at += is_blank(*words->at) ? 1 : 2;
    }
}

/* Of one letter outside of quotes, or within double ones: what comes of it. */
static void take_letter(struct words *words, struct buffer *word, bool *is_made)
{
    if (is_continued(words)) {
        words->at += 2;
        return;
    }
    if (*words->at == '\\' && words->end - words->at > 1) {
        words->at++;
    } else if (*words->at == '$' || *words->at == '`') {
        *is_made = true;
    }
    buffer_append(word, words->at++, 1);
}

/* False: a quote has no end. */
static bool take_quoted(struct words *words, struct buffer *word, bool *is_made)
{
    char quote = *words->at++;
    while (words->at < words->end && *words->at != quote) {
        if (quote == '\'') {
            buffer_append(word, words->at++, 1);
        } else {
            take_letter(words, word, is_made);
        }
    }
    return words->at++ < words->end;
}

static bool take_word(struct words *words)
{
    BUFFER_OWNED struct buffer word = {0};
    bool is_made = false;
    bool is_whole = true;
    while (is_whole && words->at < words->end && !is_blank(*words->at) && *words->at != '\n') {
        if (*words->at == '\'' || *words->at == '"') {
            is_whole = take_quoted(words, &word, &is_made);
        } else {
            take_letter(words, &word, &is_made);
        }
    }
    const char *text = buffer_string(&word);
    words->list[words->count++] =
        is_made || strlen(text) != word.used ? NULL : memory_copy_string(text);
    return is_whole;
}

/* The words of one command, to the end of its line. */
static int read_words(const char *at, const char *end, struct words *ret_words, struct error *err)
{
    *ret_words = (struct words){.at = at, .end = end};
    for (;;) {
        skip_blanks(ret_words);
        if (ret_words->at >= end || *ret_words->at == '\n') {
            return 0;
        }
        if (ret_words->count == WORDS_MAX || !take_word(ret_words)) {
            return error_set(err, ERROR_INVALID, "bin/microvm-run: its command cannot be read");
        }
    }
}

/* The last line that begins so is the one that it becomes. */
static const char *find_command(const char *text, const char *end)
{
    static const char word[] = "exec ";
    const char *found = NULL;
    const char *line = text;
    while (line < end) {
        const char *at = line;
        while (at < end && is_blank(*at)) {
            at++;
        }
        if ((size_t)(end - at) >= sizeof(word) && memcmp(at, word, sizeof(word) - 1) == 0) {
            found = at;
        }
        const char *newline = memchr(line, '\n', (size_t)(end - line));
        line = newline != NULL ? newline + 1 : end;
    }
    return found;
}

/* ---- What they say ---- */

/* "file=" of "id=store,format=raw,file=/x,if=none": the caller's, or NULL. */
static char *member_of(const char *text, const char *name)
{
    size_t length = strlen(name);
    for (const char *at = text; at != NULL; at = strchr(at, ',')) {
        at += *at == ',' ? 1 : 0;
        if (strncmp(at, name, length) == 0) {
            return memory_copy_text(at + length, strcspn(at + length, ","));
        }
    }
    return NULL;
}

static bool is_read_only(const char *drive)
{
    MEMORY_OWNED char *one = member_of(drive, "read-only=");
    MEMORY_OWNED char *other = member_of(drive, "readonly=");
    return (one != NULL && strcmp(one, "on") == 0) || (other != NULL && strcmp(other, "on") == 0);
}

static int take_drive(const char *drive, struct guest *guest, struct error *err)
{
    MEMORY_OWNED char *file = member_of(drive, "file=");
    if (file == NULL || !is_read_only(drive)) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "it writes to a disk (%.80s), and a function keeps nothing between calls: "
                         "it has no microvm.volumes",
                         file != NULL ? file : drive);
    }
    if (guest->root != NULL) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "it has two disks (%.80s), and a function's machine has one, the store's",
                         file);
    }
    guest->root = file;
    file = NULL;
    return 0;
}

static const struct {
    const char *option;
    const char *begin; /* of its value */
    const char *what;
} refused[] = {
    {"-device", "vhost-user-fs", "a share: its store has to be on a disk, microvm.storeOnDisk"},
    {"-device", "virtio-9p", "a share: its store has to be on a disk, microvm.storeOnDisk"},
    {"-device", "virtio-net",
     "a network interface: what a function reaches goes by its agent (fetch.allow), "
     "microvm.interfaces has to be empty"},
    {"-device", "vfio-pci", "a device of the node (microvm.devices)"},
    {"-device", "usb-host", "a device of the node (microvm.devices)"},
    {"-device", "vhost-vsock", "a vsock (microvm.vsock.cid)"},
    {"-device", "virtio-mem", "memory that comes later (microvm.hotplugMem)"},
    {"-device", "virtio-gpu", "a screen (microvm.graphics)"},
    {"-device", "virtio-vga", "a screen (microvm.graphics)"},
    {"-fw_cfg", "", "credentials, which would be in its template: functions have secrets"},
    {"-blockdev", "", "a disk by -blockdev"},
    {"-hda", "", "a disk by -hda"},
};

static int check_option(const char *option, const char *value, struct error *err)
{
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        if (strcmp(option, refused[i].option) == 0 && text_starts_with(value, refused[i].begin)) {
            return error_set(err, ERROR_UNSUPPORTED, "it wants what a function has not: %s",
                             refused[i].what);
        }
    }
    return 0;
}

/* "512", "512M", "512M,maxmem=1G"; 0: it is said in another way. */
static uint64_t memory_of(const char *text)
{
    uint64_t mib = 0;
    size_t digits = strspn(text, "0123456789");
    bool is_mib = text[digits] == '\0' || text[digits] == ',' || text[digits] == 'M';
    return is_mib && text_parse_u64(text_of(text, digits), &mib) && mib < (UINT64_C(1) << 30)
        ? mib << 20
        : 0;
}

static int take_option(const char *option, const char *value, struct guest *guest,
                       struct error *err)
{
    char **place = strcmp(option, "-kernel") == 0 ? &guest->kernel
        : strcmp(option, "-initrd") == 0          ? &guest->initrd
        : strcmp(option, "-append") == 0          ? &guest->words
                                                  : NULL;
    if (place != NULL) {
        free(*place);
        *place = memory_copy_string(value);
        return 0;
    }
    if (strcmp(option, "-m") == 0) {
        guest->memory_bytes = memory_of(value);
        return 0;
    }
    return strcmp(option, "-drive") == 0 ? take_drive(value, guest, err)
                                         : check_option(option, value, err);
}

/* Behind the program: options, each with a value that begins with no '-', or with none. */
static int take_words(const struct words *words, size_t at, struct guest *guest, struct error *err)
{
    int r = 0;
    for (; at + 1 < words->count && r == 0; at++) {
        const char *option = words->list[at];
        const char *value = words->list[at + 1];
        if (option != NULL && option[0] == '-' && value != NULL) {
            r = take_option(option, value, guest, err);
        }
    }
    return r;
}

static bool is_path(const char *text)
{
    return text != NULL && text[0] == '/' && text_is_printable(text);
}

static int check(struct guest *guest, struct error *err)
{
    if (!is_path(guest->kernel) || !is_path(guest->initrd)) {
        return error_set(err, ERROR_INVALID,
                         "bin/microvm-run starts no QEMU with -kernel and -initrd");
    }
    if (guest->words == NULL) {
        guest->words = memory_copy_string("");
    }
    if (!text_is_printable(guest->words) || strlen(guest->words) > GUEST_WORDS_MAX) {
        return error_set(err, ERROR_INVALID,
                         "bin/microvm-run: its -append is not at most %d printable letters",
                         GUEST_WORDS_MAX);
    }
    return guest->root == NULL || is_path(guest->root)
        ? 0
        : error_set(err, ERROR_INVALID, "bin/microvm-run: its disk has no absolute path");
}

/* "exec", perhaps "-a NAME", the program. */
static size_t find_program(const struct words *words)
{
    for (size_t i = 1; i < words->count; i++) {
        const char *slash = words->list[i] != NULL ? strrchr(words->list[i], '/') : NULL;
        if (slash != NULL && strcmp(slash, "/qemu-system-x86_64") == 0) {
            return i;
        }
    }
    return words->count;
}

int guest_parse(const char *text, size_t length, struct guest *ret_guest, struct error *err)
{
    struct words words = {0};
    struct guest guest = {0};
    const char *end = text + length;
    const char *command = find_command(text, end);
    int r = command != NULL ? read_words(command, end, &words, err) : 0;
    size_t program = find_program(&words);
    if (r == 0 && program == words.count) {
        r = error_set(err, ERROR_INVALID,
                      "bin/microvm-run becomes no qemu-system-x86_64: a function's runner is one "
                      "of microvm.hypervisor = \"qemu\"");
    }
    r = r < 0 ? r : take_words(&words, program + 1, &guest, err);
    r = r < 0 ? r : check(&guest, err);
    words_done(&words);
    if (r < 0) {
        guest_done(&guest);
        return r;
    }
    *ret_guest = guest;
    return 0;
}

int guest_read(const char *path, struct guest *ret_guest, struct error *err)
{
    BUFFER_OWNED struct buffer text = {0};
    MEMORY_OWNED char *run = memory_format("%s/bin/microvm-run", path);
    if (file_read(run, SCRIPT_BYTES_MAX, &text, err) < 0) {
        return err->kind == ERROR_NOT_FOUND
            ? error_set(err, ERROR_NOT_FOUND, "%s is no runner of microvm.nix: no bin/microvm-run",
                        path)
            : -(int)err->kind;
    }
    return guest_parse((const char *)text.data, text.used, ret_guest, err) < 0
        ? error_wrap(err, "runner %s", path)
        : 0;
}

void guest_done(struct guest *guest)
{
    free(guest->kernel);
    free(guest->initrd);
    free(guest->words);
    free(guest->root);
    *guest = (struct guest){0};
}

bool guest_image_is_made(const char *name)
{
    const size_t prefix = sizeof(GUEST_IMAGE_PREFIX) - 1;
    return strncmp(name, GUEST_IMAGE_PREFIX, prefix) == 0 &&
        strlen(name + prefix) == GUEST_IMAGE_DIGITS &&
        strspn(name + prefix, "0123456789abcdef") == GUEST_IMAGE_DIGITS;
}
