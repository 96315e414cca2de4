/* Sockets: made, listened on, accepted from, connected.
 *
 * Accept. A client that went away while it stood in the backlog (ECONNABORTED) is no error: the next one is tried. A
 * lack of descriptors is another matter. Accept fails, the connection stays in the backlog, and no edge will come for
 * it again. So to wait alone would hang although clients are there, and to try again at once would burn a CPU. An
 * rt_acceptor keeps one descriptor in reserve. When accept says EMFILE, the acceptor closes the reserve, accepts, says
 * farewell, closes, and opens the reserve again: one client knows at once, the others a little later. Then the acceptor
 * pauses, 5 ms, doubled each time up to a second, since connections may end meanwhile. A pause is a wait for the
 * listener with the G's own deadline, so a close ends it.
 *
 * Linux looks for a free number before it looks for a client, so it says EMFILE for an empty backlog, too. If the
 * reserve finds no client to refuse, there is no failure, and the acceptor waits for the next client.
 *
 * Another thread may take the number between the close and the accept. Then no client is refused this time. A lost
 * reserve is opened again as soon as possible.
 *
 * Connect. A nonblocking connect goes on in the kernel. The socket becomes writable when the connect is decided, and
 * SO_ERROR tells how. But a wake-up is no decision: a socket that was registered before it connected has been reported
 * writable and hung up already. So without an error the peer's name is asked for, which only a connected socket has
 * (Go's issues 14548 and 19289 tell what happens to a program that believes the wake-up).
 */
#include "fd.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#define PAUSE_MIN_NS (5 * NS_PER_MS)
#define PAUSE_MAX_NS (1 * NS_PER_SEC)

/* ---- making ---- */

SYS int rt_socket(int family, int type, int protocol) {
    int fd = socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol);
    return fd < 0 ? -errno : fd;
}

SYS int rt_listen(const struct sockaddr *sa, socklen_t len, int backlog) {
    int fd = rt_socket(sa->sa_family, SOCK_STREAM, 0);
    if (fd < 0) return fd;
    int one = 1;
    /* Without SO_REUSEADDR a restarted server waits for TIME_WAIT. A failure shows in bind. */
    if (sa->sa_family != AF_UNIX) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, sa, len) < 0 || listen(fd, backlog) < 0) {
        int err = -errno;
        close(fd);
        return err;
    }
    return fd;
}

/* ---- accepting ---- */

SYS int rt_accept4(int fd, struct sockaddr_storage *sa, socklen_t *len) {
    for (;;) {
        int c = accept4(fd, (struct sockaddr *)sa, len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (c >= 0) return c;
        if (errno != ECONNABORTED && errno != EINTR) return -errno;
    }
}

static int accept_on(int fd, rt_pd *pd) {
    for (;;) {
        int err = rt_pd_check(pd, RT_R);
        if (err) return err;
        int c = rt_accept4(fd, NULL, NULL);
        if (c != -EAGAIN) return c;
        err = rt_pd_wait(pd, RT_R, RT_WAIT_ACCEPT);
        if (err) return err;
    }
}

SYS static int open_reserve(void) {
    return open("/dev/null", O_RDONLY | O_CLOEXEC);
}

void rt_acceptor_init(rt_acceptor *a, const void *farewell, size_t len) {
    *a = (rt_acceptor){.farewell = farewell, .farewell_len = len, .reserve_fd = open_reserve()};
}

void rt_acceptor_close(rt_acceptor *a) {
    if (a->reserve_fd >= 0) close(a->reserve_fd);
    a->reserve_fd = -1;
}

/* Turns one client away. -EAGAIN: there is no client. */
SYS static int refuse_one(rt_acceptor *a, int fd) {
    int c = -EMFILE;
    if (a->reserve_fd >= 0) {
        close(a->reserve_fd);
        c = rt_accept4(fd, NULL, NULL);
        if (c >= 0) {
            /* The send buffer is empty, so the farewell goes out or the client is gone. */
            if (a->farewell_len) {
                ssize_t n = send(c, a->farewell, a->farewell_len, MSG_NOSIGNAL | MSG_DONTWAIT);
                (void)n;
            }
            close(c);
        }
    }
    a->reserve_fd = open_reserve();
    return c;
}

/* Pauses. 0, or the error that ended the listener. */
static int pause_accepting(rt_acceptor *a, rt_pd *pd) {
    a->pause_ns = a->pause_ns ? a->pause_ns * 2 : PAUSE_MIN_NS;
    if (a->pause_ns > PAUSE_MAX_NS) a->pause_ns = PAUSE_MAX_NS;
    rt_g *g = rt_self();
    int64_t until = rt_nanotime() + a->pause_ns, own = atomic_load(&g->timer.until);
    int err;
    rt_set_deadline(g, own && own < until ? own : until);
    /* Clients that come meanwhile end the wait. Accept is tried after the pause in any case. */
    do
        err = rt_pd_wait(pd, RT_R, RT_WAIT_ACCEPT);
    while (!err && rt_nanotime() < until);
    rt_set_deadline(g, own);
    if (err == RT_ECANCELED || (err == RT_ETIMEOUT && own && own <= rt_nanotime())) return err;
    return rt_pd_check(pd, RT_R);
}

static bool is_poverty(int err) {
    return err == -EMFILE || err == -ENFILE || err == -ENOBUFS || err == -ENOMEM;
}

int rt_accept_with(rt_acceptor *a, int fd, rt_pd *pd) {
    int c;
    while (is_poverty(c = accept_on(fd, pd)) && refuse_one(a, fd) == -EAGAIN) {
        int err = rt_pd_wait(pd, RT_R, RT_WAIT_ACCEPT);
        if (err) return err;
    }
    if (c >= 0) {
        a->failures = 0;
        a->pause_ns = 0;
        return c;
    }
    if (c == RT_ECLOSED || c == RT_ETIMEOUT || c == RT_ECANCELED) return c;
    /* Any other error is the network's, on one connection (accept(2) lists them), or this process's. Either way the
     * next accept may work, and a loop without a pause would not help. */
    a->failures++;
    int err = pause_accepting(a, pd);
    return err ? err : c;
}

int rt_fd_accept_with(rt_fd *f, rt_acceptor *a) {
    int err = fdmutex_lock(&f->mu, RT_R, RT_WAIT_ACCEPT);
    if (err) return err;
    int c = !f->pd ? -EINVAL : a ? rt_accept_with(a, f->fd, f->pd) : accept_on(f->fd, f->pd);
    fdmutex_unlock(&f->mu, RT_R);
    return c;
}

int rt_fd_accept(rt_fd *f) {
    return rt_fd_accept_with(f, NULL);
}

/* ---- connecting ---- */

SYS static int sys_connect(int fd, const struct sockaddr *sa, socklen_t len) {
    return connect(fd, sa, len) < 0 ? -errno : 0;
}

SYS int rt_connected(int fd) {
    int err = 0;
    socklen_t len = sizeof err;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0) return -errno;
    if (err != 0 && err != EISCONN) return -err;
    /* No error may also mean that the connect is undecided: a wake-up can be spurious. */
    struct sockaddr_storage peer;
    len = sizeof peer;
    if (getpeername(fd, (struct sockaddr *)&peer, &len) == 0) return 0;
    return errno == ENOTCONN ? -EAGAIN : -errno;
}

static int connect_locked(rt_fd *f, const struct sockaddr *sa, socklen_t len) {
    if (!f->pd) return -ENOTSOCK;
    int err = rt_pd_check(f->pd, RT_W);
    if (err) return err;
    err = sys_connect(f->fd, sa, len);
    if (err == 0 || err == -EISCONN) return 0;
    if (err != -EINPROGRESS && err != -EALREADY && err != -EINTR) return err;
    do {
        err = rt_pd_wait(f->pd, RT_W, RT_WAIT_CONNECT);
        if (!err) err = rt_connected(f->fd);
    } while (err == -EAGAIN);
    return err;
}

int rt_fd_connect(rt_fd *f, const struct sockaddr *sa, socklen_t len) {
    int err = fdmutex_lock(&f->mu, RT_W, RT_WAIT_CONNECT);
    if (err) return err;
    err = connect_locked(f, sa, len);
    fdmutex_unlock(&f->mu, RT_W);
    return err;
}
