/* Many clients at once: opens N connections to 127.0.0.1:PORT, then sends one request on each and
 * waits for all the answers.
 *
 *     burst PORT N [PATH]
 *
 * Prints how many answered and when the first and the last did, counted from the first request sent.
 * Exit 0 if all N answered with status 200. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    MAX_EVENTS = 256,
    GIVE_UP_MS = 30000, /* without any answer */
};

static double now_ms(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static int connect_to(int port) {
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) die("socket");
    if (connect(fd, (struct sockaddr *)&sa, sizeof sa) < 0) die("connect");
    return fd;
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: burst PORT N [PATH]\n");
        return 64;
    }
    int port = (int)strtol(argv[1], NULL, 10), n = (int)strtol(argv[2], NULL, 10);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);

    int epfd = epoll_create1(EPOLL_CLOEXEC);
    int *fds = calloc((size_t)(n > 0 ? n : 1), sizeof *fds);
    if (epfd < 0 || !fds) die("start");
    for (int i = 0; i < n; i++) {
        fds[i] = connect_to(port);
        struct epoll_event ev = {.events = EPOLLIN, .data.fd = fds[i]};
        if (epoll_ctl(epfd, EPOLL_CTL_ADD, fds[i], &ev) < 0) die("epoll_ctl");
    }

    char request[512];
    int len = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n",
                       argc > 3 ? argv[3] : "/");
    double start = now_ms(), first = 0, last = 0;
    for (int i = 0; i < n; i++)
        if (write(fds[i], request, (size_t)len) != len) die("write");

    /* The answers are small: one read each, whose first line says all. */
    int done = 0, good = 0;
    while (done < n) {
        struct epoll_event events[MAX_EVENTS];
        int got = epoll_wait(epfd, events, MAX_EVENTS, GIVE_UP_MS);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) break;
        for (int i = 0; i < got; i++) {
            char buf[4096];
            ssize_t r = read(events[i].data.fd, buf, sizeof buf - 1);
            last = now_ms() - start;
            if (done++ == 0) first = last;
            if (r >= 12 && memcmp(buf, "HTTP/1.1 200", 12) == 0) good++;
            epoll_ctl(epfd, EPOLL_CTL_DEL, events[i].data.fd, NULL);
        }
    }
    printf("%d of %d answered with 200, the first after %.0f ms, the last after %.0f ms\n", good, n,
           first, last);
    free(fds);
    return good == n ? 0 : 1;
}
