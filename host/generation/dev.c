/* For --dev: reloads as a browser sees them.
 *
 * A reload that fails changes nothing except the record here: its message, and the names of the files that it had
 * loaded. A page may show pieces of only these files. Then the VMs that serve answer every request with the failure
 * (lua/lunapark/command/dev), until a reload succeeds or finds that the old files are back.
 *
 * A page belongs to a *state*: the run of the process, the number of the generation, and the number of the failure or
 * 0. A page of another state is out of date. The generation is that of the VM that has made the page, not the one that
 * serves by then. So a page that an old VM sends after a switch is out of date at once. A failure belongs to the
 * generation that went on serving: the switch to the next one ends the failure in the same step, so no browser sees one
 * without the other.
 */
#include "dev.h"

#include "../base/options.h"
#include "../vm/vm.h"
#include "generation.h"
#include "generation_ffi.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct text {
    char *bytes;
    size_t len;
} text;

static struct {
    rt_lock lock;
    text failure;             /* lock: the message, then names of files, each with its NUL */
    int32_t n;                /* lock: how many loads have failed */
    int32_t failing;          /* lock: which failure the last attempt was; 0: it succeeded */
    int32_t failed_in;        /* lock: the number of the generation that served then */
    _Atomic int64_t began_ms; /* when Lua asked first; 0: it has not */
} dev;

static void append(void *arg, const char *s, source_kind kind) {
    text *t = arg;
    if (kind != SOURCE_FILE) return;
    size_t n = strlen(s) + 1;
    char *bytes = realloc(t->bytes, t->len + n);
    if (!bytes) return; /* a page shows less, or nothing */
    memcpy(bytes + t->len, s, n);
    t->bytes = bytes;
    t->len += n;
}

static void set(text t) {
    char now[SOURCE_ID_SIZE];
    int serving = generation_now(now, NULL);
    rt_lock_acquire(&dev.lock);
    char *old = dev.failure.bytes;
    dev.failure = t;
    dev.failed_in = serving;
    dev.failing = t.bytes ? ++dev.n : 0;
    rt_lock_release(&dev.lock);
    free(old);
}

void dev_failed(const char *what, source_set *files) {
    text t = {0};
    append(&t, what, SOURCE_FILE);
    if (files) source_each(files, append, &t);
    set(t);
}

void dev_loaded(void) {
    set((text){0});
}

/* ---- from Lua ---- */

/* A failure of an older generation is over. */
static int32_t failing_in(int serving) {
    rt_lock_acquire(&dev.lock);
    int32_t n = dev.failed_in == serving ? dev.failing : 0;
    rt_lock_release(&dev.lock);
    return n;
}

int host_dev_failing(void) {
    char now[SOURCE_ID_SIZE];
    return failing_in(generation_now(now, NULL));
}

size_t host_dev_failure(char *buf, size_t cap, int32_t *number) {
    rt_lock_acquire(&dev.lock);
    size_t len = dev.failure.len;
    *number = dev.failing;
    if (len > 0 && len <= cap) memcpy(buf, dev.failure.bytes, len);
    rt_lock_release(&dev.lock);
    return len;
}

/* A number that differs from the last process's, as clocks go. */
static double run(void) {
    struct timespec now;
    int64_t none = 0;
    clock_gettime(CLOCK_REALTIME, &now);
    atomic_compare_exchange_strong(&dev.began_ms, &none,
                                   (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000);
    return (double)atomic_load(&dev.began_ms);
}

void host_dev_read(host_dev *d) {
    generation *gen = vm_current()->generation;
    char now[SOURCE_ID_SIZE];
    memset(d, 0, sizeof *d);
    d->run = run();
    d->own = gen ? gen->number : 0;
    d->serving = generation_now(now, NULL);
    d->failing = failing_in(d->serving);
    d->live_reload = options.live_reload != 0;
    if (gen) memcpy(d->id, gen->id, sizeof gen->id);
}
