/* Echo on the runtime: a native G per connection, one P, calls that read straight down. What echo_bare
 * needs less CPU is the price of scheduler and poller.
 *
 *     echo        prints its port and serves 127.0.0.1 until it is killed */
#include "bench.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

static void serve(void *arg) {
    rt_fd f;
    char buf[4096];
    if (rt_fd_init(&f, (int)(intptr_t)arg) < 0) rt_throw("cannot register a connection");
    for (;;) {
        ssize_t n = rt_fd_read(&f, buf, sizeof buf);
        if (n <= 0 || rt_fd_write(&f, buf, (size_t)n) < 0) break;
    }
    rt_fd_close(&f);
}

static void run(void *arg) {
    (void)arg;
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof sa;
    int fd = rt_listen((struct sockaddr *)&sa, len, 1024), on = 1;
    rt_fd listener;
    if (fd < 0) rt_throw("cannot listen: %s", rt_strerror(fd));
    if (getsockname(fd, (struct sockaddr *)&sa, &len) < 0) die("getsockname");
    if (rt_fd_init(&listener, fd) < 0) rt_throw("cannot register the listener");
    printf("%d\n", ntohs(sa.sin_port));
    fflush(stdout);
    for (;;) {
        int c = rt_fd_accept(&listener);
        if (c < 0) rt_throw("accept: %s", rt_strerror(c));
        setsockopt(c, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        rt_go(serve, (void *)(intptr_t)c);
    }
}

int main(void) {
    rt_main(&(rt_options){.procs = 1}, run, NULL);
}
