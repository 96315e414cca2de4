/* notify: each message as the manager's socket gets it; what is no socket changes nothing. */
#include "../command/notify.h"

#include "../../runtime/test/harness.h"

#include <inttypes.h>
#include <sys/un.h>

/* A manager's socket, or -1. */
static int manager(const char *name, size_t len) {
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    memcpy(un.sun_path, name, len);
    socklen_t n = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
    int fd = rt_socket(AF_UNIX, SOCK_DGRAM, 0);
    return fd >= 0 && bind(fd, (struct sockaddr *)&un, n) == 0 ? fd : -1;
}

/* What is there, "" if nothing is. */
static const char *message(int fd) {
    static char buf[256];
    ssize_t n = recv(fd, buf, sizeof buf - 1, MSG_DONTWAIT);
    buf[n < 0 ? 0 : n] = 0;
    return buf;
}

static void says_what_systemd_knows(void **state) {
    (void)state;
    char name[64];
    int len = snprintf(name, sizeof name, "@lunapark-test-%d", (int)getpid());
    setenv("NOTIFY_SOCKET", name, 1);
    name[0] = 0;
    int fd = manager(name, (size_t)len);
    CHECK(fd >= 0);
    notify_ready();
    EXPECT(strcmp(message(fd), "READY=1") == 0);
    notify_stopping();
    EXPECT(strcmp(message(fd), "STOPPING=1") == 0);
    notify_main_pid(1234);
    EXPECT(strcmp(message(fd), "MAINPID=1234") == 0);
    int64_t before = rt_nanotime() / 1000, usec = 0;
    notify_reloading();
    EXPECT_EQ(sscanf(message(fd), "RELOADING=1\nMONOTONIC_USEC=%" SCNd64, &usec), 1);
    EXPECT(usec >= before && usec <= rt_nanotime() / 1000);
    close(fd);
    notify_ready(); /* nobody is there any more */
}

static void takes_no_nonsense(void **state) {
    (void)state;
    int lowest = dup(2);
    close(lowest);
    static const char *const values[] = {
        "", "@", "/", "relative", "vsock:2:1234", "/nonexistent/socket"};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        setenv("NOTIFY_SOCKET", values[i], 1);
        notify_ready();
    }
    char longest[sizeof((struct sockaddr_un){0}).sun_path + 1];
    memset(longest, 'x', sizeof longest - 1);
    longest[0] = '/';
    longest[sizeof longest - 1] = 0;
    setenv("NOTIFY_SOCKET", longest, 1);
    notify_ready();
    unsetenv("NOTIFY_SOCKET");
    notify_ready();
    EXPECT_EQ(dup(2), lowest); /* no descriptor is left open */
    close(lowest);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(says_what_systemd_knows),
        cmocka_unit_test(takes_no_nonsense),
    };
    RUN_TESTS("notify", tests);
}
