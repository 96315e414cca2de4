/* http1 beside llhttp, on heads and chunked bodies that are made at random (RT_SEED) of what such bytes are made of:
 * what http1 takes, llhttp takes with the same meaning, but for what is named in `taken_alone`; what http1 alone
 * refuses is refused for a reason that is named in `refused_alone`. */
#include "../base/options.h"
#include "../http/conn.h"
#include "../http/http1.h"
#include "../http/method.h"

#include <ctype.h>
#include <limits.h>
#include <llhttp.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "../../runtime/test/harness.h"

enum { SIZE = 4096, ROUNDS = 60000 };

static host_server server = {.listener.limits = &options.limits};
static host_conn conn = {.base.server = &server};

/* ---- bytes at random ---- */

static uint64_t state;

/* splitmix64 */
static uint64_t any(uint64_t n) {
    uint64_t z = state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return (z ^ z >> 31) % n;
}

#define ONE_OF(list) (list)[any(sizeof(list) / sizeof *(list))]

typedef struct text {
    char s[SIZE];
    size_t n;
} text;

static void add(text *t, const char *s) {
    size_t n = strlen(s);
    if (t->n + n >= SIZE) return;
    memcpy(t->s + t->n, s, n + 1);
    t->n += n;
}

/* Now and then a byte is another one, is missing, or is there twice. */
static void damage(text *t) {
    static const char bytes[] = "\r\n \t:;,\0\x7f\x80\"=%/?#*a0";
    while (any(3) == 0 && t->n > 1) {
        size_t at = any(t->n);
        switch (any(3)) {
        case 0:
            t->s[at] = ONE_OF(bytes);
            break;
        case 1:
            memmove(t->s + at, t->s + at + 1, --t->n - at);
            break;
        default:
            if (t->n + 1 >= SIZE) break;
            memmove(t->s + at + 1, t->s + at, t->n++ - at);
        }
    }
}

static const char *const methods[] = {"GET", "GET", "POST",  "HEAD",    "OPTIONS",
                                      "PUT", "get", "QUERY", "CONNECT", "G?T"};
static const char *const targets[] = {"/",    "/",         "/a/b?c=d",   "/a//b",
                                      "/%41", "*",         "http://x/y", "http://x:80?q",
                                      "x",    "/\xc3\xa4", "/a#b"};
static const char *const versions[] = {"HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0",
                                       "HTTP/1.2", "HTTP/2.0", "HTTP/1",   "RTSP/1.0"};
static const char *const names[] = {"Host",       "Content-Length", "Transfer-Encoding",
                                    "Connection", "Expect",         "X-A",
                                    "Accept",     "Upgrade",        "X_b.c"};
static const char *const values[] = {"x",
                                     "",
                                     "5",
                                     "12",
                                     "chunked",
                                     "gzip, chunked",
                                     "close",
                                     "keep-alive",
                                     "keep-alive, close",
                                     "100-continue",
                                     "a b\tc",
                                     "\xff",
                                     "+5",
                                     "0x5",
                                     "5, 5",
                                     "a:1",
                                     "[::1]",
                                     "Chunked",
                                     "x y"};
static const char *const colons[] = {": ", ": ", ": ", ":", ":\t", " : ", ":  "};
static const char *const ends[] = {"\r\n",  "\r\n",   "\r\n", "\r\n", "\r\n",
                                   " \r\n", "\t\r\n", "\n",   "\r\n "};

static void make_head(text *t) {
    t->n = 0;
    if (any(20) == 0) add(t, "\r\n");
    add(t, ONE_OF(methods));
    add(t, " ");
    add(t, ONE_OF(targets));
    add(t, " ");
    add(t, ONE_OF(versions));
    add(t, "\r\n");
    if (any(10)) add(t, "Host: x\r\n");
    for (size_t n = any(4); n > 0; n--) {
        add(t, ONE_OF(names));
        add(t, ONE_OF(colons));
        add(t, ONE_OF(values));
        add(t, ONE_OF(ends));
    }
    add(t, "\r\n");
    if (any(4) == 0) damage(t);
}

/* ---- what llhttp says ---- */

typedef struct other {
    text target, fields, body;
    int method, minor, keep_alive, head, whole;
    int64_t length;
} other;

static void append(text *t, const char *s, size_t n) {
    if (t->n + n >= SIZE) return;
    memcpy(t->s + t->n, s, n);
    t->n += n;
    t->s[t->n] = 0;
}

static int on_url(llhttp_t *p, const char *s, size_t n) {
    append(&((other *)p->data)->target, s, n);
    return 0;
}

static int on_field(llhttp_t *p, const char *s, size_t n) {
    append(&((other *)p->data)->fields, s, n);
    return 0;
}

static int on_field_end(llhttp_t *p) {
    append(&((other *)p->data)->fields, "=", 1);
    return 0;
}

static int on_value_end(llhttp_t *p) {
    text *t = &((other *)p->data)->fields;
    while (t->n > 0 && (t->s[t->n - 1] == ' ' || t->s[t->n - 1] == '\t'))
        t->n--;
    append(t, "\n", 1);
    return 0;
}

static int on_head(llhttp_t *p) {
    other *o = p->data;
    o->head = 1;
    o->method = p->method;
    o->minor = p->http_minor;
    o->keep_alive = llhttp_should_keep_alive(p);
    o->length = p->flags & F_CHUNKED          ? -2
                : p->flags & F_CONTENT_LENGTH ? (int64_t)p->content_length
                                              : -1;
    p->upgrade = 0;
    return 0;
}

static int on_body(llhttp_t *p, const char *s, size_t n) {
    append(&((other *)p->data)->body, s, n);
    return 0;
}

static int on_whole(llhttp_t *p) {
    ((other *)p->data)->whole = 1;
    return HPE_PAUSED;
}

static void ask_llhttp(const text *t, other *o) {
    static const llhttp_settings_t settings = {
        .on_url = on_url,
        .on_header_field = on_field,
        .on_header_field_complete = on_field_end,
        .on_header_value = on_field,
        .on_header_value_complete = on_value_end,
        .on_headers_complete = on_head,
        .on_body = on_body,
        .on_message_complete = on_whole,
    };
    llhttp_t p;
    memset(o, 0, sizeof *o);
    llhttp_init(&p, HTTP_REQUEST, &settings);
    p.data = o;
    enum llhttp_errno e = llhttp_execute(&p, t->s, t->n);
    if (e != HPE_OK && e != HPE_PAUSED) o->whole = 0;
    if (e != HPE_OK && e != HPE_PAUSED && !(o->head && o->length != -1)) o->head = 0;
}

/* ---- where they may differ ---- */

static bool has(const text *t, const char *part) {
    return memmem(t->s, t->n, part, strlen(part));
}

static bool has_byte(const text *t, char least, char most) {
    for (size_t i = 0; i < t->n; i++)
        if (t->s[i] >= least && t->s[i] <= most) return true;
    return false;
}

/* Our reasons to take what llhttp refuses, or understands otherwise. */
static bool taken_alone(const text *t) {
    if (has(t, "QUERY ")) return true;    /* a method that it does not know */
    if (has(t, " HTTP/1.2")) return true; /* served as 1.1 (RFC 9110, 2.5) */
    if (has(t, "0://")) return true;      /* a scheme with a digit */
    if (has_byte(t, CHAR_MIN, -1))
        return true; /* bytes above 127 in a target, as nginx takes them */
    if (has_byte(t, '\t', '\t'))
        return true; /* to it a tab behind a value is of the value (RFC 9112, 5) */
    /* in HTTP/1.0 it keeps the connection (RFC 9112, 9.3) */
    return has(t, "keep-alive") && has(t, "close");
}

/* A CR or a LF that is no part of a CRLF. */
static bool has_bare_end(const text *t) {
    for (size_t i = 0; i < t->n; i++)
        if (t->s[i] == '\r' ? i + 1 == t->n || t->s[i + 1] != '\n'
                            : t->s[i] == '\n' && (i == 0 || t->s[i - 1] != '\r'))
            return true;
    return false;
}

/* No Host, two of them, or one that is not made of letters alone. */
static bool has_odd_host(const other *o) {
    int n = 0;
    for (const char *line = o->fields.s; *line; line = strchr(line, '\n') + 1) {
        if (strncasecmp(line, "host=", 5) != 0) continue;
        n++;
        for (const char *c = line + 5; *c != '\n'; c++)
            if (!isalpha((unsigned char)*c)) return true;
    }
    return n > 1 || (n == 0 && o->minor == 1);
}

/* Our reasons to refuse, with 400, what llhttp takes. */
static bool refused_alone(const text *t, const host_exchange *x, const other *o) {
    if (has(t, "\r\n ") || has(t, "\r\n\t") || has_bare_end(t))
        return true; /* a folded line, a line end */
    if (x->req.target.len == 0 && has(t, "\x20\x20")) return true;
    if (has(t, "\n:")) return true;     /* a field without a name */
    if (!has(t, " HTTP/")) return true; /* no version, as in HTTP/0.9, or of another protocol */
    if (strcasestr(o->fields.s, "transfer-encoding="))
        return true; /* empty, in 1.0, with a length, not last */
    /* a fragment is no part of a target (RFC 9112, 3.2) */
    if (memchr(o->target.s, '#', o->target.n)) return true;
    if (o->target.s[0] != '/') return true; /* `*` without OPTIONS, authorities, schemes */
    return has_odd_host(o) || has_byte(t, 0x7f, 0x7f) || has_byte(t, 0, 0);
}

static void complain(const char *what, const text *t, int ours, const other *o) {
    char shown[2 * SIZE];
    size_t n = 0;
    for (size_t i = 0; i < t->n && n < sizeof shown - 5; i++)
        n += (size_t)(isprint((unsigned char)t->s[i])
                          ? sprintf(shown + n, "%c", t->s[i])
                          : sprintf(shown + n, "\\x%02x", (unsigned char)t->s[i]));
    fprintf(stderr, "%s: ours %d, llhttp %d: %s\n", what, ours, o->head, shown);
}

/* ---- heads ---- */

static void our_fields(const host_exchange *x, text *out) {
    out->n = 0;
    out->s[0] = 0;
    for (int i = 0; i < x->req.nheaders; i++) {
        const host_header *h = &x->req.headers[i];
        append(out, x->in + h->name.off, h->name.len);
        append(out, "=", 1);
        append(out, x->in + h->value.off, h->value.len);
        append(out, "\n", 1);
    }
}

static bool same_head(host_exchange *x, const other *o) {
    static text fields;
    int64_t length = x->is_chunked ? -2 : x->req.content_length;
    our_fields(x, &fields);
    const char *name = host_method_name(x->req.method);
    return strcmp(name, llhttp_method_name((llhttp_method_t)o->method)) == 0 &&
           o->target.n == x->req.target.len &&
           memcmp(o->target.s, x->in + x->req.target.off, o->target.n) == 0 &&
           fields.n == o->fields.n && memcmp(fields.s, o->fields.s, fields.n) == 0 &&
           length == o->length && (o->minor > 0) == x->req.minor &&
           !!o->keep_alive == !x->close_after;
}

static void heads_mean_the_same(void *arg) {
    (void)arg;
    static text t;
    static other o;
    int taken = 0, refused = 0;
    for (int i = 0; i < ROUNDS; i++) {
        make_head(&t);
        ask_llhttp(&t, &o);
        host_exchange *x = exchange_take(&conn, &http1_ops);
        if (!EXPECT_EQ(exchange_keep(x, t.s, t.n), 0)) break;
        int rc = http1_head(x);
        bool ok = true;
        if (rc > 0 && o.head)
            ok = same_head(x, &o) || taken_alone(&t);
        else if (rc > 0)
            ok = taken_alone(&t);
        else if (rc == -400 && o.head)
            ok = refused_alone(&t, x, &o);
        taken += rc > 0;
        refused += rc == -400;
        exchange_give(x);
        if (!ok) complain("head", &t, rc, &o);
        if (!EXPECT(ok)) break;
    }
    CHECK(taken > ROUNDS / 20 && refused > ROUNDS / 20);
}

/* ---- chunked bodies ---- */

static const char *const sizes[] = {"1", "5", "a", "0A", "005", "g", "", "-1", "fffffffffffffffff"};
static const char *const exts[] = {"",    "",        "",  ";a", ";a=b",          ";a=\"b c\"",
                                   " ;a", "; a = b", " ", ";",  ";a=\"b\\\"c\"", ";\"a\""};

static void make_chunks(text *t) {
    t->n = 0;
    for (size_t n = any(4); n > 0; n--) {
        const char *size = ONE_OF(sizes);
        add(t, size);
        add(t, ONE_OF(exts));
        add(t, "\r\n");
        for (long i = strtol(size, NULL, 16); i > 0 && i < 20; i--)
            add(t, "x");
        add(t, "\r\n");
    }
    add(t, any(10) ? "0\r\n" : "00;q=1\r\n");
    if (any(3) == 0) add(t, "T: u\r\n");
    if (any(10) == 0) add(t, "T : u\r\n");
    add(t, "\r\n");
    if (any(4) == 0) damage(t);
}

static void chunks_mean_the_same(void *arg) {
    (void)arg;
    static text t, all;
    static other o;
    static const char head[] = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    int taken = 0;
    for (int i = 0; i < ROUNDS; i++) {
        make_chunks(&t);
        all.n = 0;
        add(&all, head);
        append(&all, t.s, t.n);
        ask_llhttp(&all, &o);
        host_exchange *x = exchange_take(&conn, &http1_ops);
        int rc = -1;
        if (exchange_keep(x, head, sizeof head - 1) == 0 && http1_head(x) > 0)
            rc = http1_body_of(x, t.s, t.n, false);
        bool ok = true;
        if (rc == 1 && o.whole)
            ok = x->body_seen == o.body.n;
        else if (rc == 1) /* llhttp takes no space and no string in an extension */
            ok = memchr(t.s, ';', t.n) || memchr(t.s, '\t', t.n);
        else if (rc < 0 && o.whole) /* we look at extensions and trailers */
            ok = has_bare_end(&t) || memchr(t.s, ';', t.n) || memchr(t.s, ' ', t.n) ||
                 memchr(t.s, ':', t.n) || memchr(t.s, '\t', t.n);
        taken += rc == 1;
        exchange_give(x);
        if (!ok) complain("body", &t, rc, &o);
        if (!EXPECT(ok)) break;
    }
    CHECK(taken > ROUNDS / 20);
}

int main(void) {
    const char *seed = getenv("RT_SEED");
    state = seed ? strtoull(seed, NULL, 10) : 1;
    options.limits.max_body = 1 << 20;
    const struct CMUnitTest tests[] = {
        in_g_test(heads_mean_the_same),
        in_g_test(chunks_mean_the_same),
    };
    RUN_TESTS("http1_differ", tests);
}
