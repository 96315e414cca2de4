/* Channels that all VMs share: values go from a G of one VM to a G of another, as copies.
 *
 * A channel lives in memory of the process and belongs to no VM. It has a lock, a list of messages (its buffer), and
 * two queues of waiters (chan_wait.c). The lock is an rt_lock: sections are a few stores; memory is taken before and
 * given back after them, Gs are woken after them. Two invariants hold under the lock, except for waiters that were
 * claimed elsewhere and are to be passed over:
 *
 *   - a G waits to receive: the buffer is empty, and no G waits to send;
 *   - a G waits to send: the buffer is full, by its number of values or by the budget of bytes.
 *
 * So a G that comes hands its value straight to the waiter, or takes the waiter's value: the G that has waited longest
 * is served first, and no G gets in between. Order and answers are those of the channels of one VM (sync/chan.lua).
 *
 * A receiver has the message that it was handed: its wait answers so, even if its deadline has passed meanwhile. Only
 * the G of a dropped VM cannot take its message any more. From its waiter the message goes back to the channel, in
 * front of all messages that were sent after it. The sender was told that the message was sent, and so it is still
 * received, once. A message that a G had received in Lua when the G was ended is gone with the G. A message that such a
 * G waited to send was not sent, and goes.
 *
 * The budget (16 MiB, or opts.max_bytes) counts the messages of the buffer with their heads. A message that is larger
 * by itself is refused. Messages of waiting senders are not counted: each waiting G has one at most.
 *
 * A name leads to its channel until the channel is closed and its buffer is empty. Then the name is free for a new
 * channel, and the old channel goes with its last handle. A handle belongs to a VM (owned.h). So channels under names
 * that are made up for one use cost nothing once they are closed; a channel that is never closed stays.
 *
 * Locks, outer ones first: the list's; channels', by address, where one is held with another (chan_wait.c). The
 * runtime's own locks come after these.
 *
 * Rejected: waking a waiter so that it tries again (a send to a waiting G would wait itself, and the place in the queue
 * would be lost); keeping a handed-over value in Lua's memory (it goes with a VM that is dropped); a ring for the
 * buffer (n may be 2^31, and a message is allocated in any case).
 */
#include "chan.h"

#include "../base/hash.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { BUCKETS = 1024, DEFAULT_BYTES = 16 << 20, MALLOC_HEAD = 16 };

static struct {
    rt_lock lock;
    chan *buckets[BUCKETS]; /* lock */
    _Atomic int n;          /* lock writes */
} list;

/* ---- messages ---- */

message *message_new(int type, double number, const void *data, size_t len) {
    if (type != HOST_STRING && type != HOST_TABLE) len = 0;
    message *m = malloc(sizeof *m + len);
    if (!m) return NULL;
    *m = (message){.type = type, .number = number, .len = len};
    if (len) memcpy(m->bytes, data, len);
    return m;
}

int message_read(const message *m, void *buf, size_t cap, host_chan_value *v) {
    v->number = m->number;
    v->len = (double)m->len;
    if (m->len && m->len <= cap) memcpy(buf, m->bytes, m->len);
    return m->type;
}

static double size_of(const message *m) {
    return (double)(sizeof *m + MALLOC_HEAD) + (double)m->len;
}

bool message_fits(const chan *c, const message *m, bool ever) {
    double before = ever ? 0 : c->bytes;
    return (ever || c->count < c->cap) && before + (m ? size_of(m) : 0) <= c->max_bytes;
}

/* ---- the buffer: with the lock held ---- */

static void append(chan *c, message *m) {
    m->next = NULL;
    m->seq = ++c->seq;
    if (c->first)
        c->last->next = m;
    else
        c->first = m;
    c->last = m;
    c->count++;
    c->bytes += size_of(m);
}

static message *take_first(chan *c) {
    message *m = c->first;
    c->first = m->next;
    c->count--;
    c->bytes -= size_of(m);
    return m;
}

/* Puts m before the first message that was sent later. */
static void put_back(chan *c, message *m) {
    message **at = &c->first;
    while (*at && (*at)->seq < m->seq)
        at = &(*at)->next;
    m->next = *at;
    *at = m;
    if (!m->next) c->last = m;
    c->count++;
    c->bytes += size_of(m);
}

static bool hand_over(chan *c, message *m, chan_wakes *k) {
    chan_waiter *w;
    while ((w = chan_first(&c->receivers)))
        if (chan_claim(&c->receivers, w, 1, k)) {
            w->msg = m;
            return true;
        }
    return false;
}

/* ---- serving waiters ---- */

void chan_enter(chan *c, chan_wakes *k) {
    k->n = 0;
    rt_lock_acquire(&c->lock);
}

static void end_waits(list_head *q, chan_wakes *k) {
    chan_waiter *w;
    while (k->n < WAKES && (w = chan_first(q)))
        chan_claim(q, w, 0, k);
}

/* Serves waiters until none can go on, or k is full. */
static void serve(chan *c, chan_wakes *k) {
    if (c->closed) {
        end_waits(&c->receivers, k);
        end_waits(&c->senders, k);
        return;
    }
    chan_waiter *w;
    while (k->n < WAKES && (w = chan_first(&c->senders)) && message_fits(c, w->msg, false)) {
        message *m = w->msg;
        if (!chan_claim(&c->senders, w, 1, k)) continue;
        w->msg = NULL;
        append(c, m);
    }
}

void chan_leave(chan *c, chan_wakes *k) {
    bool again;
    do {
        if (c->senders.first || c->closed) serve(c, k);
        again = k->n == WAKES;
        rt_lock_release(&c->lock);
        for (int i = 0; i < k->n; i++)
            rt_wake(k->v[i].g, k->v[i].ticket, RT_WOKEN);
        if (again) chan_enter(c, k);
    } while (again);
}

bool chan_can(chan *c, int op, const message *m) {
    if (c->closed) return true;
    if (op == HOST_CHAN_RECV) return c->first || chan_first(&c->senders);
    return chan_first(&c->receivers) || (!chan_first(&c->senders) && message_fits(c, m, false));
}

/* ---- the list ---- */

chan *chan_ref(chan *c) {
    refs_hold(&c->refs);
    return c;
}

void chan_unref(chan *c) {
    if (!refs_drop(&c->refs)) return;
    while (c->first)
        free(take_first(c));
    free(c->name);
    free(c);
}

static chan **place_of(uint64_t hash, const char *name, size_t len) {
    chan **at = &list.buckets[hash % BUCKETS];
    while (*at && !((*at)->name_len == len && memcmp((*at)->name, name, len) == 0))
        at = &(*at)->next;
    return at;
}

/* The list's lock held. Takes c from the list. True: it was listed, and its reference is the caller's. */
static bool unlist(chan *c) {
    rt_lock_acquire(&c->lock);
    bool over = c->listed && c->closed && !c->first;
    rt_lock_release(&c->lock);
    if (!over) return false;
    *place_of(c->hash, c->name, c->name_len) = c->next;
    c->listed = false;
    atomic_fetch_sub(&list.n, 1);
    return true;
}

/* Frees the name of c if c is closed and its buffer is empty. */
static void free_name(chan *c) {
    rt_lock_acquire(&list.lock);
    bool listed = unlist(c);
    rt_lock_release(&list.lock);
    if (listed) chan_unref(c);
}

static chan *new_chan(const char *name, size_t len, double cap, double max_bytes) {
    chan *c = calloc(1, sizeof *c);
    char *copy = malloc(len + 1);
    if (!c || !copy) {
        free(c);
        free(copy);
        return NULL;
    }
    memcpy(copy, name, len);
    c->name = copy;
    c->name_len = len;
    c->cap = cap;
    c->max_bytes = max_bytes == 0 ? DEFAULT_BYTES : max_bytes;
    return c;
}

/* The list's lock held. The channel with this name, with a reference for the caller: `fresh`, unless there is one.
 * *over: the channel that had the name until now. */
static chan *find_or_list(chan *fresh, chan **over) {
    chan **at = place_of(fresh->hash, fresh->name, fresh->name_len), *has = *at;
    *over = NULL;
    if (has && !unlist(has)) return chan_ref(has);
    if (has) {
        *over = has;
        at = place_of(fresh->hash, fresh->name, fresh->name_len);
    }
    fresh->listed = true;
    refs_init(&fresh->refs, 2);
    *at = fresh;
    atomic_fetch_add(&list.n, 1);
    return fresh;
}

/* NULL: no memory. */
static chan *open_chan(const char *name, size_t len, double cap, double max_bytes) {
    chan *fresh = new_chan(name, len, cap, max_bytes), *over;
    if (!fresh) return NULL;
    fresh->hash = hash_name(name, len);
    rt_lock_acquire(&list.lock);
    chan *c = find_or_list(fresh, &over);
    rt_lock_release(&list.lock);
    if (over) chan_unref(over);
    if (c == fresh) return c;
    refs_init(&fresh->refs, 1);
    chan_unref(fresh);
    return c;
}

/* ---- handles ---- */

static void lua_lets_go(host_owned *o) {
    host_chan *h = (host_chan *)o;
    chan_unref(h->ch);
    free(h);
}

static const owned_kind chan_kind = {OWNED_THINGS, lua_lets_go};

host_chan *host_chan_open(const char *name, size_t len, double cap, double max_bytes,
                          double *has_cap) {
    host_chan *h = calloc(1, sizeof *h);
    if (!h) return NULL;
    h->ch = open_chan(name, len, cap, max_bytes);
    if (!h->ch) {
        free(h);
        return NULL;
    }
    *has_cap = h->ch->cap;
    if (max_bytes != 0 && *has_cap == cap) {
        chan_wakes k;
        chan_enter(h->ch, &k);
        h->ch->max_bytes = max_bytes;
        chan_leave(h->ch, &k);
    }
    owned_take(&h->owned, &chan_kind);
    return h;
}

void host_chan_free(host_chan *h) {
    owned_free(&h->owned);
}

/* ---- operations that do not wait ---- */

int host_chan_send(host_chan *h, int type, double number, const void *data, size_t len) {
    chan *c = h->ch;
    message *m = message_new(type, number, data, len);
    if (!m) return -ENOMEM;
    chan_wakes k;
    chan_enter(c, &k);
    int r = 0;
    if (c->closed)
        r = RT_ECLOSED;
    else if (!message_fits(c, m, true))
        r = -EFBIG;
    else if (hand_over(c, m, &k))
        m->seq = ++c->seq;
    else if (chan_can(c, HOST_CHAN_SEND, m))
        append(c, m);
    else
        r = -EAGAIN;
    chan_leave(c, &k);
    if (r != 0) free(m);
    return r;
}

/* lock held. Takes the next message, if it has at most `cap` bytes: the caller's. Else NULL, and *next, if there is
 * one. */
static message *receive(chan *c, size_t cap, const message **next, chan_wakes *k) {
    *next = c->first;
    if (c->first) return c->first->len <= cap ? take_first(c) : NULL;
    chan_waiter *w;
    while ((w = chan_first(&c->senders))) {
        message *m = w->msg;
        *next = m;
        if (m->len > cap) return NULL;
        if (!chan_claim(&c->senders, w, 1, k)) continue;
        w->msg = NULL;
        return m;
    }
    *next = NULL;
    return NULL;
}

int host_chan_recv(host_chan *h, void *buf, size_t cap, host_chan_value *v) {
    chan *c = h->ch;
    chan_wakes k;
    const message *next;
    chan_enter(c, &k);
    message *m = receive(c, cap, &next, &k);
    int r = next ? message_read(next, buf, cap, v) : c->closed ? RT_ECLOSED : -EAGAIN;
    bool over = m && c->closed && !c->first;
    chan_leave(c, &k);
    free(m);
    if (over) free_name(c);
    return r;
}

int host_chan_can(host_chan *h, int op) {
    rt_lock_acquire(&h->ch->lock);
    bool can = chan_can(h->ch, op, NULL);
    rt_lock_release(&h->ch->lock);
    return can;
}

void chan_give_back(chan *c, message *m) {
    chan_wakes k;
    chan_enter(c, &k);
    if (!hand_over(c, m, &k)) put_back(c, m);
    chan_leave(c, &k);
}

int host_chan_close(host_chan *h) {
    chan *c = h->ch;
    chan_wakes k;
    chan_enter(c, &k);
    int r = c->closed ? RT_ECLOSED : 0;
    c->closed = true;
    bool over = !c->first;
    chan_leave(c, &k);
    if (over) free_name(c);
    return r;
}

int host_chan_closed(host_chan *h) {
    rt_lock_acquire(&h->ch->lock);
    bool closed = h->ch->closed;
    rt_lock_release(&h->ch->lock);
    return closed;
}

double host_chan_len(host_chan *h) {
    rt_lock_acquire(&h->ch->lock);
    double n = h->ch->count;
    rt_lock_release(&h->ch->lock);
    return n;
}

int host_chans(void) {
    return atomic_load(&list.n);
}
