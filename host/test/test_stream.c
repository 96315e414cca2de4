/* stream: a short read from a TCP socket means that it is empty, until the next edge, a doubt, or the peer's end; one
 * from a unix socket means nothing; a pipe whose writer has gone may get another one; what a signal interrupts is
 * done. */
#include "../net/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../runtime/io.h"
#include "../../runtime/test/harness.h"

static char buf[4096];

/* Two ends of a TCP connection: ours as a stream, the other as a descriptor that blocks. */
static void connect_to(stream *s, int *other) {
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t len = sizeof sa;
    int listener = rt_listen((struct sockaddr *)&sa, len, 1);
    CHECK(listener >= 0);
    CHECK_EQ(getsockname(listener, (struct sockaddr *)&sa, &len), 0);
    *other = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK_EQ(connect(*other, (struct sockaddr *)&sa, len), 0);
    int fd = rt_accept4(listener, NULL, NULL);
    CHECK(fd >= 0);
    close(listener);
    CHECK_EQ(stream_open(s, fd, &stream_socket), 0);
}

/* Waits until n bytes have come, without reading: an event may be there or not. */
static void until_here(int fd, ssize_t n) {
    while (recv(fd, buf, sizeof buf, MSG_PEEK | MSG_DONTWAIT) < n)
        rt_sleep(MS / 10);
}

static void a_short_read_has_emptied_tcp(void *arg) {
    (void)arg;
    stream s;
    int other;
    connect_to(&s, &other);
    CHECK_EQ(write(other, "0123456789", 10), 10);
    until_here(s.fd, 10);
    CHECK_EQ(stream_read(&s, buf, 4), 4); /* not short */
    CHECK_EQ(stream_read(&s, buf, 100), 6);
    CHECK_EQ(write(other, "more", 4), 4);
    until_here(s.fd, 4);
    CHECK_EQ(stream_read(&s, buf, 100), -EAGAIN); /* the kernel was not asked */
    CHECK_EQ(rt_pd_wait(s.pd, RT_R, RT_WAIT_READ), 0);
    CHECK_EQ(stream_read(&s, buf, 100), 4);
    CHECK_EQ(write(other, "again", 5), 5);
    until_here(s.fd, 5);
    stream_doubt(&s);
    CHECK_EQ(stream_read(&s, buf, 100), 5);
    CHECK(stream_is_dry(&s));
    CHECK(!stream_is_dry(&s)); /* asked once more, the kernel is to tell */
    stream_close(&s, false);
    CHECK_EQ(s.fd, -1);
    CHECK_EQ(read(other, buf, 1), 0);
    close(other);
}

/* One edge may have told of data and end alike. */
static void the_end_is_read_without_another_edge(void *arg) {
    (void)arg;
    stream s;
    int other;
    connect_to(&s, &other);
    CHECK_EQ(write(other, "last", 4), 4);
    CHECK_EQ(shutdown(other, SHUT_WR), 0);
    while (!rt_pd_hup(s.pd))
        rt_sleep(MS / 10);
    CHECK_EQ(stream_read(&s, buf, 100), 4);
    CHECK_EQ(stream_read(&s, buf, 100), 0);
    CHECK_EQ(stream_write(&s, "bye", 3), 3);
    CHECK_EQ(s.ops->shutdown(&s), 0);
    CHECK_EQ(read(other, buf, 100), 3);
    CHECK_EQ(read(other, buf, 100), 0);
    stream_close(&s, false);
    close(other);
}

static void a_short_read_of_a_unix_socket_tells_nothing(void *arg) {
    (void)arg;
    stream s;
    int fds[2];
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
    CHECK_EQ(stream_open(&s, fds[0], &stream_socket), 0);
    CHECK_EQ(write(fds[1], "abc", 3), 3);
    CHECK_EQ(stream_read(&s, buf, 100), 3);
    CHECK_EQ(write(fds[1], "def", 3), 3);
    CHECK_EQ(stream_read(&s, buf, 100), 3);
    CHECK_EQ(stream_read(&s, buf, 100), -EAGAIN);
    close(fds[1]);
    CHECK_EQ(stream_write(&s, "x", 1), -EPIPE); /* and no SIGPIPE */
    stream_close(&s, false);
}

static void a_pipe_gets_another_writer(void *arg) {
    (void)arg;
    char path[64];
    stream s;
    snprintf(path, sizeof path, "/tmp/test_stream.%d", (int)getpid());
    CHECK_EQ(mkfifo(path, 0600), 0);
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    CHECK_EQ(stream_open(&s, fd, &stream_pipe), 0);
    for (int i = 0; i < 3; i++) {
        int writer = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
        CHECK(writer >= 0);
        if (i > 0) { /* nothing of the last one's end is left */
            CHECK_EQ(stream_read(&s, buf, 100), -EAGAIN);
            rt_pd_set_deadline(s.pd, RT_R, rt_nanotime() + 10 * MS);
            int r;
            while ((r = rt_pd_wait(s.pd, RT_R, RT_WAIT_READ)) == 0)
                CHECK_EQ(stream_read(&s, buf, 100), -EAGAIN);
            CHECK_EQ(r, RT_ETIMEOUT);
            rt_pd_set_deadline(s.pd, RT_R, 0);
            CHECK(!rt_pd_hup(s.pd));
        }
        CHECK_EQ(write(writer, "ab", 2), 2);
        CHECK_EQ(rt_pd_wait(s.pd, RT_R, RT_WAIT_READ), 0);
        CHECK_EQ(stream_read(&s, buf, 100), 2);
        CHECK_EQ(stream_read(&s, buf, 100), -EAGAIN); /* a writer there is, and nothing to read */
        close(writer);
        CHECK_EQ(rt_pd_wait(s.pd, RT_R, RT_WAIT_READ), 0);
        CHECK_EQ(stream_read(&s, buf, 100), 0);
    }
    CHECK_EQ(s.ops->shutdown(&s), -EOPNOTSUPP);
    stream_close(&s, false);
    unlink(path);
}

static void a_file_goes_out_in_the_kernel(void *arg) {
    (void)arg;
    stream s;
    int other, file = fileno(tmpfile());
    connect_to(&s, &other);
    CHECK_EQ(write(file, "0123456789", 10), 10);
    off_t at = 3;
    CHECK_EQ(s.ops->sendfile(&s, file, &at, 5), 5);
    CHECK_EQ(at, 8);
    CHECK_EQ(read(other, buf, 100), 5);
    CHECK(memcmp(buf, "34567", 5) == 0);
    stream_close(&s, true); /* keeps the descriptor */
    CHECK_EQ(fcntl(file, F_GETFD) >= 0, 1);
    close(other);
    close(file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        in_g_test(a_short_read_has_emptied_tcp),
        in_g_test(the_end_is_read_without_another_edge),
        in_g_test(a_short_read_of_a_unix_socket_tells_nothing),
        in_g_test(a_pipe_gets_another_writer),
        in_g_test(a_file_goes_out_in_the_kernel),
    };
    RUN_TESTS("stream", tests);
}
