/*
 * What a runner says of itself: see hypervisor_read_runner().
 *
 * The format is microvm.nix's (lib/runner.nix there): bin/microvm-run, bin/microvm-shutdown, and
 * texts in share/microvm.  Whoever made the folder may be anybody: nothing of it is believed.  What
 * may be executed or followed lies below one folder that the node's administrator has named, and
 * can be changed by root alone, as in a Nix store: what was checked stays as it was.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/hypervisor/hypervisor.h"
#include "engine/hypervisor/runner.h"
#include "engine/net/net.h"

enum { TEXT_BYTES_MAX = 4096, CID_MIN = 3, ENTRIES_MAX = 64 };
#define CID_MAX UINT64_C(0xfffffffe)

/* ---- Texts ---- */

static bool is_space(char letter)
{
    return letter == ' ' || letter == '\n' || letter == '\t';
}

static bool next_word(const char *text, size_t length, size_t *at, struct text *ret_word)
{
    size_t begin = *at;
    while (begin < length && is_space(text[begin])) {
        begin++;
    }
    size_t end = begin;
    while (end < length && !is_space(text[end])) {
        end++;
    }
    *at = end;
    *ret_word = text_of(text + begin, end - begin);
    return end > begin;
}

int runner_parse_taps(const char *text, size_t length, struct hypervisor_runner *runner,
                      struct error *err)
{
    size_t at = 0;
    struct text word;
    runner->tap_count = 0;
    while (next_word(text, length, &at, &word)) {
        char name[sizeof(runner->taps[0])];
        bool fits = word.length < sizeof(name) && memchr(word.data, '\0', word.length) == NULL;
        snprintf(name, sizeof(name), "%.*s", fits ? (int)word.length : 0, word.data);
        if (!net_name_is_valid(name)) {
            return error_set(err, ERROR_INVALID,
                             "share/microvm/tap-interfaces: a name there is no interface's");
        }
        for (size_t i = 0; i < runner->tap_count; i++) {
            if (strcmp(runner->taps[i], name) == 0) {
                return error_set(err, ERROR_INVALID,
                                 "share/microvm/tap-interfaces: %s is there twice", name);
            }
        }
        if (runner->tap_count == HYPERVISOR_NICS_MAX) {
            return error_set(err, ERROR_UNSUPPORTED,
                             "share/microvm/tap-interfaces: a machine has at most %d taps",
                             HYPERVISOR_NICS_MAX);
        }
        memcpy(runner->taps[runner->tap_count++], name, sizeof(name));
    }
    return 0;
}

static bool take_word(const struct text *word, char *ret_text, size_t size)
{
    bool fits = word->length < size && memchr(word->data, '\0', word->length) == NULL;
    snprintf(ret_text, size, "%.*s", fits ? (int)word->length : 0, word->data);
    return fits;
}

static bool is_address(const char *text)
{
    unsigned parts[4];
    int end = 0;
    return strlen(text) == sizeof("0000:01:00.0") - 1 &&
        sscanf(text, "%4x:%2x:%2x.%1x%n", &parts[0], &parts[1], &parts[2], &parts[3], &end) == 4 &&
        text[end] == '\0';
}

int runner_parse_devices(const char *text, size_t length, struct hypervisor_runner *runner,
                         struct error *err)
{
    size_t at = 0;
    struct text word;
    runner->device_count = 0;
    while (next_word(text, length, &at, &word)) {
        char address[sizeof(runner->devices[0])];
        if (!take_word(&word, address, sizeof(address)) || !is_address(address)) {
            return error_set(err, ERROR_INVALID,
                             "share/microvm/pci-devices: a word there is no address such as "
                             "0000:01:00.0");
        }
        if (runner->device_count == HYPERVISOR_RUNNER_DEVICES_MAX) {
            return error_set(err, ERROR_UNSUPPORTED,
                             "share/microvm/pci-devices: a machine has at most %d",
                             HYPERVISOR_RUNNER_DEVICES_MAX);
        }
        memcpy(runner->devices[runner->device_count++], address, sizeof(address));
    }
    return 0;
}

static int parse_macvtap(const char *line, size_t length, struct hypervisor_runner *runner,
                         struct error *err)
{
    uint8_t mac[NET_MAC_SIZE];
    struct text words[5];
    size_t count = 0;
    size_t at = 0;
    while (count < 5 && next_word(line, length, &at, &words[count])) {
        count++;
    }
    if (count == 0) {
        return 0;
    }
    if (runner->macvtap_count == HYPERVISOR_NICS_MAX) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "share/microvm/macvtap-interfaces: a machine has at most %d of them",
                         HYPERVISOR_NICS_MAX);
    }
    struct hypervisor_runner_macvtap *macvtap = &runner->macvtaps[runner->macvtap_count];
    if (count != 4 || !take_word(&words[0], macvtap->name, sizeof(macvtap->name)) ||
        !take_word(&words[1], macvtap->mac, sizeof(macvtap->mac)) ||
        !take_word(&words[2], macvtap->link, sizeof(macvtap->link)) ||
        !take_word(&words[3], macvtap->mode, sizeof(macvtap->mode)) ||
        !net_name_is_valid(macvtap->name) || !net_mac_parse(macvtap->mac, mac) ||
        !net_name_is_valid(macvtap->link) || !net_macvtap_mode_is_valid(macvtap->mode)) {
        return error_set(err, ERROR_INVALID,
                         "share/microvm/macvtap-interfaces: a line there is no NAME MAC LINK MODE "
                         "(private, vepa, bridge or passthru)");
    }
    for (size_t i = 0; i < runner->macvtap_count; i++) {
        if (strcmp(runner->macvtaps[i].name, macvtap->name) == 0) {
            return error_set(err, ERROR_INVALID,
                             "share/microvm/macvtap-interfaces: %s is there twice", macvtap->name);
        }
    }
    runner->macvtap_count++;
    return 0;
}

int runner_parse_macvtaps(const char *text, size_t length, struct hypervisor_runner *runner,
                          struct error *err)
{
    int r = 0;
    runner->macvtap_count = 0;
    for (size_t at = 0; at < length && r == 0;) {
        const char *newline = memchr(text + at, '\n', length - at);
        size_t line = newline != NULL ? (size_t)(newline - text) - at : length - at;
        r = parse_macvtap(text + at, line, runner, err);
        at += line + 1;
    }
    return r;
}

bool runner_has_queues(const char *text, size_t length)
{
    size_t at = 0;
    struct text word;
    while (next_word(text, length, &at, &word)) {
        if (text_equal(word, "multi_queue")) {
            return true;
        }
    }
    return false;
}

int runner_parse_cid(const char *text, size_t length, struct hypervisor_runner *runner,
                     struct error *err)
{
    uint64_t cid = 0;
    size_t at = 0;
    struct text word;
    runner->vsock_cid = 0;
    if (!next_word(text, length, &at, &word)) {
        return 0;
    }
    if (!text_parse_u64(word, &cid) || cid < CID_MIN || cid > CID_MAX) {
        return error_set(err, ERROR_INVALID, "share/microvm/vsock-cid is no address of a guest");
    }
    runner->vsock_cid = (uint32_t)cid;
    return 0;
}

int runner_parse_line(const char *text, size_t length, const char *what, char *ret_line,
                      size_t size, struct error *err)
{
    length -= length > 0 && text[length - 1] == '\n' ? 1 : 0;
    bool is_good = length > 0 && length < size;
    for (size_t i = 0; i < length && is_good; i++) {
        is_good = text[i] > ' ' && text[i] < 0x7f && text[i] != '"' && text[i] != '\\';
    }
    if (!is_good) {
        return error_set(err, ERROR_INVALID,
                         "%s is not one line of at most %zu letters without spaces", what,
                         size - 1);
    }
    snprintf(ret_line, size, "%.*s", (int)length, text);
    return 0;
}

/* ---- Where it is ---- */

/* "/srv" has "/srv/a", not "/srv2", and not itself. */
static bool is_below(const char *folder, const char *path)
{
    size_t length = strlen(folder);
    return strncmp(path, folder, length) == 0 && path[length] == '/';
}

/* The first of `folders` that it is below, by real paths. */
static bool find_folder(const char *folders, const char *path, char *ret_folder, size_t size)
{
    for (const char *at = folders; *at != '\0'; at += strspn(at, ",")) {
        size_t length = strcspn(at, ",");
        struct text word = text_trim(text_of(at, length));
        MEMORY_OWNED char *named = memory_copy_text(word.data, word.length);
        char *real = named[0] == '/' ? realpath(named, NULL) : NULL;
        bool is_it = real != NULL && is_below(real, path) && strlen(real) < size;
        if (is_it) {
            snprintf(ret_folder, size, "%s", real);
        }
        free(real);
        if (is_it) {
            return true;
        }
        at += length;
    }
    return false;
}

/* From below that folder down to it: nobody else may change any of it. */
static int check_owners(const char *folder, const char *path, struct error *err)
{
    struct stat status;
    MEMORY_OWNED char *part = memory_copy_string(path);
    for (size_t at = strlen(folder) + 1; at <= strlen(path); at++) {
        if (path[at] != '/' && path[at] != '\0') {
            continue;
        }
        part[at] = '\0';
        if (lstat(part, &status) < 0) {
            return error_os(err, errno, "examining %s", part);
        }
        if ((status.st_uid != 0 && status.st_uid != geteuid()) ||
            (status.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
            return error_set(err, ERROR_INVALID,
                             "%.300s belongs to another user than root, or others may write it",
                             part);
        }
        part[at] = path[at];
    }
    return 0;
}

/* A file of it, by its real path; *ret_real is "" where there is none. */
static int resolve(const struct hypervisor_runner *runner, const char *name, char *ret_real,
                   size_t size, struct error *err)
{
    struct stat status;
    MEMORY_OWNED char *path = memory_format("%s/%s", runner->path, name);
    ret_real[0] = '\0';
    if (lstat(path, &status) < 0 && (errno == ENOENT || errno == ENOTDIR)) {
        return 0;
    }
    char *real = realpath(path, NULL);
    if (real == NULL) {
        return error_set(err, ERROR_INVALID, "%s leads nowhere: %s", name, strerrordesc_np(errno));
    }
    bool is_inside = is_below(runner->folder, real) && strlen(real) < size;
    if (is_inside) {
        snprintf(ret_real, size, "%s", real);
    }
    free(real);
    return is_inside
        ? check_owners(runner->folder, ret_real, err)
        : error_set(err, ERROR_INVALID, "%s leads out of %.200s", name, runner->folder);
}

static int find_program(const struct hypervisor_runner *runner, const char *name, char *ret_path,
                        struct error *err)
{
    struct stat status;
    int r = resolve(runner, name, ret_path, HYPERVISOR_RUNNER_PATH_SIZE, err);
    if (r < 0 || ret_path[0] == '\0') {
        return r;
    }
    return stat(ret_path, &status) == 0 && S_ISREG(status.st_mode) &&
            (status.st_mode & S_IXOTH) != 0
        ? 0
        : error_set(err, ERROR_INVALID, "%s is no program that every user may run", name);
}

/* Its text; empty where there is none. */
static int read_text(const struct hypervisor_runner *runner, const char *name, struct buffer *text,
                     struct error *err)
{
    struct stat status;
    char real[HYPERVISOR_RUNNER_PATH_SIZE];
    buffer_clear(text);
    int r = resolve(runner, name, real, sizeof(real), err);
    if (r < 0 || real[0] == '\0') {
        return r;
    }
    if (stat(real, &status) < 0 || !S_ISREG(status.st_mode) || status.st_size > TEXT_BYTES_MAX) {
        return error_set(err, ERROR_INVALID, "%s is no file of at most %d bytes", name,
                         TEXT_BYTES_MAX);
    }
    return file_read(real, TEXT_BYTES_MAX, text, err);
}

/* ---- Its parts ---- */

static int refuse_if_there(const struct hypervisor_runner *runner, const char *name,
                           const char *why, struct error *err)
{
    BUFFER_OWNED struct buffer text = {0};
    size_t at = 0;
    struct text word;
    int r = read_text(runner, name, &text, err);
    if (r == 0 && next_word((const char *)text.data, text.used, &at, &word)) {
        return error_set(err, ERROR_UNSUPPORTED, "%s: %s", name, why);
    }
    return r;
}

static int read_line(const struct hypervisor_runner *runner, const char *name, char *ret_line,
                     size_t size, struct error *err)
{
    BUFFER_OWNED struct buffer text = {0};
    int r = read_text(runner, name, &text, err);
    return r < 0 ? r
                 : runner_parse_line((const char *)text.data, text.used, name, ret_line, size, err);
}

/* For people; runners of some versions do not say it. */
static int read_hypervisor(struct hypervisor_runner *runner, struct error *err)
{
    static const char name[] = "share/microvm/hypervisor";
    char real[HYPERVISOR_RUNNER_PATH_SIZE];
    int r = resolve(runner, name, real, sizeof(real), err);
    return r < 0 || real[0] == '\0'
        ? r
        : read_line(runner, name, runner->hypervisor, sizeof(runner->hypervisor), err);
}

static bool is_word(const char *text)
{
    static const char letters[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
    size_t length = strlen(text);
    return length > 0 && text[0] != '.' && strspn(text, letters) == length;
}

static int add_share(struct hypervisor_runner *runner, const char *tag, struct error *err)
{
    struct hypervisor_runner_share *share = &runner->shares[runner->share_count];
    if (!is_word(tag) || strlen(tag) >= sizeof(share->tag)) {
        return error_set(err, ERROR_INVALID, "share/microvm/virtiofs: a tag there is no name");
    }
    MEMORY_OWNED char *socket = memory_format("share/microvm/virtiofs/%s/socket", tag);
    MEMORY_OWNED char *source = memory_format("share/microvm/virtiofs/%s/source", tag);
    char named[HYPERVISOR_RUNNER_PATH_SIZE];
    int r = read_line(runner, socket, share->socket, sizeof(share->socket), err);
    r = r < 0 ? r : read_line(runner, source, named, sizeof(named), err);
    if (r < 0) {
        return r;
    }
    if (!is_word(share->socket)) {
        return error_set(err, ERROR_INVALID, "%s is not in the machine's own folder", socket);
    }
    char *real = named[0] == '/' ? realpath(named, NULL) : NULL;
    bool fits = real != NULL && strlen(real) < sizeof(share->source);
    snprintf(share->source, sizeof(share->source), "%s", fits ? real : "");
    free(real);
    if (!fits) {
        return error_set(err, ERROR_NOT_FOUND, "%s: this node has no folder %.200s", source, named);
    }
    snprintf(share->tag, sizeof(share->tag), "%s", tag);
    runner->share_count++;
    return 0;
}

static int read_shares(struct hypervisor_runner *runner, struct error *err)
{
    char real[HYPERVISOR_RUNNER_PATH_SIZE];
    int r = resolve(runner, "share/microvm/virtiofs", real, sizeof(real), err);
    if (r < 0 || real[0] == '\0') {
        return r;
    }
    DIR *folder = opendir(real);
    if (folder == NULL) {
        return error_os(err, errno, "reading %s", real);
    }
    size_t seen = 0;
    const struct dirent *entry = NULL;
    while (r == 0 && (entry = readdir(folder)) != NULL) {
        bool is_dot = strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0;
        if (!is_dot && ++seen > HYPERVISOR_SHARES_MAX) {
            r = error_set(err, ERROR_UNSUPPORTED, "it has more than %d shares",
                          HYPERVISOR_SHARES_MAX);
        } else if (!is_dot) {
            r = add_share(runner, entry->d_name, err);
        }
    }
    closedir(folder);
    return r;
}

static int read_parts(struct hypervisor_runner *runner, struct error *err)
{
    BUFFER_OWNED struct buffer text = {0};
    int r = find_program(runner, "bin/microvm-run", runner->run, err);
    if (r == 0 && runner->run[0] == '\0') {
        return error_set(err, ERROR_INVALID, "there is no bin/microvm-run: it is no runner");
    }
    r = r < 0 ? r : find_program(runner, "bin/microvm-shutdown", runner->shut_down, err);
    r = r < 0 ? r : read_hypervisor(runner, err);
    r = r < 0 ? r : read_text(runner, "share/microvm/tap-interfaces", &text, err);
    r = r < 0 ? r : runner_parse_taps((const char *)text.data, text.used, runner, err);
    r = r < 0 ? r : read_text(runner, "share/microvm/tap-flags", &text, err);
    runner->has_queues = r == 0 && runner_has_queues((const char *)text.data, text.used);
    r = r < 0 ? r : read_text(runner, "share/microvm/vsock-cid", &text, err);
    r = r < 0 ? r : runner_parse_cid((const char *)text.data, text.used, runner, err);
    r = r < 0 ? r : read_text(runner, "share/microvm/macvtap-interfaces", &text, err);
    r = r < 0 ? r : runner_parse_macvtaps((const char *)text.data, text.used, runner, err);
    r = r < 0 ? r : read_text(runner, "share/microvm/pci-devices", &text, err);
    r = r < 0 ? r : runner_parse_devices((const char *)text.data, text.used, runner, err);
    r = r < 0
        ? r
        : refuse_if_there(runner, "share/microvm/usb-devices",
                          "USB devices belong to one node, and their names to another machine "
                          "tomorrow: leave microvm.devices empty; a machine with one is run "
                          "by microvm.nix's own host module",
                          err);
    return r < 0 ? r : read_shares(runner, err);
}

int hypervisor_read_runner(const char *folders, const char *path,
                           struct hypervisor_runner *ret_runner, struct error *err)
{
    struct hypervisor_runner *runner = ret_runner;
    struct stat status;
    *runner = (struct hypervisor_runner){0};
    char *real = path[0] == '/' ? realpath(path, NULL) : NULL;
    bool fits = real != NULL && strlen(real) < sizeof(runner->path);
    snprintf(runner->path, sizeof(runner->path), "%s", fits ? real : "");
    free(real);
    if (!fits) {
        return error_set(err, ERROR_NOT_FOUND, "runner: this node has no folder %.300s", path);
    }
    if (!find_folder(folders, runner->path, runner->folder, sizeof(runner->folder))) {
        return error_set(err, ERROR_DENIED,
                         "runner: %.300s is not below a folder that this node runs machines from "
                         "(machine_runner_folders: %.200s)",
                         runner->path, folders[0] != '\0' ? folders : "none");
    }
    int r = stat(runner->path, &status) == 0 && S_ISDIR(status.st_mode)
        ? check_owners(runner->folder, runner->path, err)
        : error_set(err, ERROR_INVALID, "it is no folder");
    r = r < 0 ? r : read_parts(runner, err);
    return r < 0 ? error_wrap(err, "runner %.300s", runner->path) : 0;
}
