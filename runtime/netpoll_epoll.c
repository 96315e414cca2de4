/* The epoll half of the poller: one epoll instance per P, with an eventfd that breaks a poll.
 *
 * Every descriptor is registered once, edge-triggered for both directions and RDHUP. The registration does not change
 * until the close. Listeners stand in all pollers with EPOLLEXCLUSIVE, so that a new connection wakes one of them.
 * (EXCLUSIVE allows no RDHUP, and a listener needs no write side.)
 *
 * A break writes the eventfd at most once until a blocking poll has read it: `broken` stands for this one write in
 * flight. The eventfd is level-triggered, and only a blocking poll reads it. So a break before the poll begins still
 * ends the poll, and a nonblocking poll of another thread does not swallow it.
 */
#include "impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct rt_poller {
    int epfd, break_fd;
    _Atomic bool broken;   /* atomic: the eventfd was written and not read yet */
    _Atomic uint32_t adds; /* atomic: a pollDesc travels through the kernel from epoll_add to
                            * epoll_poll; C's memory model does not know that, so it is said here */
};

enum { BREAK_TAG = 0 }; /* no pollDesc stands at address 0 */

static rt_poller *epoll_open(void) {
    rt_poller *po = calloc(1, sizeof *po);
    if (!po) return NULL;
    po->epfd = epoll_create1(EPOLL_CLOEXEC);
    po->break_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    struct epoll_event ev = {.events = EPOLLIN, .data.u64 = BREAK_TAG};
    if (po->epfd < 0 || po->break_fd < 0 ||
        epoll_ctl(po->epfd, EPOLL_CTL_ADD, po->break_fd, &ev) < 0)
        goto fail;
    return po;
fail:;
    int err = errno;
    if (po->epfd >= 0) close(po->epfd);
    if (po->break_fd >= 0) close(po->break_fd);
    free(po);
    errno = err;
    return NULL;
}

static int epoll_add(rt_poller *po, int fd, uint64_t tag, bool exclusive) {
    struct epoll_event ev = {.data.u64 = tag};
    atomic_fetch_add_explicit(&po->adds, 1, memory_order_release);
    ev.events =
        exclusive ? EPOLLIN | EPOLLET | EPOLLEXCLUSIVE : EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
    return epoll_ctl(po->epfd, EPOLL_CTL_ADD, fd, &ev) < 0 ? -errno : 0;
}

static int epoll_del(rt_poller *po, int fd) {
    return epoll_ctl(po->epfd, EPOLL_CTL_DEL, fd, NULL) < 0 ? -errno : 0;
}

static bool epoll_owns(const rt_poller *po, int fd) {
    return fd == po->epfd || fd == po->break_fd;
}

static void epoll_wake(rt_poller *po) {
    if (atomic_exchange(&po->broken, true)) return;
    uint64_t one = 1;
    /* EAGAIN: the counter is full, so it is readable; EINTR does not happen on an eventfd. */
    if (write(po->break_fd, &one, sizeof one) < 0 && errno != EAGAIN)
        rt_throw("cannot break a poll: %s", strerror(errno));
}

static void take_break(rt_poller *po) {
    uint64_t n;
    if (read(po->break_fd, &n, sizeof n) < 0 && errno != EAGAIN)
        rt_throw("cannot read a break: %s", strerror(errno));
    atomic_store(&po->broken, false);
}

#ifdef RT_TSAN
enum { NO_PWAIT2 = 1 }; /* TSan does not know this call, and keeps a signal that comes meanwhile */
#else
enum { NO_PWAIT2 = 0 };
#endif

/* epoll_wait with a time in nanoseconds, where the kernel has it (5.11). Else in milliseconds, rounded up: returning
 * too early would mean polling again, and again. */
static int wait_ns(int epfd, struct epoll_event *evs, int64_t delay_ns) {
    static _Atomic bool no_pwait2 = NO_PWAIT2;
    if (delay_ns > 0 && !atomic_load_explicit(&no_pwait2, memory_order_relaxed)) {
        struct timespec t = {delay_ns / NS_PER_SEC, delay_ns % NS_PER_SEC};
        int n = epoll_pwait2(epfd, evs, POLL_EVENTS, &t, NULL);
        if (n >= 0 || errno != ENOSYS) return n;
        atomic_store(&no_pwait2, true);
    }
    int timeout_ms = (int)delay_ns; /* -1, 0 */
    if (delay_ns > 0)
        timeout_ms = delay_ns >= INT32_MAX * NS_PER_MS
                         ? INT32_MAX
                         : (int)((delay_ns + NS_PER_MS - 1) / NS_PER_MS);
    return epoll_wait(epfd, evs, POLL_EVENTS, timeout_ms);
}

static int epoll_poll(rt_poller *po, int64_t delay_ns, g_list *l) {
    struct epoll_event evs[POLL_EVENTS];
    int n = wait_ns(po->epfd, evs, delay_ns);
    if (n < 0) {
        if (errno != EINTR) rt_throw("epoll_wait: %s", strerror(errno));
        return 0;
    }
    (void)atomic_load_explicit(&po->adds, memory_order_acquire);
    for (int i = 0; i < n; i++) {
        uint32_t e = evs[i].events;
        if (evs[i].data.u64 == BREAK_TAG) {
            if (delay_ns != 0) take_break(po);
            continue;
        }
        /* A stream's end is RDHUP, a pipe's is HUP; HUP with OUT and without IN is a socket that is
         * not connected yet. An error alone (a datagram's) ends nothing. */
        bool hup = e & EPOLLRDHUP || (e & EPOLLHUP && (e & EPOLLIN || !(e & EPOLLOUT)));
        netpoll_event(evs[i].data.u64, e & EPOLLIN, e & EPOLLOUT, hup, e & (EPOLLERR | EPOLLHUP),
                      l);
    }
    return n;
}

const poller_ops epoll_ops = {
    .open = epoll_open,
    .add = epoll_add,
    .del = epoll_del,
    .owns = epoll_owns,
    .poll = epoll_poll,
    .wake = epoll_wake,
};
