/* The log: lines of a level, a message, and pairs of keys and values. What Lua and C call.
 *
 * A line is formatted by who logs (logline.c), in a buffer of the thread, and queued; a thread writes it to
 * stderr (logq.c). So nothing here waits but flushing. */
#include "log.h"

#include "job.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* How long the end of the process waits for the writer. */
#define END_NS (1 * NS_PER_SEC)

/* NULL: no memory. noinline: a G may wake on another thread. */
__attribute__((noinline)) static char *line_buffer(void) {
    static __thread char *buffer; /* threads that log hardly ever end */
    if (!buffer) buffer = malloc(LOG_LINE_MAX);
    return buffer;
}

int host_log_enabled(int level) {
    return level >= atomic_load_explicit(&options.log_level, memory_order_relaxed);
}

int host_log_level(void) {
    return (int)atomic_load_explicit(&options.log_level, memory_order_relaxed);
}

void host_log_set_level(int level) {
    atomic_store_explicit(&options.log_level, level, memory_order_relaxed);
}

void host_log_pairs(int level, const char *msg, size_t len, const host_log_pair *pairs, int n) {
    if (!host_log_enabled(level)) return;
    if (level < LOG_DEBUG) level = LOG_DEBUG;
    if (level > LOG_ERROR) level = LOG_ERROR;
    char *buf = line_buffer();
    if (!buf) {
        logq_lose();
        return;
    }
    int format = (int)atomic_load_explicit(&options.log_format, memory_order_relaxed);
    logq_put(buf, logline_format(buf, format, level, msg, len, pairs, n), level);
}

void host_log(int level, const char *msg, size_t len) {
    host_log_pairs(level, msg, len, NULL, 0);
}

void log_line(int level, const char *fmt, ...) {
    char buf[4096];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(buf, sizeof buf, fmt, ap);
    va_end(ap);
    if (n < 0) return;
    if ((size_t)n >= sizeof buf) {
        memcpy(buf + sizeof buf - 4, "...", 4);
        n = sizeof buf - 1;
    }
    host_log(level, buf, (size_t)n);
}

void log_end(void) {
    logq_flush(END_NS);
}

double host_log_count(int which) {
    logq_figures f = logq_read();
    return (double)(which == 0 ? f.queued : which == 1 ? f.lost : f.waiting);
}

/* ---- flushing, for Lua ---- */

typedef struct flush {
    int64_t timeout_ns;
    bool done;
} flush;

static void run_flush(void *arg) {
    flush *f = arg;
    rt_entersyscall();
    f->done = logq_flush(f->timeout_ns);
    rt_exitsyscall();
}

host_job *host_log_flush(double timeout_ns) {
    flush *f = calloc(1, sizeof *f);
    if (!f) return NULL;
    f->timeout_ns = (int64_t)timeout_ns;
    return job_new(run_flush, free, f);
}

int host_log_flushed(host_job *job) {
    const flush *f = job_arg(job);
    return f && f->done;
}
