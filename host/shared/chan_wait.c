/* Gs that wait in channels that all VMs share, with select.
 *
 * A G prepares its wait with a chan_waiter for each case. Then lunapark.core.rest opens a ticket and calls outer_begin,
 * which takes the locks of all these channels, by address, looks at each case, and puts the waiters into their queues.
 * A case that became ready in between is seen there: then the G does not wait, and Lua tries again.
 *
 * From then on the wait may be ended by any thread that has one of the channels, in any VM; by a G that fires this G in
 * a host_queue (queue.c), which stands for the channels of its own VM; by its deadline; by a cancellation. One of them
 * must win, and the winner's effect must not be lost. Hence `claimable`:
 *
 *   - A channel that would serve a waiter, with its lock held, and host_queue_fire claim the waiter first, by an
 *     exchange. True: the claimer serves the waiter: it writes the result into the waiter, then wakes the G by its
 *     ticket. False: the claimer takes the waiter out of the queue, as a leftover, and looks for the next one.
 *   - A deadline or a cancellation ends the ticket, and does not claim. When the G runs, for whatever reason, it claims
 *     itself. If this fails, the G was served, whatever its ticket says.
 *
 * When the G runs, it also leaves all queues, each under the channel's lock. The claimer has claimed the wait under one
 * of these locks, and has written the result before it gave this lock back: so the G sees the result. As no waiter of
 * an old wait is in any queue when the next wait begins, `claimable` needs no generation.
 *
 * One channel's lock at a time is enough, except at the beginning, which needs all. Two selects that have each looked
 * at half of their cases could miss each other, or find each other and both give way.
 *
 * The G of a VM that ends leaves by end_with_vm. It never waits again.
 */
#include "../vm/luag.h"
#include "chan.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

/* ---- queues: with the channel's lock held ---- */

static void take_out(list_head *q, chan_waiter *w) {
    list_remove(q, &w->link);
    w->queued = false;
}

chan_waiter *chan_first(list_head *q) {
    chan_waiter *w;
    while ((w = (chan_waiter *)q->first) &&
           !atomic_load_explicit(&w->of->claimable, memory_order_relaxed))
        take_out(q, w);
    return w;
}

bool chan_claim(list_head *q, chan_waiter *w, int fired, chan_wakes *k) {
    take_out(q, w);
    if (!atomic_exchange(&w->of->claimable, false)) return false;
    w->fired = fired;
    k->v[k->n].g = w->g;
    k->v[k->n++].ticket = w->ticket;
    return true;
}

/* The wait of lg, whose `outer` is not NULL. */
static chan_wait *wait_of(const host_luag *lg) {
    return (chan_wait *)lg->outer;
}

static list_head *queue_of(chan_waiter *w) {
    return w->op == HOST_CHAN_RECV ? &w->ch->receivers : &w->ch->senders;
}

/* ---- the wait ---- */

static int by_address(const void *a, const void *b) {
    uintptr_t x = (uintptr_t) * (chan *const *)a, y = (uintptr_t) * (chan *const *)b;
    return x < y ? -1 : x > y;
}

/* Lists the channels of s, each once. How many. */
static int sort_locks(chan_wait *s) {
    for (int i = 0; i < s->n; i++)
        s->locks[i] = s->w[i].ch;
    if (s->n > 1) qsort(s->locks, (size_t)s->n, sizeof(chan *), by_address);
    int n = 0;
    for (int i = 0; i < s->n; i++)
        if (n == 0 || s->locks[n - 1] != s->locks[i]) s->locks[n++] = s->locks[i];
    return n;
}

static bool outer_begin(host_luag *lg) {
    chan_wait *s = wait_of(lg);
    if (s->n == 0) return true;
    int n_locks = sort_locks(s);
    for (int i = 0; i < n_locks; i++)
        rt_lock_acquire(&s->locks[i]->lock);
    bool ready = false;
    for (int i = 0; i < s->n && !ready; i++)
        ready = chan_can(s->w[i].ch, s->w[i].op, s->w[i].msg);
    if (!ready) {
        s->open = true;
        atomic_store_explicit(&s->claimable, true, memory_order_relaxed);
        for (int i = 0; i < s->n; i++) {
            s->w[i].g = lg->g;
            s->w[i].ticket = lg->ticket;
            s->w[i].queued = true;
            list_append(queue_of(&s->w[i]), &s->w[i].link);
        }
    }
    for (int i = n_locks; i-- > 0;)
        rt_lock_release(&s->locks[i]->lock);
    return !ready;
}

static bool outer_claim(host_luag *lg) {
    chan_wait *s = wait_of(lg);
    return !s->open || atomic_exchange(&s->claimable, false);
}

/* Takes w out of its queue. Another waiting sender may have room now. */
static void leave_queue(chan_waiter *w) {
    chan_wakes k;
    chan_enter(w->ch, &k);
    if (w->queued) take_out(queue_of(w), w);
    chan_leave(w->ch, &k);
}

static int outer_settle(host_luag *lg) {
    chan_wait *s = wait_of(lg);
    if (s->n == 0) return -1;
    int answer = -1;
    if (s->open) atomic_exchange(&s->claimable, false);
    for (int i = 0; i < s->n; i++) {
        chan_waiter *w = &s->w[i];
        if (s->open) leave_queue(w);
        if (w->fired >= 0) answer = 2 * w->index + w->fired;
        if (w->fired == 1 && w->op == HOST_CHAN_RECV) {
            s->got = w->msg;
            s->got_ch = w->ch;
        } else {
            free(w->msg);
            chan_unref(w->ch);
        }
    }
    s->n = 0;
    s->open = false;
    return answer;
}

int host_chan_take(void *buf, size_t cap, host_chan_value *v) {
    const host_luag *lg = luag_current();
    chan_wait *s = lg->outer ? wait_of(lg) : NULL;
    if (!s || !s->got) return RT_ECLOSED;
    int type = message_read(s->got, buf, cap, v);
    if (s->got->len > cap) return type;
    free(s->got);
    chan_unref(s->got_ch);
    s->got = NULL;
    return type;
}

static void outer_end(host_luag *lg) {
    chan_wait *s = wait_of(lg);
    outer_settle(lg);
    if (!s->got) return;
    chan_give_back(s->got_ch, s->got);
    chan_unref(s->got_ch);
    s->got = NULL;
}

static void end_with_vm(host_owned *o) {
    chan_wait *s = list_of(o, chan_wait, owned);
    host_luag *lg = s->lg;
    outer_end(lg);
    free(s->w);
    free(s->locks);
    free(s);
    lg->outer = NULL;
}

static const outer_wait_ops ops = {outer_begin, outer_claim, outer_settle, outer_end};
static const owned_kind kind = {OWNED_THINGS, end_with_vm};

/* ---- preparing: by the G itself ---- */

static bool grow(chan_wait *s) {
    if (s->n < s->cap) return true;
    int cap = s->cap ? s->cap * 2 : 2;
    chan_waiter *w = realloc(s->w, (size_t)cap * sizeof *w);
    if (w) s->w = w;
    chan **locks = realloc(s->locks, (size_t)cap * sizeof(chan *));
    if (locks) s->locks = locks;
    if (!w || !locks) return false;
    s->cap = cap;
    return true;
}

/* NULL: no memory. */
static chan_wait *prepare(host_luag *lg) {
    if (lg->outer) return wait_of(lg);
    chan_wait *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    s->outer.ops = &ops;
    s->lg = lg;
    lg->outer = &s->outer;
    owned_add(lg->vm, &s->owned, &kind);
    return s;
}

static int join(host_chan *h, int op, int index, message *m) {
    host_luag *lg = luag_current();
    if (index == 0) {
        queue_leave(lg);
        if (lg->outer) outer_end(lg);
    }
    chan_wait *s = prepare(lg);
    if (!s || !grow(s)) return -ENOMEM;
    s->w[s->n++] = (chan_waiter){
        .ch = chan_ref(h->ch), .of = s, .fired = -1, .msg = m, .op = op, .index = index};
    return 0;
}

int host_chan_join_recv(host_chan *h, int index) {
    return join(h, HOST_CHAN_RECV, index, NULL);
}

int host_chan_join_send(host_chan *h, int index, int type, double number, const void *data,
                        size_t len) {
    message *m = message_new(type, number, data, len);
    if (!m) return -ENOMEM;
    rt_lock_acquire(&h->ch->lock);
    bool fits = message_fits(h->ch, m, true);
    rt_lock_release(&h->ch->lock);
    int r = fits ? join(h, HOST_CHAN_SEND, index, m) : -EFBIG;
    if (r != 0) free(m);
    return r;
}
