/* Streams over plain descriptors. See stream.h. */
#include "stream.h"

#include "../../runtime/io.h"
#include "tls.h"

#include <errno.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

int stream_open(stream *s, int fd, const stream_ops *ops) {
    int err = 0;
    rt_pd *pd = rt_pd_open(fd, &err);
    if (!pd) return err;
    *s = (stream){.ops = ops, .pd = pd, .fd = fd};
    return 0;
}

void stream_close(stream *s, bool keep) {
    if (s->tls) tls_end(s);
    rt_pd_close(s->pd);
    if (!keep) close(s->fd); /* an error here is of a write that cannot be repeated */
    s->pd = NULL;
    s->fd = -1;
}

void stream_move(stream *to, stream *from) {
    *to = *from;
    *from = (stream){.ops = &stream_socket, .fd = -1};
    if (to->tls) tls_moved(to);
    stream_doubt(to);
}

bool stream_is_dry(stream *s) {
    if (!s->drained) return false;
    s->drained = false; /* the caller waits now, for the edge */
    return !rt_pd_hup(s->pd);
}

bool stream_is_reset(const stream *s) {
    int err = 0;
    socklen_t len = sizeof err;
    return getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &err, &len) == 0 && err != 0;
}

bool stream_short_read_tells(stream *s) {
    return rt_short_read_tells(s->fd, &s->tells);
}

/* read and send of libc are cancellation points of threads, which nobody cancels here: two atomic steps before each call
 * and two behind it. */
static ssize_t read_fd(stream *s, void *buf, size_t n) {
    for (;;) {
        ssize_t r = syscall(SYS_read, s->fd, buf, n);
        if (r >= 0) return r;
        if (errno != EINTR) return -errno;
    }
}

/* The rule of edges. */
static ssize_t read_socket(stream *s, void *buf, size_t n) {
    if (stream_is_dry(s)) return -EAGAIN;
    ssize_t r = read_fd(s, buf, n);
    s->drained = r > 0 && (size_t)r < n && stream_short_read_tells(s);
    return r;
}

static ssize_t sendfile_fd(stream *s, int file, off_t *at, size_t n) {
    for (;;) {
        rt_own_write(true);
        ssize_t r = sendfile(s->fd, file, at, n);
        int err = errno;
        rt_own_write(false);
        if (r >= 0) return r;
        if (err != EINTR) return -err;
    }
}

/* ---- sockets ---- */

static ssize_t writev_socket(stream *s, const struct iovec *iov, int n, bool more) {
    int flags = more ? MSG_NOSIGNAL | MSG_MORE : MSG_NOSIGNAL;
    struct msghdr m = {.msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)n};
    for (;;) {
        ssize_t r = n == 1 ? syscall(SYS_sendto, s->fd, iov->iov_base, iov->iov_len, flags, NULL, 0)
                           : sendmsg(s->fd, &m, flags);
        if (r >= 0) return r;
        if (errno != EINTR) return -errno;
    }
}

static int shutdown_socket(stream *s) {
    return shutdown(s->fd, SHUT_WR) < 0 ? -errno : 0;
}

const stream_ops stream_socket = {
    .read = read_socket,
    .writev = writev_socket,
    .sendfile = sendfile_fd,
    .shutdown = shutdown_socket,
};

/* ---- pipes ---- */

static ssize_t read_pipe(stream *s, void *buf, size_t n) {
    ssize_t r = read_fd(s, buf, n);
    /* The last writer has gone, and another one has opened the FIFO since. */
    if (r == -EAGAIN) rt_pd_forget_hup(s->pd);
    return r;
}

static ssize_t writev_pipe(stream *s, const struct iovec *iov, int n, bool more) {
    (void)more;
    for (;;) {
        rt_own_write(true);
        ssize_t r = writev(s->fd, iov, n);
        int err = errno;
        rt_own_write(false);
        if (r >= 0) return r;
        if (err != EINTR) return -err;
    }
}

static int shutdown_pipe(stream *s) {
    (void)s;
    return -EOPNOTSUPP;
}

const stream_ops stream_pipe = {
    .read = read_pipe,
    .writev = writev_pipe,
    .sendfile = sendfile_fd,
    .shutdown = shutdown_pipe,
};
