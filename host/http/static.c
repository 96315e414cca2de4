/* Files of app:static, answered by the connection's G without Lua and without a VM.
 *
 * Here is what clients ask for every day: GET and HEAD of a file, whole, in ranges, or if it has changed. All else is
 * declined before anything is answered, and goes the way of every request: static.lua and file_answer.lua know it all.
 * Declined are paths with dots, empty segments, backslashes or escaped slashes, names that begin with a dot, names
 * without a file, requests with a body, with If-Match or If-Unmodified-Since, dates other than the one that we have
 * sent, and Accept-Encoding with weights.
 *
 * So whatever is answered here has one plain meaning, and is what Lua would answer (spec/static_spec.lua asks both). */
#include "static.h"

#include "../base/chars.h"
#include "date.h"
#include "exchange.h"
#include "filecache.h"
#include "method.h"
#include "response.h"
#include "site.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>

enum { PATH_LEN_MAX = 1024, CODINGS_ODD = 0x80 };

/* A field's value; s NULL: the request has none. */
typedef struct value {
    const char *s;
    size_t n;
} value;

typedef struct static_ask {
    value none_match, modified_since, range, if_range;
    unsigned codings; /* CODING_..., or CODINGS_ODD */
} static_ask;

static inline bool is_word(const char *s, size_t n, const char *lower) {
    return n == strlen(lower) && strncasecmp(s, lower, n) == 0;
}

/* ---- the path ---- */

/* Decodes s[0 .. n) into out. How many bytes; 0: the path is more than names between slashes. */
static size_t decode(const char *s, size_t n, char *out) {
    size_t to = 0;
    for (size_t i = 0; i < n; i++) {
        char c = s[i];
        if (c == '%') {
            int high = i + 2 < n ? char_hex(s[i + 1]) : -1,
                low = high < 0 ? -1 : char_hex(s[i + 2]);
            if (low < 0) return 0;
            c = (char)(high << 4 | low);
            if (c == '/' || c == 0) return 0;
            i += 2;
        }
        bool begins = to > 0 && out[to - 1] == '/';
        if (begins && (c == '/' || c == '.')) return 0;
        out[to++] = c;
    }
    return to;
}

/* Finds the file that the path of x names: its mount, and its name behind the prefix, in path[*at .. *end). */
static const site_mount *find_file(const host_exchange *x, const site *s, char path[PATH_LEN_MAX],
                                   size_t *at, size_t *end) {
    const char *raw = x->in + x->req.path.off;
    size_t n = x->req.path.len;
    if (n == 0 || n > PATH_LEN_MAX || *raw != '/') return NULL;
    if (x->req.plain)
        memcpy(path, raw, n);
    else if ((n = decode(raw, n, path)) == 0)
        return NULL;
    const site_mount *m = memchr(path, '\\', n) ? NULL : site_find(s, path, n);
    if (!m) return NULL;
    *at = m->prefix_len + 1;
    *end = n;
    if (path[n - 1] != '/') return m;
    size_t more = m->index ? strlen(m->index) : 0;
    if (more == 0 || n + more > PATH_LEN_MAX) return NULL;
    memcpy(path + n, m->index, more);
    *end += more;
    return m;
}

/* ---- the fields ---- */

static unsigned coding_of(const char *s, size_t n) {
    if (n == 0 || is_word(s, n, "deflate")) return 0;
    if (is_word(s, n, "gzip")) return CODING_GZIP;
    if (is_word(s, n, "br")) return CODING_BR;
    return is_word(s, n, "zstd") ? CODING_ZSTD : CODINGS_ODD;
}

static unsigned codings_of(const char *s, size_t n) {
    unsigned codings = 0;
    for (const char *end = s + n; s < end;) {
        while (s < end && (*s == ' ' || *s == '\t' || *s == ','))
            s++;
        const char *word = s;
        while (s < end && *s != ',' && *s != ' ' && *s != '\t')
            s++;
        codings |= coding_of(word, (size_t)(s - word));
    }
    return codings;
}

/* Notes a field. False: it is odd. */
static bool note(static_ask *a, const char *name, size_t n, const char *s, size_t len) {
    value *v = NULL;
    switch (n) {
    case 5:
        if (is_word(name, n, "range")) v = &a->range;
        break;
    case 8:
        if (is_word(name, n, "if-match")) return false;
        if (is_word(name, n, "if-range")) v = &a->if_range;
        break;
    case 13:
        if (is_word(name, n, "if-none-match")) v = &a->none_match;
        break;
    case 15:
        if (is_word(name, n, "accept-encoding")) a->codings |= codings_of(s, len);
        break;
    case 17:
        if (is_word(name, n, "if-modified-since")) v = &a->modified_since;
        break;
    case 19:
        return !is_word(name, n, "if-unmodified-since");
    default:
        break;
    }
    if (!v) return true;
    if (v->s) return false;
    *v = (value){s, len};
    return true;
}

static bool read_fields(const host_exchange *x, static_ask *a) {
    const host_header *h = x->req.headers;
    for (int i = 0; i < x->req.nheaders; i++)
        if (!note(a, x->in + h[i].name.off, h[i].name.len, x->in + h[i].value.off, h[i].value.len))
            return false;
    return true;
}

/* ---- conditions: what they ask for, or ODD ---- */

enum { NO, YES, ODD };

static bool is(value v, const char *s, size_t n) {
    return v.n == n && memcmp(v.s, s, n) == 0;
}

/* Whether the client has the file already. */
static int has_it(const static_ask *a, const cached_file *f) {
    value v = a->none_match;
    if (v.s) {
        if (is(v, "*", 1)) return YES;
        if (v.n > 2 && memcmp(v.s, "W/", 2) == 0) v = (value){v.s + 2, v.n - 2};
        if (is(v, f->etag, f->etag_len)) return YES;
        return memmem(v.s, v.n, f->etag, f->etag_len) || memchr(v.s, '*', v.n) ? ODD : NO;
    }
    v = a->modified_since;
    if (!v.s || !f->modified) return NO;
    return is(v, f->modified, DATE_LEN) ? YES : ODD;
}

/* Whether the Range field counts. */
static int wants_ranges(const host_exchange *x, const static_ask *a, const cached_file *f) {
    if (!a->range.s || x->req.method != METHOD_GET) return NO;
    value v = a->if_range;
    if (v.s && !is(v, f->etag, f->etag_len)) {
        bool tag = v.n > 0 && (*v.s == '"' || (v.n > 2 && memcmp(v.s, "W/\"", 3) == 0));
        if (tag) return memchr(v.s, ',', v.n) ? ODD : NO;
        return f->modified && is(v, f->modified, DATE_LEN) ? YES : ODD;
    }
    return YES;
}

/* ---- the answer ---- */

static void send_part(host_exchange *x, int status, const cached_file *f, const char *head,
                      size_t n, int64_t at, int64_t size) {
    if (f->fd)
        response_file(x, status, head, n, f->fd, at, size);
    else
        response_bytes(x, status, head, n, f->bytes + at, (size_t)size);
}

static int64_t size_of(host_range r) {
    return (int64_t)(r.last - r.at) + 1;
}

static void send_range(host_exchange *x, const cached_file *f, host_range r) {
    char head[FILE_HEAD_MAX + sizeof "Content-Range: bytes -/\r\n" + (size_t)3 * 20];
    int n = snprintf(head, sizeof head, "%.*sContent-Range: bytes %.0f-%.0f/%lld\r\n",
                     (int)f->head_len, f->head, r.at, r.last, (long long)f->size);
    send_part(x, 206, f, head, (size_t)n, (int64_t)r.at, size_of(r));
}

/* There are no such bytes. */
static void send_none(host_exchange *x, const cached_file *f) {
    char head[256];
    const char *reason = host_status_reason(416);
    int n =
        snprintf(head, sizeof head,
                 "%sContent-Range: bytes */%lld\r\nContent-Type: text/plain; charset=utf-8\r\n"
                 "X-Content-Type-Options: nosniff\r\n",
                 f->codings == CODING_ANY ? "" : "Vary: Accept-Encoding\r\n", (long long)f->size);
    response_bytes(x, 416, head, (size_t)n, reason, strlen(reason));
}

/* Sends n ranges, 2 or more, as a body of as many parts. False: no memory. */
static bool send_ranges(host_exchange *x, const cached_file *f, const host_range *r, int n) {
    enum { MARK = 24, AROUND = sizeof "\r\n--\r\nContent-Range: bytes -/\r\n\r\n" + MARK + 3 * 20 };
    static const char multipart[] = "Content-Type: multipart/byteranges; boundary=";
    uint32_t random[3];
    size_t room = AROUND + f->type_len;
    char *text = malloc((size_t)(n + 1) * room);
    if (!text || getrandom(random, sizeof random, 0) != sizeof random) {
        free(text);
        return false;
    }
    char head[FILE_HEAD_MAX + sizeof multipart + MARK + 2], mark[MARK + 1];
    response_part parts[HOST_RANGES + 1];
    snprintf(mark, sizeof mark, "%08x%08x%08x", random[0], random[1], random[2]);
    for (int i = 0; i < n; i++) {
        char *at = text + (size_t)i * room;
        int len =
            snprintf(at, room, "\r\n--%s\r\n%.*sContent-Range: bytes %.0f-%.0f/%lld\r\n\r\n", mark,
                     f->type_len, f->head + f->type_at, r[i].at, r[i].last, (long long)f->size);
        parts[i] = (response_part){at, (size_t)len, (int64_t)r[i].at, size_of(r[i])};
    }
    char *end = text + (size_t)n * room;
    parts[n] = (response_part){end, (size_t)snprintf(end, room, "\r\n--%s--\r\n", mark), 0, 0};
    int behind = f->type_at + f->type_len,
        len = snprintf(head, sizeof head, "%.*s%s%s\r\n%.*s", f->type_at, f->head, multipart, mark,
                       f->head_len - behind, f->head + behind);
    response_parts(x, 206, head, (size_t)len, parts, n + 1, f->fd, f->bytes);
    free(text);
    return true;
}

static bool answer(host_exchange *x, const static_ask *a, const cached_file *f) {
    host_range r[HOST_RANGES];
    int has = has_it(a, f), wants = has == NO ? wants_ranges(x, a, f) : NO, n = -1;
    if (has == ODD || wants == ODD) return false;
    if (wants == YES) n = host_ranges(a->range.s, a->range.n, (double)f->size, r);
    if (n > 1) return send_ranges(x, f, r, n);
    if (has == YES)
        response_bytes(x, 304, f->head, f->head_304, "", 0);
    else if (n < 0)
        send_part(x, 200, f, f->head, f->head_len, 0, f->size);
    else if (n == 0)
        send_none(x, f);
    else
        send_range(x, f, r[0]);
    return true;
}

/* Apart, so that apps without files pay for one look. */
static __attribute__((noinline)) bool answer_from(const site *s, host_exchange *x) {
    if ((x->req.method != METHOD_GET && x->req.method != METHOD_HEAD) || x->req.has_body)
        return false;
    char path[PATH_LEN_MAX];
    size_t at, end;
    const site_mount *m = find_file(x, s, path, &at, &end);
    static_ask a = {0};
    if (!m || !read_fields(x, &a) || (a.codings & CODINGS_ODD && m->precompressed)) return false;
    unsigned codings = m->precompressed ? a.codings : 0;
    cached_file *f = filecache_find(site_files(s), m, path + at, end - at, codings, x->begin_ns);
    if (!f) return false;
    bool answered = answer(x, &a, f);
    if (answered) x->req.label = m->label;
    filecache_drop(f);
    return answered;
}

bool static_answer(host_exchange *x) {
    const site *s = site_of(x->server);
    return s && answer_from(s, x);
}
