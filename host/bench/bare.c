/* The least that a server can do: the bench's yardstick.
 *
 * One thread, one edge-triggered epoll loop, one read and one write per request, no parsing beyond
 * counting the blank lines that end requests, and a canned answer. What Lunapark needs more CPU than
 * this is the price of scheduler, parser and Lua.
 *
 *     bare [PORT] [ANSWER_FILE]       PORT 0, the default, picks one and prints it
 *
 * hello.sh gives it Lunapark's own answer as the file, so that both send the same bytes. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    MAX_FDS = 65536,
    MAX_EVENTS = 128,
    READ_SIZE = 16384,
    MAX_ANSWER = 4096,
    MAX_PIPELINED = 64, /* answers per write */
};

static const char default_answer[] = "HTTP/1.1 200 OK\r\n"
                                     "Content-Type: text/plain; charset=utf-8\r\n"
                                     "X-Content-Type-Options: nosniff\r\n"
                                     "Content-Length: 13\r\n"
                                     "Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
                                     "\r\n"
                                     "Hello, World!";

static unsigned char seen[MAX_FDS]; /* per connection: length of the "\r\n\r\n" it ended in */
static char answers[MAX_PIPELINED * MAX_ANSWER];
static size_t answer_len;

static void die(const char *what) {
    perror(what);
    exit(1);
}

/* Fills answers[] with as many copies as one write may send. */
static void load_answer(const char *path) {
    size_t n = sizeof default_answer - 1;
    memcpy(answers, default_answer, n);
    if (path) {
        FILE *f = fopen(path, "rb");
        if (!f) die(path);
        n = fread(answers, 1, MAX_ANSWER, f);
        fclose(f);
        if (n == 0) {
            fprintf(stderr, "%s: empty\n", path);
            exit(1);
        }
    }
    for (size_t i = 1; i < MAX_PIPELINED; i++)
        memcpy(answers + i * n, answers, n);
    answer_len = n;
}

static int listen_on(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int on = 1;
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0) die("socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&sa, sizeof sa) < 0 || listen(fd, 4096) < 0) die("listen");
    socklen_t len = sizeof sa;
    if (getsockname(fd, (struct sockaddr *)&sa, &len) < 0) die("getsockname");
    printf("%d\n", ntohs(sa.sin_port));
    fflush(stdout);
    return fd;
}

/* How many requests end in buf[0 .. n), given that *state characters of a blank line came before. */
static int count_requests(const char *buf, size_t n, unsigned char *state) {
    int count = 0;
    unsigned char s = *state;
    for (const char *p = buf, *end = buf + n; p < end; p++) {
        if (s == 0) { /* most bytes: go to the next line's end at once */
            p = memchr(p, '\r', (size_t)(end - p));
            if (!p) break;
            s = 1;
        } else if (*p == "\r\n\r\n"[s]) {
            if (++s == 4) {
                count++;
                s = 0;
            }
        } else {
            s = *p == '\r';
        }
    }
    *state = s;
    return count;
}

/* False: the connection is to be closed. A client that does not take its answers is one: this loop
 * keeps none for later. */
static int answer(int fd, int requests) {
    while (requests > 0) {
        int n = requests < MAX_PIPELINED ? requests : MAX_PIPELINED;
        size_t want = (size_t)n * answer_len;
        if (write(fd, answers, want) != (ssize_t)want) return 0;
        requests -= n;
    }
    return 1;
}

/* False: the connection is to be closed. */
static int serve(int fd) {
    static char buf[READ_SIZE];
    for (;;) {
        ssize_t n = read(fd, buf, sizeof buf);
        if (n < 0) return errno == EAGAIN || errno == EINTR;
        if (n == 0) return 0;
        if (!answer(fd, count_requests(buf, (size_t)n, &seen[fd]))) return 0;
        if ((size_t)n < sizeof buf) return 1; /* a short read has drained the socket */
    }
}

static void accept_all(int epfd, int listener) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) return;
        if (fd >= MAX_FDS) {
            close(fd);
            continue;
        }
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        seen[fd] = 0;
        struct epoll_event ev = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.fd = fd};
        if (epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &ev) < 0) die("epoll_ctl");
    }
}

int main(int argc, char **argv) {
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    signal(SIGPIPE, SIG_IGN);
    load_answer(argc > 2 ? argv[2] : NULL);
    int listener = listen_on(argc > 1 ? (int)strtol(argv[1], NULL, 10) : 0);
    int epfd = epoll_create1(EPOLL_CLOEXEC);
    if (epfd < 0) die("epoll_create1");
    struct epoll_event ev = {.events = EPOLLIN | EPOLLET, .data.fd = listener};
    if (epoll_ctl(epfd, EPOLL_CTL_ADD, listener, &ev) < 0) die("epoll_ctl");
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
