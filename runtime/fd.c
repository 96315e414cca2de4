/* Descriptors for native Gs: the calls read straight down. Try; on EAGAIN wait for readiness; try again.
 *
 * fdmutex.c says which calls may run at the same time. A read holds the read lock as long as it lasts, a write the
 * write lock, so the bytes of two big writes do not mix. Other calls are mere users. Close marks the descriptor, shuts
 * the pollDesc, which ends all waits, waits until it is the last user, and only then gives the number back to the
 * kernel.
 *
 * Reads: after a short read a TCP socket is drained, so the next read waits at once instead of paying for EAGAIN. This
 * holds because the poller is edge-triggered: bytes that came after the read bring an edge of their own, or READY
 * stands in the pollDesc already. It does not hold for descriptors that end a read early for other reasons: datagrams,
 * terminals, inotify, unix sockets (a read stops at a message that carries descriptors). The first short read asks once
 * which kind the descriptor is. If the peer has hung up, the end may have come with the same edge as the data;
 * rt_pd_wait returns at once then.
 *
 * Writes go on until all is written, 1 GiB at most a call. A socket is written with MSG_NOSIGNAL. Other descriptors
 * raise SIGPIPE when they break, which signal.c turns into nothing while rt_own_write says so. Then Go's rule: -EPIPE
 * is an error like others, unless the descriptor is 1 or 2; such a program ends as any other one does in a pipeline.
 *
 * A descriptor without a pollDesc is a file: its calls block, so they are made between rt_entersyscall and
 * rt_exitsyscall (file.c).
 */
#include "fd.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <unistd.h>

const char *rt_strerror(int err) {
    switch (err) {
    case RT_ETIMEOUT:
        return "timeout";
    case RT_ECLOSED:
        return "closed";
    case RT_ECANCELED:
        return "canceled";
    case RT_ENODEADLINE:
        return "no deadline";
    default:
        return strerror(-err);
    }
}

/* ---- system calls ---- */

SYS static ssize_t sys_readv(int fd, const struct iovec *iov, int n) {
    for (;;) {
        size_t want = iov->iov_len < MAX_RW ? iov->iov_len : MAX_RW;
        ssize_t r = n == 1 ? read(fd, iov->iov_base, want) : readv(fd, iov, n);
        if (r >= 0) return r;
        if (errno != EINTR) return -errno;
    }
}

SYS static ssize_t sys_send(int fd, struct iovec *iov, int n) {
    for (;;) {
        struct msghdr m = {.msg_iov = iov, .msg_iovlen = (size_t)n};
        ssize_t r = n == 1 ? send(fd, iov->iov_base, iov->iov_len, MSG_NOSIGNAL)
                           : sendmsg(fd, &m, MSG_NOSIGNAL);
        if (r >= 0) return r;
        if (errno != EINTR) return -errno;
    }
}

SYS static ssize_t sys_writev(int fd, const struct iovec *iov, int n) {
    for (;;) {
        rt_own_write(true);
        ssize_t r = writev(fd, iov, n);
        int err = errno;
        rt_own_write(false);
        if (r >= 0) return r;
        if (err != EINTR) return -err;
    }
}

SYS static int sys_shutdown(int fd, int how) {
    return shutdown(fd, how) < 0 ? -errno : 0;
}

/* EINTR: Linux has closed the descriptor all the same. */
SYS static int sys_close(int fd) {
    return close(fd) < 0 && errno != EINTR ? -errno : 0;
}

/* ---- beginning and end ---- */

void fd_set_up(rt_fd *f, int fd, rt_pd *pd) {
    *f = (rt_fd){.fd = fd, .pd = pd};
    fdmutex_open(&f->mu);
}

int rt_fd_init(rt_fd *f, int fd) {
    int err = 0;
    *f = (rt_fd){.fd = -1};
    rt_pd *pd = rt_pd_open(fd, &err);
    if (pd) fd_set_up(f, fd, pd);
    return err;
}

int rt_fd_close(rt_fd *f) {
    int err = fdmutex_close(&f->mu);
    if (err) return err;
    if (f->pd) rt_pd_shut(f->pd);
    fdmutex_drain(&f->mu);
    int fd = f->fd;
    rt_pd *pd = f->pd;
    f->fd = -1;
    f->pd = NULL;
    if (!pd) return file_close(fd);
    rt_pd_close(pd);
    return sys_close(fd);
}

/* ---- reading ---- */

SYS bool rt_short_read_tells(int fd, uint8_t *known) {
    if (*known == RT_SHORT_UNKNOWN) {
        int protocol = 0;
        socklen_t len = sizeof protocol;
        bool tcp = getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &len) == 0 &&
                   protocol == IPPROTO_TCP;
        *known = tcp ? RT_SHORT_TELLS : RT_SHORT_TELLS_NOTHING;
    }
    return *known == RT_SHORT_TELLS;
}

static size_t total(const struct iovec *iov, int n) {
    size_t sum = 0;
    for (int i = 0; i < n; i++)
        sum += iov[i].iov_len;
    return sum;
}

static ssize_t read_locked(rt_fd *f, const struct iovec *iov, int n) {
    if (!f->pd) return file_readv(f->fd, iov, n);
    if (n > MAX_IOV) n = MAX_IOV;
    size_t want = total(iov, n);
    for (;;) {
        int err = rt_pd_check(f->pd, RT_R);
        if (err) return err;
        if (want == 0) return 0;
        ssize_t r = -EAGAIN;
        if (!f->drained) r = sys_readv(f->fd, iov, n);
        if (r != -EAGAIN) {
            f->drained =
                r > 0 && (size_t)r < want && r < MAX_RW && rt_short_read_tells(f->fd, &f->stream);
            return r;
        }
        f->drained = false;
        err = rt_pd_wait(f->pd, RT_R, RT_WAIT_READ);
        if (err) return err;
    }
}

ssize_t rt_fd_readv(rt_fd *f, const struct iovec *iov, int n) {
    if (n <= 0) return -EINVAL;
    int err = fdmutex_lock(&f->mu, RT_R, RT_WAIT_READ);
    if (err) return err;
    ssize_t r = read_locked(f, iov, n);
    fdmutex_unlock(&f->mu, RT_R);
    return r;
}

ssize_t rt_fd_read(rt_fd *f, void *buf, size_t n) {
    struct iovec iov = {buf, n};
    return rt_fd_readv(f, &iov, 1);
}

/* ---- writing ---- */

static ssize_t write_some(rt_fd *f, struct iovec *iov, int n) {
    if (!f->pd) return file_writev(f->fd, iov, n);
    if (!f->not_socket) {
        ssize_t r = sys_send(f->fd, iov, n);
        if (r != -ENOTSOCK) return r;
        f->not_socket = true;
    }
    return sys_writev(f->fd, iov, n);
}

/* How many of iov go into one call. The first alone may be too much: then its length is cut, and *cut is what the
 * caller puts back. */
static int one_call(struct iovec *iov, int n, size_t *cut) {
    size_t sum = iov->iov_len;
    int k = 1;
    *cut = 0;
    if (sum > MAX_RW) {
        *cut = sum - MAX_RW;
        iov->iov_len = MAX_RW;
        return 1;
    }
    while (k < n && k < MAX_IOV && iov[k].iov_len <= MAX_RW - sum)
        sum += iov[k++].iov_len;
    return k;
}

/* Takes r bytes off the front of *iov. */
static void advance(struct iovec **iov, int *n, size_t r) {
    while (*n > 0 && r >= (*iov)->iov_len) {
        r -= (*iov)->iov_len;
        (*iov)->iov_base = (char *)(*iov)->iov_base + (*iov)->iov_len;
        (*iov)->iov_len = 0;
        ++*iov;
        --*n;
    }
    if (r > 0) {
        (*iov)->iov_base = (char *)(*iov)->iov_base + r;
        (*iov)->iov_len -= r;
    }
}

/* Writes all of iov, and advances iov over what was written. */
static ssize_t write_locked(rt_fd *f, struct iovec *iov, int n) {
    ssize_t done = 0;
    for (;;) {
        int err = f->pd ? rt_pd_check(f->pd, RT_W) : 0;
        if (err) return err;
        advance(&iov, &n, 0); /* skips empty ones */
        if (n == 0) return done;
        size_t cut;
        int k = one_call(iov, n, &cut);
        ssize_t r = write_some(f, iov, k);
        iov->iov_len += cut;
        if (r >= 0) {
            advance(&iov, &n, (size_t)r);
            done += r;
            continue;
        }
        if (r == -EPIPE && (f->fd == STDOUT_FILENO || f->fd == STDERR_FILENO)) signal_broken_pipe();
        if (r != -EAGAIN || !f->pd) return r;
        err = rt_pd_wait(f->pd, RT_W, RT_WAIT_WRITE);
        if (err) return err;
    }
}

ssize_t rt_fd_writev(rt_fd *f, struct iovec *iov, int n) {
    if (n < 0) return -EINVAL;
    int err = fdmutex_lock(&f->mu, RT_W, RT_WAIT_WRITE);
    if (err) return err;
    ssize_t r = write_locked(f, iov, n);
    fdmutex_unlock(&f->mu, RT_W);
    return r;
}

ssize_t rt_fd_write(rt_fd *f, const void *buf, size_t n) {
    struct iovec iov = {(void *)(uintptr_t)buf, n};
    return rt_fd_writev(f, &iov, 1);
}

/* ---- neither ---- */

int rt_fd_shutdown(rt_fd *f, int how) {
    int err = fdmutex_enter(&f->mu);
    if (err) return err;
    err = sys_shutdown(f->fd, how);
    fdmutex_leave(&f->mu);
    return err;
}

int rt_fd_set_deadline(rt_fd *f, int mode, int64_t when_ns) {
    if (mode != RT_R && mode != RT_W && mode != RT_RW) return -EINVAL;
    int err = fdmutex_enter(&f->mu);
    if (err) return err;
    if (!f->pd) err = RT_ENODEADLINE;
    if (!err && mode != RT_W) rt_pd_set_deadline(f->pd, RT_R, when_ns);
    if (!err && mode != RT_R) rt_pd_set_deadline(f->pd, RT_W, when_ns);
    fdmutex_leave(&f->mu);
    return err;
}
