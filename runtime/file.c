/* Files: their calls block, so other Gs run meanwhile.
 *
 * epoll refuses regular files, and rightly: they are always "ready" and still make a reader wait for the disk. So each
 * call stands between rt_entersyscall and rt_exitsyscall. A call that the page cache answers costs two CAS more than a
 * bare one. A call that lasts loses its P to another M (syscall.c). Nothing can end such a call, so files have no
 * deadlines (RT_ENODEADLINE), and a close waits for the calls that run.
 *
 * An rt_fd without a pollDesc is a file. The locks of its fdmutex keep two reads, or two writes, from moving its offset
 * at the same time. Calls that name their own offset (pread, pwrite) or need none (sync) take no lock and are mere
 * users.
 *
 * errno is read between the two brackets: after the second the G may be on another thread.
 *
 * Descriptors that are shared with other programs, such as stdout, must not become nonblocking, since this is a
 * property of the open file: rt_file_init takes them. If another program has made such a file nonblocking, the call
 * waits in poll, offloaded as well.
 */
#include "fd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

/* -errno if r says that there was an error. */
SYS static int64_t result(int64_t r) {
    return r < 0 ? -errno : r;
}

static bool again(int fd, int64_t r, short events) {
    if (r == -EINTR) return true;
    if (r != -EAGAIN) return false;
    struct pollfd p = {.fd = fd, .events = events};
    return poll(&p, 1, -1) >= 0 || errno == EINTR;
}

/* ---- calls; each returns on any thread ---- */

SYS ssize_t file_readv(int fd, const struct iovec *iov, int n) {
    if (n > MAX_IOV) n = MAX_IOV;
    size_t want = iov->iov_len < MAX_RW ? iov->iov_len : MAX_RW;
    ssize_t r;
    rt_entersyscall();
    do
        r = result(n == 1 ? read(fd, iov->iov_base, want) : readv(fd, iov, n));
    while (again(fd, r, POLLIN));
    rt_exitsyscall();
    return r;
}

SYS ssize_t file_writev(int fd, const struct iovec *iov, int n) {
    ssize_t r;
    rt_entersyscall();
    do {
        rt_own_write(true);
        r = result(writev(fd, iov, n));
        rt_own_write(false);
    } while (again(fd, r, POLLOUT));
    rt_exitsyscall();
    return r;
}

SYS static ssize_t call_pread(int fd, void *buf, size_t n, int64_t offset) {
    ssize_t r;
    rt_entersyscall();
    do
        r = result(pread(fd, buf, n < MAX_RW ? n : MAX_RW, offset));
    while (r == -EINTR);
    rt_exitsyscall();
    return r;
}

SYS static ssize_t call_pwrite(int fd, const void *buf, size_t n, int64_t offset) {
    ssize_t r;
    rt_entersyscall();
    do
        r = result(pwrite(fd, buf, n < MAX_RW ? n : MAX_RW, offset));
    while (r == -EINTR);
    rt_exitsyscall();
    return r;
}

SYS static int64_t call_seek(int fd, int64_t offset, int whence) {
    rt_entersyscall(); /* a network file system may ask its server for the size */
    int64_t r = result(lseek(fd, offset, whence));
    rt_exitsyscall();
    return r;
}

SYS static int call_sync(int fd, bool data_only) {
    int r;
    rt_entersyscallblock();
    do
        r = (int)result(data_only ? fdatasync(fd) : fsync(fd));
    while (r == -EINTR);
    rt_exitsyscall();
    return r;
}

SYS static int call_open(const char *path, int flags, mode_t mode) {
    int r;
    rt_entersyscall();
    do
        r = (int)result(open(path, flags | O_CLOEXEC, mode));
    while (r == -EINTR);
    rt_exitsyscall();
    return r;
}

/* Outside a G (rt_fd_close may be called there), or between another caller's brackets, there is no P to give away. */
SYS int file_close(int fd) {
    rt_g *g = rt_self();
    bool offload = g && !g->step && rt_p_id() >= 0;
    if (offload) rt_entersyscall();
    int r = (int)result(close(fd));
    if (offload) rt_exitsyscall();
    return r == -EINTR ? 0 : r; /* Linux has closed it all the same */
}

/* ---- the API ---- */

int rt_file_init(rt_fd *f, int fd) {
    *f = (rt_fd){.fd = -1};
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0) return -errno;
    fd_set_up(f, fd, NULL);
    f->append = flags & O_APPEND;
    return 0;
}

int rt_file_open(rt_fd *f, const char *path, int flags, mode_t mode) {
    *f = (rt_fd){.fd = -1};
    int fd = call_open(path, flags, mode);
    if (fd < 0) return fd;
    fd_set_up(f, fd, NULL);
    f->append = flags & O_APPEND;
    return 0;
}

ssize_t rt_file_pread(rt_fd *f, void *buf, size_t n, int64_t offset) {
    int err = fdmutex_enter(&f->mu);
    if (err) return err;
    size_t done = 0;
    ssize_t r = 0;
    while (done < n) {
        r = call_pread(f->fd, (char *)buf + done, n - done, offset + (int64_t)done);
        if (r <= 0) break;
        done += (size_t)r;
    }
    fdmutex_leave(&f->mu);
    return r < 0 ? r : (ssize_t)done;
}

ssize_t rt_file_pwrite(rt_fd *f, const void *buf, size_t n, int64_t offset) {
    int err = fdmutex_enter(&f->mu);
    if (err) return err;
    size_t done = 0;
    ssize_t r = f->append ? -EINVAL : 0;
    while (r >= 0 && done < n) {
        r = call_pwrite(f->fd, (const char *)buf + done, n - done, offset + (int64_t)done);
        if (r > 0) done += (size_t)r;
    }
    fdmutex_leave(&f->mu);
    return r < 0 ? r : (ssize_t)done;
}

int64_t rt_file_seek(rt_fd *f, int64_t offset, int whence) {
    int err = fdmutex_enter(&f->mu);
    if (err) return err;
    int64_t r = call_seek(f->fd, offset, whence);
    fdmutex_leave(&f->mu);
    return r;
}

int rt_file_sync(rt_fd *f, bool data_only) {
    int err = fdmutex_enter(&f->mu);
    if (err) return err;
    err = call_sync(f->fd, data_only);
    fdmutex_leave(&f->mu);
    return err;
}
