/* Waiting for changes of files, for `lunapark test --watch`: watch.c, as jobs of Lua.
 *
 * A watcher hears of events, not of differences: Lua compares the files' content with the loaded content
 * (testing/watch.lua). Lua watches first, then compares, then waits. So the comparison or the wait sees a change in
 * between.
 */
#include "../../runtime/runtime.h"
#include "../base/log.h"
#include "../vm/job.h"
#include "generation_ffi.h"
#include "watch.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static struct {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool started;
    uint64_t events; /* lock: bursts so far */
    uint64_t told;   /* lock: bursts that Lua knows of */
} c = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false, 0, 0};

typedef struct names {
    int n;
    char text[];
} names;

static void changed(void) {
    pthread_mutex_lock(&c.lock);
    c.events++;
    pthread_cond_broadcast(&c.cond);
    pthread_mutex_unlock(&c.lock);
}

/* A name without a file is noted as missing by the attempt to read it. */
static void run_watch(void *arg) {
    names *x = arg;
    if (!c.started) watch_start(changed);
    c.started = true;
    pthread_mutex_lock(&c.lock);
    c.told = c.events;
    pthread_mutex_unlock(&c.lock);
    rt_entersyscallblock();
    source_set *set = source_set_new("./spec");
    if (!set) {
        rt_exitsyscall();
        log_line(LOG_ERROR, "watch: not enough memory: changes are not seen");
        return;
    }
    const char *name = x->text;
    for (int i = 0; i < x->n; i++, name += strlen(name) + 1) {
        int err;
        if (source_watch(set, name) < 0) source_get(set, name, &err, NULL);
    }
    rt_exitsyscall();
    watch_files(set, NULL);
    rt_entersyscall();
    source_set_free(set);
    rt_exitsyscall();
}

host_job *host_changes_watch(const char *text, size_t len, int n) {
    names *x = malloc(sizeof *x + len + 1);
    if (!x) return NULL;
    x->n = n;
    memcpy(x->text, text, len);
    x->text[len] = 0;
    return job_new(run_watch, free, x);
}

static void run_wait(void *arg) {
    (void)arg;
    rt_entersyscallblock();
    pthread_mutex_lock(&c.lock);
    while (c.events == c.told)
        pthread_cond_wait(&c.cond, &c.lock);
    c.told = c.events;
    pthread_mutex_unlock(&c.lock);
    rt_exitsyscall();
}

static void nothing(void *arg) {
    (void)arg;
}

host_job *host_changes_wait(void) {
    return job_new(run_wait, nothing, NULL);
}
