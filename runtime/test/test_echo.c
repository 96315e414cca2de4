/* The example, as it stands, in a process of its own: it serves 9,500 connections at a time (a process may
 * have 20,000 descriptors here), each of which says something and hears it, more than once. */
#define main echo_main
#include "../examples/echo.c"
#undef main
#include "net.h"

#include <sys/prctl.h>
#include <sys/resource.h>

static int dial_port(int port) {
    struct sockaddr_in sa = loopback(port);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&sa, sizeof sa) < 0) {
        close(fd);
        return -errno;
    }
    struct timeval limit = {.tv_sec = 120};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    return fd;
}

/* How many connections the limits allow, at most 9,500. */
static int connections(void) {
    struct rlimit r;
    int n = ROUNDS(9500);
    getrlimit(RLIMIT_NOFILE, &r);
    r.rlim_cur = r.rlim_max;
    setrlimit(RLIMIT_NOFILE, &r);
    return r.rlim_cur < (rlim_t)n + 200 ? (int)r.rlim_cur - 200 : n;
}

static int64_t resident_kb(pid_t pid) {
    char path[64], line[128];
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    FILE *f = fopen(path, "re");
    long long kb = 0;
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "VmRSS: %lld", &kb) == 1) break;
    if (f) fclose(f);
    return kb;
}

static void talk_to(pid_t server, int port) {
    int n = connections(), failed = 0;
    int *fd = calloc((size_t)n, sizeof *fd);
    int64_t before = resident_kb(server), begun = rt_nanotime();
    for (int i = 0; i < n; i++) {
        fd[i] = dial_port(port);
        if (fd[i] < 0) fail_msg("connection %d: %s", i, strerror(-fd[i]));
    }
    for (int round = 0; round < 3; round++) {
        char out[32], in[32];
        for (int i = 0; i < n; i++) { /* all of them, before the first answer is read */
            int len = snprintf(out, sizeof out, "%d says %d", i, round);
            if (send(fd[i], out, (size_t)len, MSG_NOSIGNAL) != len) failed++;
        }
        for (int i = n - 1; i >= 0; i--) {
            int len = snprintf(out, sizeof out, "%d says %d", i, round);
            if (recv(fd[i], in, (size_t)len, MSG_WAITALL) != len ||
                memcmp(in, out, (size_t)len) != 0)
                failed++;
        }
    }
    int64_t kb = resident_kb(server) - before;
    print_message("%d connections, 3 messages each, in %lld ms, %lld bytes resident for each\n", n,
                  (long long)((rt_nanotime() - begun) / NS_PER_MS), (long long)(kb * 1024 / n));
    for (int i = 0; i < n; i++)
        close(fd[i]);
    free(fd);
    assert_int_equal(failed, 0);
}

static void it_serves_thousands(void **state) {
    (void)state;
    int p[2];
    assert_int_equal(pipe2(p, O_CLOEXEC), 0);
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(p[1], STDOUT_FILENO);
        char name[] = "echo", *argv[] = {name, NULL};
        _exit(echo_main(1, argv));
    }
    close(p[1]);
    FILE *says = fdopen(p[0], "r");
    char line[64] = "";
    int port = 0;
    bool up = fgets(line, sizeof line, says) && sscanf(line, "echo on 127.0.0.1:%d", &port) == 1;
    if (up) {
        talk_to(pid, port);
        talk_to(pid, port); /* with what the first ones left */
    }
    int status;
    assert_int_equal(waitpid(pid, &status, WNOHANG), 0); /* it runs still */
    kill(pid, SIGTERM);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    fclose(says);
    if (!up) fail_msg("it says: %s", line);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(it_serves_thousands)};
    return cmocka_run_group_tests_name("echo", tests, NULL, NULL);
}
