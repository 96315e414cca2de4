/* The log: lines of a level, a message, and pairs of keys and values. What Lua and C call.
 *
 * The thread that logs formats the line (logline.c), in a buffer of its own, and queues it; a thread writes it to
 * stderr or --log-file (logq.c). So nothing here waits but log_end. */
#include "log.h"

#include "../../runtime/lock.h"
#include "../../runtime/runtime.h"
#include "base.h"
#include "base_ffi.h"
#include "logline.h"
#include "logq.h"
#include "options.h"
#include "threadend.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* How long the end of the process waits for the writer. */
#define END_NS (1 * NS_PER_SEC)

/* For the lines of threads that have no memory for a buffer of their own. */
static struct {
    rt_lock lock;
    char line[LOG_LINE_MAX]; /* lock */
} spare;

static __thread char *buffer;

static void free_buffer(void) {
    free(buffer);
    buffer = NULL;
}

/* noinline: a G may wake on another thread. */
__attribute__((noinline)) char *log_buffer(void) {
    if (buffer) return buffer;
    buffer = malloc(LOG_LINE_MAX);
    if (buffer) threadend_call(free_buffer);
    return buffer;
}

int host_log_enabled(int level) {
    return level >= atomic_load_explicit(&options.log_level, memory_order_relaxed);
}

int host_log_is_json(void) {
    return atomic_load_explicit(&options.log_format, memory_order_relaxed) == LOG_JSON;
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
    char *buf = log_buffer();
    if (!buf) rt_lock_acquire(&spare.lock);
    char *to = buf ? buf : spare.line;
    int format = (int)atomic_load_explicit(&options.log_format, memory_order_relaxed);
    logq_put(logq_log, to, logline_format(to, format, level, msg, len, pairs, n), level);
    if (!buf) rt_lock_release(&spare.lock);
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
    int64_t until = rt_nanotime() + END_NS;
    (void)logq_flush(logq_log, END_NS);
    (void)logq_flush(logq_access, until - rt_nanotime());
}

void start_failed(const char *fmt, ...) {
    char buf[512];
    va_list ap;
    log_end(); /* what was logged before it stands before it */
    va_start(ap, fmt);
    vsnprintf(buf, sizeof buf, fmt, ap);
    va_end(ap);
    fprintf(stderr, "lunapark: %s\n", buf);
    _exit(1);
}

void host_log_hold(void) {
    logq_hold(logq_log);
}

void host_log_show(int keep) {
    logq_show(logq_log, keep);
}

double host_log_count(int which) {
    logq_figures f = logq_read(logq_log);
    return (double)(which == 0 ? f.queued : which == 1 ? f.lost : f.waiting);
}
