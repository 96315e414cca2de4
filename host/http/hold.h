/* The holder of a connection while a handler runs. See hold.c. */
#ifndef HOLD_H
#define HOLD_H

#include "exchange.h"

/* The holder of a connection, the low bits of host_exchange.hold: see hold.c. */
enum {
    HOLD_NONE,
    HOLD_FREE,
    HOLD_CALL,
    HOLD_LENT,
    HOLD_PARTING,
    HOLD_GONE,
    HOLD_ENDED,
    HOLD_MASK = 7,
    HOLD_BITS = 3,
    HOLD_TICKET_SHIFT = 13, /* above the status */
};

/* ---- for the connection's G alone; nothing waits ---- */
/* Gives the connection to a handler. ticket: of the open wait of the connection's G. */
static inline void hold_begin(host_exchange *x, uint64_t ticket) {
    atomic_store_explicit(&x->hold, ticket << HOLD_TICKET_SHIFT | HOLD_FREE, memory_order_release);
}
/* The connection's G waits for the handler once more, with this ticket. False: there is nothing to wait for. */
bool hold_again(host_exchange *x, uint64_t ticket);
/* Takes the connection away from the handler of x, wherever the handler runs: hold_abandon says with which effect.
 * False: the handler is in a call, has ended, or has lost the connection already. */
bool hold_part(host_exchange *x, int status);
/* The connection was taken away and needs nothing of x any more. */
void hold_parted(host_exchange *x);
static inline unsigned hold_state(host_exchange *x) {
    return atomic_load_explicit(&x->hold, memory_order_acquire) & HOLD_MASK;
}

/* ---- for the handler's G, and the calls that it makes; nothing waits ---- */
/* Takes the connection away from the handler of x. C answers the client with `status`, or, if a response has begun, the
 * connection ends. After a complete response the connection goes on. From then on the handler's calls do nothing. */
void hold_abandon(host_exchange *x, int status);
/* A deadline of the handler of x has passed: if it is the one that ends the handler, hold_abandon with 504. By x's
 * VM. */
void hold_overdue(host_exchange *x);
/* In a call (hold_take), or when the stream was lent: the handler has ended, and the connection goes back to its G. */
void hold_end(host_exchange *x);
/* In a call, which it ends: the handler has the stream for itself until it ends (hijack.c), however long that takes. */
void hold_lend(host_exchange *x);
/* The handler has ended without the connection: gives the exchange back. */
void hold_forget(host_exchange *x);
/* In a call: bytes of a response went out, so --handler-timeout begins anew. */
void hold_renew(host_exchange *x);
/* The status with which C has answered in the handler's place; 0: C has not. By the handler's VM. */
int hold_status(host_exchange *x);
static inline bool hold_lost(host_exchange *x) {
    return hold_state(x) >= HOLD_PARTING;
}

/* Writes the request of x, "GET /path", into buf. For another thread than the handler's; the handler does not end
 * meanwhile. The thread may have the scheduler's lock: no G is woken. */
void hold_name(host_exchange *x, char *buf, size_t size);
/* Writes the request of x, whose handler does not run, "GET /path", into buf. Its length, as snprintf's. Does not
 * wait. */
int hold_print_name(const host_exchange *x, char *buf, size_t size);
bool hold_take_slowly(host_exchange *x);

/* hold_take and hold_give enclose each use of the connection on behalf of its handler, on any M, with a P or without.
 * False: the handler has no connection any more. Nothing in between may wait or raise. */
static inline bool hold_take(host_exchange *x) {
    uint64_t word = atomic_load_explicit(&x->hold, memory_order_relaxed);
    return ((word & HOLD_MASK) == HOLD_FREE &&
            atomic_compare_exchange_strong_explicit(&x->hold, &word, word - HOLD_FREE + HOLD_CALL,
                                                    memory_order_acquire, memory_order_relaxed)) ||
           hold_take_slowly(x);
}

static inline void hold_give(host_exchange *x) {
    uint64_t word = atomic_load_explicit(&x->hold, memory_order_relaxed);
    /* Fails if the connection's G has put its next ticket there. */
    while (!atomic_compare_exchange_weak_explicit(&x->hold, &word, word - HOLD_CALL + HOLD_FREE,
                                                  memory_order_release, memory_order_relaxed))
        ;
}

/* The exchange of a call from Lua, taken as by hold_take. NULL: the request is over, or has lost its connection. */
static inline host_exchange *hold_call(host_req *r, double id) {
    host_exchange *x = (host_exchange *)r;
    return exchange_is(x, id) && hold_take(x) ? x : NULL;
}

#endif
