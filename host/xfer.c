/* The state of a request that is being read and answered: where it comes from, and the room for its head.
 *
 * A small head is copied into the xfer itself, with its headers behind it, so that most requests need no other memory. A
 * larger one gets a buffer of its own.
 */
#include "conn.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { POOL_MAX = 64 };

/* ---- the pool: a list per P, touched by the M that has it ---- */

static struct {
    OF_ONE_P host_xfer *free;
    int n;
} pools[MAX_PS];

static void begin(host_xfer *x, host_conn *c) {
    size_t n = offsetof(host_xfer, watch);
    __asm__("" : "+r"(n)); /* else gcc makes a slow `rep stos` of it */
    memset(x, 0, n);
    x->conn = c;
    x->server = c->server;
    x->headers = (host_header *)x->room;
    x->headers_cap = XFER_ROOM / sizeof *x->headers;
}

host_xfer *xfer_take(host_conn *c) {
    int p = rt_p_id();
    host_xfer *x = pools[p].free;
    if (x) {
        pools[p].free = x->next_free;
        pools[p].n--;
    } else {
        x = malloc(sizeof *x);
        if (!x || !watch_take(x)) {
            free(x);
            return NULL;
        }
    }
    begin(x, c);
    return x;
}

void xfer_give(host_xfer *x) {
    if (x->in != x->room) free(x->in);
    if (x->headers_cap >= HEADERS_GROWN) free(x->headers);
    if (x->out) response_drop(x);
    if (x->parser) free(x->parser);
    if (x->req.body) free(x->req.body);
    int p = rt_p_id();
    if (pools[p].n >= POOL_MAX) {
        watch_give(x);
        free(x);
        return;
    }
    x->next_free = pools[p].free;
    pools[p].free = x;
    pools[p].n++;
}

void xfer_next(host_xfer *x) {
    uint32_t left = x->in_end - x->in_pos;
    memmove(x->in, x->in + x->in_pos, left);
    free(x->req.body);
    free(x->parser);
    char *in = x->in, *out = x->out;
    uint32_t in_cap = x->in_cap;
    host_header *headers = x->headers;
    uint16_t headers_cap = x->headers_cap;
    size_t out_cap = x->out_cap, out_pos = x->out_pos, out_end = x->out_end;
    begin(x, x->conn);
    x->in = in;
    x->in_end = left;
    x->in_cap = in_cap;
    x->headers = headers;
    x->headers_cap = headers_cap;
    x->out = out;
    x->out_pos = out_pos;
    x->out_end = out_end;
    x->out_cap = out_cap;
}

/* ---- room for what comes ---- */

static void use_room(host_xfer *x, size_t len) {
    size_t cap = (len + sizeof(host_header) - 1) / sizeof(host_header) * sizeof(host_header);
    x->in = x->room;
    x->in_cap = (uint32_t)cap;
    x->headers = (host_header *)(x->room + cap);
    x->headers_cap = (uint16_t)((XFER_ROOM - cap) / sizeof(host_header));
}

static __attribute__((noinline)) int grow_in(host_xfer *x, size_t len) {
    size_t cap = x->in_end + len;
    /* As a rule it is never added to. */
    if (x->in && cap < 2 * (size_t)x->in_cap) cap = 2 * (size_t)x->in_cap;
    char *in = realloc(x->in == x->room ? NULL : x->in, cap);
    if (!in) return -ENOMEM;
    if (x->in == x->room) memcpy(in, x->room, x->in_end);
    x->in = in;
    x->in_cap = (uint32_t)cap;
    x->req.buf = in;
    return 0;
}

int xfer_keep(host_xfer *x, const char *data, size_t len) {
    if (len == 0) return 0;
    if (!x->in && len <= XFER_ROOM_IN)
        use_room(x, len);
    else if (x->in_cap - x->in_end < len && grow_in(x, len) < 0)
        return -ENOMEM;
    memcpy(x->in + x->in_end, data, len);
    x->in_end += (uint32_t)len;
    return 0;
}
