/* The log: a line to stderr, "time level message". One write per line, so lines of several threads
 * do not mix. */
#include "host.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LINE_MAX_BYTES = 8192 };

static void write_all(const char *s, size_t n) {
    while (n > 0) {
        ssize_t r = write(STDERR_FILENO, s, n);
        if (r <= 0) return; /* nowhere to say it */
        s += r;
        n -= (size_t)r;
    }
}

void host_log(int level, const char *msg, size_t len) {
    static const char *const names[] = {"debug", "info", "warn", "error"};
    if (level < options.log_level) return;
    if (level < LOG_DEBUG) level = LOG_DEBUG;
    if (level > LOG_ERROR) level = LOG_ERROR;
    char buf[LINE_MAX_BYTES];
    struct timespec now;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    size_t n = strftime(buf, sizeof buf, "%Y-%m-%dT%H:%M:%S", &tm);
    n += (size_t)snprintf(buf + n, sizeof buf - n, ".%03ldZ %s ", now.tv_nsec / 1000000,
                          names[level]);
    if (len > sizeof buf - n - 1) len = sizeof buf - n - 1;
    memcpy(buf + n, msg, len);
    n += len;
    if (buf[n - 1] != '\n') buf[n++] = '\n';
    write_all(buf, n);
}

void log_line(int level, const char *fmt, ...) {
    char buf[2048];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(buf, sizeof buf, fmt, ap);
    va_end(ap);
    if (n < 0) return;
    host_log(level, buf, (size_t)n < sizeof buf ? (size_t)n : sizeof buf - 1);
}
