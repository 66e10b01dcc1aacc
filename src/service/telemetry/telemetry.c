#include "service/telemetry/telemetry.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"

#include "service/telemetry/private.h"
#include "service/telemetry/trace_parts.h"

enum { BYTES_MAX = 8 << 20, SEGMENTS = 4 };

int telemetry_open(const struct telemetry_options *options, struct telemetry **ret_telemetry,
                   struct error *err)
{
    int r = file_make_folder(options->folder, 0700, err);
    if (r < 0) {
        return r;
    }
    struct tracer *tracer = NULL;
    r = tracer_new(options, &tracer, err);
    if (r < 0) {
        return r;
    }
    struct telemetry *telemetry = NEW(struct telemetry);
    telemetry->tracer = tracer;
    uint64_t bytes_max =
        options->bytes_max_per_function > 0 ? options->bytes_max_per_function : BYTES_MAX;
    telemetry->folder = memory_copy_string(options->folder);
    telemetry->segment_bytes = bytes_max / SEGMENTS;
    list_init(&telemetry->queue);
    list_init(&telemetry->follows);
    list_init(&telemetry->recent_functions);
    telemetry->opened_ns = clock_monotonic_ns();
    pthread_mutex_init(&telemetry->lock, NULL);
    pthread_mutex_init(&telemetry->metrics_lock, NULL);
    pthread_cond_init(&telemetry->wake, NULL);
    pthread_cond_init(&telemetry->written, NULL);
    r = pthread_create(&telemetry->writer, NULL, telemetry_writer, telemetry);
    if (r != 0) {
        tracer_free(tracer);
        free(telemetry->folder);
        free(telemetry);
        return error_os(err, r, "starting the log writer");
    }
    *ret_telemetry = telemetry;
    return 0;
}

void telemetry_close(struct telemetry *telemetry)
{
    if (telemetry == NULL) {
        return;
    }
    pthread_mutex_lock(&telemetry->lock);
    telemetry->stop = true;
    pthread_cond_signal(&telemetry->wake);
    pthread_mutex_unlock(&telemetry->lock);
    pthread_join(telemetry->writer, NULL);
    CHECK(list_is_empty(&telemetry->follows));
    tracer_free(telemetry->tracer);
    telemetry_files_done(telemetry);
    telemetry_metrics_done(telemetry);
    pthread_mutex_destroy(&telemetry->lock);
    pthread_mutex_destroy(&telemetry->metrics_lock);
    pthread_cond_destroy(&telemetry->wake);
    pthread_cond_destroy(&telemetry->written);
    free(telemetry->folder);
    free(telemetry);
}
