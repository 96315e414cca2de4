/* The client behind proxies: --trusted-proxy.
 *
 * A proxy that speaks HTTP has connections of its own to us, and says in fields whom a request is from. Anybody can write
 * such fields. So they count only if the peer of the connection is a trusted proxy, and only as far as trusted proxies
 * have written them: each proxy adds its own peer at the end of the list, so the list is read from its end. The client is
 * the first address from there that is no trusted proxy.
 *
 *     X-Forwarded-For: 203.0.113.9, 192.0.2.7, 10.0.0.2      from 10.0.0.1, and 10.0.0.0/8 is trusted
 *                      ^ the client's word  ^ the client
 *
 * Of the lists of schemes and hosts the element at the same place from the end counts, or the first one of a shorter
 * list: many proxies write a single one anew.
 *
 * Proxies write X-Forwarded-..., or Forwarded (RFC 7239), and hand on what they do not know. So a client could add the
 * other one. If there is any X-Forwarded-For, Forwarded does not count.
 *
 * What is no address, no scheme, no host ends the search or does not count: "unknown", names that hide an address.
 */
#include "forwarded.h"

#include "../base/chars.h"
#include "../base/options.h"
#include "authority.h"
#include "conn.h"
#include "hold.h"
#include "http1.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

enum { ELEMENTS_MAX = 32 }; /* the last of a longer list */

typedef struct span {
    const char *s;
    size_t n;
} span;

/* Elements of a list over all fields of a name; the last ELEMENTS_MAX. */
typedef struct elements {
    span list[ELEMENTS_MAX];
    int n;
} elements;

/* ---- fields ---- */

/* Where the walk over the fields stands: number, or, of a head that was only copied, the next line. */
typedef struct walk {
    int i;
    const char *at;
} walk;

static bool next_line(const host_exchange *x, walk *w, head_field *f) {
    const char *end = x->in + x->head_end;
    if (!x->head_done || x->head_end == 0) return false;
    if (!w->at) { /* behind the request line, before which there may be line ends */
        const char *line = x->in + x->req.target.off;
        w->at = memchr(line, '\n', (size_t)(end - line));
        if (w->at) w->at++;
    }
    http1_line l;
    if (!w->at || http1_field(&w->at, end, &l) != 1) return false;
    *f = (head_field){l.name, l.value, (size_t)(l.name_end - l.name),
                      (size_t)(l.value_end - l.value)};
    return true;
}

static bool next_field(const host_exchange *x, walk *w, head_field *f) {
    if (x->req.nheaders == 0) return next_line(x, w, f);
    if (w->i == x->req.nheaders) return false;
    const host_header *h = &x->req.headers[w->i++];
    *f = (head_field){x->in + h->name.off, x->in + h->value.off, h->name.len, h->value.len};
    return true;
}

static bool next_named(const host_exchange *x, walk *w, const char *name, head_field *f) {
    size_t n = strlen(name);
    while (next_field(x, w, f))
        if (f->name_len == n && strncasecmp(f->name, name, n) == 0) return true;
    return false;
}

bool head_find(const host_exchange *x, const char *name, head_field *f) {
    walk w = {0};
    return next_named(x, &w, name, f);
}

/* ---- lists ---- */

static span trim(const char *s, const char *end) {
    chars_trim(&s, &end);
    return (span){s, (size_t)(end - s)};
}

/* The end of what begins at s and is separated by `by`, outside of quotes. */
static const char *part_end(const char *s, const char *end, char by) {
    bool quoted = false;
    for (; s < end && (quoted || *s != by); s++) {
        if (*s == '"') quoted = !quoted;
        if (quoted && *s == '\\' && s + 1 < end) s++;
    }
    return s;
}

static void add_elements(elements *e, const char *s, size_t n) {
    const char *end = s + n;
    for (;;) {
        const char *stop = part_end(s, end, ',');
        span part = trim(s, stop);
        if (e->n == ELEMENTS_MAX) memmove(e->list, e->list + 1, (size_t)--e->n * sizeof *e->list);
        e->list[e->n++] = part;
        if (stop == end) return;
        s = stop + 1;
    }
}

static void gather(const host_exchange *x, const char *name, elements *e) {
    walk w = {0};
    head_field f;
    e->n = 0;
    while (next_named(x, &w, name, &f))
        add_elements(e, f.value, f.value_len);
}

/* The value of a parameter of an element of Forwarded, without its quotes. */
static span parameter(span element, const char *name) {
    const char *s = element.s, *end = s + element.n;
    size_t n = strlen(name);
    while (s < end) {
        const char *stop = part_end(s, end, ';');
        span p = trim(s, stop);
        if (p.n > n && p.s[n] == '=' && strncasecmp(p.s, name, n) == 0) {
            span v = {p.s + n + 1, p.n - n - 1};
            bool quoted = v.n >= 2 && v.s[0] == '"' && v.s[v.n - 1] == '"';
            return quoted ? (span){v.s + 1, v.n - 2} : v;
        }
        s = stop < end ? stop + 1 : end;
    }
    return (span){s, 0};
}

/* ---- the client ---- */

/* An address with or without a port: 192.0.2.7:80, [2001:db8::7]:80, 2001:db8::7. */
static bool read_ip(span s, uint8_t ip[16]) {
    if (nets_read_ip(s.s, s.n, ip)) return true;
    const char *colon = memrchr(s.s, ':', s.n);
    return colon && nets_read_ip(s.s, (size_t)(colon - s.s), ip);
}

/* ip NULL: a unix socket. */
static int print_ip(const uint8_t *ip, char *buf) {
    static const char unix_word[] = "unix";
    if (ip) return nets_print_ip(ip, buf, FORWARDED_MAX);
    memcpy(buf, unix_word, sizeof unix_word);
    return sizeof unix_word - 1;
}

typedef struct client {
    elements e;
    bool by_forwarded; /* e are elements of Forwarded */
    int hops;    /* elements of e that trusted proxies have written; 0: the peer is the client */
    bool has_ip; /* else the peer is a unix socket */
    uint8_t ip[16];
} client;

/* Finds out who the client is. 0 or -errno. */
static int find_client(const host_exchange *x, client *c) {
    struct sockaddr_storage sa;
    socklen_t len;
    int err = client_address(&x->conn->base.from, x->conn->io.fd, &sa, &len);
    if (err) return err;
    c->hops = 0;
    c->has_ip = client_ip((struct sockaddr *)&sa, c->ip);
    const host_nets *trusted = &options.trusted;
    if (trusted->n == 0 || !nets_have(trusted, c->has_ip ? c->ip : NULL)) return 0;
    gather(x, "x-forwarded-for", &c->e);
    c->by_forwarded = c->e.n == 0;
    if (c->by_forwarded) gather(x, "forwarded", &c->e);
    c->hops = 1; /* the proxy is trusted, even if it says nothing of the client */
    for (int i = c->e.n - 1; i >= 0; i--) {
        uint8_t ip[16];
        span s = c->by_forwarded ? parameter(c->e.list[i], "for") : c->e.list[i];
        if (!read_ip(s, ip)) break;
        memcpy(c->ip, ip, 16);
        c->has_ip = true;
        c->hops = c->e.n - i;
        if (!nets_have(trusted, ip)) break;
    }
    return 0;
}

/* What the proxy nearest to the client says: the element at `hops` from the end. */
static span of_list(const elements *e, int hops) {
    if (e->n == 0) return (span){NULL, 0};
    return e->list[hops < e->n ? e->n - hops : 0];
}

static span said(const host_exchange *x, client *c, const char *field, const char *name) {
    if (c->by_forwarded && c->e.n > 0) return parameter(of_list(&c->e, c->hops), name);
    gather(x, field, &c->e);
    return of_list(&c->e, c->hops);
}

static int scheme_of(span s, char *buf) {
    for (int i = 4; i <= 5; i++) {
        if (s.n != (size_t)i || strncasecmp(s.s, "https", s.n) != 0) continue;
        memcpy(buf, "https", s.n);
        buf[s.n] = 0;
        return i;
    }
    return 0;
}

static int text_of(span s, char *buf) {
    if (s.n == 0 || s.n >= FORWARDED_MAX) return 0;
    memcpy(buf, s.s, s.n);
    buf[s.n] = 0;
    return (int)s.n;
}

static int id_of(const host_exchange *x, char *buf) {
    head_field f;
    if (!head_find(x, "x-request-id", &f)) return 0;
    for (size_t i = 0; i < f.value_len; i++)
        if (f.value[i] <= ' ' || f.value[i] > '~') return 0;
    return text_of((span){f.value, f.value_len}, buf);
}

/* What proxies say, as forwarded_get; 0: they say nothing of it. */
static int told(const host_exchange *x, int what, char *buf) {
    client c;
    if (what != HOST_CLIENT_IP && options.trusted.n == 0) return 0;
    int err = find_client(x, &c);
    if (err) return err;
    if (what == HOST_CLIENT_IP) return print_ip(c.has_ip ? c.ip : NULL, buf);
    if (c.hops == 0) return 0;
    if (what == HOST_CLIENT_SCHEME)
        return scheme_of(said(x, &c, "x-forwarded-proto", "proto"), buf);
    if (what == HOST_CLIENT_ID) return id_of(x, buf);
    span host = said(x, &c, "x-forwarded-host", "host");
    return host.n > 0 && authority_is_valid(host.s, host.n) ? text_of(host, buf) : 0;
}

int forwarded_get(const host_exchange *x, int what, char *buf) {
    int n = told(x, what, buf);
    bool https = what == HOST_CLIENT_SCHEME && n == 0 && x->conn->io.tls;
    return https ? scheme_of((span){"https", 5}, buf) : n;
}

int host_req_client(host_req *r, double id, int what, char *buf) {
    host_exchange *x = hold_call(r, id);
    if (!x) return -EPIPE;
    int n = forwarded_get(x, what, buf);
    hold_give(x);
    return n;
}
