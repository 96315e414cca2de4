/* Who has a connection while a handler runs: the handler, or C.
 *
 * A handler may take too long, run without ever waiting, or belong to a VM that is thrown away. None of
 * this may hold its client: at --handler-timeout the client is answered 504 from C, whatever the handler
 * does at that moment, on this thread or on another. So connection and request can part ways: the
 * connection goes on with a fresh G and a fresh xfer, the handler keeps its G and the old xfer (head and
 * body stay readable) until it ends, and can't reach the connection any more.
 *
 * What decides is one word of the request, moved by CAS alone:
 *
 *                          +--- hold_take ---+
 *                          v                 |
 *     NONE --hold_begin--> CALL --hold_give--> FREE --hold_end--> NONE
 *                          |                 |
 *              who wants to part: WANTED     +--who wants to part--> PARTING --> GONE
 *
 *   NONE     no handler: the connection's G has everything
 *   FREE     a handler has the connection, and does not touch it now
 *   CALL     it is inside of one of the calls that do (host_respond ...), which never wait
 *   WANTED   so it is, and somebody wants to part them: whoever leaves the call sees to it
 *   PARTING  who wanted to moves what the connection needs
 *   GONE     they have parted; what the handler calls says that its client is gone
 *   ENDED    the handler ended during PARTING: who parts them frees the xfer
 *
 * Hence the connection's descriptor, pollDesc and output always have one owner: in FREE nobody touches
 * them, and who moves FREE on has them. Each word carries a turn, which is new for each request and each
 * renewal, so a watchdog that read an old one changes nothing.
 *
 * A handler may wait in the pollDesc. Whoever parts them kicks both directions, which takes a G out of
 * its wait or turns it back before its commit (netpoll.c); in CALL it can't be about to come.
 *
 * The watchdog is a timer that fires on any M. Its place is not the connection, which is idle most of
 * the time, but the xfer, of which there are as many as requests at a time: setting it is a store nearly
 * always (timer.c), and it needs no clock, since the time of the read that brought the request is known.
 * Timers can't be given back, xfers can, hence host_watch. Leaving WANTED sets the timer again instead of
 * parting them there and then, since a handler may call from an M that has lost its P.
 *
 * The handler's G has the same deadline, a nanosecond later: each of its waits answers "timeout" then.
 * Should its M be first to notice, it parts them itself (hold_overdue), so that what a handler does about
 * the timeout always comes too late.
 *
 * A streamed response is not over after --handler-timeout but when so much time has passed since bytes
 * last went out: hold_renew.
 */
#include "conn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STATUS_SHIFT = HOLD_BITS, STATUS_MASK = 0x3ff };

static inline unsigned state_of(uint64_t word) {
    return word & HOLD_MASK;
}

static inline int status_of(uint64_t word) {
    return (int)(word >> STATUS_SHIFT & STATUS_MASK);
}

static inline uint64_t with(uint64_t word, unsigned state, int status) {
    return word >> HOLD_TURN << HOLD_TURN | (uint64_t)status << STATUS_SHIFT | state;
}

static bool move(host_watch *w, uint64_t *from, unsigned state, int status) {
    return atomic_compare_exchange_strong(&w->word, from, with(*from, state, status));
}

/* ---- watches: never given back ---- */

static struct {
    rt_lock lock;
    host_watch *free; /* lock */
} watches;

static void fire(void *arg);

bool watch_take(host_xfer *x) {
    rt_lock_acquire(&watches.lock);
    host_watch *w = watches.free;
    if (w) watches.free = w->next_free;
    rt_lock_release(&watches.lock);
    if (!w) {
        if (!(w = calloc(1, sizeof *w))) return false;
        rt_timer_init(&w->timer, fire, w);
    }
    w->x = x;
    x->watch = w;
    return true;
}

void watch_give(host_xfer *x) {
    host_watch *w = x->watch;
    rt_lock_acquire(&watches.lock);
    w->next_free = watches.free;
    watches.free = w;
    rt_lock_release(&watches.lock);
}

/* ---- the handler's side ---- */

static int64_t timeout_ns(void) {
    return (int64_t)(options.handler_timeout * 1e9);
}

int64_t hold_begin(host_xfer *x, int64_t now_ns) {
    host_watch *w = x->watch;
    int64_t until = options.handler_timeout > 0 ? now_ns + timeout_ns() : 0;
    uint64_t word = atomic_load_explicit(&w->word, memory_order_relaxed);
    word = with(word + (UINT64_C(1) << HOLD_TURN), HOLD_FREE, 0);
    x->limit_ns = until ? until + 1 : 0;
    atomic_store_explicit(&w->wanted, 0, memory_order_relaxed);
    atomic_store_explicit(&w->word, word, memory_order_release);
    if (until) rt_timer_set(&w->timer, until);
    return until;
}

bool hold_end(host_xfer *x) {
    host_watch *w = x->watch;
    uint64_t word = atomic_load_explicit(&w->word, memory_order_acquire);
    while (state_of(word) < HOLD_PARTING) {
        if (state_of(word) != HOLD_FREE) { /* somebody reads its name: hold_name */
            word = atomic_load(&w->word);
            continue;
        }
        if (!move(w, &word, HOLD_NONE, 0)) continue;
        /* The timer stays in its heap, and does nothing there. */
        atomic_store_explicit(&w->timer.until, 0, memory_order_relaxed);
        return true;
    }
    return false;
}

void hold_forget(host_xfer *x) {
    host_watch *w = x->watch;
    uint64_t word = atomic_load(&w->word);
    while (state_of(word) == HOLD_PARTING)
        if (move(w, &word, HOLD_ENDED, 0)) return;
    xfer_give(x);
}

/* A handler is one at a time, so a call that is found there is somebody's who reads the name. */
bool hold_take_slowly(host_xfer *x) {
    for (;;) {
        uint64_t word = atomic_load(&x->watch->word);
        if (state_of(word) == HOLD_FREE && move(x->watch, &word, HOLD_CALL, 0)) return true;
        unsigned state = state_of(word);
        if (state != HOLD_FREE && state != HOLD_CALL && state != HOLD_WANTED) return false;
    }
}

int hold_print_name(const host_xfer *x, char *buf, size_t size) {
    return snprintf(buf, size, "%s %.*s", host_method_name(x->req.method),
                    x->req.path.len < 200 ? (int)x->req.path.len : 200, x->in + x->req.path.off);
}

void hold_name(host_xfer *x, char *buf, size_t size) {
    uint64_t word = atomic_load(&x->watch->word);
    if (state_of(word) == HOLD_GONE) { /* its calls touch nothing any more */
        hold_print_name(x, buf, size);
    } else if (state_of(word) == HOLD_FREE && move(x->watch, &word, HOLD_CALL, 0)) {
        hold_print_name(x, buf, size);
        hold_give(x);
    } else {
        snprintf(buf, size, "%s ...", host_method_name(x->req.method));
    }
}

void hold_leave(host_xfer *x) {
    host_watch *w = x->watch;
    uint64_t word = atomic_load(&w->word);
    for (;;) {
        if (state_of(word) == HOLD_CALL) {
            if (move(w, &word, HOLD_FREE, 0)) return;
            continue;
        }
        /* WANTED. The timer first: once the word is FREE it may be another's. */
        int status = status_of(word);
        if (!move(w, &word, HOLD_CALL, 0)) continue;
        if (status != 504) {
            atomic_store(&w->wanted, status);
            rt_timer_set(&w->timer, 1);
        } else {
            rt_timer_set(&w->timer,
                         atomic_load(&w->timer.until)); /* which the call may have moved */
        }
        word = atomic_load(&w->word);
    }
}

void hold_renew(host_xfer *x) {
    host_watch *w = x->watch;
    if (x->limit_ns == 0) return;
    int64_t until = rt_nanotime() + timeout_ns();
    uint64_t word = atomic_load(&w->word);
    while (!atomic_compare_exchange_weak(&w->word, &word, word + (UINT64_C(1) << HOLD_TURN)))
        ;
    rt_timer_set(&w->timer, until);
    x->limit_ns = until + 1;
    if (x->lg) atomic_store_explicit(&x->lg->request_ns, x->limit_ns, memory_order_relaxed);
}

int hold_status(host_xfer *x) {
    uint64_t word = atomic_load(&x->watch->word);
    unsigned state = state_of(word);
    return state == HOLD_PARTING || state == HOLD_GONE ? status_of(word) : 0;
}

/* ---- the other side ---- */

/* The output that the connection still has to send goes from `from` to `to`, which has none. */
static void move_output(host_xfer *from, host_xfer *to) {
    to->out = from->out;
    to->out_cap = from->out_cap;
    to->out_pos = from->out_pos;
    to->out_end = from->out_end;
    from->out = NULL;
    from->out_cap = from->out_pos = from->out_end = 0;
}

/* What the connection does next, without its handler. */
static void go_on(host_conn *c, host_xfer *x, int status) {
    host_xfer *fresh = x->req.state == 1 || x->broken ? NULL : xfer_take(c);
    c->x = fresh;
    if (!fresh) { /* a part of a response has gone out: only closing tells that no more will come */
        c->phase = CONN_END;
        return;
    }
    fresh->req.method = x->req.method;
    fresh->req.minor = x->req.minor;
    move_output(x, fresh);
    if (x->req.state == 0) {
        fresh->error = status;
        c->phase = CONN_REFUSE;
        return;
    }
    /* The response is complete: as after any other, if there is nothing left of the request. */
    c->phase = CONN_FLUSH;
    c->after_flush = CONN_LINGER;
    if (x->message_done && !x->close_after &&
        xfer_keep(fresh, x->in + x->in_pos, x->in_end - x->in_pos) == 0) {
        fresh->message_done = true;
        c->after_flush = CONN_HEAD;
    }
}

/* The caller has moved the word to PARTING. */
static void part(host_watch *w, uint64_t word, int status) {
    host_xfer *x = w->x;
    host_conn *c = x->conn;
    char what[256];
    int n = hold_print_name(x, what, sizeof what);
    if (n >= (int)sizeof what) n = sizeof what - 1;
    int state = x->req.state;
    atomic_store_explicit(&w->timer.until, 0, memory_order_relaxed);

    go_on(c, x, status);
    c->drained = false; /* a G that is taken out of its wait may have used up the edge */
    rt_pd_watch(c->pd, NULL);
    c->watched = false;
    rt_pd_set_deadline(c->pd, RT_R, 0);
    rt_pd_set_deadline(c->pd, RT_W, 0);
    rt_pd_kick(c->pd, RT_R);
    rt_pd_kick(c->pd, RT_W);
    conn_go(c);

    if (!move(w, &word, HOLD_GONE, status)) xfer_give(x); /* ENDED */
    if (status != 504) return;
    if (state == 0)
        log_line(LOG_WARN, "%.*s: no answer in %g s, the client was answered 504", n, what,
                 options.handler_timeout);
    else if (state == 1)
        log_line(LOG_WARN, "%.*s: nothing written for %g s, the response was broken off", n, what,
                 options.handler_timeout);
}

static bool try_part(host_watch *w, uint64_t word, int status) {
    uint64_t turn = word >> HOLD_TURN;
    while (word >> HOLD_TURN == turn) {
        if (state_of(word) == HOLD_FREE) {
            if (!move(w, &word, HOLD_PARTING, status)) continue;
            part(w, with(word, HOLD_PARTING, status), status);
            return true;
        }
        if (state_of(word) != HOLD_CALL) return false;
        if (move(w, &word, HOLD_WANTED, status)) return true;
    }
    return false;
}

bool conn_abandon(host_xfer *x, int status) {
    return try_part(x->watch, atomic_load(&x->watch->word), status);
}

/* The watchdog. The word first: if the time is that of a later turn, the CAS fails. */
static void fire(void *arg) {
    host_watch *w = arg;
    uint64_t word = atomic_load(&w->word);
    int64_t until = atomic_load(&w->timer.until);
    if (until == 0 || until > rt_nanotime()) return;
    int wanted = atomic_load(&w->wanted);
    try_part(w, word, wanted ? wanted : 504);
}

void hold_overdue(host_xfer *x) {
    if (x->limit_ns && x->limit_ns <= rt_nanotime()) conn_abandon(x, 504);
}
