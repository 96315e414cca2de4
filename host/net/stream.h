/* A stream: bytes both ways over a descriptor. It knows which operations move them (a socket's, a pipe's), and what the
 * poller will and will not tell; nothing of HTTP, Lua or requests. Connections and the sockets of lunapark.net have one.
 *
 * The rule of edges stands here, once: a read that brings less than there was room for has emptied a TCP socket, so the
 * next edge tells when there is more, and the next read says -EAGAIN without asking the kernel. A unix socket, whose
 * messages may carry descriptors, is not emptied by that (rt_short_read_tells); nor does it hold when the peer has shut
 * its side down, since one edge may have told of data and end alike.
 *
 * All functions try and return: whoever has the stream waits, in its pollDesc. Any thread, by whoever has the stream. */
#ifndef STREAM_H
#define STREAM_H

#include "../../runtime/runtime.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

typedef struct stream stream;

/* Each answers as the call of that name, but with -errno, and repeats what a signal interrupts. */
typedef struct stream_ops {
    ssize_t (*read)(stream *s, void *buf, size_t n);
    /* more: another call follows at once. A socket may wait for its bytes, to send both together. */
    ssize_t (*writev)(stream *s, const struct iovec *iov, int n, bool more);
    /* n bytes of file from *at, which moves. -EINVAL, -EOPNOTSUPP, ...: not these two; the caller reads and writes. */
    ssize_t (*sendfile)(stream *s, int file, off_t *at, size_t n);
    /* No more will be written: the peer reads its end. -EOPNOTSUPP: only closing tells that. */
    int (*shutdown)(stream *s);
} stream_ops;

/* A socket that is connected, or listens; a pipe, or anything else that can be polled and read or written. */
extern const stream_ops stream_socket, stream_pipe;

/* All fields: whoever has the stream. */
struct stream {
    const stream_ops *ops;
    rt_pd *pd;
    int fd;        /* -1: closed */
    uint8_t tells; /* of rt_short_read_tells; 0: not asked yet */
    bool drained;  /* the last read left nothing: the next edge tells when there is more */
};

/* Gives the descriptor a pollDesc. 0 or -errno; then the descriptor is as it was. */
int stream_open(stream *s, int fd, const stream_ops *ops);

/* Both are gone; keep: but for the descriptor. Nobody waits in the pollDesc. */
void stream_close(stream *s, bool keep);

/* Up to n bytes into buf. How many; 0: the end; -EAGAIN: wait for RT_R; -errno. */
ssize_t stream_read(stream *s, void *buf, size_t n);

/* Is it known that there is nothing to read? Then the caller says -EAGAIN; asked once more, the kernel is to tell. */
bool stream_is_dry(stream *s);

/* Does a read that brings less than there was room for empty s? So it is with TCP alone. */
bool stream_short_read_tells(stream *s);

/* A wait for RT_R ended otherwise than by an event, or somebody else's did: the next read asks the kernel. */
static inline void stream_doubt(stream *s) {
    s->drained = false;
}

/* How many bytes the kernel took; -EAGAIN: wait for RT_W; -errno. more: see writev above. */
static inline ssize_t stream_writev(stream *s, const struct iovec *iov, int n, bool more) {
    return s->ops->writev(s, iov, n, more);
}

static inline ssize_t stream_write(stream *s, const void *data, size_t n) {
    struct iovec iov = {(void *)data, n};
    return s->ops->writev(s, &iov, 1, false);
}

#endif
