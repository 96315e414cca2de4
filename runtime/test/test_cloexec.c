/* cloexec: no descriptor of the runtime's is seen by a program that it executes. */
#include "harness.h"

#include <dirent.h>
#include <netinet/in.h>

enum { MAX_FDS = 4096 };

/* Those open now that a child would inherit. */
static int inheritable(bool *is) {
    DIR *d = opendir("/proc/self/fd");
    int n = 0;
    memset(is, 0, MAX_FDS);
    for (struct dirent *e; d && (e = readdir(d));) {
        int fd = atoi(e->d_name);
        if (e->d_name[0] == '.' || fd == dirfd(d) || fd >= MAX_FDS) continue;
        int flags = fcntl(fd, F_GETFD);
        if (flags < 0 || flags & FD_CLOEXEC) continue;
        is[fd] = true;
        n++;
    }
    if (d) closedir(d);
    return n;
}

static bool before[MAX_FDS]; /* what whoever started us left open */

/* In the executed child: says which descriptors it has. */
static int list_fds(void) {
    static bool is[MAX_FDS];
    inheritable(is);
    for (int i = 0; i < MAX_FDS; i++)
        if (is[i]) printf("%d\n", i);
    return 0;
}

static void accept_one(void *arg) {
    rt_fd *l = arg;
    int c = rt_fd_accept(l);
    CHECK(c >= 0);
    CHECK(fcntl(c, F_GETFD) & FD_CLOEXEC);
    CHECK(fcntl(c, F_GETFL) & O_NONBLOCK);
}

static void sleep_in_kernel(void *arg) {
    (void)arg;
    rt_entersyscall();
    usleep(20000);
    rt_exitsyscall();
}

static void check_child(const char *out) {
    for (const char *at = out; *at; at = strchr(at, '\n') + 1) {
        int fd = atoi(at);
        char name[64], what[256] = "";
        snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
        ssize_t n = readlink(name, what, sizeof what - 1);
        (void)n;
        expect_at(fd >= 0 && fd < MAX_FDS && before[fd], __FILE__, __LINE__, "the child has %d: %s",
                  fd, what);
    }
}

static void run_and_read_child(void) {
    int p[2];
    CHECK_EQ(pipe2(p, O_CLOEXEC), 0);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        dup2(p[1], STDOUT_FILENO);
        setenv("RT_TEST_CHILD", "list", 1);
        char self[] = "/proc/self/exe", *argv[] = {self, NULL};
        execv(self, argv);
        _exit(127);
    }
    close(p[1]);
    static char out[16384];
    size_t n = 0;
    for (ssize_t r; n < sizeof out - 1 && (r = read(p[0], out + n, sizeof out - 1 - n)) > 0;)
        n += (size_t)r;
    out[n] = 0;
    close(p[0]);
    int status;
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK_EQ(status, 0);
    CHECK(n > 0);
    check_child(out);
}

static void a_child_gets_none(void *arg) {
    (void)arg;
    char text[64];
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof sa;
    rt_fd l = {0}, s = {0}, file = {0};
    rt_acceptor a;
    crowd c = {0};
    int fd = rt_listen((struct sockaddr *)&sa, sizeof sa, 8);
    CHECK(fd >= 0);
    CHECK_EQ(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
    CHECK_EQ(rt_fd_init(&l, fd), 0);
    fd = rt_socket(AF_INET, SOCK_STREAM, 0);
    CHECK(fd >= 0);
    CHECK_EQ(rt_fd_init(&s, fd), 0);
    CHECK_EQ(rt_file_open(&file, "/dev/null", O_RDONLY, 0), 0);
    rt_acceptor_init(&a, NULL, 0);
    CHECK(a.reserve_fd >= 0);
    crowd_go(&c, accept_one, &l);
    for (int i = 0; i < 6; i++)
        crowd_go(&c, sleep_in_kernel, NULL);
    CHECK_EQ(rt_fd_connect(&s, (struct sockaddr *)&sa, len), 0);
    crowd_wait(&c);
    CHECK_EQ(rt_signal_notify(SIGHUP), 0);
    CHECK_EQ(rt_prof_start(100), 0);
    CHECK_EQ(rt_trace_start(), 0);
    rt_symbol_print((char *)a_child_gets_none, text, sizeof text);
    rt_cpu_count();
    run_and_read_child();
    static bool now[MAX_FDS];
    inheritable(now);
    for (int i = 0; i < MAX_FDS; i++)
        expect_at(!now[i] || before[i], __FILE__, __LINE__, "descriptor %d is not close-on-exec",
                  i);
    CHECK_EQ(rt_trace_stop(NULL, NULL), 0);
    CHECK_EQ(rt_prof_stop(NULL, NULL), 0);
    rt_acceptor_close(&a);
    CHECK_EQ(rt_fd_close(&file), 0);
    CHECK_EQ(rt_fd_close(&l), 0);
    CHECK_EQ(rt_fd_close(&s), 0);
}

int main(void) {
    if (getenv("RT_TEST_CHILD")) return list_fds();
    inheritable(before);
    const struct CMUnitTest tests[] = {in_g_test(a_child_gets_none)};
    RUN_TESTS("cloexec", tests);
}
