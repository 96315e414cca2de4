/* See out.h. */
#include "out.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { PIECE_MIN = 4096, GATHER_MAX = 16 };

struct out_piece {
    out_piece *next;
    size_t pos, end, cap; /* bytes [pos .. end) are queued */
    char bytes[];
};

/* The piece that the thread's next output begins with. */
static __thread out_piece *spare;

static out_piece *take_piece(size_t n) {
    size_t cap = PIECE_MIN - sizeof(out_piece);
    out_piece *p = spare;
    if (n <= cap && p) {
        spare = NULL;
    } else {
        if (n > cap) cap = n;
        if (!(p = malloc(sizeof *p + cap))) return NULL;
        p->cap = cap;
    }
    p->next = NULL;
    p->pos = p->end = 0;
    return p;
}

static void give_piece(out_piece *p) {
    if (p->cap == PIECE_MIN - sizeof *p && !spare)
        spare = p;
    else
        free(p);
}

static void drop_first(host_out *o) {
    out_piece *p = o->first;
    o->first = p->next;
    if (!o->first) o->last = NULL;
    give_piece(p);
}

void out_drop(host_out *o) {
    while (o->first)
        drop_first(o);
    o->n = 0;
}

/* ---- queueing ---- */

static out_piece *add_piece(host_out *o, size_t n) {
    out_piece *p = take_piece(n);
    if (!p) return NULL;
    if (o->last)
        o->last->next = p;
    else
        o->first = p;
    return o->last = p;
}

char *out_room(host_out *o, size_t n) {
    out_piece *p = o->last;
    if ((!p || p->cap - p->end < n) && !(p = add_piece(o, n))) return NULL;
    return p->bytes + p->end;
}

void out_took(host_out *o, const char *end) {
    out_piece *p = o->last;
    size_t to = (size_t)(end - p->bytes);
    o->n += to - p->end;
    p->end = to;
}

int out_bytes(host_out *o, const char *data, size_t n) {
    if (n == 0) return 0;
    char *at = out_room(o, n);
    if (!at) return -ENOMEM;
    memcpy(at, data, n);
    out_took(o, at + n);
    return 0;
}

/* ---- sending ---- */

/* The queued pieces and the tail, as far as one call takes them. */
static int gather(const host_out *o, const char *tail, size_t n_tail, struct iovec *iov) {
    int n = 0;
    for (const out_piece *p = o->first; p && n < GATHER_MAX; p = p->next)
        if (p->end > p->pos) iov[n++] = (struct iovec){(char *)p->bytes + p->pos, p->end - p->pos};
    if (n_tail > 0 && n < GATHER_MAX) iov[n++] = (struct iovec){(char *)tail, n_tail};
    return n;
}

/* n bytes of the queue were written, or fewer, if there were no more: how many. */
static size_t consume(host_out *o, size_t n) {
    size_t left = n;
    while (o->first && left >= o->first->end - o->first->pos) {
        left -= o->first->end - o->first->pos;
        drop_first(o);
    }
    if (o->first) {
        o->first->pos += left;
        left = 0;
    }
    o->n -= n - left;
    return n - left;
}

int out_send(host_out *o, stream *s, const char *tail, size_t *n_tail, size_t *sent) {
    while (o->n > 0 || *n_tail > 0) {
        struct iovec iov[GATHER_MAX];
        ssize_t n = stream_writev(s, iov, gather(o, tail, *n_tail, iov));
        if (n < 0) return (int)n;
        *sent += (size_t)n;
        size_t of_tail = (size_t)n - consume(o, (size_t)n);
        tail += of_tail;
        *n_tail -= of_tail;
    }
    if (o->first) out_drop(o); /* a piece that nothing came into */
    return 0;
}
