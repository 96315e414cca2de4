/* The access log: --access-log.
 *
 *     192.0.2.7 - - [06/May/2024:07:08:09 +0000] "GET /hello/ann HTTP/1.1" 200 152 "https://example.org/" "curl/7.88"
 *     {"time":"2024-05-06T07:08:09.123Z","id":"17","ip":"192.0.2.7","method":"GET","target":"/hello/ann",...}
 *
 * The first is the combined format, which analyzers of logs read; the second comes by --log-format json and has what the
 * first one has no place for: the route, the seconds from the first byte of the request to the end of its answer, the
 * VM, bytes of the request. Times of the first are UTC. Bytes include the heads. A client that went before an answer had
 * begun has the status 499, as it has with nginx. The address is the one that trusted proxies tell of (forwarded.c).
 *
 * The line is made where an exchange is over (over.c), whoever has answered: a handler, C, or nobody. So what was
 * refused and what timed out stands there, too. Its memory is the connection's, and the queue and the writing are
 * those of the log (base/logq.c): a line that finds no room there is lost and counted, and no request waits.
 *
 * What a client sends is escaped as in the log, and cut.
 */
#include "access.h"

#include "../base/base.h"
#include "../base/log.h"
#include "../base/logline.h"
#include "../base/logq.h"
#include "../base/options.h"
#include "conn.h"
#include "forwarded.h"
#include "method.h"
#include "put.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

enum { TARGET_SHOWN = 4096, FIELD_SHOWN = 1024, GONE = 499 };

/* ---- pieces of a line ---- */

static char *put_seconds(char *at, int64_t ns) {
    uint64_t us = ns > 0 ? (uint64_t)ns / 1000 : 0;
    at = put_number(at, us / 1000000);
    *at = '.';
    for (int i = 6; i > 0; i--, us /= 10)
        at[i] = (char)('0' + us % 10);
    return at + 7;
}

/* What came in place of a request line that could not be read. */
static size_t broken_line(const host_exchange *x, const char **s) {
    *s = x->in;
    if (!x->in) return 0;
    size_t n = 0;
    while (n < x->in_end && x->in[n] != '\r' && x->in[n] != '\n')
        n++;
    return n;
}

static bool has_request(const host_exchange *x) {
    return x->req.target.len > 0 && x->in;
}

static char *put_request(char *at, const host_exchange *x, int format) {
    if (has_request(x)) {
        const char *method = host_method_name(x->req.method);
        at = *method ? put(at, method, strlen(method)) : PUT(at, "-");
        *at++ = ' ';
        at +=
            logline_escape(at, x->in + x->req.target.off, x->req.target.len, format, TARGET_SHOWN);
        return x->req.minor == 0 ? PUT(at, " HTTP/1.0") : PUT(at, " HTTP/1.1");
    }
    const char *s;
    size_t n = broken_line(x, &s);
    return n ? at + logline_escape(at, s, n, format, FIELD_SHOWN) : PUT(at, "-");
}

static int status_of(const exchange_account *a) {
    return a->status ? a->status : GONE;
}

/* ---- combined ---- */

/* "[06/May/2024:07:08:09 +0000] ", made anew each second. One per thread, so no lock is needed. */
static __thread struct {
    time_t second;
    char text[32];
} stamp;

static char *put_stamp(char *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    if (now.tv_sec != stamp.second) {
        static const char *const months[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                             "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
        struct tm tm;
        gmtime_r(&now.tv_sec, &tm);
        snprintf(stamp.text, sizeof stamp.text, "[%02d/%s/%04d:%02d:%02d:%02d +0000]",
                 tm.tm_mday % 100, months[tm.tm_mon], (tm.tm_year + 1900) % 10000, tm.tm_hour % 100,
                 tm.tm_min % 100, tm.tm_sec % 100);
        stamp.second = now.tv_sec;
    }
    return put(at, stamp.text, strlen(stamp.text));
}

static char *put_field(char *at, const host_exchange *x, const char *name) {
    head_field f;
    if (!head_find(x, name, &f)) return PUT(at, " \"-\"");
    at = PUT(at, " \"");
    at += logline_escape(at, f.value, f.value_len, LOG_TEXT, FIELD_SHOWN);
    return PUT(at, "\"");
}

static char *put_combined(char *at, const host_exchange *x, const exchange_account *a) {
    int n = forwarded_get(x, HOST_CLIENT_IP, at);
    at = n > 0 ? at + n : PUT(at, "-");
    at = PUT(at, " - - ");
    at = put_stamp(at);
    at = PUT(at, " \"");
    at = put_request(at, x, LOG_TEXT);
    at = PUT(at, "\" ");
    at = put_number(at, (uint64_t)status_of(a));
    *at++ = ' ';
    at = put_number(at, (uint64_t)a->out);
    at = put_field(at, x, "referer");
    at = put_field(at, x, "user-agent");
    return PUT(at, "\n");
}

/* ---- JSON ---- */

static char *put_text(char *at, const char *key, const char *s, size_t n, size_t max) {
    at = put(at, key, strlen(key));
    *at++ = '"';
    at += logline_escape(at, s, n, LOG_JSON, max);
    return PUT(at, "\"");
}

static char *put_head_field(char *at, const host_exchange *x, const char *key, const char *name) {
    head_field f;
    return head_find(x, name, &f) ? put_text(at, key, f.value, f.value_len, FIELD_SHOWN) : at;
}

/* The route's name, without the place of its handler. What C has answered before there was a route was refused; a file of
 * app:static has its route. */
static char *put_route(char *at, int label, int status) {
    const char *text = host_label_text(label);
    size_t n = strlen(text);
    if (n == 0) return status ? PUT(at, ",\"route\":\"refused\"") : at;
    const char *comma = memrchr(text, ',', n); /* in front of the place, unless that has one, too */
    while (comma > text && comma[1] != ' ')
        comma = memrchr(text, ',', (size_t)(comma - text));
    if (comma) n = (size_t)(comma - text);
    return put_text(at, ",\"route\":", text, n, FIELD_SHOWN);
}

static char *put_id(char *at, const host_exchange *x) {
    char id[FORWARDED_MAX];
    int n = forwarded_get(x, HOST_CLIENT_ID, id);
    if (n > 0) return put_text(at, ",\"id\":", id, (size_t)n, FIELD_SHOWN);
    if (x->number == 0) return at;
    at = PUT(at, ",\"id\":\"");
    at = put_number(at, (uint64_t)x->number);
    return PUT(at, "\"");
}

static char *put_what(char *at, const host_exchange *x) {
    if (!has_request(x)) {
        const char *s;
        size_t n = broken_line(x, &s);
        return put_text(at, ",\"request\":", n ? s : "", n, FIELD_SHOWN);
    }
    const char *method = host_method_name(x->req.method);
    at = put_text(at, ",\"method\":", method, strlen(method), FIELD_SHOWN);
    at = put_text(at, ",\"target\":", x->in + x->req.target.off, x->req.target.len, TARGET_SHOWN);
    return x->req.minor == 0 ? PUT(at, ",\"version\":\"1.0\"") : PUT(at, ",\"version\":\"1.1\"");
}

static char *put_json(char *at, const host_exchange *x, const exchange_account *a) {
    char ip[FORWARDED_MAX];
    int n = forwarded_get(x, HOST_CLIENT_IP, ip);
    at = PUT(at, "{\"time\":\"");
    at += logline_time(at);
    at = PUT(at, "\"");
    at = put_id(at, x);
    if (n > 0) at = put_text(at, ",\"ip\":", ip, (size_t)n, FIELD_SHOWN);
    at = put_what(at, x);
    at = PUT(at, ",\"status\":");
    at = put_number(at, (uint64_t)status_of(a));
    at = PUT(at, ",\"bytes\":");
    at = put_number(at, (uint64_t)a->out);
    at = PUT(at, ",\"bytes_in\":");
    at = put_number(at, (uint64_t)a->in);
    at = PUT(at, ",\"seconds\":");
    at = put_seconds(at, a->end_ns - a->begin_ns);
    at = put_route(at, x->req.label, a->status);
    int vm = __atomic_load_n(&x->req.vm, __ATOMIC_RELAXED);
    if (vm) {
        at = PUT(at, ",\"vm\":");
        at = put_number(at, (uint64_t)(vm - 1));
    }
    at = put_head_field(at, x, ",\"host\":", "host");
    at = put_head_field(at, x, ",\"referer\":", "referer");
    at = put_head_field(at, x, ",\"agent\":", "user-agent");
    return PUT(at, "}\n");
}

_Static_assert(TARGET_SHOWN + 6 * FIELD_SHOWN + FORWARDED_MAX + 1024 < LOG_LINE_MAX,
               "a line has room");

void access_log(const host_exchange *x, const exchange_account *a) {
    if (!logq_is_open(logq_access) || x->server->listener.vm)
        return; /* the admin API's are not the app's */
    char *line = log_buffer();
    if (!line) {
        logq_lose(logq_access);
        return;
    }
    bool json = atomic_load_explicit(&options.log_format, memory_order_relaxed) == LOG_JSON;
    char *end = json ? put_json(line, x, a) : put_combined(line, x, a);
    logq_put(logq_access, line, (size_t)(end - line), LOG_WARN);
}
