/* What the tests of descriptors share: pairs, addresses, and a G that makes one call. */
#ifndef NET_H
#define NET_H

#include "harness.h"

#include <linux/sockios.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#pragma GCC diagnostic ignored "-Wunused-function"

static struct sockaddr_in loopback(int port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return a;
}

static int port_of(int fd) {
    struct sockaddr_in a;
    socklen_t len = sizeof a;
    return getsockname(fd, (struct sockaddr *)&a, &len) < 0 ? -errno : ntohs(a.sin_port);
}

static bool open_listener(rt_fd *l, int *port, int backlog) {
    struct sockaddr_in sa = loopback(0);
    int fd = rt_listen((struct sockaddr *)&sa, sizeof sa, backlog);
    if (!EXPECT(fd >= 0)) return false;
    *port = port_of(fd);
    return EXPECT_EQ(rt_fd_init(l, fd), 0);
}

static bool open_pair(rt_fd *a, rt_fd *b) {
    int s[2];
    return EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, s), 0) &&
           EXPECT_EQ(rt_fd_init(a, s[0]), 0) && EXPECT_EQ(rt_fd_init(b, s[1]), 0);
}

static bool open_pipe(rt_fd *r, rt_fd *w) {
    int p[2];
    return EXPECT_EQ(pipe2(p, O_NONBLOCK | O_CLOEXEC), 0) && EXPECT_EQ(rt_fd_init(r, p[0]), 0) &&
           EXPECT_EQ(rt_fd_init(w, p[1]), 0);
}

/* A TCP connection; *peer is a bare descriptor that blocks. */
static bool open_tcp_to(rt_fd *a, int *peer) {
    struct sockaddr_in sa = loopback(0);
    int l = rt_listen((struct sockaddr *)&sa, sizeof sa, 16);
    if (!EXPECT(l >= 0)) return false;
    sa = loopback(port_of(l));
    *peer = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    EXPECT_EQ(connect(*peer, (struct sockaddr *)&sa, sizeof sa), 0);
    int c = rt_accept4(l, NULL, NULL);
    close(l);
    return EXPECT(c >= 0) && EXPECT_EQ(rt_fd_init(a, c), 0);
}

/* The two ends of a TCP connection. */
static bool open_tcp(rt_fd *a, rt_fd *b) {
    int s;
    if (!open_tcp_to(a, &s)) return false;
    fcntl(s, F_SETFL, O_NONBLOCK);
    return EXPECT_EQ(rt_fd_init(b, s), 0);
}

/* 0 or an error, as rt_fd_connect. pause_ns: between registering and connecting; a poller then sees
 * a socket that is not connected, which counts as hung up. */
static int dial_slowly(rt_fd *f, int port, int64_t pause_ns) {
    int fd = rt_socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0) return fd;
    int err = rt_fd_init(f, fd);
    if (err) return err;
    if (pause_ns) rt_sleep(pause_ns);
    struct sockaddr_in sa = loopback(port);
    return rt_fd_connect(f, (struct sockaddr *)&sa, sizeof sa);
}

static int dial(rt_fd *f, int port) {
    return dial_slowly(f, port, 0);
}

static void close_pair(rt_fd *a, rt_fd *b) {
    EXPECT_EQ(rt_fd_close(a), 0);
    EXPECT_EQ(rt_fd_close(b), 0);
}

/* Writes until the socket takes no more; how many bytes. */
static size_t fill(rt_fd *f) {
    static const char zeros[4096];
    size_t sum = 0;
    for (ssize_t n; (n = write(f->fd, zeros, sizeof zeros)) > 0;)
        sum += (size_t)n;
    return sum;
}

/* The same, and then it stays full as long as the peer reads nothing. A TCP socket that takes no more
 * makes room once again when the peer acknowledges what is in flight, which may be 40 ms later: a write
 * that begins then goes through. It is full for good once all that was sent is acknowledged. */
static void fill_for_good(rt_fd *f) {
    for (int queued = 0, unsent = 0;;) {
        bool tcp = ioctl(f->fd, SIOCOUTQNSD, &unsent) == 0; /* the others keep nothing in flight */
        bool quiet = !tcp || (ioctl(f->fd, SIOCOUTQ, &queued) == 0 && queued == unsent);
        if (fill(f) == 0 && quiet) return;
        rt_sleep(MS);
    }
}

/* Reads exactly n bytes; false at an error or the end. */
static bool read_full(rt_fd *f, void *buf, size_t n) {
    for (size_t at = 0; at < n;) {
        ssize_t r = rt_fd_read(f, (char *)buf + at, n - at);
        if (r <= 0) return false;
        at += (size_t)r;
    }
    return true;
}

/* Finer than a look at the clock, which takes longer than what it has to hit. */
static void spin_finely(uint64_t *seed) {
    for (volatile uint64_t n = random_below(seed, 400); n > 0; n--)
        ;
}

/* ---- a G that makes one call ---- */

typedef struct one_call {
    rt_fd *f;
    ssize_t (*fn)(rt_fd *f);
    _Atomic bool began, ended;
    int64_t at_ns;
    ssize_t r;
} one_call;

static void make_call(void *arg) {
    one_call *k = arg;
    atomic_store(&k->began, true);
    k->r = k->fn(k->f);
    k->at_ns = rt_nanotime();
    atomic_store(&k->ended, true);
}

static rt_g *go_call(crowd *c, one_call *k, rt_fd *f, ssize_t (*fn)(rt_fd *)) {
    *k = (one_call){.f = f, .fn = fn};
    return crowd_go(c, make_call, k);
}

/* Starts it and gives it time to wait. */
static rt_g *start_call(crowd *c, one_call *k, rt_fd *f, ssize_t (*fn)(rt_fd *)) {
    rt_g *g = go_call(c, k, f, fn);
    EXPECT_SOON(atomic_load(&k->began));
    rt_sleep(5 * MS);
    EXPECT(!atomic_load(&k->ended));
    return g;
}

static ssize_t read_one(rt_fd *f) {
    char b;
    return rt_fd_read(f, &b, 1);
}

static ssize_t write_one(rt_fd *f) {
    return rt_fd_write(f, "x", 1);
}

static ssize_t accept_one(rt_fd *f) {
    return rt_fd_accept(f);
}

#endif
