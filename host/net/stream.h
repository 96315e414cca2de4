/* A stream: bytes both ways over a descriptor. A stream knows the operations that move its bytes (a socket's, a
 * pipe's), and what the poller will tell. It knows nothing of HTTP, Lua or requests. Connections have a stream, and so
 * do the sockets of lunapark.net.
 *
 * The rule of edges stands here, once. A read that brings less than there was room for has emptied a TCP socket. So the
 * next edge tells when there is more, and until then reads say -EAGAIN without asking the kernel. The rule does not
 * hold for a unix socket, whose messages may carry descriptors (rt_short_read_tells). It does not hold after the peer
 * has shut its side down, since one edge may have told of data and end.
 *
 * All functions try and return: the holder of the stream waits, in the stream's pollDesc. Any thread, only the holder
 * of the stream. Do not wait. */
#ifndef STREAM_H
#define STREAM_H

#include "../../runtime/runtime.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

typedef struct stream stream;

/* Each answers as the system call of this name, but with -errno, and calls again after EINTR. */
typedef struct stream_ops {
    ssize_t (*read)(stream *s, void *buf, size_t n);
    /* more: another call follows at once. A socket may keep the bytes until then, to send both together. */
    ssize_t (*writev)(stream *s, const struct iovec *iov, int n, bool more);
    /* Sends n bytes of `file` from *at on, and moves *at. -EINVAL, -EOPNOTSUPP, ...: not for these two descriptors; the
     * caller reads and writes instead. */
    ssize_t (*sendfile)(stream *s, int file, off_t *at, size_t n);
    /* No more will be written: the peer reads its end. -EOPNOTSUPP: only closing tells the peer. -EAGAIN: wait for
     * RT_W and call again. */
    int (*shutdown)(stream *s);
    /* Comes before reads and writes: 0: they may begin; -EAGAIN: wait for stream_wants(s, RT_R) and call again;
     * another error. NULL: they may begin at once. */
    int (*shake)(stream *s);
    /* What the last -EAGAIN of a read (RT_R) or a write (RT_W) waits for. NULL: for the same. */
    int (*wants)(const stream *s, int mode);
} stream_ops;

/* Beside the errors of read and write: the peer, or the handshake, has broken TLS; tls_why says how. */
enum { STREAM_ETLS = -20002 }; /* HOST_ETLS */

/* For a socket that is connected or listens; for a pipe, or another descriptor that can be polled and read or
 * written. */
extern const stream_ops stream_socket, stream_pipe;

/* All fields: only the holder of the stream. */
struct stream {
    const stream_ops *ops;
    struct tls *tls; /* of a TLS stream (tls.h); NULL: what is read and written goes as it is */
    rt_pd *pd;
    int fd;        /* -1: closed */
    uint8_t tells; /* of rt_short_read_tells; 0: not asked yet */
    bool drained;  /* the last read left nothing: the next edge tells of more */
};

/* Makes *s a stream over fd, with a pollDesc. 0 or -errno; then fd is as it was. */
int stream_open(stream *s, int fd, const stream_ops *ops);

/* Gives the pollDesc back, in which no G waits, and closes the descriptor. keep: the descriptor stays open. */
void stream_close(stream *s, bool keep);

/* `to` becomes the stream that `from` is, which is closed then: `to` goes on where `from` was. No G waits in it. */
void stream_move(stream *to, stream *from);

/* Reads up to n bytes into buf. How many; 0: the end; -EAGAIN: wait for RT_R (stream_wants); -errno. */
static inline ssize_t stream_read(stream *s, void *buf, size_t n) {
    return s->ops->read(s, buf, n);
}

/* Is it known that there is nothing to read? If so, the caller says -EAGAIN. Asked a second time, the answer is no, and
 * the kernel tells. */
bool stream_is_dry(stream *s);

/* Does a short read, one that brings less than there was room for, empty s? Only with TCP. */
bool stream_short_read_tells(stream *s);

/* True: the peer has reset the connection. */
bool stream_is_reset(const stream *s);

/* Call when a wait for RT_R ended otherwise than by an event, or when another G used up the event: the next read asks
 * the kernel. */
static inline void stream_doubt(stream *s) {
    s->drained = false;
}

/* The direction to wait for after a read (RT_R) or a write (RT_W) that answered -EAGAIN. */
static inline int stream_wants(const stream *s, int mode) {
    return s->ops->wants ? s->ops->wants(s, mode) : mode;
}

/* Writes. How many bytes the kernel took; -EAGAIN: wait for RT_W, and write again from the same byte on, the same
 * bytes; -errno. more: see writev above. */
static inline ssize_t stream_writev(stream *s, const struct iovec *iov, int n, bool more) {
    return s->ops->writev(s, iov, n, more);
}

static inline ssize_t stream_write(stream *s, const void *data, size_t n) {
    struct iovec iov = {(void *)data, n};
    return s->ops->writev(s, &iov, 1, false);
}

#endif
