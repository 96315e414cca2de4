/* Linked buffers: bytes that are read once and never moved.
 *
 * A connection reads as much as the kernel has, parses some of it, hands a body to somebody else,
 * writes a head before a body. In one flat array each of these copies. Here the bytes stand in
 * blocks, and a buffer is a chain of spans, each a stretch of one block:
 *
 *     buffer   spent: span...          head: span --> span --> span :tail
 *                                             |         |       |
 *     blocks                              [...xxxxx][xxx...]  [xxxx______]   _ room: `open` is set
 *
 * Blocks are counted (atomically, so that a slice may go to another thread) and freed by the last span.
 * A span only ever shrinks at its front; bytes before it and in it are never written again. Behind the
 * last byte of a block there may be room, and exactly one span in the world may have the right to write
 * there: its `open` is set, and it is the tail of its buffer. So any number of buffers can share a
 * block, one of them still filling it, without a lock.
 *
 * What was read is not given back at once but put aside (spent), since peek and next have returned
 * pointers into it; release gives it back. An empty buffer then holds nothing at all, which is what an
 * idle connection wants.
 *
 * book sizes itself: `guess` is what the next read may bring. A read that fills the room it was given
 * doubles it, up to 64 KiB; two in a row that bring less than a quarter halve it, down to 512 bytes. One
 * big message does not make all later rooms big, one small message among big ones does not make them
 * small. A tail that has room for a half of the guess is filled first.
 *
 * A number over two blocks must be had in one piece: peek then copies those bytes, and only them, into a
 * block of their own. The parsers here take pieces as they come, so this is rare.
 *
 * Rejected: a ring (slices and growing both copy); fixed blocks from a pool of ours (either most of each
 * is empty or a message spans many).
 */
#include "runtime.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#ifdef RT_TINY
enum { GUESS_MIN = 8, GUESS_START = 8, GUESS_MAX = 64 };
#else
enum { GUESS_MIN = 512, GUESS_START = 2048, GUESS_MAX = 64 << 10 };
#endif

typedef struct block {
    _Atomic uint32_t refs; /* atomic: spans that point here */
    uint32_t cap;
    uint8_t data[];
} block;

struct rt_span {
    rt_span *next;
    block *b;
    uint32_t pos, end; /* data[pos .. end) are its bytes */
    bool open;         /* it may write data[end .. cap) */
};

static _Atomic int64_t all_bytes;

int64_t rt_linkbuf_bytes(void) {
    return atomic_load_explicit(&all_bytes, memory_order_relaxed);
}

/* ---- blocks and spans ---- */

static inline size_t span_len(const rt_span *s) {
    return s->end - s->pos;
}

static inline size_t span_room(const rt_span *s) {
    return s && s->open ? s->b->cap - s->end : 0;
}

/* An empty span on a new block of cap bytes. */
static rt_span *new_span(size_t cap) {
    if (cap > UINT32_MAX) return NULL;
    rt_span *s = malloc(sizeof *s);
    block *b = malloc(sizeof *b + cap);
    if (!s || !b) {
        free(s);
        free(b);
        return NULL;
    }
    atomic_init(&b->refs, 1);
    b->cap = (uint32_t)cap;
    *s = (rt_span){.b = b, .open = true};
    atomic_fetch_add_explicit(&all_bytes, (int64_t)cap, memory_order_relaxed);
    return s;
}

/* Another view of s's block, without bytes. */
static rt_span *share_span(const rt_span *s) {
    rt_span *t = malloc(sizeof *t);
    if (!t) return NULL;
    atomic_fetch_add_explicit(&s->b->refs, 1, memory_order_relaxed);
    *t = (rt_span){.b = s->b, .pos = s->pos, .end = s->pos};
    return t;
}

static void free_span(rt_span *s) {
    block *b = s->b;
    /* Release what was read here, acquire what others read: the memory is somebody else's next. */
    if (atomic_fetch_sub_explicit(&b->refs, 1, memory_order_acq_rel) == 1) {
        atomic_fetch_sub_explicit(&all_bytes, b->cap, memory_order_relaxed);
        free(b);
    }
    free(s);
}

static void free_chain(rt_span *s) {
    while (s) {
        rt_span *next = s->next;
        free_span(s);
        s = next;
    }
}

/* Only a tail may be open. */
static void push_span(rt_linkbuf *b, rt_span *s) {
    if (b->tail) {
        b->tail->open = false;
        b->tail->next = s;
    } else {
        b->head = s;
    }
    b->tail = s;
    s->next = NULL;
}

static rt_span *pop_span(rt_linkbuf *b) {
    rt_span *s = b->head;
    b->head = s->next;
    if (!b->head) b->tail = NULL;
    return s;
}

/* Its bytes may still be looked at: see release. */
static void put_aside(rt_linkbuf *b, rt_span *s) {
    s->next = b->spent;
    b->spent = s;
}

/* ---- beginning and end ---- */

void rt_linkbuf_init(rt_linkbuf *b, size_t max) {
    *b = (rt_linkbuf){.max = max, .guess = GUESS_START};
}

void rt_linkbuf_free(rt_linkbuf *b) {
    free_chain(b->head);
    free_chain(b->spent);
    rt_linkbuf_init(b, b->max);
}

void rt_linkbuf_release(rt_linkbuf *b) {
    free_chain(b->spent);
    b->spent = NULL;
    if (b->len == 0 && b->head && !b->booked) {
        free_chain(b->head);
        b->head = b->tail = NULL;
    }
}

static bool too_much(const rt_linkbuf *b, size_t n) {
    return b->max && (n > b->max || b->len > b->max - n);
}

/* ---- filling ---- */

ssize_t rt_linkbuf_book(rt_linkbuf *b, size_t n, void **at) {
    if (b->booked) rt_throw("a linked buffer is booked twice");
    if (too_much(b, n ? n : 1)) return -ENOBUFS;
    if (!b->guess) b->guess = GUESS_START; /* a zeroed one */
    size_t least = n ? n : b->guess / 2;
    if (span_room(b->tail) < least) {
        rt_span *s = new_span(n > b->guess ? n : b->guess);
        if (!s) return -ENOMEM;
        push_span(b, s);
    }
    size_t room = span_room(b->tail);
    if (b->max && room > b->max - b->len) room = b->max - b->len;
    *at = b->tail->b->data + b->tail->end;
    b->booked = (uint32_t)room;
    return (ssize_t)room;
}

/* A block that never held a byte, so nothing points into it. */
static void drop_unused(rt_linkbuf *b) {
    if (b->head == b->tail && b->tail->end == 0) free_span(pop_span(b));
}

void rt_linkbuf_ack(rt_linkbuf *b, size_t n) {
    if (n > b->booked) rt_throw("a linked buffer got %zu bytes, booked were %u", n, b->booked);
    uint32_t room = b->booked;
    b->booked = 0;
    if (n == 0) {
        drop_unused(b);
        return;
    }
    b->tail->end += (uint32_t)n;
    b->len += n;
    if (n == room && n >= b->guess / 2) {
        b->guess = b->guess < GUESS_MAX / 2 ? b->guess * 2 : GUESS_MAX;
        b->was_small = false;
    } else if (n < b->guess / 4) {
        if (b->was_small && b->guess > GUESS_MIN) b->guess /= 2;
        b->was_small = !b->was_small;
    } else {
        b->was_small = false;
    }
}

int rt_linkbuf_write(rt_linkbuf *b, const void *data, size_t n) {
    if (b->booked) rt_throw("a linked buffer is written to while it is booked");
    if (too_much(b, n)) return -ENOBUFS;
    const uint8_t *from = data;
    size_t here = span_room(b->tail) < n ? span_room(b->tail) : n, rest = n - here;
    rt_span *s = NULL;
    if (rest) {
        s = new_span(rest > b->guess ? rest : b->guess);
        if (!s) return -ENOMEM;
    }
    if (here) {
        memcpy(b->tail->b->data + b->tail->end, from, here);
        b->tail->end += (uint32_t)here;
    }
    if (s) {
        memcpy(s->b->data, from + here, rest);
        s->end = (uint32_t)rest;
        push_span(b, s);
    }
    b->len += n;
    return 0;
}

/* ---- emptying ---- */

static void must_have(const rt_linkbuf *b, size_t n) {
    if (n > b->len) rt_throw("%zu bytes of a linked buffer that has %zu", n, b->len);
}

void rt_linkbuf_skip(rt_linkbuf *b, size_t n) {
    must_have(b, n);
    b->len -= n;
    while (n > 0) {
        rt_span *s = b->head;
        size_t here = span_len(s) < n ? span_len(s) : n;
        s->pos += (uint32_t)here;
        n -= here;
        if (span_len(s) > 0) return;
        if (span_room(s)) return; /* the tail, and n is 0 */
        put_aside(b, pop_span(b));
    }
}

/* Copies n bytes from the front without taking them. */
static void copy_front(const rt_linkbuf *b, uint8_t *to, size_t n) {
    for (rt_span *s = b->head; n > 0; s = s->next) {
        size_t here = span_len(s) < n ? span_len(s) : n;
        memcpy(to, s->b->data + s->pos, here);
        to += here;
        n -= here;
    }
}

const void *rt_linkbuf_peek(rt_linkbuf *b, size_t n) {
    static const char nothing[1];
    if (n > b->len) return NULL;
    if (n == 0) return nothing;
    while (span_len(b->head) == 0)
        put_aside(b, pop_span(b)); /* a full block's last bytes were read */
    if (span_len(b->head) < n) {
        if (b->booked) return NULL; /* the booked room must stay the tail's */
        rt_span *s = new_span(n);
        if (!s) return NULL;
        copy_front(b, s->b->data, n);
        s->end = (uint32_t)n;
        s->open = false;
        rt_linkbuf_skip(b, n);
        b->len += n;
        s->next = b->head;
        b->head = s;
        if (!b->tail) b->tail = s;
    }
    return b->head->b->data + b->head->pos;
}

const void *rt_linkbuf_next(rt_linkbuf *b, size_t n) {
    const void *p = rt_linkbuf_peek(b, n);
    if (p) rt_linkbuf_skip(b, n);
    return p;
}

int rt_linkbuf_iov(const rt_linkbuf *b, struct iovec *iov, int max) {
    int n = 0;
    for (rt_span *s = b->head; s && n < max; s = s->next) {
        if (span_len(s) == 0) continue;
        iov[n++] = (struct iovec){s->b->data + s->pos, span_len(s)};
    }
    return n;
}

/* ---- between buffers ---- */

/* Moves from's spans before `at` of b; NULL: to its end. Only what becomes b's tail stays open. */
static void splice_in(rt_linkbuf *b, rt_span *before, rt_linkbuf *from) {
    rt_span *first = from->head, *last = from->tail;
    if (!first) return;
    rt_span **link = before ? &before->next : &b->head;
    last->next = *link;
    if (last->next)
        last->open = false;
    else
        b->tail = last;
    if (before) before->open = false;
    *link = first;
    b->len += from->len;
    from->head = from->tail = NULL;
    from->len = 0;
}

static int must_fit(const rt_linkbuf *b, const rt_linkbuf *from) {
    if (b == from) return -EINVAL;
    if (b->booked || from->booked) rt_throw("a linked buffer is moved while it is booked");
    return too_much(b, from->len) ? -ENOBUFS : 0;
}

int rt_linkbuf_append(rt_linkbuf *b, rt_linkbuf *from) {
    int err = must_fit(b, from);
    if (!err) splice_in(b, b->tail, from);
    return err;
}

int rt_linkbuf_insert(rt_linkbuf *b, size_t at, rt_linkbuf *from) {
    must_have(b, at);
    int err = must_fit(b, from);
    if (err) return err;
    rt_span *before = NULL, *s = b->head;
    while (s && at >= span_len(s)) {
        at -= span_len(s);
        before = s;
        s = s->next;
    }
    if (at > 0) { /* in the middle of s: cut it in two, the second half keeps the room */
        rt_span *front = share_span(s);
        if (!front) return -ENOMEM;
        front->end = s->pos += (uint32_t)at;
        front->next = s;
        *(before ? &before->next : &b->head) = front;
        before = front;
    }
    splice_in(b, before, from);
    return 0;
}

int rt_linkbuf_slice(rt_linkbuf *b, size_t n, rt_linkbuf *to) {
    must_have(b, n);
    if (b == to) return -EINVAL;
    if (b->booked || to->booked) rt_throw("a linked buffer is sliced while it is booked");
    if (too_much(to, n)) return -ENOBUFS;
    /* First what can fail, in a chain of its own. Every span is shared, not moved: b's pointers into it
     * are good until its release. */
    rt_linkbuf cut = {0};
    size_t left = n;
    for (rt_span *s = b->head; left > 0; s = s->next) {
        size_t here = span_len(s) < left ? span_len(s) : left;
        if (here == 0) continue;
        rt_span *t = share_span(s);
        if (!t) {
            free_chain(cut.head);
            return -ENOMEM;
        }
        t->end = t->pos + (uint32_t)here;
        push_span(&cut, t);
        cut.len += here;
        left -= here;
    }
    rt_linkbuf_skip(b, n);
    splice_in(to, to->tail, &cut);
    return 0;
}

/* ---- to and from descriptors ---- */

ssize_t rt_linkbuf_fill(rt_linkbuf *b, rt_fd *f) {
    void *at;
    ssize_t room = rt_linkbuf_book(b, 0, &at);
    if (room < 0) return room;
    ssize_t r = rt_fd_read(f, at, (size_t)room);
    rt_linkbuf_ack(b, r > 0 ? (size_t)r : 0);
    return r;
}

int rt_linkbuf_flush(rt_linkbuf *b, rt_fd *f) {
    enum { PIECES = 16 };
    while (b->len > 0) {
        struct iovec iov[PIECES];
        int n = rt_linkbuf_iov(b, iov, PIECES);
        size_t want = 0, left = 0;
        for (int i = 0; i < n; i++)
            want += iov[i].iov_len;
        ssize_t r = rt_fd_writev(f, iov, n);
        for (int i = 0; i < n; i++)
            left += iov[i].iov_len;
        rt_linkbuf_skip(b, want - left);
        if (r < 0) return (int)r;
    }
    rt_linkbuf_release(b);
    return 0;
}
