/* Gs that wait in channels that all VMs share, with select.
 *
 * A G prepares its wait with a chan_waiter for each case; then lunapark.core.rest opens a ticket and calls
 * shared_wait_begin, which takes the locks of all these channels, by address, looks at each case, and puts the
 * waiters into their queues. Nothing can have become ready in between, or it is seen: then the G does not wait, and
 * Lua tries again.
 *
 * From then on the wait may be ended by whoever has one of the channels, in any VM, by who fires the G in a
 * host_queue (queue.c), which stands for the channels of its own VM, by its deadline or by a cancellation. One of them
 * must win, and what it does must not be lost. Hence `claimable`:
 *
 *   - a channel that would serve a waiter, with its lock held, and host_queue_fire claim it first, by an
 *     exchange. Who gets true serves it: writes into that waiter what was done, then wakes the G by its
 *     ticket. Who gets false takes the waiter out of the queue, as a leftover, and looks for the next one.
 *   - a deadline or a cancellation ends the ticket, and does not claim. When the G runs, for whatever reason, it claims
 *     itself. If that fails it was served, whatever its ticket says.
 *
 * When it runs it also leaves all queues, each under the channel's lock. Who has claimed it has done so under
 * one of these locks, and written its result before it gave that back: so the G sees it. As no waiter of an old
 * wait is in any queue when the next one begins, the word needs no generation.
 *
 * One channel's lock at a time is enough for all but the beginning. There it needs all: two selects, each of which
 * has looked at half of its cases, could miss each other, or find each other and both give way.
 *
 * The G of a VM that was dropped leaves by shared_wait_end. It never waits again.
 */
#include "shared_chan.h"

#include <errno.h>
#include <stdlib.h>

/* ---- queues: with the channel's lock held ---- */

static void push(chan_queue *q, chan_waiter *w) {
    w->next = NULL;
    w->prev = q->tail;
    if (q->tail)
        q->tail->next = w;
    else
        q->head = w;
    q->tail = w;
    w->queued = true;
}

static void take_out(chan_queue *q, chan_waiter *w) {
    if (w->prev)
        w->prev->next = w->next;
    else
        q->head = w->next;
    if (w->next)
        w->next->prev = w->prev;
    else
        q->tail = w->prev;
    w->queued = false;
}

chan_waiter *chan_first(chan_queue *q) {
    while (q->head && !atomic_load_explicit(&q->head->of->claimable, memory_order_relaxed))
        take_out(q, q->head);
    return q->head;
}

bool chan_claim(chan_queue *q, chan_waiter *w, int fired, chan_wakes *k) {
    take_out(q, w);
    if (!atomic_exchange(&w->of->claimable, false)) return false;
    w->fired = fired;
    k->v[k->n].g = w->g;
    k->v[k->n++].ticket = w->ticket;
    return true;
}

static chan_queue *queue_of(chan_waiter *w) {
    return w->op == HOST_CHAN_RECV ? &w->ch->receivers : &w->ch->senders;
}

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

static int join(host_chan *h, int op, int index, message *m) {
    host_luag *lg = luag_current();
    if (index == 0) {
        queue_leave(lg);
        shared_wait_end(lg);
    }
    if (!lg->shared && !(lg->shared = calloc(1, sizeof *lg->shared))) return -ENOMEM;
    chan_wait *s = lg->shared;
    if (!grow(s)) return -ENOMEM;
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

/* ---- the wait ---- */

static int by_address(const void *a, const void *b) {
    uintptr_t x = (uintptr_t) * (chan *const *)a, y = (uintptr_t) * (chan *const *)b;
    return x < y ? -1 : x > y;
}

/* Its channels, each once. How many. */
static int sort_locks(chan_wait *s) {
    for (int i = 0; i < s->n; i++)
        s->locks[i] = s->w[i].ch;
    if (s->n > 1) qsort(s->locks, (size_t)s->n, sizeof(chan *), by_address);
    int n = 0;
    for (int i = 0; i < s->n; i++)
        if (n == 0 || s->locks[n - 1] != s->locks[i]) s->locks[n++] = s->locks[i];
    return n;
}

bool shared_wait_begin(host_luag *lg) {
    chan_wait *s = lg->shared;
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
            push(queue_of(&s->w[i]), &s->w[i]);
        }
    }
    for (int i = n_locks; i-- > 0;)
        rt_lock_release(&s->locks[i]->lock);
    return !ready;
}

bool shared_wait_claim(host_luag *lg) {
    chan_wait *s = lg->shared;
    return !s->open || atomic_exchange(&s->claimable, false);
}

/* Out of its queue. Another who waits to send may have room now. */
static void leave_queue(chan_waiter *w) {
    chan_wakes k;
    chan_enter(w->ch, &k);
    if (w->queued) take_out(queue_of(w), w);
    chan_leave(w->ch, &k);
}

int shared_wait_settle(host_luag *lg) {
    chan_wait *s = lg->shared;
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
    chan_wait *s = luag_current()->shared;
    if (!s || !s->got) return RT_ECLOSED;
    int type = message_read(s->got, buf, cap, v);
    if (s->got->len > cap) return type;
    free(s->got);
    chan_unref(s->got_ch);
    s->got = NULL;
    return type;
}

void shared_wait_end(host_luag *lg) {
    chan_wait *s = lg->shared;
    if (!s) return;
    shared_wait_settle(lg);
    if (!s->got) return;
    chan_give_back(s->got_ch, s->got);
    chan_unref(s->got_ch);
    s->got = NULL;
}

void shared_wait_free(host_luag *lg) {
    shared_wait_end(lg);
    if (!lg->shared) return;
    free(lg->shared->w);
    free(lg->shared->locks);
    free(lg->shared);
    lg->shared = NULL;
}
