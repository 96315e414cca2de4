/* host[:port]: what a Host field may say. Two readers must not find different hosts in it, so there is no userinfo, no path,
 * no list, and nothing that has to be guessed. The name itself is not looked up, so its letters, digits, and marks are all
 * that is asked for. */
#include "authority.h"

#include "../base/chars.h"

#include <arpa/inet.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static const uint8_t in_name[256] = {
    ['a' ... 'z'] = 1, ['A' ... 'Z'] = 1, ['0' ... '9'] = 1, ['-'] = 1, ['.'] = 1,  ['_'] = 1,
    ['~'] = 1,         ['!'] = 1,         ['$'] = 1,         ['&'] = 1, ['\''] = 1, ['('] = 1,
    [')'] = 1,         ['*'] = 1,         ['+'] = 1,         [';'] = 1, ['='] = 1,
};

/* Nothing, or ":" and a port, which may be empty. */
static bool is_port(const char *s, const char *end) {
    if (s == end) return true;
    if (*s++ != ':') return false;
    while (s < end && *s == '0')
        s++;
    unsigned port = 0, digit;
    const char *most = end - s > 5 ? s : end;
    while (s < most && (digit = (unsigned)(*s - '0')) <= 9) {
        port = port * 10 + digit;
        s++;
    }
    return s == end && port <= UINT16_MAX;
}

/* [address] of IPv6, and perhaps a port. */
static bool is_v6(const char *s, const char *end) {
    char text[INET6_ADDRSTRLEN];
    struct in6_addr addr;
    const char *close = memchr(s, ']', (size_t)(end - s));
    size_t n = close ? (size_t)(close - s - 1) : sizeof text;
    if (n >= sizeof text || memchr(s, 0, (size_t)(end - s))) return false;
    memcpy(text, s + 1, n);
    text[n] = 0;
    return inet_pton(AF_INET6, text, &addr) == 1 && is_port(close + 1, end);
}

static bool is_valid(const char *s, size_t n) {
    const char *begin = s, *end = s + n;
    if (*s == '[') return is_v6(s, end);
    for (;;) {
        while (s < end && in_name[(uint8_t)*s])
            s++;
        if (s == end || *s != '%') return s > begin && is_port(s, end);
        if (end - s < 3 || char_hex(s[1]) < 0 || char_hex(s[2]) < 0) return false;
        s += 3;
    }
}

/* Most requests name the host that the one before them has named. */
static __thread struct {
    size_t n;
    char text[64];
} last;

bool authority_is_valid(const char *s, size_t n) {
    if (n == last.n && memcmp(s, last.text, n) == 0) return true;
    if (!is_valid(s, n)) return false;
    if (n <= sizeof last.text) {
        last.n = n;
        memcpy(last.text, s, n);
    }
    return true;
}
