/* Load for an echo server, and what that cost it.
 *
 *     echo_load PORT PID [MS [CONNECTIONS [BYTES]]]
 *
 * Each connection sends a message, waits for all of it to come back, sends the next. Prints
 * "echo NS PER_SECOND": CPU time of process PID, all its threads, per message, and how many messages
 * there were a second. A tenth of the time before it counts warms up. */
#include "bench.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { MAX_CONNECTIONS = 1024, MAX_BYTES = 4096, MAX_EVENTS = 128 };

static char message[MAX_BYTES];
static size_t bytes, got[MAX_CONNECTIONS];
static int fds[MAX_CONNECTIONS];
static int64_t messages;

static void send_one(int fd) {
    if (send(fd, message, bytes, MSG_NOSIGNAL) != (ssize_t)bytes) die("send");
}

static void receive(int i) {
    char buf[MAX_BYTES];
    ssize_t n = read(fds[i], buf, sizeof buf);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) die("the server hung up");
    got[i] += (size_t)n;
    if (got[i] < bytes) return;
    got[i] = 0;
    messages++;
    send_one(fds[i]);
}

/* Level-triggered: what is left shows again. */
static void run_for(int epfd, int64_t ns) {
    int64_t end = rt_nanotime() + ns;
    while (rt_nanotime() < end) {
        struct epoll_event events[MAX_EVENTS];
        int n = epoll_wait(epfd, events, MAX_EVENTS, 1000);
        if (n == 0) rt_throw("no answer for a second");
        for (int i = 0; i < n; i++)
            receive((int)events[i].data.u32);
    }
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "echo_load PORT PID [MS [CONNECTIONS [BYTES]]]\n");
        return 2;
    }
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    sa.sin_port = htons((uint16_t)arg_or(argc, argv, 1, 0));
    pid_t pid = (pid_t)arg_or(argc, argv, 2, 0);
    int64_t ns = arg_or(argc, argv, 3, 1000) * 1000000, connections = arg_or(argc, argv, 4, 64);
    bytes = (size_t)arg_or(argc, argv, 5, 64);
    if (bytes > MAX_BYTES || connections > MAX_CONNECTIONS) rt_throw("too many");
    clockid_t clock;
    int err = clock_getcpuclockid(pid, &clock), epfd = epoll_create1(EPOLL_CLOEXEC), on = 1;
    if (err || epfd < 0) die("no such server");
    memset(message, 'x', sizeof message);
    for (int i = 0; i < connections; i++) {
        int fd = fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0 || connect(fd, (struct sockaddr *)&sa, sizeof sa) < 0) die("connect");
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        fcntl(fd, F_SETFL, O_NONBLOCK);
        struct epoll_event ev = {.events = EPOLLIN, .data.u32 = (uint32_t)i};
        if (epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &ev) < 0) die("epoll_ctl");
        send_one(fd);
    }
    run_for(epfd, ns / 10);
    int64_t cpu = clock_ns(clock), begin = rt_nanotime(), before = messages;
    run_for(epfd, ns);
    cpu = clock_ns(clock) - cpu;
    double count = (double)(messages - before), secs = (double)(rt_nanotime() - begin) / 1e9;
    printf("echo %.1f %.0f\n", (double)cpu / count, count / secs);
}
