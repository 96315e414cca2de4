/* Sockets for native Gs: the calls read straight down. Try; on EAGAIN wait for readiness; try again.
 *
 * An rt_fd has one reader and one writer at a time. After a short read the socket is drained and the
 * next read waits at once instead of paying for EAGAIN, unless the peer has hung up (netpoll.c).
 */
#include "impl.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define MAX_RW (INT64_C(1) << 30) /* Linux moves at most 2 GiB - 4 KiB a call */

const char *rt_strerror(int err) {
    switch (err) {
    case RT_ETIMEOUT:
        return "timeout";
    case RT_ECLOSED:
        return "closed";
    case RT_ECANCELED:
        return "canceled";
    default:
        return strerror(-err);
    }
}

int rt_fd_init(rt_fd *f, int fd) {
    int err = 0;
    f->fd = fd;
    f->pd = rt_pd_open(fd, &err);
    return err;
}

int rt_fd_close(rt_fd *f) {
    if (f->fd < 0) return RT_ECLOSED;
    rt_pd_close(f->pd);
    int r = close(f->fd); /* EINTR: Linux has closed it all the same */
    f->fd = -1;
    f->pd = NULL;
    return r < 0 && errno != EINTR ? -errno : 0;
}

ssize_t rt_fd_read(rt_fd *f, void *buf, size_t n) {
    if (f->fd < 0) return RT_ECLOSED;
    if (n > MAX_RW) n = MAX_RW;
    for (;;) {
        int err = rt_pd_check(f->pd, RT_R);
        if (err) return err;
        ssize_t r = read(f->fd, buf, n);
        if (r >= 0) return r;
        err = errno;
        if (err == EINTR) continue;
        if (err != EAGAIN) return -err;
        err = rt_pd_wait(f->pd, RT_R, RT_WAIT_READ);
        if (err) return err;
    }
}

ssize_t rt_fd_write(rt_fd *f, const void *buf, size_t n) {
    if (f->fd < 0) return RT_ECLOSED;
    size_t done = 0;
    while (done < n) {
        int err = rt_pd_check(f->pd, RT_W);
        if (err) return err;
        size_t want = n - done < MAX_RW ? n - done : MAX_RW;
        ssize_t r = send(f->fd, (const char *)buf + done, want, MSG_NOSIGNAL);
        if (r < 0 && errno == ENOTSOCK) r = write(f->fd, (const char *)buf + done, want);
        if (r >= 0) {
            done += (size_t)r;
            continue;
        }
        err = errno;
        if (err == EINTR) continue;
        if (err != EAGAIN) return -err;
        err = rt_pd_wait(f->pd, RT_W, RT_WAIT_WRITE);
        if (err) return err;
    }
    return (ssize_t)done;
}

int rt_accept4(int fd, struct sockaddr_storage *sa, socklen_t *len) {
    for (;;) {
        int c = accept4(fd, (struct sockaddr *)sa, len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (c >= 0) return c;
        /* ECONNABORTED: the client went away while it was queued; the next one may be there. */
        if (errno != ECONNABORTED && errno != EINTR) return -errno;
    }
}

int rt_fd_accept(rt_fd *f) {
    if (f->fd < 0) return RT_ECLOSED;
    for (;;) {
        int err = rt_pd_check(f->pd, RT_R);
        if (err) return err;
        int c = rt_accept4(f->fd, NULL, NULL);
        if (c != -EAGAIN) return c;
        err = rt_pd_wait(f->pd, RT_R, RT_WAIT_ACCEPT);
        if (err) return err;
    }
}

int rt_fd_connect(rt_fd *f, const struct sockaddr *sa, socklen_t len) {
    if (f->fd < 0) return RT_ECLOSED;
    if (connect(f->fd, sa, len) == 0) return 0;
    if (errno != EINPROGRESS && errno != EINTR) return -errno;
    for (;;) {
        int err = rt_pd_wait(f->pd, RT_W, RT_WAIT_CONNECT);
        if (err) return err;
        err = rt_connected(f->fd);
        if (err != -EAGAIN) return err;
    }
}

int rt_connected(int fd) {
    int err = 0;
    socklen_t len = sizeof err;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0) return -errno;
    if (err != 0 && err != EISCONN) return -err;
    /* No error may also mean that nothing is decided yet: a wake-up can be spurious. */
    struct sockaddr_storage peer;
    len = sizeof peer;
    if (getpeername(fd, (struct sockaddr *)&peer, &len) == 0) return 0;
    return errno == ENOTCONN ? -EAGAIN : -errno;
}

int rt_socket(int family, int type, int protocol) {
    int fd = socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol);
    return fd < 0 ? -errno : fd;
}

int rt_listen(const struct sockaddr *sa, socklen_t len, int backlog) {
    int fd = rt_socket(sa->sa_family, SOCK_STREAM, 0);
    if (fd < 0) return fd;
    int one = 1;
    /* Without it a restarted server waits for TIME_WAIT; a failure would show in bind. */
    if (sa->sa_family != AF_UNIX) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, sa, len) < 0 || listen(fd, backlog) < 0) {
        int err = -errno;
        close(fd);
        return err;
    }
    return fd;
}
