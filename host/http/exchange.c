/* The state of a request that is read and answered: the pool it comes from, and the room for its head and body.
 *
 * The pool is type-stable: an exchange is never given back to malloc. Lua keeps pointer and id of requests that are
 * over (http_ffi.h). Each call compares this id with the exchange's present id, whatever the exchange is used for by
 * then. So there are as many exchanges as there were requests at a time. begin() leaves the id alone: it is 0 until the
 * connection names the request, so no old id matches.
 *
 * A small head is copied into the exchange itself, with its headers behind it, so most requests need no other memory. A
 * larger head gets a buffer of its own. A body that came with its head stays there, where it is in no VM's memory: one
 * read brings little.
 */
#include "../base/base.h"
#include "../vm/charge.h"
#include "conn.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    POOL_MAX = 64,
    POOL_BATCH = 16,
    BODY_MIN = 1024,      /* first room for a body of unknown length; then it doubles */
    BODY_AT_ONCE = 65536, /* a body whose Content-Length is no more gets its room at once */
};

/* ---- the pool: a list per P, for the M that has the P, and a shared list of the others ---- */

static struct {
    OF_ONE_P host_exchange *free;
    int n;
} pools[MAX_PS];

static struct {
    rt_lock lock;
    host_exchange *free; /* lock */
} others;

static void push(host_exchange **list, host_exchange *x) {
    x->next_free = *list;
    *list = x;
}

static host_exchange *pop(host_exchange **list) {
    host_exchange *x = *list;
    if (x) *list = x->next_free;
    return x;
}

/* Moves some exchanges of the shared list to this P's. */
static void refill(int p) {
    rt_lock_acquire(&others.lock);
    for (host_exchange *x; pools[p].n < POOL_BATCH && (x = pop(&others.free)); pools[p].n++)
        push(&pools[p].free, x);
    rt_lock_release(&others.lock);
}

static host_exchange *make(void) {
    static _Atomic uint32_t n; /* atomic: exchanges of the process */
    host_exchange *x = malloc(sizeof *x);
    if (!x) return NULL;
    x->req.id = 0;
    x->slot = atomic_fetch_add_explicit(&n, 1, memory_order_relaxed) + 1;
    return x;
}

static void begin(host_exchange *x, host_conn *c, const exchange_ops *ops) {
    size_t from = offsetof(host_req, id) + sizeof x->req.id,
           n = offsetof(host_exchange, room) - from;
    uint32_t slot = x->slot;
    __asm__("" : "+r"(n)); /* else gcc makes a slow `rep stos` of memset */
    memset((char *)x + from, 0, n);
    x->slot = slot;
    x->conn = c;
    x->ops = ops;
    x->server = c->base.server;
    x->sent = -(int64_t)c->out.n;
    x->req.headers = (host_header *)x->room;
    x->headers_cap = EXCHANGE_ROOM / sizeof(host_header);
}

host_exchange *exchange_take(host_conn *c, const exchange_ops *ops) {
    int p = rt_p_id();
    if (!pools[p].free) refill(p);
    host_exchange *x = pop(&pools[p].free);
    if (x)
        pools[p].n--;
    else if (!(x = make()))
        return NULL;
    begin(x, c, ops);
    return x;
}

/* ---- the body, and before it what it is charged as ---- */

typedef struct body {
    vm_charge charge;
    uint8_t bytes[];
} body;

static body *body_of(uint8_t *bytes) {
    return (body *)(bytes - offsetof(body, bytes)); /* NOLINT: bytes is aligned */
}

static __attribute__((noinline)) void free_body(host_exchange *x) {
    if (x->body_in) return;
    body *b = body_of(x->req.body);
    charge_set(&b->charge, 0);
    free(b);
}

/* Makes room for cap bytes. False: no memory, or more than the VM may have. */
static bool grow_body(host_exchange *x, size_t cap) {
    body *old = x->req.body ? body_of(x->req.body) : NULL;
    vm_charge charge = old ? old->charge : (vm_charge){0};
    if (!charge_set(&charge, cap)) return false;
    body *b = realloc(old, sizeof *b + cap);
    if (!b) {
        charge_set(&charge, old ? old->charge.bytes : 0);
        return false;
    }
    b->charge = charge;
    x->req.body = b->bytes;
    return true;
}

/* Gives room of bytes that were taken to bytes that come: if nothing else is there, or the room is short and few bytes
 * have to move, so that each byte moves once at most. */
static void drop_taken(host_req *r, bool is_short) {
    size_t left = r->body_len - r->body_pos;
    if (r->body_pos == 0 || (left > 0 && (!is_short || left > r->body_pos))) return;
    memmove(r->body, r->body + r->body_pos, left);
    r->body_pos = 0;
    r->body_len = left;
}

void exchange_body_in(host_exchange *x, size_t len) {
    x->req.body = (uint8_t *)x->in + x->in_pos;
    x->req.body_len = len;
    x->body_in = true;
}

int exchange_keep_body(host_exchange *x, const char *data, size_t len) {
    host_req *r = &x->req;
    size_t cap = r->body ? body_of(r->body)->charge.bytes : 0;
    drop_taken(r, cap - r->body_len < len);
    if (cap - r->body_len < len) {
        cap = cap ? cap * 2 : BODY_MIN;
        if (r->content_length > 0 && r->content_length <= BODY_AT_ONCE)
            cap = (size_t)r->content_length;
        while (cap - r->body_len < len)
            cap *= 2;
        if (!grow_body(x, cap)) return -ENOMEM;
    }
    memcpy(r->body + r->body_len, data, len);
    r->body_len += len;
    return 0;
}

/* ---- */

void exchange_give(host_exchange *x) {
    if (x->in != x->room) free(x->in);
    if (x->headers_cap >= HEADERS_GROWN) free(exchange_headers(x));
    if (x->trailers) free(x->trailers);
    if (x->req.body) free_body(x);
    int p = rt_p_id();
    if (pools[p].n >= POOL_MAX) {
        rt_lock_acquire(&others.lock);
        push(&others.free, x);
        rt_lock_release(&others.lock);
        return;
    }
    push(&pools[p].free, x);
    pools[p].n++;
}

void exchange_next(host_exchange *x) {
    uint32_t left = x->in_end - x->in_pos;
    memmove(x->in, x->in + x->in_pos, left);
    if (x->req.body) free_body(x);
    free(x->trailers);
    char *in = x->in;
    uint32_t in_cap = x->in_cap;
    const host_header *headers = x->req.headers;
    uint8_t headers_cap = x->headers_cap;
    begin(x, x->conn, x->ops);
    x->in = in;
    x->in_end = left;
    x->in_cap = in_cap;
    x->req.headers = headers;
    x->headers_cap = headers_cap;
}

/* ---- room for what comes ---- */

static void use_room(host_exchange *x, size_t len) {
    size_t cap = (len + sizeof(host_header) - 1) / sizeof(host_header) * sizeof(host_header);
    x->in = x->room;
    x->in_cap = (uint32_t)cap;
    x->req.headers = (host_header *)(x->room + cap);
    x->headers_cap = (uint8_t)((EXCHANGE_ROOM - cap) / sizeof(host_header));
}

static __attribute__((noinline)) int grow_in(host_exchange *x, size_t len) {
    size_t cap = x->in_end + len;
    /* A head is rarely added to. */
    if (x->in && cap < 2 * (size_t)x->in_cap) cap = 2 * (size_t)x->in_cap;
    char *in = realloc(x->in == x->room ? NULL : x->in, cap);
    if (!in) return -ENOMEM;
    if (x->in == x->room) memcpy(in, x->room, x->in_end);
    x->in = in;
    x->in_cap = (uint32_t)cap;
    x->req.buf = in;
    return 0;
}

int exchange_keep(host_exchange *x, const char *data, size_t len) {
    if (len == 0) return 0;
    if (!x->in && len <= EXCHANGE_ROOM_IN)
        use_room(x, len);
    else if (x->in_cap - x->in_end < len && grow_in(x, len) < 0)
        return -ENOMEM;
    memcpy(x->in + x->in_end, data, len);
    x->in_end += (uint32_t)len;
    return 0;
}
