/* HTTP/1 requests: the head, from bytes to the spans of a host_req (RFC 9112).
 *
 * A head is read line by line, each in one pass; spans are offsets into the input buffer, which is not given up before the
 * response is out, so nothing is copied. A line that is not whole is read again from its beginning when its end has come:
 * in[head_end ..) is that line until the head is whole, in[.. in_pos) was looked at. What is wrong is told as early as it is
 * seen, and by the byte that is wrong, so a head gets the same answer however it is cut.
 *
 * We are strict where a proxy before us could read the same bytes otherwise: a line ends with CRLF and nothing else; no line
 * is folded; no space stands before a colon; a body has one length, said once, in digits alone, or is chunked and nothing
 * else. Values may hold tabs and every byte from 0x20 but DEL; targets every byte above 0x20 but DEL.
 *
 * Eight bytes are looked at at a time in values and targets (first_below); names and methods go byte by byte. */
#include "http1.h"

#include "authority.h"
#include "method.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "first_below counts from the low byte");

enum { MORE = 0, DONE = 1 }; /* what reading a line says, or -status */

#define EACH(byte) (UINT64_C(0x0101010101010101) * (byte))

/* The first of s[0 .. end) that is DEL or below `limit`, which is at most 0x80; else end. A byte that is below borrows from
 * the one above it, so the lowest mark is right. (From: Sean Anderson, Bit Twiddling Hacks, "hasless".) */
static inline const char *first_below(const char *s, const char *end, uint8_t limit) {
    for (; end - s >= 8; s += 8) {
        uint64_t v;
        memcpy(&v, s, 8);
        uint64_t del = v ^ EACH(0x7f);
        uint64_t marks = (((v - EACH(limit)) & ~v) | ((del - EACH(1)) & ~del)) & EACH(0x80);
        if (marks) return s + (__builtin_ctzll(marks) >> 3);
    }
    while (s < end && (uint8_t)*s >= limit && *s != 0x7f)
        s++;
    return s;
}

static inline const char *token_end(const char *s, const char *end) {
    while (s < end && method_token[(uint8_t)*s])
        s++;
    return s;
}

static inline host_span span(const host_exchange *x, const char *from, const char *to) {
    return (host_span){(uint32_t)(from - x->in), (uint32_t)(to - from)};
}

/* ---- the request line ---- */

/* Where the path of scheme://host/path begins; NULL: the target is none of that form. */
static const char *behind_authority(const char *s, const char *end) {
    const char *scheme = s;
    while (s < end &&
           (((*s | 32) >= 'a' && (*s | 32) <= 'z') || (s > scheme && strchr("0123456789+-.", *s))))
        s++;
    if (s == scheme || end - s < 3 || memcmp(s, "://", 3) != 0) return NULL;
    const char *host = s += 3;
    while (s < end && *s != '/' && *s != '?')
        s++;
    return s > host && authority_is_valid(host, (size_t)(s - host)) ? s : NULL;
}

/* What a byte of a path means to us. */
enum { PLAIN, SLASH, DOT, PERCENT, QUESTION };
static const uint8_t path_class[256] = {
    ['/'] = SLASH, ['.'] = DOT, ['%'] = PERCENT, ['?'] = QUESTION};

/* Path and query of s[0 .. end). The path is plain, so that routing may use it as it stands, if it has no escapes, and no
 * empty, "." or ".." segments; at its end it may have an empty one. */
static void split_path(host_exchange *x, const char *s, const char *end) {
    const char *path = s;
    bool plain = s < end && *s == '/';
    uint8_t before = PLAIN, class = PLAIN;
    for (; s < end && (class = path_class[(uint8_t)*s]) != QUESTION; s++) {
        if (class != PLAIN && (class == PERCENT || before == SLASH)) plain = false;
        before = class;
    }
    x->req.path = span(x, path, s);
    if (s < end) x->req.query = span(x, s + 1, end);
    x->req.plain = plain;
}

/* The target is /path?query, or scheme://host/path?query, or `*`. CONNECT, whose target is another one, is not served. */
static bool split_target(host_exchange *x) {
    const char *s = x->in + x->req.target.off, *end = s + x->req.target.len;
    if (*s == '*' && end - s > 1) return false;
    if (*s != '/' && *s != '*' && x->req.method != METHOD_CONNECT &&
        !(s = behind_authority(s, end)))
        return false;
    split_path(x, s, end);
    return true;
}

static int http_version(host_exchange *x, int major, int minor) {
    x->req.minor = minor > 0;
    if (major == 1) return DONE;
    return major == 2 || major == 3 || (major == 0 && minor == 9) ? -505 : -400;
}

/* " HTTP/1.1" CRLF */
static int read_version(host_exchange *x, const char *s, const char *end) {
    static const char like[] = " HTTP/1.1\r\n";
    enum { LEN = sizeof like - 1, MAJOR = 6, MINOR = 8 };
    if (end - s >= LEN && memcmp(s, like, LEN) == 0) return http_version(x, 1, 1);
    for (int i = 0; i < LEN && s + i < end; i++) {
        bool digit = i == MAJOR || i == MINOR;
        if (digit ? s[i] < '0' || s[i] > '9' : s[i] != like[i]) return -400;
    }
    return end - s < LEN ? MORE : http_version(x, s[MAJOR] - '0', s[MINOR] - '0');
}

static int read_request_line(host_exchange *x, const char **at, const char *end) {
    enum { VERSION = sizeof " HTTP/1.1\r\n" - 1 };
    host_req *r = &x->req;
    const char *s = *at, *method = s;
    if (end - s > 4 && memcmp(s, "GET ", 4) == 0) {
        s += 3;
        r->method = METHOD_GET;
    } else {
        s = token_end(s, end);
        if (s == end) return MORE;
        if (*s != ' ' || s == method) return -400;
        r->method = method_id(method, (size_t)(s - method));
    }
    const char *target = ++s;
    s = first_below(s, end, '!');
    if (s - target > TARGET_MAX) return -414;
    if (s == end) return MORE;
    if (*s != ' ' || s == target || memchr(target, '#', (size_t)(s - target))) return -400;
    int rc = read_version(x, s, end);
    if (rc == MORE || rc == -400) return rc;
    r->target = span(x, target, s);
    *at = s + VERSION;
    bool is_target = split_target(x); /* also for those who hear of a request that is refused */
    return rc < 0 ? rc : is_target ? DONE : -400;
}

/* ---- fields ---- */

static const host_limits *limits_of(const host_exchange *x) {
    return x->server->listener.limits;
}

static bool more_headers(host_exchange *x) {
    bool inlined = x->headers_cap < HEADERS_GROWN;
    size_t cap = inlined ? HEADERS_GROWN : 2 * exchange_headers_cap(x);
    host_header *grown = realloc(inlined ? NULL : exchange_headers(x), cap * sizeof *grown);
    if (!grown) return false;
    if (inlined) memcpy(grown, x->req.headers, x->headers_cap * sizeof *grown);
    x->req.headers = grown;
    x->headers_cap = inlined ? HEADERS_GROWN : x->headers_cap + 1;
    return true;
}

static inline bool is_name(const char *s, const char *lower, size_t n) {
    return (*s | 32) == *lower && strncasecmp(s, lower, n) == 0;
}

/* The next member of a list of tokens, s[0 .. *n); its end, NULL: there is none. */
static const char *next_member(const char *s, const char *end, const char **member, size_t *n) {
    while (s < end && (*s == ' ' || *s == '\t' || *s == ','))
        s++;
    if (s == end) return NULL;
    *member = s;
    while (s < end && *s != ',')
        s++;
    const char *last = s;
    while (last[-1] == ' ' || last[-1] == '\t')
        last--;
    *n = (size_t)(last - *member);
    return s;
}

static void read_connection(host_exchange *x, const char *s, const char *end) {
    const char *member;
    size_t n;
    while ((s = next_member(s, end, &member, &n))) {
        if (n == 5 && is_name(member, "close", n)) x->says_close = true;
        if (n == 10 && is_name(member, "keep-alive", n)) x->says_keep_alive = true;
    }
}

/* Of all codings, in all fields of that name, the last has to be chunked, which may be there only once. */
static int read_codings(host_exchange *x, const char *s, const char *end) {
    const char *member;
    size_t n;
    x->has_codings = true;
    while ((s = next_member(s, end, &member, &n))) {
        if (x->is_chunked) return -400;
        if (n == 7 && is_name(member, "chunked", n))
            x->is_chunked = true;
        else
            x->error = 501;
    }
    return DONE;
}

static int read_length(host_exchange *x, const char *s, const char *end) {
    if (x->has_length || s == end) return -400;
    x->has_length = true;
    int64_t n = 0;
    for (; s < end; s++) {
        if (*s < '0' || *s > '9' || n > INT64_MAX / 10 - 1) return -400;
        n = n * 10 + (*s - '0');
    }
    x->req.content_length = n;
    return DONE;
}

static int read_expectation(host_exchange *x, const char *s, const char *end) {
    if ((end - s != 12 || !is_name(s, "100-continue", 12)) && !x->error) x->error = 417;
    x->expects_100 = true;
    return DONE;
}

static int read_host(host_exchange *x, const char *s, const char *end) {
    if (x->has_host) return -400;
    x->has_host = true;
    return s == end || authority_is_valid(s, (size_t)(end - s)) ? DONE : -400;
}

/* What a field says about the request itself. */
static int heed(host_exchange *x, const char *name, size_t n, const char *s, const char *end) {
    switch (n) {
    case 4:
        return (name[0] | 32) == 'h' && (name[1] | 32) == 'o' && (name[2] | 32) == 's' &&
                       (name[3] | 32) == 't'
                   ? read_host(x, s, end)
                   : DONE;
    case 6:
        return is_name(name, "expect", n) ? read_expectation(x, s, end) : DONE;
    case 10:
        if (is_name(name, "connection", n)) read_connection(x, s, end);
        return DONE;
    case 14:
        return is_name(name, "content-length", n) ? read_length(x, s, end) : DONE;
    case 17:
        return is_name(name, "transfer-encoding", n) ? read_codings(x, s, end) : DONE;
    default:
        return DONE;
    }
}

/* The first of s[0 .. end) that no value may have: a control character but a tab; else end. */
static const char *value_end(const char *s, const char *end) {
    while ((s = first_below(s, end, ' ')) < end && *s == '\t')
        s++;
    return s;
}

int host_is_field_value(const char *s, size_t n) {
    return value_end(s, s + n) == s + n;
}

int http1_field(const char **at, const char *end, http1_line *f) {
    const char *s = *at;
    f->name = s;
    s = token_end(s, end);
    if (s == end) return MORE;
    if (*s != ':' || s == f->name) return -400;
    f->name_end = s++;
    while (s < end && (*s == ' ' || *s == '\t'))
        s++;
    f->value = s;
    s = value_end(s, end);
    if (s == end) return MORE;
    if (*s != '\r') return -400;
    if (s + 1 == end) return MORE;
    if (s[1] != '\n') return -400;
    *at = s + 2;
    while (s > f->value && (s[-1] == ' ' || s[-1] == '\t'))
        s--;
    f->value_end = s;
    return DONE;
}

static int read_field(host_exchange *x, const char **at, const char *end) {
    http1_line f;
    int rc = http1_field(at, end, &f);
    if (rc != DONE) return rc;
    if (x->req.nheaders >= limits_of(x)->max_headers) return -431;
    if (x->req.nheaders == exchange_headers_cap(x) && !more_headers(x)) return -503;
    exchange_headers(x)[x->req.nheaders++] =
        (host_header){span(x, f.name, f.name_end), span(x, f.value, f.value_end)};
    return heed(x, f.name, (size_t)(f.name_end - f.name), f.value, f.value_end);
}

/* ---- the whole head ---- */

/* What follows from all of its lines. DONE or -status. */
static int conclude(host_exchange *x) {
    host_req *r = &x->req;
    bool http11 = r->minor > 0;
    if (!x->has_host && http11) return -400;
    if (x->has_codings && (x->has_length || !http11 || !x->is_chunked)) return -400;
    if (x->in[r->target.off] == '*' && r->method != METHOD_OPTIONS) return -400;
    if (r->method == METHOD_NONE) return -501;
    if (r->method == METHOD_CONNECT) return -405;
    if (x->error) return -x->error;
    x->close_after = x->says_close || (!http11 && !x->says_keep_alive);
    x->expects_100 &= http11;
    r->has_body = x->is_chunked || r->content_length > 0;
    if (!x->has_length) r->content_length = -1;
    if (r->content_length > limits_of(x)->max_body) return -413;
    r->body_complete = !r->has_body;
    x->message_done = !r->has_body;
    r->buf = x->in;
    return DONE;
}

/* Is the request line read? */
static inline bool has_line(const host_exchange *x) {
    return x->req.target.len > 0;
}

/* The lines from head_end on, as far as they are whole. */
static int read_lines(host_exchange *x) {
    const char *at = x->in + x->head_end, *end = x->in + x->in_end;
    int rc = DONE;
    while (rc == DONE && at < end && !x->head_done) {
        if (*at == '\r') {
            if (at + 1 == end) break;
            if (at[1] != '\n') return -400;
            at += 2;
            x->head_done = has_line(x); /* else an empty line before the request (RFC 9112, 2.2) */
        } else if (has_line(x)) {
            rc = read_field(x, &at, end);
        } else {
            rc = read_request_line(x, &at, end);
        }
        if (rc == DONE) x->head_end = (uint32_t)(at - x->in);
    }
    return rc;
}

void http1_skip_lines(host_exchange *x) {
    while (x->in_pos < x->in_end && (x->in[x->in_pos] == '\r' || x->in[x->in_pos] == '\n'))
        x->in_pos++;
}

int http1_head(host_exchange *x) {
    bool begun = x->head_end < x->in_pos; /* a line, of which there may be no more than before */
    if (!begun || memchr(x->in + x->in_pos, '\n', x->in_end - x->in_pos)) {
        int rc = read_lines(x);
        if (rc < 0) return rc;
    }
    x->in_pos = x->head_done ? x->head_end : x->in_end;
    if (x->head_done) {
        if (x->head_end > limits_of(x)->max_head) return -431;
        int rc = conclude(x);
        if (rc < 0)
            x->head_done = x->message_done = false; /* what follows is no body that is read */
        if (x->message_done) http1_skip_lines(x);
        return rc;
    }
    if (x->in_end >= limits_of(x)->max_head) return has_line(x) ? -431 : -414;
    return MORE;
}
