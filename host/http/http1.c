/* HTTP/1 requests: llhttp's callbacks fill the spans of a host_req.
 *
 * llhttp says what the bytes mean. The limits (HEAD_MAX, TARGET_MAX, HEADERS_MAX, max_body) and the further rules for a
 * request are here. Spans are offsets into the input buffer, which is kept until the response is out, so no head is
 * copied.
 *
 * llhttp accepts folded lines (a line that begins with a space continues the one before), in spans that do not fit
 * together. A gateway that passes such a value on passes on line ends of the client's choice. So a look at each line of
 * a head, and of the trailers, refuses lines that begin with a space or a tab, before any code sees a field.
 *
 * A head without a body ends the message at once. With a body the parser pauses after the head, and goes on when the
 * body is wanted (http1_body). The parser pauses at the end of each message, so the bytes of the next, pipelined
 * message stay where they are.
 */
#include "http1.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Where the parser's trailers begin, in the bytes that it was given. */
static __thread const char *trailers;

static host_exchange *exchange_of(llhttp_t *p) {
    return p->data;
}

/* Stops the parser, from a callback; `status` is the answer. */
static int fail(host_exchange *x, int status) {
    x->error = status;
    return HPE_USER;
}

static int on_url(llhttp_t *p, const char *at, size_t n) {
    host_exchange *x = exchange_of(p);
    if (x->req.target.len == 0) x->req.target.off = (uint32_t)(at - x->in);
    x->req.target.len += (uint32_t)n;
    return x->req.target.len > TARGET_MAX ? fail(x, 414) : 0;
}

static bool more_headers(host_exchange *x) {
    bool inlined = x->headers_cap < HEADERS_GROWN;
    uint8_t cap = inlined ? HEADERS_GROWN : HEADERS_MAX;
    host_header *grown = realloc(inlined ? NULL : exchange_headers(x), cap * sizeof *grown);
    if (!grown) return false;
    if (inlined) memcpy(grown, x->req.headers, x->headers_cap * sizeof *grown);
    x->req.headers = grown;
    x->headers_cap = cap;
    return true;
}

/* True: a line that begins in s[0 .. n) begins with a space or a tab. *begins: s[0] begins a line; afterwards: the byte
 * behind s does. */
static bool has_fold(const char *s, size_t n, bool *begins) {
    const char *end = s + n;
    bool at_begin = *begins;
    while (s < end) {
        if (at_begin && (*s == ' ' || *s == '\t')) return true;
        const char *lf = memchr(s, '\n', (size_t)(end - s));
        at_begin = lf != NULL;
        s = lf ? lf + 1 : end;
    }
    *begins = at_begin;
    return false;
}

static int on_header_field(llhttp_t *p, const char *at, size_t n) {
    host_exchange *x = exchange_of(p);
    if (x->head_done) { /* trailers are read and dropped */
        if (!x->in_trailers) trailers = at;
        x->in_trailers = true;
        return 0;
    }
    if (x->in_value || x->req.nheaders == 0) {
        if (x->req.nheaders == x->headers_cap) {
            if (x->req.nheaders == HEADERS_MAX) return fail(x, 431);
            if (!more_headers(x)) return fail(x, 503);
        }
        exchange_headers(x)[x->req.nheaders++] = (host_header){.name = {(uint32_t)(at - x->in), 0}};
        x->in_value = false;
    }
    exchange_headers(x)[x->req.nheaders - 1].name.len += (uint32_t)n;
    return 0;
}

static int on_header_value(llhttp_t *p, const char *at, size_t n) {
    host_exchange *x = exchange_of(p);
    if (x->head_done) return 0;
    host_span *v = &exchange_headers(x)[x->req.nheaders - 1].value;
    if (v->len == 0) v->off = (uint32_t)(at - x->in);
    v->len += (uint32_t)n;
    x->in_value = true;
    return 0;
}

/* llhttp calls it also for an empty value, for which it does not call on_header_value. */
static int on_header_value_complete(llhttp_t *p) {
    host_exchange *x = exchange_of(p);
    if (x->head_done) return 0;
    x->in_value = true;
    host_header *h = &exchange_headers(x)[x->req.nheaders - 1];
    while (h->value.len > 0) {
        char c = x->in[h->value.off + h->value.len - 1];
        if (c != ' ' && c != '\t') break;
        h->value.len--;
    }
    const char *name = x->in + h->name.off;
    if (h->name.len == 4 && (name[0] | 32) == 'h' && (name[1] | 32) == 'o' &&
        (name[2] | 32) == 's' && (name[3] | 32) == 't')
        x->n_hosts += x->n_hosts < UINT8_MAX;
    if (h->name.len == 6 && strncasecmp(name, "expect", 6) == 0) {
        if (memchr(name, '\n', (size_t)(x->in + h->value.off + h->value.len - name)))
            return fail(x, 400);
        if (h->value.len != 12 || strncasecmp(x->in + h->value.off, "100-continue", 12) != 0)
            return fail(x, 417);
        x->expects_100 = p->http_minor > 0;
    }
    return 0;
}

/* True: routing may use the path as it stands: no escapes, no empty, "." or ".." segments. */
static bool is_plain(const char *s, size_t n) {
    if (n == 0 || s[0] != '/') return false;
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '%') return false;
        if (s[i] == '/' && i + 1 < n && (s[i + 1] == '/' || s[i + 1] == '.')) return false;
    }
    return true;
}

/* Finds path and query of the target, which is /path?query, scheme://host/path?query, or `*`. */
static void split_target(host_exchange *x) {
    host_req *r = &x->req;
    const char *s = x->in + r->target.off;
    size_t n = r->target.len, at = 0;
    if (n > 0 && s[0] != '/' && s[0] != '*') {
        const char *scheme = memmem(s, n, "://", 3);
        if (scheme) {
            at = (size_t)(scheme - s) + 3;
            while (at < n && s[at] != '/' && s[at] != '?')
                at++;
        }
    }
    const char *question = memchr(s + at, '?', n - at);
    size_t path_end = question ? (size_t)(question - s) : n;
    r->path = (host_span){r->target.off + (uint32_t)at, (uint32_t)(path_end - at)};
    if (question)
        r->query =
            (host_span){r->target.off + (uint32_t)path_end + 1, (uint32_t)(n - path_end - 1)};
    r->plain = is_plain(s + at, path_end - at);
}

static int on_headers_complete(llhttp_t *p) {
    host_exchange *x = exchange_of(p);
    host_req *r = &x->req;
    if (p->http_major != 1 || p->http_minor > 1) return fail(x, 505);
    if (x->n_hosts > 1 || (x->n_hosts == 0 && p->http_minor == 1)) return fail(x, 400);
    if (p->method == HTTP_CONNECT) return fail(x, 405);
    x->head_done = true;
    x->keep_alive = llhttp_should_keep_alive(p);
    r->method = p->method;
    r->minor = p->http_minor;
    bool chunked = p->flags & F_CHUNKED;
    r->has_body = chunked || p->content_length > 0;
    r->content_length = chunked || !(p->flags & F_CONTENT_LENGTH) ? -1 : (int64_t)p->content_length;
    if (r->content_length > x->server->listener.limits->max_body) return fail(x, 413);
    split_target(x);
    if (p->upgrade) {
        /* No other protocol is spoken here, and the upgrade may be ignored (RFC 9110, 7.8). */
        p->upgrade = 0;
    }
    return r->has_body ? HPE_PAUSED : 0;
}

static int on_body(llhttp_t *p, const char *at, size_t n) {
    host_exchange *x = exchange_of(p);
    x->body_seen += n;
    if (x->body_seen > (size_t)x->server->listener.limits->max_body) return fail(x, 413);
    if (x->drop_body) return 0;
    return exchange_keep_body(x, at, n) < 0 ? fail(x, 503) : 0;
}

static int on_message_complete(llhttp_t *p) {
    host_exchange *x = exchange_of(p);
    x->message_done = true;
    x->req.body_complete = 1;
    return HPE_PAUSED;
}

static const llhttp_settings_t settings = {
    .on_url = on_url,
    .on_header_field = on_header_field,
    .on_header_value = on_header_value,
    .on_header_value_complete = on_header_value_complete,
    .on_headers_complete = on_headers_complete,
    .on_body = on_body,
    .on_message_complete = on_message_complete,
};

/* Most requests come whole and need no parser but the thread's. */
static __thread llhttp_t parser;

/* Copies the thread's parser into x, for the next bytes. False: no memory. */
static bool keep_parser(host_exchange *x) {
    if (!(x->parser = malloc(sizeof parser))) return false;
    *x->parser = parser;
    return true;
}

/* Runs the parser. *used: how many of the bytes it took. */
static inline llhttp_errno_t execute(host_exchange *x, const char *data, size_t len, size_t *used) {
    llhttp_t *p = x->parser;
    if (!p) {
        p = &parser;
        llhttp_init(p, HTTP_REQUEST, &settings);
        p->data = x;
    }
    llhttp_errno_t e = llhttp_execute(p, data, len);
    *used = 0;
    if (e == HPE_OK) {
        *used = len;
    } else if (e == HPE_PAUSED) {
        *used = (size_t)(llhttp_get_error_pos(p) - data);
        llhttp_resume(p);
    } else {
        return e;
    }
    if (!x->parser && !x->message_done && !keep_parser(x)) return (llhttp_errno_t)fail(x, 503);
    return e;
}

int http1_head(host_exchange *x) {
    size_t used;
    llhttp_errno_t e = execute(x, x->in + x->in_pos, x->in_end - x->in_pos, &used);
    x->in_pos += (uint32_t)used;
    if (e != HPE_OK && e != HPE_PAUSED) {
        x->head_done = false; /* the end of the head is unknown */
        return x->error ? -x->error : -400;
    }
    if (x->head_done) {
        bool begins = false;
        x->head_end = x->in_pos;
        if (x->head_end > HEAD_MAX) return -431;
        if (has_fold(x->in, x->head_end, &begins)) return -400;
        x->req.buf = x->in;
        return 1;
    }
    if (x->in_end >= HEAD_MAX) return x->req.nheaders == 0 ? -414 : -431;
    return 0;
}

static int parse_body(host_exchange *x, const char *data, size_t len, bool keep, size_t *used) {
    x->drop_body = !keep;
    size_t seen = x->body_seen;
    bool more_trailers = x->in_trailers;
    llhttp_errno_t e = execute(x, data, len, used);
    if (e == HPE_USER) return x->error == 413 ? -EMSGSIZE : x->error == 503 ? -ENOMEM : -EPROTO;
    if (e != HPE_OK && e != HPE_PAUSED) return -EPROTO;
    if (x->in_trailers) {
        const char *from = more_trailers ? data : trailers;
        bool begins = x->line_begins;
        if (has_fold(from, (size_t)(data + *used - from), &begins)) return -EPROTO;
        x->line_begins = begins;
    }
    /* Chunk sizes, extensions and trailers may not outweigh the body without limit. */
    x->raw_seen += *used - (x->body_seen - seen);
    if (x->raw_seen > HEAD_MAX + 16 * x->body_seen) return -EPROTO;
    return x->message_done;
}

int http1_body(host_exchange *x, bool keep) {
    size_t used;
    int r = parse_body(x, x->in + x->in_pos, x->in_end - x->in_pos, keep, &used);
    x->in_pos += (uint32_t)used;
    return r;
}

int http1_body_of(host_exchange *x, const char *data, size_t len, bool keep) {
    size_t used;
    int r = parse_body(x, data, len, keep, &used);
    if (r < 0) return r;
    x->in_pos = x->in_end = x->head_end;
    if (used < len && exchange_keep(x, data + used, len - used) < 0) return -ENOMEM;
    return r;
}

const char *host_method_name(int method) {
    return method >= 0 && method <= HTTP_SOURCE ? llhttp_method_name((llhttp_method_t)method) : "";
}

int host_method_id(const char *name, size_t len) {
    for (int m = 0; m <= HTTP_SOURCE; m++) {
        const char *s = llhttp_method_name((llhttp_method_t)m);
        if (strlen(s) == len && memcmp(s, name, len) == 0) return m;
    }
    return -1;
}
