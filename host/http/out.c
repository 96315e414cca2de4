/* See out.h.
 *
 * The kernel sends a long file (sendfile), without a copy. MSG_MORE tells TCP that the file follows the bytes before
 * it, so that the head and the file's first bytes leave together. A short file, and the rest of a long one, is read
 * into a buffer of the thread and written with the other bytes: one call less, and less work for the kernel than pages
 * of a pipe. A file for which there is no sendfile is read, too: for streams that have to touch the bytes, and for some
 * file systems. Any other error of sendfile comes again from the read or the write.
 *
 * Bytes of a file that were read and that the stream did not take are read again. */
#include "out.h"

#include "../base/threadend.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    PIECE_MIN = 4096,
    GATHER_MAX = 16,
    FILE_READ = 16384,     /* a rest of a file up to this is read, not sent by sendfile */
    FILE_PIECE = 49152,    /* read at a time where there is no sendfile: three records of TLS */
    FILE_TURN = 512 << 10, /* after so many bytes other Gs run */
    /* A file up to this size begins in the segment of what stands before it. A longer one begins in a segment of its
     * own. Measured where TCP paces (BBR; loopback), beside the other way: 200 kB took half of the CPU, 1 MB 0.64, 3 MB
     * 1.5 times, 10 MB 1.4 times. By reno and cubic both ways cost the same. */
    FILE_JOINS = 2 << 20,
};

struct out_piece {
    out_piece *next;
    out_piece *last; /* of the first piece of an output: its last one */
    size_t pos, end; /* [pos .. end) of `bytes` or of the file is queued */
    size_t cap;      /* of `bytes` */
    out_fd *file;    /* NULL: the piece is bytes */
    bool read;       /* the file is read, since sendfile failed */
    char bytes[];
};

/* The thread's spare piece, for its next output. */
static __thread out_piece *spare;
static __thread bool spare_ends; /* free_spare was registered for the thread's end */

out_fd *out_fd_new(int fd) {
    out_fd *f = malloc(sizeof *f);
    if (!f) {
        close(fd);
        return NULL;
    }
    refs_init(&f->refs, 1);
    f->fd = fd;
    return f;
}

void out_fd_drop(out_fd *f) {
    if (!refs_drop(&f->refs)) return;
    close(f->fd);
    free(f);
}

static void free_spare(void) {
    free(spare);
    spare = NULL;
}

/* Bytes read of a file. */
static __thread char from_file[FILE_PIECE];

static out_piece *take_piece(size_t n) {
    size_t cap = PIECE_MIN - sizeof(out_piece);
    out_piece *p = spare;
    if (n <= cap && p) {
        spare = NULL;
    } else {
        if (n > cap) cap = n;
        if (!(p = malloc(sizeof *p + cap))) return NULL;
        p->cap = cap;
        p->file = NULL;
    }
    p->next = NULL;
    p->pos = p->end = 0;
    return p;
}

static void give_piece(out_piece *p) {
    if (p->file) out_fd_drop(p->file);
    if (p->cap != PIECE_MIN - sizeof *p || spare) {
        free(p);
        return;
    }
    spare = p;
    if (!spare_ends) threadend_call(free_spare);
    spare_ends = true;
}

static size_t counts(const out_piece *p) {
    return p->file ? OUT_FULL : p->end - p->pos;
}

static void drop_first(host_out *o) {
    out_piece *p = o->first;
    o->n -= counts(p);
    o->first = p->next;
    if (o->first) o->first->last = p->last;
    give_piece(p);
}

void out_drop(host_out *o) {
    while (o->first)
        drop_first(o);
}

/* ---- queueing ---- */

static out_piece *add_piece(host_out *o, out_piece *p) {
    if (!p) return NULL;
    if (o->first)
        o->first->last->next = p;
    else
        o->first = p;
    return o->first->last = p;
}

static inline out_piece *last_of(const host_out *o) {
    return o->first ? o->first->last : NULL;
}

char *out_room(host_out *o, size_t n) {
    out_piece *p = last_of(o);
    if ((!p || p->file || p->cap - p->end < n) && !(p = add_piece(o, take_piece(n)))) return NULL;
    return p->bytes + p->end;
}

void out_took(host_out *o, const char *end) {
    out_piece *p = o->first->last;
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

int out_file(host_out *o, out_fd *f, off_t at, size_t n) {
    if (n == 0) return 0;
    out_piece *p = malloc(sizeof *p);
    if (!p) return -ENOMEM;
    refs_hold(&f->refs);
    *p = (out_piece){.pos = (size_t)at, .end = (size_t)at + n, .file = f};
    add_piece(o, p);
    o->n += counts(p);
    return 0;
}

/* ---- sending ---- */

/* Reads as much of the file as from_file takes. How many bytes; -ENODATA: the file is shorter; another -errno. */
static ssize_t read_piece(const out_piece *p) {
    size_t most = p->read ? FILE_PIECE : FILE_READ,
           n = p->end - p->pos < most ? p->end - p->pos : most;
    for (;;) {
        ssize_t r = pread(p->file->fd, from_file, n, (off_t)p->pos);
        if (r > 0) return r;
        if (r == 0) return -ENODATA;
        if (errno != EINTR) return -errno;
    }
}

/* Fills iov with the queued pieces and the tail, as far as one call takes them. How many, or -errno: the first piece is
 * a file that cannot be read. *file: a file of which more follows, by another call. */
static int gather(const host_out *o, const char *tail, size_t n_tail, struct iovec *iov,
                  out_piece **file) {
    int n = 0;
    bool used = false; /* from_file is in use */
    out_piece *p = o->first;
    for (; p && n < GATHER_MAX; p = p->next) {
        if (!p->file) {
            if (p->end > p->pos)
                iov[n++] = (struct iovec){(char *)p->bytes + p->pos, p->end - p->pos};
            continue;
        }
        *file = p;
        if (used || (!p->read && p->end - p->pos > FILE_READ)) return n;
        ssize_t r = read_piece(p);
        if (r < 0) return n > 0 ? n : (int)r;
        used = true;
        iov[n++] = (struct iovec){from_file, (size_t)r};
        if ((size_t)r < p->end - p->pos) return n;
        *file = NULL;
    }
    if (n_tail > 0 && n < GATHER_MAX) iov[n++] = (struct iovec){(char *)tail, n_tail};
    return n;
}

/* Writes what one call takes. How many bytes, or -errno. 0: file->read became true, nothing was written. */
static ssize_t send_some(host_out *o, stream *s, const char *tail, size_t n_tail) {
    struct iovec iov[GATHER_MAX];
    out_piece *file = NULL;
    int n = gather(o, tail, n_tail, iov, &file);
    if (n < 0) return n;
    if (n > 0) return stream_writev(s, iov, n, file && file->end - file->pos <= FILE_JOINS);
    off_t at = (off_t)file->pos;
    size_t most = file->end - file->pos < FILE_TURN ? file->end - file->pos : FILE_TURN;
    ssize_t r = s->ops->sendfile(s, file->file->fd, &at, most);
    if (r > 0 || r == -EAGAIN) return r;
    if (r == 0) return -ENODATA;
    file->read = true;
    return 0;
}

/* n bytes were written: takes them out of the queue. Returns how many of them were of the tail. */
static size_t consume(host_out *o, size_t n) {
    out_piece *p;
    while ((p = o->first) && n >= p->end - p->pos) {
        n -= p->end - p->pos;
        drop_first(o);
    }
    if (!p) return n;
    p->pos += n;
    if (!p->file) o->n -= n;
    return 0;
}

int out_send(host_out *o, stream *s, const char *tail, size_t *n_tail, size_t *sent) {
    size_t turn = 0;
    while (o->n > 0 || *n_tail > 0) {
        if (turn >= FILE_TURN && o->first && o->first->file) return -EINPROGRESS;
        ssize_t n = send_some(o, s, tail, *n_tail);
        if (n < 0) return (int)n;
        turn += (size_t)n;
        *sent += (size_t)n;
        size_t of_tail = consume(o, (size_t)n);
        tail += of_tail;
        *n_tail -= of_tail;
    }
    if (o->first) out_drop(o); /* an empty piece */
    return 0;
}
