/* LUNAPARK_DEBUG: what a running program shall tell of itself.
 *
 *     LUNAPARK_DEBUG=schedtrace=1000,gctrace=1
 *
 * Read once, at start. An unknown key, or a value that is no number, is a warning and no error: the variable may have
 * been set for another version. */
#include "impl.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

static rt_debug_vars vars;

static const struct {
    const char *key;
    int *value;
} keys[] = {
    {"schedtrace", &vars.schedtrace}, {"gctrace", &vars.gctrace},     {"retake", &vars.retake},
    {"gcwait", &vars.gcwait},         {"gcforce", &vars.gcforce},     {"mexit", &vars.mexit},
    {"sysmon", &vars.sysmon},         {"drainidle", &vars.drainidle},
};

const rt_debug_vars *rt_debug(void) {
    return &vars;
}

/* `at` of length n: "key=number". */
static bool set_var(const char *at, size_t n) {
    const char *eq = memchr(at, '=', n);
    if (!eq) return false;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        if (strlen(keys[i].key) != (size_t)(eq - at) ||
            memcmp(keys[i].key, at, (size_t)(eq - at)) != 0)
            continue;
        char *end;
        errno = 0;
        long x = strtol(eq + 1, &end, 10);
        if (end == eq + 1 || end != at + n || errno || x < 0 || x > INT_MAX) return false;
        *keys[i].value = (int)x;
        return true;
    }
    return false;
}

void debugenv_init(const char *s) {
    vars = (rt_debug_vars){0};
    while (s && *s) {
        size_t n = strcspn(s, ",");
        if (n > 0 && !set_var(s, n))
            debug_printf("lunapark: LUNAPARK_DEBUG: not understood: %.*s\n",
                         (int)(n < 100 ? n : 100), s);
        s += n;
        if (*s) s++;
    }
}
