/* Performs what the pool decides.  See project.h. */
#include "service/instance/project.h"

#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/clone/clone.h"
#include "engine/image/image.h"

#include "service/telemetry/telemetry.h"

/* An image on its way into a runner. */
struct load {
    struct list_node link;
    struct seat *seat; /* NULL: the runner is gone, and the pool knows */
    struct pool_image *image;
};

static void on_timer(void *context)
{
    struct project *project = context;
    project->wake_ms = UINT64_MAX;
    pool_tick(project->pool, clock_monotonic_ms());
    project_pump(project);
}

/* A machine has far more memory than an instance of WebAssembly. */
unsigned project_slots(const struct project *project)
{
    enum { CLONES_MAX = 16 };
    unsigned slots = project->service->options.slots_per_runner;
    return project->is_linux && slots > CLONES_MAX ? CLONES_MAX : slots;
}

char *project_key(const char *name, bool is_linux)
{
    return memory_format("%s%s", name, is_linux ? "/linux" : "");
}

struct project *project_find(struct instance_service *service, const char *name, bool is_linux)
{
    MEMORY_OWNED char *key = project_key(name, is_linux);
    struct project *project = map_get(&service->projects, key);
    if (project != NULL) {
        return project;
    }
    project = NEW(struct project);
    project->service = service;
    project->name = memory_copy_string(name);
    project->is_linux = is_linux;
    project->pool = pool_new(&(struct pool_options){
        .slots_per_runner = project_slots(project),
        .runners_max = is_linux ? 1 : service->options.runners_max,
    });
    project->timer = loop_timer_new(service->loop, on_timer, project);
    project->wake_ms = UINT64_MAX;
    for (unsigned i = 0; i < POOL_RUNNERS_MAX; i++) {
        project->seats[i].project = project;
        project->seats[i].index = i;
        list_init(&project->seats[i].loads);
    }
    map_set(&service->projects, key, project);
    return project;
}

static void void_loads(struct seat *seat)
{
    LIST_EACH(node, &seat->loads)
    {
        struct load *load = LIST_ITEM(node, struct load, link);
        list_remove(&load->link);
        load->seat = NULL;
    }
}

static void release_image(struct pool_image *image)
{
    struct image_facts *facts = image->user;
    if (facts != NULL) {
        instance_target_unref(facts->target);
        free(facts);
        image->user = NULL;
    }
}

/* ---- Runners ---- */

static void free_runner_later(void *argument)
{
    runner_free(argument);
}

static void on_runner_exit(struct runner *runner, const char *reason, void *context)
{
    struct seat *seat = context;
    struct project *project = seat->project;
    struct instance_service *service = project->service;
    CHECK(seat->runner == runner);

    log_warn("runner %d of project %s ended: %s", (int)runner_pid(runner), project->name, reason);
    telemetry_add(service->options.telemetry, TELEMETRY_RUNNER_DEATHS, 1);
    seat->runner = NULL;
    service->runners--;
    void_loads(seat);
    loop_post(service->loop, free_runner_later, runner); /* we are inside it */
    pool_runner_died(project->pool, seat->index, reason, clock_monotonic_ms());
    project_pump(project);
}

static void perform_start(struct project *project, unsigned index)
{
    struct instance_service *service = project->service;
    struct seat *seat = &project->seats[index];
    struct error err = {0};
    CHECK(seat->runner == NULL);

    struct runner_options options = {
        .program = service->runner_program,
        .project = project->name,
        .isolation = service->options.isolation,
        .slot_count = service->options.slots_per_runner,
    };
    struct runner_events events = {.on_exit = on_runner_exit, .context = seat};
    int r = project->is_linux && service->options.clones != NULL
        ? clone_runner_start(service->options.clones, project_slots(project), &seat->runner, &err)
        : project->is_linux
        ? error_set(&err, ERROR_UNSUPPORTED, "this node does not run Linux functions")
        : runner_start(service->loop, &options, &events, &seat->runner, &err);
    if (r < 0) {
        log_error("no runner for project %s: %s", project->name, err.text);
        pool_runner_refused(project->pool, index, &err, clock_monotonic_ms());
        return;
    }
    service->runners++;
    telemetry_add(service->options.telemetry, TELEMETRY_RUNNER_STARTS, 1);
    log_info("runner %d of project %s started: %s", (int)runner_pid(seat->runner), project->name,
             project->is_linux ? runner_jail_text(seat->runner)
                               : vmm_isolation_text(runner_isolation(seat->runner)));
    pool_runner_started(project->pool, index, clock_monotonic_ms());
}

static void perform_end(struct project *project, unsigned index)
{
    struct seat *seat = &project->seats[index];
    CHECK(seat->runner != NULL && list_is_empty(&seat->loads));

    log_info("runner %d of project %s is no longer needed", (int)runner_pid(seat->runner),
             project->name);
    loop_post(project->service->loop, free_runner_later, seat->runner);
    seat->runner = NULL;
    project->service->runners--;
}

/* ---- Images ---- */

/* What it wrote last is why, mostly: a script's exception, a panic.  Whole lines, one behind the
 * other. */
static void add_words(struct error *err, const char *log, size_t length)
{
    enum { WORDS_MAX = 240 };
    struct text words = text_of(log, length);
    if (length > WORDS_MAX) {
        const char *line = memchr(log + length - WORDS_MAX, '\n', WORDS_MAX);
        size_t from =
            line != NULL && line + 1 < log + length ? (size_t)(line + 1 - log) : length - WORDS_MAX;
        words = text_of(log + from, length - from);
    }
    while (words.length > 0 && strchr("\r\n", words.data[words.length - 1]) != NULL) {
        words.length--;
    }
    MEMORY_OWNED char *said = memory_copy_text(words.data, words.length);
    for (char *line = said; (line = strchr(line, '\n')) != NULL;) {
        *line = '|';
    }
    text_make_printable(said, false);
    if (said[0] != '\0') {
        size_t used = strlen(err->text);
        snprintf(err->text + used, sizeof(err->text) - used, "; it wrote: %s", said);
    }
}

static void on_loaded(const struct error *error, const struct vmm_image_info *info, const char *log,
                      size_t log_length, void *context)
{
    struct load *load = context;
    struct seat *seat = load->seat;
    if (seat == NULL) {
        free(load);
        return;
    }
    /* The runner is going: its exit, which follows, decides what becomes of the image.  Clones have
     * none that could go: it was their machine. */
    if (error != NULL && !seat->project->is_linux &&
        (error->kind == ERROR_UNAVAILABLE || error->kind == ERROR_CANCELLED)) {
        list_remove(&load->link);
        free(load);
        return;
    }
    struct project *project = seat->project;
    struct pool_image *image = load->image;
    struct image_facts *facts = image->user;
    const struct instance_target *target = facts->target;
    list_remove(&load->link);
    free(load);

    if (log_length > 0) {
        telemetry_log(project->service->options.telemetry, target->project, target->function,
                      target->version, "init", NULL, log, log_length);
    }
    if (error != NULL) {
        struct error why = *error;
        if (!project->is_linux) {
            add_words(&why, log, log_length);
        }
        log_warn("function %s/%s version %llu: initialisation failed: %s", target->project,
                 target->function, (unsigned long long)target->version, why.text);
        pool_load_failed(project->pool, seat->index, image, &why);
    } else {
        facts->info = *info;
        pool_loaded(project->pool, seat->index, image);
    }
    project_pump(project);
}

/*
 * The runner knows an image by one name, and loads it with one set of limits; versions that have
 * the code in common but not their instances need names of their own.
 */
static void name_image(const struct pool_image *image, char ret_name[HASH_TEXT_SIZE])
{
    BUFFER_OWNED struct buffer text = {0};
    buffer_append_string(&text, image->id);
    buffer_append_u64(&text, image->limits.memory_bytes);
    buffer_append_u64(&text, image->limits.files_bytes);
    buffer_append_u64(&text, image->limits.timeout_ms);
    buffer_append_u64(&text, image->limits.output_bytes_max);
    buffer_append_u64(&text, image->limits.log_bytes_max);
    buffer_append_u64(&text, image->settings.idle_ms);
    buffer_append_u64(&text, image->settings.recycle_calls);
    buffer_append_u64(&text, image->settings.recycle_ms);
    buffer_append_string(&text, image->owner);
    hash_bytes(text.data, text.used, ret_name);
}

static void perform_load(struct project *project, unsigned index, struct pool_image *image)
{
    struct seat *seat = &project->seats[index];
    struct error err = {0};
    FD_OWNED int fd = -1;
    uint64_t size_bytes = 0;
    CHECK(image->user != NULL);

    struct instance_service *service = project->service;
    struct image_facts *facts = image->user;
    const char *code = facts->target->code_id[0] != '\0' ? facts->target->code_id : image->id;
    if (image_open(service->options.images, code, &fd, &size_bytes, &err) < 0) {
        pool_load_failed(project->pool, index, image, &err);
        return;
    }
    struct load *load = NEW(struct load);
    load->seat = seat;
    load->image = image;
    list_push_back(&seat->loads, &load->link);
    runner_load_with(seat->runner, facts->name, fd, &image->limits, facts->target->linux_settings,
                     on_loaded, load);
}

void project_fill_request(const struct instance_target *target, struct pool_request *ret_request)
{
    *ret_request = (struct pool_request){
        .function = target->function,
        .image_id = target->image_id,
        .limits = target->limits,
        .version = target->version,
        .settings =
            {
                .is_sticky = target->is_sticky,
                .instances_min = target->instances_min,
                .instances_max = target->instances_max,
                .idle_ms = target->idle_ms,
                .recycle_calls = target->recycle_calls,
                .recycle_ms = target->recycle_ms,
            },
        .concurrency_max = target->concurrency_max,
        .queue_max = target->queue_max,
    };
}

void project_note_image(struct pool_image *image, struct instance_target *target)
{
    if (image != NULL && image->user == NULL) {
        struct image_facts *facts = NEW(struct image_facts);
        facts->target = instance_target_ref(target);
        name_image(image, facts->name);
        image->user = facts;
    }
}

/* ---- Pumping ---- */

static void perform(struct project *project, const struct pool_effect *effect)
{
    struct seat *seat = &project->seats[effect->runner];
    switch (effect->kind) {
    case POOL_START_RUNNER:
        perform_start(project, effect->runner);
        return;
    case POOL_END_RUNNER:
        perform_end(project, effect->runner);
        return;
    case POOL_LOAD:
        perform_load(project, effect->runner, effect->image);
        return;
    case POOL_UNLOAD:
        runner_unload(seat->runner, ((struct image_facts *)effect->image->user)->name);
        return;
    case POOL_RELEASE:
        release_image(effect->image);
        return;
    case POOL_INVOKE:
        call_start((struct instance_call *)effect->call, seat->runner, effect->slot,
                   effect->is_last);
        return;
    case POOL_WARM:
        runner_warm(seat->runner, effect->slot, ((struct image_facts *)effect->image->user)->name);
        return;
    case POOL_COOL:
        runner_warm(seat->runner, effect->slot, NULL);
        return;
    case POOL_FAIL:
        call_fail((struct instance_call *)effect->call, effect->error);
        return;
    case POOL_PREPARED: {
        const struct image_facts *facts = effect->error == NULL ? effect->image->user : NULL;
        prepare_end((struct prepare *)effect->call, effect->error,
                    facts != NULL ? &facts->info : NULL);
        return;
    }
    }
    CHECK_UNREACHABLE();
}

static void tell_counts(struct project *project)
{
    struct telemetry *telemetry = project->service->options.telemetry;
    const struct pool_counts *now = pool_counts(project->pool);
    const struct pool_counts *told = &project->told;
    if (memcmp(now, told, sizeof(*now)) == 0) {
        return;
    }
    telemetry_add(telemetry, TELEMETRY_STARTS_WARM, now->warm - told->warm);
    telemetry_add(telemetry, TELEMETRY_STARTS_COLD, now->cold - told->cold);
    telemetry_add(telemetry, TELEMETRY_STARTS_FORESEEN, now->foreseen - told->foreseen);
    telemetry_add(telemetry, TELEMETRY_INSTANCES_WARMED, now->warmed - told->warmed);
    telemetry_add(telemetry, TELEMETRY_INSTANCES_COOLED, now->cooled - told->cooled);
    telemetry_add(telemetry, TELEMETRY_INSTANCES_EVICTED, now->evicted - told->evicted);
    telemetry_add(telemetry, TELEMETRY_INSTANCES_RECYCLED, now->recycled - told->recycled);
    project->told = *now;
}

static void tell_gauges(struct project *project)
{
    struct instance_service *service = project->service;
    unsigned instances = pool_instances(project->pool);
    unsigned busy = pool_busy(project->pool);
    unsigned waiting = pool_waiting(project->pool);
    tell_counts(project);
    service->instances += instances - project->instances;
    service->busy += busy - project->busy;
    service->waiting += waiting - project->waiting;
    project->instances = instances;
    project->busy = busy;
    project->waiting = waiting;
    telemetry_set(service->options.telemetry, TELEMETRY_INSTANCES, service->instances);
    instance_watch_pressure(service);
    telemetry_set(service->options.telemetry, TELEMETRY_INSTANCES_BUSY, service->busy);
    telemetry_set(service->options.telemetry, TELEMETRY_CALLS_QUEUED, service->waiting);
}

static void arm_timer(struct project *project)
{
    uint64_t wake_ms = pool_wake_ms(project->pool);
    if (wake_ms == project->wake_ms) {
        return;
    }
    project->wake_ms = wake_ms;
    if (wake_ms == UINT64_MAX) {
        loop_timer_stop(project->timer);
        return;
    }
    uint64_t now_ms = clock_monotonic_ms();
    loop_timer_start(project->timer, wake_ms > now_ms ? wake_ms - now_ms : 0);
}

/* What the quota leaves to this pool, besides the project's other one. */
static void take_quota(struct project *project)
{
    const struct instance_quota *quota = &project->service->quota;
    unsigned most = quota->most != NULL ? quota->most(project->name, quota->context) : 0;
    if (most > 0) {
        MEMORY_OWNED char *key = project_key(project->name, !project->is_linux);
        const struct project *other = map_get(&project->service->projects, key);
        unsigned taken = other != NULL ? pool_instances(other->pool) : 0;
        most = most > taken ? most - taken : 1; /* a pool without any would never serve */
    }
    pool_set_instances_max(project->pool, most);
}

void project_pump(struct project *project)
{
    if (project->is_pumping) {
        return; /* the one outside goes on */
    }
    project->is_pumping = true;
    take_quota(project);
    struct pool_effect effect;
    while (pool_next(project->pool, clock_monotonic_ms(), &effect)) {
        perform(project, &effect);
    }
    project->is_pumping = false;
    tell_gauges(project);
    arm_timer(project);
}

void project_free(struct project *project)
{
    struct error error;
    error_set(&error, ERROR_CANCELLED, "the node is stopping");
    project->is_ending = true;
    pool_fail_all(project->pool, &error);
    project_pump(project);
    for (unsigned i = 0; i < POOL_RUNNERS_MAX; i++) {
        struct seat *seat = &project->seats[i];
        void_loads(seat);
        if (seat->runner != NULL) {
            runner_free(seat->runner);
            seat->runner = NULL;
        }
    }
    loop_timer_free(project->timer);
    pool_free(project->pool, release_image);
    free(project->name);
    free(project);
}
