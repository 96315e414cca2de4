/* Sockets for Lua: a descriptor, its pollDesc, and one buffer for bytes that were read and not yet taken.
 *
 * A socket belongs to its VM, so nothing here is locked; Gs that wait for it stand in its waitq. All functions try and
 * return; lunapark.net does the waiting.
 *
 * The buffer grows with the reads. A connection that sends little has 4 KiB. A connection that streams gets room for
 * `guess` bytes, up to 64 KiB, or as much as its reader wants in one piece. A large buffer is given back when it is
 * empty and no more bytes are there: a reader that waits holds little. Bytes move inside the buffer only when as many
 * have been taken, so a stream of lines moves each byte once at most.
 *
 * The meaning of a short read: stream.h.
 *
 * A reader that wants n bytes in one piece wakes once, when they are there: SO_RCVLOWAT, the mark, keeps the kernel
 * from telling the poller before. The mark belongs to a wait, not to a read: each wait for reading sets the mark that
 * it wants (sock_await), so a read that fails, is canceled or late has no mark to reset. In between the mark may be an
 * earlier wait's. This is harmless for reads, which take what is there. host_sock_ready, which asks the kernel for
 * readiness, resets the mark before. When the mark falls, bytes may have come that the kernel did not report, so the
 * reader tries once more before it waits. The kernel reports the end of the stream, a reset, and a full window
 * (tcp_epollin_ready of Linux 5.11), whatever the mark is. Still the mark is MARK_MAX at most, a part of the smallest
 * default window: a sender shall not have to stop until its reader has run. A reader that wants more is woken for each
 * MARK_MAX bytes. Sockets of other kinds get no mark, since poll ignores it for them.
 *
 * Rejected: counting in the poller, which would have to ask for each segment how many bytes there are, by a system call
 * as dear as the read that it spares. Slices of the buffer without a copy, as linked buffers have them: each string of
 * Lua is a copy of its own, and a pointer into the buffer would be good until the next call only. Protocols that are
 * read in C (http1.c) have the bytes in place already, and protocols in Lua would gain nothing: peek and skip spare the
 * copy of bytes that are looked at or passed over.
 */
#include "sock.h"

#include "../vm/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { READ_MIN = 4096, READ_STREAM = 65536, READ_MAX = 1 << 20, MARK_MAX = 32768 };

/* Sockets of all VMs that the collector had to close. */
static _Atomic int64_t forgotten; /* atomic */

const char *host_strerror(int err) {
    if (err == HOST_EVIRTUAL) return "real I/O in testing.virtual";
    return rt_strerror(err);
}

rt_pd *sock_pd(host_sock *s, int mode, host_waitq **q) {
    *q = &s->waitq;
    if (mode == RT_R) stream_doubt(&s->io);
    return s->io.pd;
}

bool sock_await(host_sock *s, size_t wanted) {
    int mark = wanted < 1 ? 1 : wanted < MARK_MAX ? (int)wanted : MARK_MAX, before = s->mark;
    if (mark == before || s->io.fd < 0) return true;
    if (s->foreign || s->io.tls || !stream_short_read_tells(&s->io))
        return true; /* not TCP, or a foreign descriptor, or the kernel counts other bytes than the reader */
    if (setsockopt(s->io.fd, SOL_SOCKET, SO_RCVLOWAT, &mark, sizeof mark) < 0) return true;
    s->mark = mark;
    stream_doubt(&s->io);
    return mark > before;
}

int sock_check(host_sock *s, int mode) {
    if (s->owned.vm->view.virtual_ns != 0) return HOST_EVIRTUAL;
    return s->io.fd < 0 ? RT_ECLOSED : rt_pd_check(s->io.pd, mode);
}

int sock_allowed(void) {
    return vm_current()->view.virtual_ns != 0 ? HOST_EVIRTUAL : 0;
}

int sock_addr(const char *addr, bool ours, host_addr *a) {
    int err = sock_allowed();
    if (!err) err = addr_parse(addr, a);
    return !err && ours ? sock_file_clear(addr) : err;
}

/* Closes the descriptor, unless it is foreign. */
static void drop_fd(int fd, bool foreign) {
    if (!foreign) close(fd); /* an error here is of a write that cannot be repeated */
}

static void let_go(host_owned *o) {
    host_sock *s = (host_sock *)o;
    host_sock_close(s);
    if (s->known_to) *s->known_to = NULL;
    free(s);
}

static const owned_kind sock_kind = {OWNED_THINGS, let_go};

static host_sock *sock_open(int fd, const stream_ops *ops, bool foreign, int *err) {
    host_sock *s = calloc(1, sizeof *s);
    *err = s ? stream_open(&s->io, fd, ops) : -ENOMEM;
    if (*err) {
        drop_fd(fd, foreign);
        free(s);
        return NULL;
    }
    s->foreign = foreign;
    s->guess = READ_MIN;
    s->mark = 1;
    owned_take(&s->owned, &sock_kind);
    return s;
}

host_sock *sock_new(int fd, int *err) {
    return sock_open(fd, &stream_socket, false, err);
}

host_sock *sock_of_pipe(int fd, int *err) {
    return sock_open(fd, &stream_pipe, false, err);
}

host_sock *sock_of_stream(stream *io, const void *data, size_t n) {
    host_sock *s = calloc(1, sizeof *s);
    if (!s || (n > 0 && sock_reserve(s, n) < 0)) {
        free(s);
        return NULL;
    }
    if (n > 0) memcpy(s->rbuf.data, data, n);
    s->rbuf.end = (int32_t)n;
    s->guess = READ_MIN;
    s->mark = 1;
    stream_move(&s->io, io);
    owned_take(&s->owned, &sock_kind);
    return s;
}

host_sock *host_sock_foreign(int fd, int *err) {
    *err = rt_is_poll_descriptor(fd) ? -EBUSY : sock_allowed();
    if (*err) return NULL;
    return sock_open(fd, &stream_socket, true, err);
}

host_sock *host_sock_stdin(int *err) {
    *err = sock_allowed();
    int fd = *err ? -1 : fcntl(0, F_DUPFD_CLOEXEC, 3);
    if (fd < 0) {
        if (!*err) *err = -errno;
        return NULL;
    }
    return sock_of_pipe(fd, err);
}

/* As in Go: the bytes of one write are a message, and messages shall not wait for others. */
static void no_delay(int fd) {
    int on = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* fails on unix sockets */
}

void sock_own_file(host_sock *s, const char *addr) {
    sock_file file = sock_file_of(addr);
    if (!file.ino) return;
    if (!s) {
        sock_file_remove(addr, file);
        return;
    }
    s->file = file;
    s->own_addr = strdup(addr); /* without memory the file stays */
}

host_sock *host_sock_listen(const char *addr, int *err) {
    host_addr a;
    *err = sock_addr(addr, true, &a);
    if (*err) return NULL;
    int fd = rt_listen((struct sockaddr *)&a.sa, a.len, SOMAXCONN);
    if (fd < 0) {
        *err = fd;
        return NULL;
    }
    host_sock *s = sock_new(fd, err);
    sock_own_file(s, addr);
    return s;
}

host_sock *host_sock_dial(const char *addr, int *err) {
    host_addr a;
    *err = sock_addr(addr, false, &a);
    if (*err) return NULL;
    int fd = rt_socket(a.sa.ss_family, SOCK_STREAM, 0);
    if (fd < 0) {
        *err = fd;
        return NULL;
    }
    if (connect(fd, (struct sockaddr *)&a.sa, a.len) < 0 && errno != EINPROGRESS) {
        *err = -errno;
        close(fd);
        return NULL;
    }
    no_delay(fd);
    return sock_new(fd, err);
}

int host_sock_connected(host_sock *s) {
    return s->io.fd < 0 ? RT_ECLOSED : rt_connected(s->io.fd);
}

host_sock *host_sock_accept(host_sock *s, int *err) {
    *err = sock_check(s, RT_R);
    if (*err) return NULL;
    int fd = rt_accept4(s->io.fd, NULL, NULL);
    if (fd < 0) {
        *err = fd;
        return NULL;
    }
    no_delay(fd);
    return sock_new(fd, err);
}

host_rbuf *host_sock_rbuf(host_sock *s) {
    return &s->rbuf;
}

static void drop_rbuf(host_sock *s) {
    free(s->rbuf.data);
    s->rbuf = (host_rbuf){0};
    charge_set(&s->charge, 0);
}

int sock_reserve(host_sock *s, size_t want) {
    host_rbuf *b = &s->rbuf;
    if (b->pos == b->end) b->pos = b->end = 0;
    size_t live = (size_t)(b->end - b->pos);
    if ((size_t)(b->cap - b->end) >= want) return 0;
    if (live <= (size_t)b->pos && (size_t)b->cap - live >= want) {
        memmove(b->data, b->data + b->pos, live);
    } else {
        size_t cap = (size_t)b->cap * 2;
        if (cap < live + want) cap = live + want;
        if (cap > INT32_MAX) cap = INT32_MAX;
        if (cap < live + want) return -ENOMEM;
        if (b->pos) memmove(b->data, b->data + b->pos, live);
        b->end = (int32_t)live;
        b->pos = 0;
        if (!charge_set(&s->charge, cap)) return -ENOMEM;
        uint8_t *data = realloc(b->data, cap);
        if (!data) {
            charge_set(&s->charge, (size_t)b->cap);
            return -ENOMEM;
        }
        b->data = data;
        b->cap = (int32_t)cap;
    }
    b->pos = 0;
    b->end = (int32_t)live;
    return 0;
}

/* Nothing to read for now: answers so, and gives a large empty buffer back. */
static int nothing_there(host_sock *s) {
    host_rbuf *b = &s->rbuf;
    if (b->pos == b->end && b->cap > READ_MIN) drop_rbuf(s);
    return -EAGAIN;
}

/* Learns from a read of n bytes into `room` how much the next may bring. */
static void learn(host_sock *s, size_t n, size_t room) {
    if (n == room && s->guess < READ_STREAM)
        s->guess *= 2;
    else if (n < s->guess / 4 && s->guess > READ_MIN)
        s->guess /= 2;
}

int host_sock_fill(host_sock *s, size_t wanted) {
    int err = sock_check(s, RT_R);
    if (err) return err;
    if (stream_is_dry(&s->io)) return nothing_there(s);
    host_rbuf *b = &s->rbuf;
    if (wanted > READ_MAX) wanted = READ_MAX;
    err = sock_reserve(s, b->cap == 0 || wanted > s->guess ? (wanted > s->guess ? wanted : s->guess)
                                                           : s->guess / 2);
    if (err) return err;
    size_t room = (size_t)(b->cap - b->end);
    ssize_t n = stream_read(&s->io, b->data + b->end, room);
    if (n == -EAGAIN) return nothing_there(s);
    if (n < 0) return (int)n;
    b->end += (int32_t)n;
    learn(s, (size_t)n, room);
    return (int)n;
}

int host_rbuf_find(const host_rbuf *b, int from, const char *s, size_t len) {
    const uint8_t *start = b->data + b->pos;
    size_t n = (size_t)(b->end - b->pos);
    if ((size_t)from >= n) return -1;
    const uint8_t *at = len == 1 ? memchr(start + from, *s, n - (size_t)from)
                                 : memmem(start + from, n - (size_t)from, s, len);
    return at ? (int)(at - start) : -1;
}

int host_sock_write(host_sock *s, const char *data, size_t len) {
    int err = sock_check(s, RT_W);
    if (err) return err;
    if (len > READ_MAX * 1024) len = READ_MAX * 1024; /* the answer is an int */
    return (int)stream_write(&s->io, data, len);
}

ssize_t sock_writev(host_sock *s, struct iovec *iov, int n) {
    int err = sock_check(s, RT_W);
    return err ? err : stream_writev(&s->io, iov, n, false);
}

int host_sock_ready(host_sock *s, int mode) {
    if (s->io.fd < 0) return RT_ECLOSED;
    if (s->io.tls && mode == 1)
        return host_sock_fill(s, 0) != -EAGAIN; /* the kernel knows nothing of what it has */
    if (mode != 2) (void)sock_await(s, 0);
    struct pollfd p = {.fd = s->io.fd, .events = mode == 2 ? POLLOUT : POLLIN | POLLRDHUP};
    int n;
    do
        n = poll(&p, 1, 0);
    while (n < 0 && errno == EINTR);
    if (n < 0) return -errno;
    if (n == 0 && mode == 1) rt_pd_forget_hup(s->io.pd);
    return n > 0 && p.revents & POLLNVAL ? -EBADF : n;
}

int host_sock_close_write(host_sock *s) {
    if (s->io.fd < 0) return RT_ECLOSED;
    int err = s->io.ops->shutdown(&s->io);
    if (err != -EOPNOTSUPP) return err;
    host_sock_close(s);
    return 0;
}

void host_sock_close(host_sock *s) {
    if (s->io.fd < 0) return;
    waitq_close(&s->waitq);
    stream_close(&s->io, s->foreign);
    if (s->own_addr) sock_file_remove(s->own_addr, s->file);
    free(s->own_addr);
    drop_rbuf(s);
    s->own_addr = NULL;
}

void host_sock_free(host_sock *s) {
    owned_free(&s->owned);
}

void host_sock_forget(host_sock *s) {
    if (s->io.fd >= 0) atomic_fetch_add_explicit(&forgotten, 1, memory_order_relaxed);
    host_sock_free(s);
}

double host_forgotten(void) {
    return (double)atomic_load_explicit(&forgotten, memory_order_relaxed);
}

void host_sock_set_deadline(host_sock *s, int mode, int64_t delay_ns) {
    if (s->io.fd < 0) return;
    int64_t when = 0;
    if (delay_ns >= 0) {
        int64_t now = rt_nanotime();
        when = delay_ns > INT64_MAX - now ? INT64_MAX : now + delay_ns;
    }
    if (mode & 1) rt_pd_set_deadline(s->io.pd, RT_R, when);
    if (mode & 2) rt_pd_set_deadline(s->io.pd, RT_W, when);
}

void host_sock_set_idle(host_sock *s, int64_t idle_ns) {
    if (s->io.fd < 0) return;
    s->idle_ns = idle_ns;
    rt_pd_kick(s->io.pd, RT_R);
    rt_pd_kick(s->io.pd, RT_W);
}

int host_sock_set_nodelay(host_sock *s, int on) {
    if (s->io.fd < 0) return RT_ECLOSED;
    return setsockopt(s->io.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0 ? -errno : 0;
}

int host_sock_set_keepalive(host_sock *s, int seconds) {
    if (s->io.fd < 0) return RT_ECLOSED;
    int on = seconds > 0;
    if (setsockopt(s->io.fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on) < 0) return -errno;
    if (!on) return 0;
    if (setsockopt(s->io.fd, IPPROTO_TCP, TCP_KEEPIDLE, &seconds, sizeof seconds) < 0 ||
        setsockopt(s->io.fd, IPPROTO_TCP, TCP_KEEPINTVL, &seconds, sizeof seconds) < 0)
        return -errno;
    return 0;
}

int host_sock_addr(host_sock *s, int peer, char *buf, size_t cap) {
    if (s->io.fd < 0) return RT_ECLOSED;
    struct sockaddr_storage sa = {0};
    socklen_t len = sizeof sa;
    int r = peer ? getpeername(s->io.fd, (struct sockaddr *)&sa, &len)
                 : getsockname(s->io.fd, (struct sockaddr *)&sa, &len);
    return r < 0 ? -errno : addr_format((struct sockaddr *)&sa, len, buf, cap);
}
