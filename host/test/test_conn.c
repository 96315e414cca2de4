/* conn: what a connection does for any protocol. The protocol here sends back what comes, and bytes mean orders:
 *
 *     .  lingers      ;  ends, and everything was read      #  ends after its output, without lingering
 *     !  closes       f  sends what is queued before it reads on
 *     s  lingers, and its stream says once that the kernel does not take its end yet (as TLS may)
 *     S  lingers, and its stream never gets rid of its end
 */
#include "../base/options.h"
#include "../http/conn.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../../runtime/test/harness.h"

enum { MUCH = 1 << 20 };
enum { ORDINARY = 1, ALL_READ }; /* states, beside RT_R and RT_RW, of a wait */

static host_server server = {.listener.limits = &options.limits};
static struct {
    _Atomic(host_conn *) conn; /* atomic: the present one */
    _Atomic int64_t read;      /* atomic: bytes */
    _Atomic int ends, turns;
} seen;
static char sent[MUCH], buf[MUCH];

/* ---- the protocol ---- */

static int send_queued(host_conn *c) {
    size_t n = 0, none = 0;
    return out_send(&c->out, &c->io, "", &none, &n);
}

/* Streams whose end has to wait for room. */
static _Atomic int shutdowns;

static int shut_late(stream *s) {
    return atomic_fetch_add(&shutdowns, 1) < 1 ? -EAGAIN : stream_socket.shutdown(s);
}

static int shut_never(stream *s) {
    (void)s;
    atomic_fetch_add(&shutdowns, 1);
    return -EAGAIN;
}

static int linger_with(host_conn *c, int (*shutdown_fn)(stream *s)) {
    static stream_ops late, never;
    stream_ops *ops = shutdown_fn == shut_late ? &late : &never;
    *ops = stream_socket;
    ops->shutdown = shutdown_fn;
    c->io.ops = ops;
    atomic_store(&shutdowns, 0);
    return conn_flush(c, CONN_LINGER);
}

static int obey(host_conn *c, const char *data, size_t n) {
    if (memchr(data, 's', n)) return linger_with(c, shut_late);
    if (memchr(data, 'S', n)) return linger_with(c, shut_never);
    if (memchr(data, '.', n)) return conn_flush(c, CONN_LINGER);
    if (memchr(data, '#', n)) return conn_flush(c, CONN_END);
    if (memchr(data, '!', n)) return conn_close(c);
    if (memchr(data, 'f', n)) return conn_flush(c, CONN_SERVE);
    if (!memchr(data, ';', n)) return 0;
    c->state = ALL_READ;
    return conn_flush(c, CONN_LINGER);
}

static int serve(host_conn *c) {
    const char *data;
    ssize_t n;
    atomic_store(&seen.conn, c);
    atomic_fetch_add(&seen.turns, 1);
    if (c->state >= RT_RW && rt_pd_check(c->io.pd, c->state) == RT_ETIMEOUT) return conn_close(c);
    c->state = ORDINARY;
    int err = send_queued(c);
    if (err && err != -EAGAIN) return conn_close(c);
    while ((n = conn_read(c, BODY_READ, &data)) > 0) {
        conn_wake(c);
        if (out_bytes(&c->out, data, (size_t)n) < 0) return conn_close(c);
        atomic_fetch_add(&seen.read, n);
        int next = obey(c, data, (size_t)n);
        if (next) return next;
    }
    if (n != -EAGAIN) return conn_close(c);
    if (c->out.n > 0 && send_queued(c) == 0) return CONN_NEXT;
    c->state = c->out.n > 0 ? RT_RW : RT_R;
    if (c->out.n == 0) return conn_wait_idle(c, rt_nanotime());
    rt_pd_set_deadline(c->io.pd, RT_R, 0);
    return conn_wait(c, RT_RW);
}

static int flush(host_conn *c, int64_t *until_ns) {
    *until_ns = rt_nanotime() + PATIENCE_NS;
    return send_queued(c);
}

static bool unread(const host_conn *c) {
    return c->state != ALL_READ;
}

static void end(host_conn *c) {
    (void)c;
    atomic_fetch_add(&seen.ends, 1);
}

static int refuse(host_conn *c, int status) {
    if (status == 500) return -ENOMEM;
    char text[16];
    int n = snprintf(text, sizeof text, "no: %d;", status);
    c->state = ALL_READ;
    conn_flush(c, CONN_LINGER);
    return out_bytes(&c->out, text, (size_t)n);
}

static const conn_protocol echo = {
    .serve = serve, .flush = flush, .unread = unread, .end = end, .refuse = refuse};

/* ---- its client ---- */

static int open_client(int refusal) {
    int sv[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, sv) < 0)
        rt_throw("no socket");
    atomic_store(&seen.ends, 0);
    atomic_store(&seen.read, 0);
    refs_init(&server.refs, 1);
    conn_start(&server, sv[1], (server_client){0}, &echo, refusal);
    return sv[0];
}

static bool is_closed(void) {
    return refs_alone(&server.refs);
}

/* What comes until there are n bytes, or the end. */
static size_t take(int fd, size_t n) {
    size_t at = 0;
    int64_t until = rt_nanotime() + PATIENCE_NS;
    while (at < n && rt_nanotime() < until) {
        ssize_t r = recv(fd, buf + at, n - at, 0);
        if (r == 0) break;
        if (r > 0)
            at += (size_t)r;
        else
            rt_sleep(MS);
    }
    return at;
}

static void say(int fd, const char *text) {
    if (send(fd, text, strlen(text), MSG_NOSIGNAL) != (ssize_t)strlen(text)) rt_throw("no room");
}

static bool has_ended(int fd) {
    return take(fd, 1) == 0 && recv(fd, buf, 1, 0) == 0;
}

#define TAKES(fd, text)                                                                            \
    (take(fd, sizeof text - 1) == sizeof text - 1 && !memcmp(buf, text, sizeof text - 1))

/* ---- tests ---- */

static void turns_of_a_protocol(void *arg) {
    (void)arg;
    int fd = open_client(0);
    say(fd, "abc");
    CHECK(TAKES(fd, "abc"));
    EXPECT_SOON(atomic_load(&atomic_load(&seen.conn)->base.idle_ns) != 0);
    say(fd, "d");
    CHECK(TAKES(fd, "d"));
    CHECK_EQ(atomic_load(&seen.ends), 0);
    say(fd, "!");
    CHECK(has_ended(fd)); /* what is queued is dropped */
    EXPECT_SOON(is_closed());
    CHECK_EQ(atomic_load(&seen.ends), 1);
    close(fd);
}

static void a_client_that_leaves(void *arg) {
    (void)arg;
    int fd = open_client(0);
    say(fd, "abc");
    CHECK(TAKES(fd, "abc"));
    close(fd);
    EXPECT_SOON(is_closed());
    CHECK_EQ(atomic_load(&seen.ends), 1);
}

/* Sends all of `sent`, as fast as it is read. False: it is not. */
static bool send_much(int fd) {
    int64_t until = rt_nanotime() + PATIENCE_NS;
    for (size_t at = 0; at < MUCH;) {
        ssize_t n = send(fd, sent + at, MUCH - at, MSG_NOSIGNAL);
        if (n > 0)
            at += (size_t)n;
        else if (rt_nanotime() < until)
            rt_sleep(MS);
        else
            return false;
    }
    return true;
}

static void reading_goes_on_while_writing_is_blocked(void *arg) {
    (void)arg;
    int fd = open_client(0);
    memset(sent, 'x', sizeof sent);
    CHECK(send_much(fd)); /* without reading */
    EXPECT_SOON(atomic_load(&seen.read) == MUCH);
    CHECK_EQ(take(fd, MUCH), MUCH);
    CHECK(memcmp(buf, sent, MUCH) == 0);
    say(fd, "y");
    CHECK(TAKES(fd, "y"));
    close(fd);
    EXPECT_SOON(is_closed());
}

/* In FLUSH the protocol has no turn until all is sent. */
static void a_flush_comes_before_the_next_turn(void *arg) {
    (void)arg;
    int fd = open_client(0);
    memset(sent, 'x', sizeof sent);
    CHECK(send_much(fd));
    EXPECT_SOON(atomic_load(&seen.read) == MUCH);
    say(fd, "f");
    EXPECT_SOON(atomic_load(&seen.read) == MUCH + 1);
    say(fd, "g");
    int turns = atomic_load(&seen.turns);
    rt_sleep(20 * MS);
    CHECK_EQ(atomic_load(&seen.turns), turns);
    CHECK_EQ(atomic_load(&seen.read), MUCH + 1);
    CHECK_EQ(take(fd, MUCH), MUCH);
    CHECK(TAKES(fd, "fg"));
    CHECK(atomic_load(&seen.turns) > turns);
    close(fd);
    EXPECT_SOON(is_closed());
}

static void a_connection_lingers_for_what_nobody_reads(void *arg) {
    (void)arg;
    int fd = open_client(0);
    say(fd, "a.");
    CHECK(TAKES(fd, "a."));
    CHECK(has_ended(fd));
    EXPECT_SOON(atomic_load(&seen.ends) ==
                1); /* the exchanges are over, and the connection is there */
    say(fd, "more");
    CHECK(!is_closed());
    CHECK_EQ(atomic_load(&seen.read), 2);
    close(fd);
    EXPECT_SOON(is_closed());
    CHECK_EQ(atomic_load(&seen.ends), 1);
}

/* The end of our side is bytes with TLS, and the kernel may not take them at once: then the connection waits for room, and
 * lingers when they are out. */
static void an_end_waits_for_room(void *arg) {
    (void)arg;
    int fd = open_client(0);
    say(fd, "as");
    CHECK(TAKES(fd, "as"));
    CHECK(has_ended(fd));
    EXPECT_EQ(atomic_load(&shutdowns), 2);
    EXPECT_SOON(atomic_load(&seen.ends) == 1);
    say(fd, "more");
    CHECK(!is_closed()); /* it lingers */
    close(fd);
    EXPECT_SOON(is_closed());
}

/* A client that reads nothing holds the connection for two seconds. */
static void an_end_that_finds_no_room(void *arg) {
    (void)arg;
    int fd = open_client(0);
    int64_t begin = rt_nanotime();
    say(fd, "aS");
    CHECK(TAKES(fd, "aS"));
    CHECK(has_ended(fd));
    EXPECT(rt_nanotime() - begin >= 1900 * MS);
    EXPECT_SOON(is_closed());
    EXPECT(atomic_load(&shutdowns) >= 2);
    CHECK_EQ(atomic_load(&seen.ends), 1);
    close(fd);
}

static void ends_that_do_not_linger(void *arg) {
    (void)arg;
    for (int i = 0; i < 2; i++) {
        int fd = open_client(0);
        say(fd, i ? "a;" : "a#");
        CHECK(i ? TAKES(fd, "a;") : TAKES(fd, "a#"));
        EXPECT_SOON(is_closed());
        CHECK_EQ(atomic_load(&seen.ends), 1);
        close(fd);
    }
}

static void a_connection_that_is_refused(void *arg) {
    (void)arg;
    int fd = open_client(503);
    CHECK(TAKES(fd, "no: 503;"));
    CHECK(has_ended(fd));
    EXPECT_SOON(is_closed());
    close(fd);
    fd = open_client(500); /* no memory */
    EXPECT_SOON(is_closed());
    CHECK(has_ended(fd));
    close(fd);
}

/* A client that is silent ends by the deadline of its server. */
static void an_idle_connection_ends(void *arg) {
    (void)arg;
    options.limits.idle_timeout = 0.05;
    int fd = open_client(0);
    CHECK(has_ended(fd));
    EXPECT_SOON(is_closed());
    options.limits.idle_timeout = 60;
    close(fd);
}

int main(void) {
    options.limits.idle_timeout = 60;
    const struct CMUnitTest tests[] = {
        in_g_test(turns_of_a_protocol),
        in_g_test(a_client_that_leaves),
        in_g_test(reading_goes_on_while_writing_is_blocked),
        in_g_test(a_flush_comes_before_the_next_turn),
        in_g_test(a_connection_lingers_for_what_nobody_reads),
        in_g_test(an_end_waits_for_room),
        in_g_test(an_end_that_finds_no_room),
        in_g_test(ends_that_do_not_linger),
        in_g_test(a_connection_that_is_refused),
        in_g_test(an_idle_connection_ends),
    };
    RUN_TESTS("conn", tests);
}
