/* Pipes, and counters in the kernel: how threads and processes that have no G wake one.
 *
 * Both are descriptors like others: polled, nonblocking, close-on-exec. An eventfd is a pipe that
 * holds one number: writes add, a read takes all of it, so a hundred wake-ups before the reader
 * comes are one read. */
#include "fd.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

int rt_pipe(rt_fd *r, rt_fd *w) {
    int p[2];
    *r = *w = (rt_fd){.fd = -1};
    if (pipe2(p, O_NONBLOCK | O_CLOEXEC) < 0) return -errno;
    int err = rt_fd_init(r, p[0]);
    if (err) goto no_reader;
    err = rt_fd_init(w, p[1]);
    if (err) goto no_writer;
    return 0;

no_writer:
    rt_fd_close(r); /* new: it has no other user, and nothing in it to lose */
    close(p[1]);
    return err;
no_reader:
    close(p[0]);
    close(p[1]);
    return err;
}

int rt_event_open(rt_fd *f) {
    *f = (rt_fd){.fd = -1};
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (fd < 0) return -errno;
    int err = rt_fd_init(f, fd);
    if (err) close(fd);
    return err;
}

SYS int rt_event_add(rt_fd *f, uint32_t n) {
    int err = fdmutex_enter(&f->mu);
    if (err) return err;
    uint64_t add = n;
    err = write(f->fd, &add, sizeof add) < 0 ? -errno : 0;
    fdmutex_leave(&f->mu);
    return err;
}

int64_t rt_event_take(rt_fd *f) {
    uint64_t n;
    ssize_t r = rt_fd_read(f, &n, sizeof n);
    if (r < 0) return r;
    return n > INT64_MAX ? INT64_MAX : (int64_t)n;
}
