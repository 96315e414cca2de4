/* The holder of a connection while a handler runs: the handler, or C.
 *
 * A handler may take too long, run without ever waiting, or belong to a VM that is thrown away. None of this may hold
 * its client: at --handler-timeout C answers the client 504, whatever the handler does at that moment, on this thread
 * or on another. So connection and request can part. The connection goes on with a fresh exchange. The handler keeps
 * the old exchange, whose head and body stay readable, until it ends, and cannot reach the connection any more.
 *
 * Meanwhile the connection's G waits for one of three events: its handler has ended, its handler has lost the
 * connection, or --handler-timeout is over. One word of the request decides which. The word moves by CAS alone:
 *
 *                          +--- hold_take ---+
 *                          v                 |
 *     NONE --hold_begin--> CALL --hold_give--> FREE
 *      ^                   |  |              |
 *      +----- hold_end ----+  |              +-- part --> PARTING --hold_parted--> GONE
 *      +-- hold_end -- LENT <-+ hold_lend                     |                      |
 *                                                             +---- hold_forget -----+--> freed by the second of both
 *
 *   NONE     no handler: the connection's G has everything
 *   FREE     a handler has the connection, and does not touch it now
 *   CALL     the handler is inside one of the calls that touch the connection (host_respond ...), which never wait
 *   LENT     the handler has the connection's stream for good (hijack.c); no call touches the connection any more
 *   PARTING  handler and connection have parted; the connection's G still reads the request
 *   GONE     the connection's G is done with the request, which is its handler's alone
 *   ENDED    the handler ended during PARTING: the connection's G gives the request back
 *
 * So the connection's descriptor, pollDesc and output always have one owner. In FREE no thread touches them. In NONE
 * and from PARTING on the connection's G has them.
 *
 * The word also holds the ticket of the wait of the connection's G. The thread that moves the word to NONE or PARTING
 * ends this wait. The ticket comes from the CAS that gives the connection away, so the ticket is the one of the wait
 * that has to end. The G is read before the CAS, after which the connection may be gone. When the connection's G waits
 * anew, it puts its next ticket there by CAS (hold_again), which fails if there is nothing to wait for any more.
 *
 * In CALL the two cannot part. If the time of the connection's G is over, the G looks again a moment later; a call may
 * have given the handler its time anew meanwhile. Rejected: a state in which the end of the call parts the two. A
 * reader of the name of a stuck handler (hold_name) has the scheduler's lock (rt_cell_inspect), and waking a G takes
 * this lock.
 *
 * A handler may wait in the pollDesc. When the two have parted, the connection's G kicks both directions. A kick takes
 * a G out of its wait or turns it back before its commit (netpoll.c). In CALL no G can be about to wait.
 *
 * The handler's G has the same deadline, a nanosecond later: each of its waits answers "timeout" then. If its M notices
 * first, the handler's G parts the two itself (hold_overdue). So whatever a handler does about the timeout comes too
 * late.
 *
 * A streamed response, and a whole one that is too long for the kernel, have more time: --handler-timeout counts from
 * when the client last took some of it. hold_renew moves limit_ns, and the connection's G looks at limit_ns when its
 * wait has ended.
 *
 * Orders: each move is an acquire and a release, so the new holder of the connection sees what the former one did to
 * it.
 */
#include "../base/log.h"
#include "conn.h"
#include "hold.h"

#include <stdatomic.h>
#include <stdio.h>

enum { STATUS_SHIFT = HOLD_BITS, STATUS_MASK = 0x3ff };

static inline unsigned state_of(uint64_t word) {
    return word & HOLD_MASK;
}

static inline int status_of(uint64_t word) {
    return (int)(word >> STATUS_SHIFT & STATUS_MASK);
}

static inline uint64_t word_of(uint64_t ticket, unsigned state, int status) {
    return ticket << HOLD_TICKET_SHIFT | (uint64_t)status << STATUS_SHIFT | state;
}

static bool move(host_exchange *x, uint64_t *from, unsigned state, int status) {
    return atomic_compare_exchange_strong(&x->hold, from,
                                          word_of(*from >> HOLD_TICKET_SHIFT, state, status));
}

/* x->hold was moved from `word`: wakes g, the connection's G. */
static void tell(rt_g *g, uint64_t word) {
    rt_wake(g, word >> HOLD_TICKET_SHIFT, RT_WOKEN);
}

/* ---- the connection's side ---- */

bool hold_again(host_exchange *x, uint64_t ticket) {
    uint64_t word = atomic_load(&x->hold);
    while (state_of(word) >= HOLD_FREE && state_of(word) <= HOLD_LENT)
        if (atomic_compare_exchange_weak(&x->hold, &word,
                                         word_of(ticket, state_of(word), status_of(word))))
            return true;
    return false;
}

bool hold_part(host_exchange *x, int status) {
    uint64_t word = atomic_load(&x->hold);
    return state_of(word) == HOLD_FREE && move(x, &word, HOLD_PARTING, exchange_failure(x, status));
}

/* Gives x back, which has no connection any more and whose handler has ended. */
static void give_parted(host_exchange *x) {
    host_server *s = x->server;
    exchange_give(x);
    server_release(s);
}

void hold_parted(host_exchange *x) {
    uint64_t word = atomic_load(&x->hold);
    while (state_of(word) == HOLD_PARTING)
        if (move(x, &word, HOLD_GONE, status_of(word))) return;
    give_parted(x); /* ENDED */
}

/* ---- the handler's side ---- */

void hold_end(host_exchange *x) {
    rt_g *g = x->conn->g;
    uint64_t word = atomic_load(&x->hold);
    while (!move(x, &word, HOLD_NONE, 0))
        ;
    tell(g, word);
}

void hold_lend(host_exchange *x) {
    atomic_store(&x->limit_ns, 0);
    atomic_store_explicit(&x->lg->request_ns, 0, memory_order_relaxed);
    uint64_t word = atomic_load(&x->hold);
    while (!move(x, &word, HOLD_LENT, 0))
        ;
}

void hold_forget(host_exchange *x) {
    uint64_t word = atomic_load(&x->hold);
    while (state_of(word) == HOLD_PARTING)
        if (move(x, &word, HOLD_ENDED, status_of(word))) return;
    give_parted(x); /* GONE */
}

/* There is one handler at a time, so a CALL that is found there is a reader of the name (hold_name). */
bool hold_take_slowly(host_exchange *x) {
    for (;;) {
        uint64_t word = atomic_load(&x->hold);
        if (state_of(word) == HOLD_FREE && move(x, &word, HOLD_CALL, 0)) return true;
        if (state_of(word) != HOLD_FREE && state_of(word) != HOLD_CALL) return false;
    }
}

void hold_abandon(host_exchange *x, int status) {
    if (!hold_take(x)) return;
    rt_g *g = x->conn->g;
    uint64_t word = atomic_load(&x->hold);
    while (!move(x, &word, HOLD_PARTING, exchange_failure(x, status)))
        ;
    tell(g, word);
}

void hold_renew(host_exchange *x) {
    int64_t ns = (int64_t)(x->server->listener.limits->handler_timeout * 1e9);
    if (x->limit_ns == 0 || ns == 0) return; /* the option may have changed meanwhile */
    int64_t limit = rt_nanotime() + ns;
    atomic_store(&x->limit_ns, limit);
    if (!x->lg) return;
    atomic_store_explicit(&x->lg->request_ns, limit + 1, memory_order_relaxed);
    if (!x->lg->canceled) x->lg->n_failed = 0;
}

void hold_overdue(host_exchange *x) {
    int64_t limit = atomic_load_explicit(&x->limit_ns, memory_order_relaxed);
    if (limit && limit <= rt_nanotime()) hold_abandon(x, 504);
}

int hold_status(host_exchange *x) {
    uint64_t word = atomic_load(&x->hold);
    return state_of(word) >= HOLD_PARTING ? status_of(word) : 0;
}

/* ---- the request in words ---- */

int hold_print_name(const host_exchange *x, char *buf, size_t size) {
    uint32_t n = x->req.path.len < 200 ? x->req.path.len : 200;
    const char *method = host_method_name(x->req.method);
    if (n == 0)
        return snprintf(buf, size, "%s", *method ? method : "a request"); /* refused early */
    return snprintf(buf, size, "%s %.*s", method, (int)n, x->in + x->req.path.off);
}

void hold_name(host_exchange *x, char *buf, size_t size) {
    uint64_t word = atomic_load(&x->hold);
    if (state_of(word) == HOLD_GONE ||
        state_of(word) == HOLD_LENT) { /* calls of the handler touch nothing any more */
        hold_print_name(x, buf, size);
    } else if (state_of(word) == HOLD_FREE && move(x, &word, HOLD_CALL, 0)) {
        hold_print_name(x, buf, size);
        hold_give(x);
    } else {
        snprintf(buf, size, "%s ...", host_method_name(x->req.method));
    }
}
