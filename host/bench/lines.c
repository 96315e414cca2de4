/* Lines through a socket: who sends them, and C's getline, which is the yardstick for reading them.
 *
 *     lines send MB BYTES     prints its port; whoever connects gets MB MiB in lines of BYTES bytes
 *     lines read PORT         connects, reads them all by getline; prints "LINES SECONDS", CPU time */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static void die(const char *what) {
    perror(what);
    exit(1);
}

static double cpu_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Lines that differ: Lua keeps equal strings once. */
static void number(char *block, size_t len, size_t width, long *next) {
    for (size_t i = 0; i < len; i += width) {
        long n = (*next)++;
        for (size_t k = 0; k + 1 < width && k < 8; k++, n /= 10)
            block[i + k] = (char)('0' + n % 10);
    }
}

static void send_to(int fd, long mb, char *block, size_t len, size_t width) {
    long next = 0;
    for (long left = mb << 20; left > 0; left -= (long)len) {
        number(block, len, width, &next);
        for (size_t at = 0; at < len;) {
            ssize_t n = send(fd, block + at, len - at, MSG_NOSIGNAL);
            if (n < 0) return; /* it has seen enough */
            at += (size_t)n;
        }
    }
}

static void serve(long mb, size_t width) {
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof sa;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(listener, (struct sockaddr *)&sa, len) < 0 || listen(listener, 8) < 0) die("listen");
    if (getsockname(listener, (struct sockaddr *)&sa, &len) < 0) die("getsockname");
    printf("%d\n", ntohs(sa.sin_port));
    fflush(stdout);
    size_t size = (65536 / width + 1) * width;
    char *block = malloc(size);
    if (!block) die("malloc");
    for (size_t i = 0; i < size; i++)
        block[i] = i % width == width - 1 ? '\n' : (char)('a' + i / width * 7 % 26);
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        if (fd < 0) die("accept");
        send_to(fd, mb, block, size, width);
        close(fd);
    }
}

static void receive(int port) {
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, (struct sockaddr *)&sa, sizeof sa) < 0) die("connect");
    FILE *f = fdopen(fd, "r");
    char *line = NULL;
    size_t cap = 0;
    long lines = 0;
    double begin = cpu_seconds();
    while (getline(&line, &cap, f) > 0)
        lines++;
    printf("%ld %.6f\n", lines, cpu_seconds() - begin);
    free(line);
    fclose(f);
}

int main(int argc, char **argv) {
    if (argc == 4 && strcmp(argv[1], "send") == 0)
        serve(strtol(argv[2], NULL, 10), strtoul(argv[3], NULL, 10));
    else if (argc == 3 && strcmp(argv[1], "read") == 0)
        receive((int)strtol(argv[2], NULL, 10));
    else
        fprintf(stderr, "lines send MB BYTES | lines read PORT\n");
    return argc == 3 ? 0 : 2;
}
