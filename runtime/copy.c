/* Moving bytes from one descriptor to another, inside the kernel where it can.
 *
 *     stream or pipe -> stream or pipe   splice into a pipe of ours, splice out of it
 *     file -> stream                     sendfile, offloaded since it may wait for the disk
 *     anything else                      read and write with a buffer
 *
 * Pages travel through our pipe without being copied to the program: bytes are drained from src until
 * that has no more or the pipe is full, then pumped into dst until the pipe is empty. The pipe is
 * empty whenever src is drained, so EAGAIN there means that src has nothing, and an EAGAIN of the
 * pump means that dst has no room. Which one it is would be unknown if both ends of one splice could
 * refuse; that is why a pipe as src or dst goes through ours, too.
 *
 * Locks: src's read lock while draining, dst's write lock while pumping what one drain has brought. A G
 * that waits for src keeps nobody from writing to dst between two drains. sendfile waits for dst
 * alone and holds both locks to the end.
 *
 * The kernel may refuse: EINVAL (this file system or that socket can't), ENOSYS, EOPNOTSUPP, EPERM
 * (a sandbox). Then the buffer takes over from the byte that was reached; what stands in the pipe
 * at that moment is read from there. Nothing is moved twice.
 *
 * Each P keeps the last pipe that came back empty; a second one is closed, and so is one that holds
 * bytes of a copy that failed. (Two system calls and 256 KiB of pipe slots are worth keeping: a proxy
 * makes a copy per request.)
 *
 * Rejected: copy_file_range for file to file (a server has better things to do); splice from a socket to
 * a file (its second half blocks in the disk with half the bytes in the pipe).
 */
#include "fd.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#ifdef RT_TINY
enum { PIPE_BYTES = 4096, CHUNK = 100, FILE_CHUNK = 100, BUFFER = 16 };
#else
enum { PIPE_BYTES = 256 << 10, CHUNK = PIPE_BYTES, FILE_CHUNK = 4 << 20, BUFFER = 64 << 10 };
#endif

/* ---- system calls ---- */

SYS static ssize_t sys_splice(int from, int to, size_t n) {
    for (;;) {
        signal_own_write(true);
        ssize_t r = splice(from, NULL, to, NULL, n, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
        int err = errno;
        signal_own_write(false);
        if (r >= 0) return r;
        if (err != EINTR) return -err;
    }
}

SYS static ssize_t call_sendfile(int to, int from, size_t n) {
    ssize_t r;
    rt_entersyscall();
    do {
        signal_own_write(true);
        r = sendfile(to, from, NULL, n);
        if (r < 0) r = -errno;
        signal_own_write(false);
    } while (r == -EINTR);
    rt_exitsyscall();
    return r;
}

SYS static ssize_t sys_read(int fd, void *buf, size_t n) {
    ssize_t r = read(fd, buf, n);
    return r < 0 ? -errno : r;
}

static bool refused(ssize_t r) {
    return r == -EINVAL || r == -ENOSYS || r == -EOPNOTSUPP || r == -EPERM;
}

/* ---- pipes ---- */

typedef struct copy_pipe {
    int r, w; /* descriptors */
} copy_pipe;

/* By P: both numbers plus one, r above w; 0: none. Atomic; taken by exchange, so it does not matter
 * that the P may be another one when the pipe comes back. */
static _Atomic uint64_t kept[MAX_PROCS];

static _Atomic uint64_t *slot(void) {
    int id = rt_p_id();
    return &kept[id < 0 ? 0 : id];
}

SYS static int take_pipe(copy_pipe *p) {
    uint64_t k = atomic_exchange(slot(), 0);
    if (k) {
        *p = (copy_pipe){(int)(k >> 32) - 1, (int)(k & UINT32_MAX) - 1};
        return 0;
    }
    int fds[2];
    if (pipe2(fds, O_NONBLOCK | O_CLOEXEC) < 0) return -errno;
    /* The user may have used up what he may have of larger ones: then it is of the usual size. */
    fcntl(fds[1], F_SETPIPE_SZ, PIPE_BYTES);
    *p = (copy_pipe){fds[0], fds[1]};
    return 0;
}

static void close_pipe(copy_pipe p) {
    close(p.r);
    close(p.w);
}

static void give_pipe(copy_pipe p, bool empty) {
    uint64_t none = 0, k = (uint64_t)(uint32_t)(p.r + 1) << 32 | (uint32_t)(p.w + 1);
    if (!empty || !atomic_compare_exchange_strong(slot(), &none, k)) close_pipe(p);
}

/* ---- one copy ---- */

typedef struct copy {
    rt_fd *dst, *src;
    int64_t left;  /* bytes still wanted; < 0: all */
    int64_t moved; /* bytes that dst has */
    int err;
    bool end; /* of src */
} copy;

static size_t next_chunk(const copy *c, size_t most) {
    return c->left >= 0 && c->left < (int64_t)most ? (size_t)c->left : most;
}

static void count(copy *c, size_t n) {
    c->moved += (int64_t)n;
    if (c->left >= 0) c->left -= (int64_t)n;
}

static bool done(const copy *c) {
    return c->left == 0 || c->end || c->err;
}

/* Writes all of buf. */
static int put_bytes(copy *c, char *buf, size_t n) {
    struct iovec iov = {buf, n};
    ssize_t r = rt_fd_writev(c->dst, &iov, 1);
    count(c, n - iov.iov_len);
    return r < 0 ? (int)r : 0;
}

static void copy_by_buffer(copy *c) {
    char *buf = malloc(BUFFER);
    if (!buf) c->err = -ENOMEM;
    while (!done(c)) {
        ssize_t r = rt_fd_read(c->src, buf, next_chunk(c, BUFFER));
        if (r > 0)
            c->err = put_bytes(c, buf, (size_t)r);
        else if (r == 0)
            c->end = true;
        else
            c->err = (int)r;
    }
    free(buf);
}

/* ---- splice ---- */

/* Waits for src and fills the empty pipe. A count, 0 at the end, or an error. */
static ssize_t drain(copy *c, copy_pipe p) {
    rt_fd *f = c->src;
    int err = fdmutex_lock(&f->mu, RT_R, RT_WAIT_READ);
    if (err) return err;
    f->drained = false; /* whatever the last read left, the socket is read now behind its back */
    ssize_t r;
    do {
        r = rt_pd_check(f->pd, RT_R);
        if (r) break;
        r = sys_splice(f->fd, p.w, next_chunk(c, CHUNK));
        if (r != -EAGAIN) break;
        r = rt_pd_wait(f->pd, RT_R, RT_WAIT_READ);
    } while (r == 0);
    fdmutex_unlock(&f->mu, RT_R);
    return r;
}

/* Moves what the pipe holds to dst; what is still there then. */
static size_t pump(copy *c, copy_pipe p, size_t n) {
    rt_fd *f = c->dst;
    c->err = fdmutex_lock(&f->mu, RT_W, RT_WAIT_WRITE);
    if (c->err) return n;
    while (n > 0 && !c->err) {
        c->err = rt_pd_check(f->pd, RT_W);
        if (c->err) break;
        ssize_t r = sys_splice(p.r, f->fd, n);
        if (r > 0) {
            n -= (size_t)r;
            count(c, (size_t)r);
        } else if (r == -EAGAIN) {
            c->err = rt_pd_wait(f->pd, RT_W, RT_WAIT_WRITE);
        } else {
            c->err = r ? (int)r : -EIO; /* nothing moved though there is something: never seen */
        }
    }
    fdmutex_unlock(&f->mu, RT_W);
    return n;
}

/* dst does not take pages: the pipe's n bytes go there by the buffer. What is still in the pipe then. */
static size_t spill(copy *c, copy_pipe p, size_t n) {
    char *buf = malloc(BUFFER);
    c->err = buf ? 0 : -ENOMEM;
    while (n > 0 && !c->err) {
        ssize_t r = sys_read(p.r, buf, n < BUFFER ? n : BUFFER);
        if (r > 0) n -= (size_t)r;
        c->err = r > 0 ? put_bytes(c, buf, (size_t)r) : (int)r;
    }
    free(buf);
    return n;
}

/* False: the kernel refuses, the rest is the buffer's. */
static bool copy_by_splice(copy *c) {
    copy_pipe p;
    if (take_pipe(&p) < 0) return false; /* out of descriptors; the buffer needs none */
    bool can = true;
    size_t in_pipe = 0;
    while (can && !done(c)) {
        ssize_t r = drain(c, p);
        if (r <= 0) {
            can = !refused(r);
            if (can) c->err = (int)r;
            c->end = r == 0;
            continue;
        }
        in_pipe = pump(c, p, (size_t)r);
        if (refused(c->err)) {
            can = false;
            in_pipe = spill(c, p, in_pipe);
        }
    }
    give_pipe(p, in_pipe == 0);
    return can;
}

/* ---- sendfile ---- */

static bool copy_by_sendfile(copy *c) {
    bool can = true;
    c->err = fdmutex_lock(&c->src->mu, RT_R, RT_WAIT_READ);
    if (c->err) return true;
    c->err = fdmutex_lock(&c->dst->mu, RT_W, RT_WAIT_WRITE);
    if (c->err) goto no_dst;
    while (can && !done(c)) {
        c->err = rt_pd_check(c->dst->pd, RT_W);
        if (c->err) break;
        ssize_t r = call_sendfile(c->dst->fd, c->src->fd, next_chunk(c, FILE_CHUNK));
        if (r > 0)
            count(c, (size_t)r);
        else if (r == 0)
            c->end = true;
        else if (r == -EAGAIN)
            c->err = rt_pd_wait(c->dst->pd, RT_W, RT_WAIT_WRITE);
        else if (refused(r))
            can = false;
        else
            c->err = (int)r;
    }
    fdmutex_unlock(&c->dst->mu, RT_W);
no_dst:
    fdmutex_unlock(&c->src->mu, RT_R);
    return can;
}

/* ---- which way ---- */

typedef enum kind { OTHER, REGULAR, STREAM } kind;

/* STREAM: bytes without boundaries that can be waited for. */
SYS static int kind_of(rt_fd *f, kind *k) {
    int err = fdmutex_enter(&f->mu);
    if (err) return err;
    struct stat st;
    int type = 0;
    socklen_t len = sizeof type;
    *k = OTHER;
    if (fstat(f->fd, &st) < 0)
        err = -errno;
    else if (S_ISREG(st.st_mode) && !f->pd)
        *k = REGULAR;
    else if (S_ISFIFO(st.st_mode) && f->pd)
        *k = STREAM;
    else if (S_ISSOCK(st.st_mode) && f->pd &&
             getsockopt(f->fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0 && type == SOCK_STREAM)
        *k = STREAM;
    fdmutex_leave(&f->mu);
    return err;
}

int64_t rt_copy(rt_fd *dst, rt_fd *src, int64_t n, int *err) {
    copy c = {.dst = dst, .src = src, .left = n < 0 ? -1 : n};
    kind from = OTHER, to = OTHER;
    c.err = kind_of(src, &from);
    if (!c.err) c.err = kind_of(dst, &to);
    bool moved_all = false;
    if (from == STREAM && to == STREAM) moved_all = copy_by_splice(&c);
    if (from == REGULAR && to == STREAM) moved_all = copy_by_sendfile(&c);
    if (!moved_all) copy_by_buffer(&c);
    if (err) *err = c.err;
    return c.moved;
}
