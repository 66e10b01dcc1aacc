/*
 * Function logs on disk: FOLDER/PROJECT/FUNCTION/SEGMENT.log, one JSON object per line.
 *
 * Callers hand over bytes and go on; one thread cuts them into lines and writes.  What waits is
 * bounded: beyond it lines are dropped, and a line says how many.  The sequence goes on after a
 * restart: it is read from the last whole line.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/json.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/text.h"

#include "service/telemetry/private.h"
#include "service/telemetry/trace.h"

enum {
    QUEUE_BYTES_MAX = 8 << 20,
    LINE_BYTES_MAX = 8192,
    SEGMENTS = 4,
    SEGMENT_READ_MAX = 64 << 20
};

/* ---- Segments ---- */

struct range {
    uint64_t first;
    uint64_t last;
};

/* The numbers of the segments in a folder; first > last when there are none. */
static struct range find_segments(const char *folder)
{
    struct range range = {.first = 1, .last = 0};
    DIR *list = opendir(folder);
    if (list == NULL) {
        return range;
    }
    for (struct dirent *entry = readdir(list); entry != NULL; entry = readdir(list)) {
        uint64_t number = 0;
        size_t digits = strspn(entry->d_name, "0123456789");
        if (digits == 0 || strcmp(entry->d_name + digits, ".log") != 0 ||
            !text_parse_u64(text_of(entry->d_name, digits), &number)) {
            continue;
        }
        bool is_first = range.first > range.last;
        range.first = is_first || number < range.first ? number : range.first;
        range.last = is_first || number > range.last ? number : range.last;
    }
    closedir(list);
    return range;
}

static char *segment_path(const char *folder, uint64_t segment)
{
    return memory_format("%s/%" PRIu64 ".log", folder, segment);
}

/* Visit the whole lines of a segment; a torn last line (a crash) is left out. */
static int each_line(const char *path,
                     void (*visit)(const char *line, size_t length, void *context), void *context,
                     struct error *err)
{
    BUFFER_OWNED struct buffer text = {0};
    int r = file_read(path, SEGMENT_READ_MAX, &text, err);
    if (r < 0) {
        return r == -ERROR_NOT_FOUND ? 0 : r;
    }
    const char *at = buffer_string(&text);
    const char *end = at + text.used;
    for (const char *stop = memchr(at, '\n', (size_t)(end - at)); stop != NULL;
         stop = memchr(at, '\n', (size_t)(end - at))) {
        visit(at, (size_t)(stop - at), context);
        at = stop + 1;
    }
    return 0;
}

/* Of a line as write_line() has made it; 0: of another. */
static uint64_t sequence_of(const char *line, size_t length)
{
    static const char head[] = "{\"sequence\":";
    size_t skip = sizeof(head) - 1;
    uint64_t sequence = 0;
    if (length <= skip || memcmp(line, head, skip) != 0) {
        return 0;
    }
    const char *comma = memchr(line, ',', length);
    size_t digits = comma != NULL ? (size_t)(comma - line) - skip : 0;
    return text_parse_u64(text_of(line + skip, digits), &sequence) ? sequence : 0;
}

static void take_sequence(const char *line, size_t length, void *context)
{
    uint64_t *next = context;
    uint64_t sequence = sequence_of(line, length);
    *next = sequence > 0 ? sequence + 1 : *next;
}

/* ---- Writing (the writer's thread) ---- */

static struct log_file *find_file(struct telemetry *telemetry, const struct pending *pending)
{
    MEMORY_OWNED char *key = memory_format("%s/%s", pending->project, pending->function);
    struct log_file *file = map_get(&telemetry->files, key);
    if (file != NULL) {
        return file;
    }
    struct error ignored = {0};
    file = NEW(struct log_file);
    file->folder = memory_format("%s/%s", telemetry->folder, key);
    file->fd = -1;
    file->next_sequence = 1;
    file_make_folder(file->folder, 0700, &ignored);
    struct range range = find_segments(file->folder);
    for (uint64_t segment = range.first; segment <= range.last; segment++) {
        MEMORY_OWNED char *path = segment_path(file->folder, segment);
        each_line(path, take_sequence, &file->next_sequence, &ignored);
    }
    file->segment = range.last + 1; /* a new one: the last may end in a torn line */
    map_set(&telemetry->files, key, file);
    return file;
}

/* Open the segment to write; a full one makes room for the next, the oldest goes. */
static bool open_segment(struct telemetry *telemetry, struct log_file *file)
{
    if (file->fd >= 0 && file->bytes >= telemetry->segment_bytes) {
        fd_close_slot(&file->fd);
        file->segment++;
    }
    if (file->fd >= 0) {
        return true;
    }
    struct range range = find_segments(file->folder);
    for (uint64_t old = range.first; range.first <= range.last && old + SEGMENTS <= file->segment;
         old++) {
        MEMORY_OWNED char *path = segment_path(file->folder, old);
        unlink(path);
    }
    MEMORY_OWNED char *path = segment_path(file->folder, file->segment);
    file->fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    file->bytes = 0;
    return file->fd >= 0;
}

/* "<3>text" as sd-daemon(3) has it. */
static enum log_level take_level(const char **line, size_t *length)
{
    static const enum log_level levels[8] = {LOG_LEVEL_ERROR, LOG_LEVEL_ERROR, LOG_LEVEL_ERROR,
                                             LOG_LEVEL_ERROR, LOG_LEVEL_WARN,  LOG_LEVEL_INFO,
                                             LOG_LEVEL_INFO,  LOG_LEVEL_DEBUG};
    const char *at = *line;
    if (*length >= 3 && at[0] == '<' && at[1] >= '0' && at[1] <= '7' && at[2] == '>') {
        *line += 3;
        *length -= 3;
        return levels[at[1] - '0'];
    }
    return LOG_LEVEL_INFO;
}

static void write_line(const struct pending *pending, struct log_file *file, const char *line,
                       size_t length, struct buffer *out)
{
    enum log_level level = take_level(&line, &length);
    struct json_writer writer = json_writer_to(out);
    json_write_begin_object(&writer);
    json_write_field_u64(&writer, "sequence", file->next_sequence++);
    json_write_field_u64(&writer, "time_ms", pending->time_ms);
    json_write_field_string(&writer, "level", log_level_text(level));
    json_write_field_u64(&writer, "version", pending->version);
    json_write_field_string(&writer, "request_id", pending->request_id);
    if (pending->trace[0] != '\0') {
        json_write_field_string(&writer, "trace", pending->trace);
    }
    json_write_key(&writer, "text");
    json_write_text(&writer, line, length);
    json_write_end_object(&writer);
    buffer_append_byte(out, '\n');
}

/* False: it is not on the disk, and no part of it. */
static bool write_pending(struct telemetry *telemetry, const struct pending *pending)
{
    BUFFER_OWNED struct buffer out = {0};
    struct log_file *file = find_file(telemetry, pending);
    const char *at = pending->text;
    size_t left = pending->length;
    while (left > 0) {
        const char *stop = memchr(at, '\n', left);
        size_t length = stop != NULL ? (size_t)(stop - at) : left;
        size_t shown = length < LINE_BYTES_MAX ? length : LINE_BYTES_MAX;
        if (shown > 0) {
            write_line(pending, file, at, shown, &out);
        }
        size_t used = shown < length ? shown : length + (stop != NULL);
        at += used;
        left -= used;
    }
    if (!open_segment(telemetry, file)) {
        return false;
    }
    if (file_write_all(file->fd, out.data, out.used) < 0) {
        int r = ftruncate(file->fd, (off_t)file->bytes); /* or the next line would go on with it */
        (void)r;
        return false;
    }
    file->bytes += out.used;
    return true;
}

static void tell_follower(void *argument)
{
    struct telemetry_follow *follow = argument;
    pthread_mutex_lock(&follow->telemetry->lock);
    follow->posted = false;
    bool freed = follow->freed;
    pthread_mutex_unlock(&follow->telemetry->lock);
    if (freed) {
        free(follow);
        return;
    }
    follow->changed(follow->context);
}

/* With the lock held. */
static void tell_followers(struct telemetry *telemetry, const struct pending *pending)
{
    LIST_EACH(node, &telemetry->follows)
    {
        struct telemetry_follow *follow = LIST_ITEM(node, struct telemetry_follow, link);
        size_t length = strlen(pending->project);
        bool is_it = strncmp(follow->key, pending->project, length) == 0 &&
            follow->key[length] == '/' && strcmp(follow->key + length + 1, pending->function) == 0;
        if (is_it && !follow->posted) {
            follow->posted = true;
            loop_post(follow->loop, tell_follower, follow);
        }
    }
}

void *telemetry_writer(void *argument)
{
    struct telemetry *telemetry = argument;
    pthread_setname_np(pthread_self(), "log-writer");
    pthread_mutex_lock(&telemetry->lock);
    for (;;) {
        struct pending *pending = LIST_FIRST(&telemetry->queue, struct pending, link);
        if (pending == NULL && telemetry->stop) {
            break;
        }
        if (pending == NULL || telemetry->removing > 0) {
            pthread_cond_wait(&telemetry->wake, &telemetry->lock);
            continue;
        }
        list_remove(&pending->link);
        telemetry->queue_bytes -= pending->length;
        telemetry->busy = true;
        pthread_mutex_unlock(&telemetry->lock);
        bool is_written = write_pending(telemetry, pending);
        pthread_mutex_lock(&telemetry->lock);
        telemetry->busy = false;
        telemetry->written_count++;
        telemetry->dropped += is_written ? 0
            : pending->tells_dropped > 0 ? pending->tells_dropped
                                         : 1;
        pthread_cond_broadcast(&telemetry->written);
        tell_followers(telemetry, pending);
        free(pending);
    }
    pthread_cond_broadcast(&telemetry->written);
    pthread_mutex_unlock(&telemetry->lock);
    return NULL;
}

static struct pending *make_pending(const char *project, const char *function, uint64_t version,
                                    const char *request_id, const void *bytes, size_t length)
{
    struct pending *pending = memory_new(1, sizeof(*pending) + length);
    snprintf(pending->project, sizeof(pending->project), "%s", project);
    snprintf(pending->function, sizeof(pending->function), "%s", function);
    snprintf(pending->request_id, sizeof(pending->request_id), "%s", request_id);
    pending->version = version;
    pending->time_ms = clock_real_ms();
    pending->length = length;
    memcpy(pending->text, bytes, length);
    return pending;
}

/* With the lock held. */
static void queue_pending(struct telemetry *telemetry, struct pending *pending)
{
    list_push_back(&telemetry->queue, &pending->link);
    telemetry->queue_bytes += pending->length;
    telemetry->queued_count++;
}

void telemetry_log(struct telemetry *telemetry, const char *project, const char *function,
                   uint64_t version, const char *request_id,
                   const struct trace_context *trace_or_null, const void *bytes, size_t length)
{
    if (length == 0) {
        return;
    }
    struct pending *pending = make_pending(project, function, version, request_id, bytes, length);
    struct pending *note = NULL;
    if (trace_or_null != NULL && trace_context_is_set(trace_or_null)) {
        trace_write_id(trace_or_null, pending->trace);
    }
    pthread_mutex_lock(&telemetry->lock);
    bool is_gone = telemetry_is_gone(telemetry, project, function);
    if (is_gone || telemetry->queue_bytes + length > QUEUE_BYTES_MAX) {
        telemetry->dropped += is_gone ? 0 : 1;
        pthread_mutex_unlock(&telemetry->lock);
        free(pending);
        return;
    }
    if (telemetry->dropped > 0) {
        char text[96];
        int used =
            snprintf(text, sizeof(text),
                     "<4>%" PRIu64 " pieces of log were dropped: the disk was full or too slow",
                     telemetry->dropped);
        note = make_pending(project, function, version, request_id, text, (size_t)used);
        note->tells_dropped = telemetry->dropped;
        queue_pending(telemetry, note);
        telemetry->dropped = 0;
    }
    queue_pending(telemetry, pending);
    pthread_cond_signal(&telemetry->wake);
    pthread_mutex_unlock(&telemetry->lock);
}

/* ---- Reading ---- */

struct reading {
    uint64_t after;
    size_t lines_max;
    const char *trace; /* as lines have it: "trace":"ID"; NULL: any */
    char **lines;      /* a ring of the newest */
    size_t count;
};

static void keep_line(const char *line, size_t length, void *context)
{
    struct reading *reading = context;
    uint64_t sequence = sequence_of(line, length);
    if (sequence == 0 || sequence <= reading->after ||
        (reading->trace != NULL &&
         memmem(line, length, reading->trace, strlen(reading->trace)) == NULL)) {
        return;
    }
    char **slot = &reading->lines[reading->count++ % reading->lines_max];
    free(*slot);
    *slot = memory_copy_text(line, length);
}

static void visit_line(const char *project, const char *function, const char *text,
                       void (*visit)(const struct telemetry_line *line, void *context),
                       void *context)
{
    JSON_OWNED json_t *value = NULL;
    struct error ignored = {0};
    if (json_read(text, strlen(text), &value, &ignored) < 0) {
        return;
    }
    struct telemetry_line line = {
        .sequence = (uint64_t)json_integer_value(json_object_get(value, "sequence")),
        .time_ms = (uint64_t)json_integer_value(json_object_get(value, "time_ms")),
        .level = LOG_LEVEL_INFO,
        .project = project,
        .function = function,
        .version = (uint64_t)json_integer_value(json_object_get(value, "version")),
        .request_id = json_text(value, "request_id"),
        .trace = json_text(value, "trace"),
        .text = json_text(value, "text"),
        .text_length = json_string_length(json_object_get(value, "text")),
    };
    log_level_parse(json_text(value, "level"), &line.level);
    visit(&line, context);
}

/* What was logged before this call must be readable after it, and no later word is waited for. */
static void wait_for_writer(struct telemetry *telemetry)
{
    pthread_mutex_lock(&telemetry->lock);
    uint64_t last = telemetry->queued_count;
    while (!telemetry->stop && telemetry->written_count < last) {
        pthread_cond_wait(&telemetry->written, &telemetry->lock);
    }
    pthread_mutex_unlock(&telemetry->lock);
}

int telemetry_read(struct telemetry *telemetry, const char *project, const char *function,
                   uint64_t after, size_t lines_max, const char *trace_or_null,
                   void (*visit)(const struct telemetry_line *line, void *context), void *context,
                   struct error *err)
{
    CHECK(lines_max > 0);

    wait_for_writer(telemetry);
    MEMORY_OWNED char *folder = memory_format("%s/%s/%s", telemetry->folder, project, function);
    /* What a function says has its quotation marks escaped there, and cannot look so. */
    MEMORY_OWNED char *trace =
        trace_or_null != NULL ? memory_format("\"trace\":\"%s\"", trace_or_null) : NULL;
    struct reading reading = {.after = after, .lines_max = lines_max, .trace = trace};
    reading.lines = memory_new(lines_max, sizeof(char *));
    struct range range = find_segments(folder);
    int r = 0;
    for (uint64_t segment = range.first; segment <= range.last && r == 0; segment++) {
        MEMORY_OWNED char *path = segment_path(folder, segment);
        r = each_line(path, keep_line, &reading, err);
    }
    size_t kept = reading.count < lines_max ? reading.count : lines_max;
    for (size_t i = reading.count - kept; i < reading.count; i++) {
        char *line = reading.lines[i % lines_max];
        if (r == 0) {
            visit_line(project, function, line, visit, context);
        }
        free(line);
    }
    free(reading.lines);
    return r;
}

/* ---- Following ---- */

struct telemetry_follow *telemetry_follow_new(struct telemetry *telemetry, const char *project,
                                              const char *function, struct loop *loop,
                                              void (*changed)(void *context), void *context)
{
    struct telemetry_follow *follow = NEW(struct telemetry_follow);
    follow->telemetry = telemetry;
    snprintf(follow->key, sizeof(follow->key), "%s/%s", project, function);
    follow->loop = loop;
    follow->changed = changed;
    follow->context = context;
    pthread_mutex_lock(&telemetry->lock);
    list_push_back(&telemetry->follows, &follow->link);
    pthread_mutex_unlock(&telemetry->lock);
    return follow;
}

void telemetry_follow_free(struct telemetry_follow *follow)
{
    if (follow == NULL) {
        return;
    }
    pthread_mutex_lock(&follow->telemetry->lock);
    list_remove(&follow->link);
    bool posted = follow->posted; /* then the post frees it */
    follow->freed = true;
    pthread_mutex_unlock(&follow->telemetry->lock);
    if (!posted) {
        free(follow);
    }
}

/* ---- Removing ---- */

static void free_file(struct log_file *file)
{
    if (file != NULL) {
        fd_close_slot(&file->fd);
        free(file->folder);
        free(file);
    }
}

int telemetry_remove(struct telemetry *telemetry, const char *project, const char *function,
                     struct error *err)
{
    MEMORY_OWNED char *key = memory_format("%s/%s", project, function);
    MEMORY_OWNED char *folder = memory_format("%s/%s", telemetry->folder, key);
    telemetry_metrics_remove(telemetry, key); /* whoever has the lock from here on sees it */
    wait_for_writer(telemetry);
    pthread_mutex_lock(&telemetry->lock);
    telemetry->removing++;
    while (telemetry->busy) {
        pthread_cond_wait(&telemetry->written, &telemetry->lock);
    }
    free_file(map_remove(&telemetry->files, key));
    int r = file_remove_tree(folder, err);
    telemetry->removing--;
    pthread_cond_signal(&telemetry->wake);
    pthread_mutex_unlock(&telemetry->lock);
    return r;
}

static bool is_folder(const struct dirent *entry)
{
    return entry->d_type == DT_DIR && entry->d_name[0] != '.';
}

void telemetry_each_log(struct telemetry *telemetry,
                        void (*visit)(const char *project, const char *function, void *context),
                        void *context)
{
    DIR *projects = opendir(telemetry->folder);
    for (struct dirent *project = projects != NULL ? readdir(projects) : NULL; project != NULL;
         project = readdir(projects)) {
        MEMORY_OWNED char *path = memory_format("%s/%s", telemetry->folder, project->d_name);
        DIR *functions = is_folder(project) ? opendir(path) : NULL;
        for (struct dirent *function = functions != NULL ? readdir(functions) : NULL;
             function != NULL; function = readdir(functions)) {
            if (is_folder(function)) {
                visit(project->d_name, function->d_name, context);
            }
        }
        if (functions != NULL) {
            closedir(functions);
        }
    }
    if (projects != NULL) {
        closedir(projects);
    }
}

static void free_one(const char *key, void *value, void *context)
{
    (void)key;
    (void)context;
    free_file(value);
}

void telemetry_files_done(struct telemetry *telemetry)
{
    map_each(&telemetry->files, free_one, NULL);
    map_done(&telemetry->files);
}
