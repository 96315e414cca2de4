/* An echo server on the runtime alone: a G for each connection, which reads and writes as if it blocked.
 * Try: build/runtime/examples/echo 7000 and then: nc 127.0.0.1 7000 */
#include "../runtime.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Nothing is allocated while a client is silent but its G's stack, of which it touches two pages. */
static void serve(void *arg) {
    int fd = (int)(intptr_t)arg;
    rt_fd conn;
    if (rt_fd_init(&conn, fd) < 0) {
        close(fd);
        return;
    }
    char buf[2048];
    for (ssize_t n; (n = rt_fd_read(&conn, buf, sizeof buf)) > 0;)
        if (rt_fd_write(&conn, buf, (size_t)n) < 0) break;
    rt_fd_close(&conn);
}

static void die(const char *what, int err) {
    fprintf(stderr, "echo: %s: %s\n", what, rt_strerror(err));
    exit(1);
}

static void run(void *arg) {
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons((uint16_t)(intptr_t)arg)};
    sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t len = sizeof sa;
    int fd = rt_listen((struct sockaddr *)&sa, len, 4096);
    if (fd < 0) die("listen", fd);
    rt_fd listener;
    int err = rt_fd_init(&listener, fd);
    if (err) die("poll", err);
    getsockname(fd, (struct sockaddr *)&sa, &len);
    printf("echo on 127.0.0.1:%d\n", ntohs(sa.sin_port));
    fflush(stdout);

    rt_acceptor acceptor;
    rt_acceptor_init(&acceptor, NULL, 0);
    for (;;) {
        int conn = rt_fd_accept_with(&listener, &acceptor);
        if (conn >= 0)
            rt_go(serve, (void *)(intptr_t)conn);
        else if (acceptor.failures == 1)
            fprintf(stderr, "echo: accept: %s\n", rt_strerror(conn));
    }
}

int main(int argc, char **argv) {
    int port = argc > 1 ? atoi(argv[1]) : 0;
    rt_main(&(rt_options){.deadlock_is_normal = true}, run, (void *)(intptr_t)port);
}
