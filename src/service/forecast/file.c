/*
 * FOLDER/forecasts: a line of what it is, then for each series its key, the last step it was seen
 * in, and what its forecaster wrote.  A file that is not whole is left alone up to where it is.
 */
#include "base/file.h"

#include <string.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/log.h"
#include "base/memory.h"

#include "service/forecast/parts.h"

static const char TITLE[] = "blixard forecasts 1\n";
enum { FILE_SIZE_MAX = 256 << 20, FILE_MODE = 0600 };

struct reading {
    const uint8_t *at;
    size_t left;
};

static bool take(struct reading *reading, void *into, size_t size)
{
    if (reading->left < size) {
        return false;
    }
    memcpy(into, reading->at, size);
    reading->at += size;
    reading->left -= size;
    return true;
}

/* False: no more, or no more that can be understood. */
static bool take_series(struct forecast_service *service, struct reading *reading)
{
    char key[SERIES_KEY_MAX];
    uint32_t key_length = 0;
    uint32_t length = 0;
    uint64_t seen = 0;
    struct error err = {0};
    if (!take(reading, &key_length, sizeof(key_length)) || key_length == 0 ||
        key_length >= sizeof(key) || !take(reading, key, key_length) ||
        !take(reading, &seen, sizeof(seen)) || !take(reading, &length, sizeof(length)) ||
        length > reading->left) {
        return false;
    }
    key[key_length] = '\0';
    bool is_function = key[0] == 'f' && key[1] == '/' && strchr(key + 2, '/') != NULL;
    bool is_other = (key[0] == 'm' || key[0] == 'n') && key[1] == '/';
    if (strlen(key) == key_length && (is_function || is_other)) {
        struct series *series = series_find(service, key, true);
        series->seen = seen;
        if (forecaster_read(series->forecaster, reading->at, length, &err) < 0) {
            log_warn("forecasts: %s begins anew: %s", key, err.text);
        }
    }
    reading->at += length;
    reading->left -= length;
    return true;
}

void forecast_file_read(struct forecast_service *service)
{
    struct buffer BUFFER_OWNED buffer = {0};
    struct error err = {0};
    int r = file_read(service->path, FILE_SIZE_MAX, &buffer, &err);
    if (r < 0) {
        if (r != -ERROR_NOT_FOUND) {
            log_warn("forecasts begin anew: %s", err.text);
        }
        return;
    }
    struct reading reading = {buffer.data, buffer.used};
    char title[sizeof(TITLE) - 1];
    if (!take(&reading, title, sizeof(title)) || memcmp(title, TITLE, sizeof(title)) != 0) {
        log_warn("forecasts begin anew: %s is of another version", service->path);
        return;
    }
    while (take_series(service, &reading)) {
    }
    if (reading.left > 0) {
        log_warn("forecasts: the end of %s cannot be read", service->path);
    }
}

static void write_series(const char *key, void *value, void *context)
{
    const struct series *series = value;
    struct buffer *buffer = context;
    struct buffer BUFFER_OWNED content = {0};
    forecaster_write(series->forecaster, &content);
    buffer_append_u32(buffer, (uint32_t)strlen(key));
    buffer_append_string(buffer, key);
    buffer_append_u64(buffer, series->seen);
    buffer_append_u32(buffer, (uint32_t)content.used);
    buffer_append(buffer, content.data, content.used);
}

void forecast_file_write(struct forecast_service *service)
{
    struct buffer BUFFER_OWNED buffer = {0};
    struct error err = {0};
    buffer_append_string(&buffer, TITLE);
    map_each(&service->series, write_series, &buffer);
    if (file_write(service->path, buffer.data, buffer.used, FILE_MODE, &err) < 0) {
        log_warn("forecasts were not kept: %s", err.text);
    }
}
