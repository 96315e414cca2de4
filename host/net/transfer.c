/* Bytes on their way from one descriptor to a socket inside the kernel: the steps of net.copy.
 *
 * Lua holds the policy (lua/lunapark/net/copy.lua). The steps try, and answer -EAGAIN. There are two ways: splice
 * through a pipe of ours, which is empty whenever it is filled, so each -EAGAIN is about one side alone; and sendfile.
 *
 * Bytes in the pipe that the destination does not take any more go back into the source's buffer, which is empty then.
 * So a copy that fails loses nothing. */
#include "sock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct host_pipe {
    host_owned owned; /* first */
    int r, w;
    size_t len; /* bytes in it */
};

enum { PIPE_BYTES = 256 << 10, FILE_CHUNK = 1 << 20 };

static void let_go(host_owned *o) {
    host_pipe *p = (host_pipe *)o;
    close(p->r);
    close(p->w);
    free(p);
}

static const owned_kind copy_kind = {OWNED_THINGS, let_go};

host_pipe *host_pipe_open(int *err) {
    host_pipe *p = calloc(1, sizeof *p);
    int fds[2];
    *err = -ENOMEM;
    if (!p) return NULL;
    if (pipe2(fds, O_NONBLOCK | O_CLOEXEC) < 0) {
        *err = -errno;
        free(p);
        return NULL;
    }
    /* The user may have used up the allowance of larger pipes: then the pipe has the usual size. */
    (void)fcntl(fds[1], F_SETPIPE_SZ, PIPE_BYTES);
    p->r = fds[0];
    p->w = fds[1];
    owned_take(&p->owned, &copy_kind);
    return p;
}

void host_pipe_free(host_pipe *p) {
    owned_free(&p->owned);
}

int host_pipe_len(host_pipe *p) {
    return (int)p->len;
}

static ssize_t move(int from, int to, size_t n) {
    for (;;) {
        rt_own_write(true);
        ssize_t r = splice(from, NULL, to, NULL, n, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
        int err = errno;
        rt_own_write(false);
        if (r >= 0) return r;
        if (err != EINTR) return -err;
    }
}

int host_pipe_drain(host_pipe *p, host_sock *src, double most) {
    int err = sock_check(src, RT_R);
    if (err) return err;
    if (src->io.tls) return -EINVAL;
    if (stream_is_dry(&src->io)) return -EAGAIN;
    /* A short splice tells nothing: the pipe may have no more slots. */
    ssize_t r = move(src->io.fd, p->w, most < PIPE_BYTES ? (size_t)most : PIPE_BYTES);
    if (r > 0) p->len += (size_t)r;
    return (int)r;
}

int host_pipe_pump(host_pipe *p, host_sock *dst) {
    int err = sock_check(dst, RT_W);
    if (err) return err;
    if (dst->io.tls) return -EINVAL;
    ssize_t r = move(p->r, dst->io.fd, p->len);
    if (r > 0) p->len -= (size_t)r;
    return r == 0 ? -EIO : (int)r; /* nothing moved though bytes are there: never seen */
}

int host_pipe_unread(host_pipe *p, host_sock *src) {
    if (src->io.fd < 0) return RT_ECLOSED;
    host_rbuf *b = &src->rbuf;
    int err = sock_reserve(src, p->len);
    while (!err && p->len > 0) {
        ssize_t n = read(p->r, b->data + b->end, p->len);
        if (n > 0) {
            b->end += (int32_t)n;
            p->len -= (size_t)n;
        } else {
            err = n < 0 && errno == EINTR ? 0 : -EIO;
        }
    }
    return err;
}

int host_sock_sendfile(host_sock *dst, void *file, double offset, double most) {
    int err = sock_check(dst, RT_W);
    if (err) return err;
    off_t at = (off_t)offset;
    return (int)dst->io.ops->sendfile(&dst->io, fileno(file), &at,
                                      most < FILE_CHUNK ? (size_t)most : FILE_CHUNK);
}
