/* The least an echo server can do, echo's yardstick: one thread, one edge-triggered epoll loop, a read
 * and a write per message.
 *
 *     echo_bare   prints its port and serves 127.0.0.1 until it is killed */
#include "bench.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { MAX_EVENTS = 128 };

/* False: the connection is to be closed; so is one that does not take its answers. */
static bool serve(int fd) {
    char buf[4096];
    for (;;) {
        ssize_t n = read(fd, buf, sizeof buf);
        if (n < 0) return errno == EAGAIN || errno == EINTR;
        if (n == 0 || send(fd, buf, (size_t)n, MSG_NOSIGNAL) != n) return false;
        if ((size_t)n < sizeof buf) return true; /* a short read has drained the socket */
    }
}

static void add(int epfd, int fd, uint32_t events) {
    struct epoll_event ev = {.events = events | EPOLLET, .data.fd = fd};
    if (epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &ev) < 0) die("epoll_ctl");
}

static void accept_all(int epfd, int listener) {
    int fd, on = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        add(epfd, fd, EPOLLIN | EPOLLRDHUP);
    }
}

int main(void) {
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof sa;
    int listener = rt_listen((struct sockaddr *)&sa, len, 1024),
        epfd = epoll_create1(EPOLL_CLOEXEC);
    if (listener < 0 || epfd < 0) die("cannot listen");
    if (getsockname(listener, (struct sockaddr *)&sa, &len) < 0) die("getsockname");
    add(epfd, listener, EPOLLIN);
    printf("%d\n", ntohs(sa.sin_port));
    fflush(stdout);
    for (;;) {
        struct epoll_event events[MAX_EVENTS];
        int n = epoll_wait(epfd, events, MAX_EVENTS, -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == listener)
                accept_all(epfd, listener);
            else if (!serve(fd))
                close(fd);
        }
    }
}
