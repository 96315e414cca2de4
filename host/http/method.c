/* Request methods: names and numbers.
 *
 * Methods are case-sensitive tokens. The ones of the IANA registry have numbers from the start; an app may register any
 * other (host_method_add). A request with a method that has no number is answered 501. Numbers are the process's and are
 * never given back, so that a number means the same in all VMs.
 *
 * The table only grows: a name is written, then n_names is raised (release), and who reads n_names (acquire) sees the names
 * below it. */
#include "method.h"

#include "../../runtime/lock.h"
#include "http_ffi.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_MAX_LEN = 64 };

static const char *names[METHODS_MAX] = {
    "",           "GET",       "HEAD",        "POST",     "OPTIONS",
    "CONNECT",    "PUT",       "DELETE",      "PATCH",    "TRACE",
    "ACL",        "BIND",      "CHECKIN",     "CHECKOUT", "COPY",
    "LABEL",      "LINK",      "LOCK",        "MERGE",    "MKACTIVITY",
    "MKCALENDAR", "MKCOL",     "MOVE",        "NOTIFY",   "ORDERPATCH",
    "PROPFIND",   "PROPPATCH", "PURGE",       "QUERY",    "REBIND",
    "REPORT",     "SEARCH",    "SUBSCRIBE",   "UNBIND",   "UNCHECKOUT",
    "UNLINK",     "UNLOCK",    "UNSUBSCRIBE", "UPDATE",   "VERSION-CONTROL",
};
static _Atomic int n_names = 40;
static rt_lock lock; /* for who adds a name */

const uint8_t method_token[256] = {
    ['!'] = 1, ['#'] = 1, ['$'] = 1, ['%'] = 1,         ['&'] = 1,         ['\''] = 1,
    ['*'] = 1, ['+'] = 1, ['-'] = 1, ['.'] = 1,         ['^'] = 1,         ['_'] = 1,
    ['`'] = 1, ['|'] = 1, ['~'] = 1, ['0' ... '9'] = 1, ['A' ... 'Z'] = 1, ['a' ... 'z'] = 1,
};

static int find(const char *s, size_t n) {
    int end = atomic_load_explicit(&n_names, memory_order_acquire);
    for (int i = 1; i < end; i++)
        if (strncmp(names[i], s, n) == 0 && names[i][n] == 0) return i;
    return -1;
}

uint8_t method_id(const char *s, size_t n) {
    if (n == 3 && memcmp(s, "GET", 3) == 0) return METHOD_GET;
    if (n == 4 && memcmp(s, "POST", 4) == 0) return METHOD_POST;
    int i = find(s, n);
    return i < 0 ? METHOD_NONE : (uint8_t)i;
}

const char *host_method_name(int method) {
    return method >= 0 && method < atomic_load_explicit(&n_names, memory_order_acquire)
               ? names[method]
               : "";
}

int host_method_id(const char *name, size_t len) {
    return find(name, len);
}

static bool is_token(const char *s, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!method_token[(uint8_t)s[i]]) return false;
    return n > 0 && n <= NAME_MAX_LEN;
}

int host_method_add(const char *name, size_t len) {
    if (!is_token(name, len)) return -1;
    rt_lock_acquire(&lock);
    int i = find(name, len), n = atomic_load_explicit(&n_names, memory_order_relaxed);
    if (i < 0 && n < METHODS_MAX && (names[n] = strndup(name, len))) {
        i = n;
        atomic_store_explicit(&n_names, n + 1, memory_order_release);
    }
    rt_lock_release(&lock);
    return i;
}
