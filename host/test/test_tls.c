/* TLS streams: both ends ours, over TCP and through a relay that cuts the bytes where it likes; whom a client trusts;
 * names and kinds of keys; tickets; what a peer may not do. Certificates are made by openssl(1). */
#include "../net/tls.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../../runtime/io.h"
#include "../../runtime/test/harness.h"

static char dir[64];

static const char *path(const char *name) {
    static __thread char paths[8][128];
    static __thread unsigned int n;
    char *p = paths[n++ % 8];
    snprintf(p, sizeof paths[0], "%s/%s", dir, name);
    return p;
}

/* NAME.pem and NAME.key: a certificate that signs itself, for these names. days: from now on; negative: it is over. */
static void make_cert(const char *name, const char *key, const char *names, const char *dates) {
    char command[1024];
    snprintf(
        command, sizeof command,
        "cd %s && openssl req -x509 -newkey %s -nodes -keyout %s.key -out %s.csr.pem -subj /CN=%s "
        "-addext subjectAltName=%s -days 30 2>/dev/null && cp %s.csr.pem %s.pem %s",
        dir, key, name, name, name, names, name, name, dates);
    if (system(command) != 0) fprintf(stderr, "cannot make a certificate: %s\n", command);
}

static void make_certs(void) {
    snprintf(dir, sizeof dir, "/tmp/test_tls.%d", (int)getpid());
    if (mkdir(dir, 0700) < 0) return;
    make_cert("a", "ec -pkeyopt ec_paramgen_curve:P-256",
              "DNS:a.example,DNS:*.wild.example,IP:127.0.0.1", "");
    make_cert("r", "rsa:2048", "DNS:a.example", "");
    make_cert("b", "ec -pkeyopt ec_paramgen_curve:P-256", "DNS:b.example", "");
    /* Signed by its own key with dates in the past. */
    make_cert("old", "ec -pkeyopt ec_paramgen_curve:P-256", "DNS:old.example",
              "&& openssl req -new -key old.key -subj /CN=old.example -addext "
              "subjectAltName=DNS:old.example "
              "-out old.csr 2>/dev/null && mkdir -p old.ca && touch old.ca/index && echo 01 > "
              "old.ca/serial && "
              "printf "
              "'[ca]\\ndefault_ca=c\\n[c]\\ndatabase=old.ca/index\\nserial=old.ca/"
              "serial\\nnew_certs_dir=old.ca\\n"
              "default_md=sha256\\npolicy=p\\ncopy_extensions=copy\\n[p]\\ncommonName=supplied\\n' "
              "> old.cnf && "
              "openssl ca -batch -config old.cnf -selfsign -keyfile old.key -in old.csr -startdate "
              "20200101000000Z "
              "-enddate 20210101000000Z -notext -out old.pem 2>/dev/null");
}

static void remove_certs(void) {
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    if (system(command) != 0) fprintf(stderr, "cannot remove %s\n", dir);
}

/* ---- ends ---- */

static tls_config *config(const tls_settings *set) {
    char why[TLS_WHY];
    tls_config *c = tls_config_new(set, why);
    expect_at(c != NULL, __FILE__, __LINE__, "%s", why);
    return c;
}

static tls_config *server_of(const char *const *names, int n) {
    tls_pair pairs[4];
    for (int i = 0; i < n; i++)
        pairs[i] = (tls_pair){path(names[2 * i]), path(names[2 * i + 1])};
    return config(
        &(tls_settings){.server = true, .pairs = pairs, .n_pairs = n, .alpn = "http/1.1"});
}

static tls_config *server_a(void) {
    return server_of((const char *const[]){"a.pem", "a.key"}, 1);
}

static tls_config *client_of(const char *ca) {
    return config(&(tls_settings){.ca = path(ca), .alpn = "h2,http/1.1"});
}

/* Two ends of a TCP connection. */
static void connect_two(stream *server, stream *client) {
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t len = sizeof sa;
    int listener = rt_listen((struct sockaddr *)&sa, len, 1);
    CHECK_EQ(getsockname(listener, (struct sockaddr *)&sa, &len), 0);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK_EQ(connect(fd, (struct sockaddr *)&sa, len), 0);
    CHECK_EQ(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
    int accepted = rt_accept4(listener, NULL, NULL);
    close(listener);
    CHECK_EQ(stream_open(server, accepted, &stream_socket), 0);
    CHECK_EQ(stream_open(client, fd, &stream_socket), 0);
}

static int await(stream *s, int mode) {
    int want = stream_wants(s, mode);
    if (want == RT_R) stream_doubt(s);
    return rt_pd_wait(s->pd, want, want == RT_R ? RT_WAIT_READ : RT_WAIT_WRITE);
}

static int shake_whole(stream *s) {
    int err;
    while ((err = s->ops->shake(s)) == -EAGAIN)
        if ((err = await(s, RT_R))) return err;
    return err;
}

/* Reads n bytes, or to the end: how many, or the error. */
static ssize_t read_whole(stream *s, char *buf, size_t n) {
    size_t got = 0;
    while (got < n) {
        ssize_t r = stream_read(s, buf + got, n - got);
        if (r == 0) break;
        if (r == -EAGAIN) r = await(s, RT_R);
        if (r < 0) return r;
        got += (size_t)r;
    }
    return (ssize_t)got;
}

static ssize_t write_whole(stream *s, const char *buf, size_t n) {
    size_t at = 0;
    while (at < n) {
        ssize_t r = stream_write(s, buf + at, n - at);
        if (r == -EAGAIN) r = await(s, RT_W);
        if (r < 0) return r;
        at += (size_t)r;
    }
    return (ssize_t)at;
}

/* A client that does something, as a G. */
typedef struct client {
    stream s;
    int (*what)(struct client *c);
    int answer;
    _Atomic bool done;
    char why[160];
} client;

static void run_client(void *arg) {
    client *c = arg;
    c->answer = shake_whole(&c->s);
    if (!c->answer && c->what) c->answer = c->what(c);
    snprintf(c->why, sizeof c->why, "%s", tls_why(&c->s));
    atomic_store(&c->done, true);
}

/* Both ends, the client's G under way. False: it failed. */
static bool begin_two(stream *server, client *c, tls_config *sc, tls_config *cc, const char *name) {
    connect_two(server, &c->s);
    bool ok = EXPECT_EQ(tls_begin(server, sc, NULL), 0) && EXPECT_EQ(tls_begin(&c->s, cc, name), 0);
    tls_config_release(sc);
    tls_config_release(cc);
    return ok && EXPECT(rt_go(run_client, c) != NULL);
}

static void end_two(stream *server, client *c) {
    EXPECT_SOON(atomic_load(&c->done));
    stream_close(server, false);
    stream_close(&c->s, false);
}

/* ---- tests ---- */

enum { MUCH = 3 << 20 };

static char pattern[MUCH];

static int echo_much(client *c) {
    char *got = malloc(MUCH);
    ssize_t n = read_whole(&c->s, got, MUCH);
    int bad = n != MUCH || memcmp(got, pattern, MUCH) != 0;
    if (!bad) bad = write_whole(&c->s, got, MUCH) != MUCH;
    free(got);
    return bad ? -EBADMSG : c->s.ops->shutdown(&c->s);
}

static void much_goes_both_ways(void *arg) {
    (void)arg;
    stream s;
    client c = {.what = echo_much};
    for (size_t i = 0; i < MUCH; i++)
        pattern[i] = (char)(i * 7 + i / 1000);
    CHECK(begin_two(&s, &c, server_a(), client_of("a.pem"), "a.example"));
    CHECK_EQ(shake_whole(&s), 0);
    CHECK_EQ(write_whole(&s, pattern, MUCH), MUCH);
    char *got = malloc(MUCH + 1);
    EXPECT_EQ(read_whole(&s, got, MUCH + 1), MUCH); /* and the end, in order */
    EXPECT(memcmp(got, pattern, MUCH) == 0);
    free(got);
    tls_agreed a;
    tls_agreed_on(&s, &a);
    EXPECT(strcmp(a.version, "TLSv1.3") == 0);
    EXPECT(a.sni && strcmp(a.sni, "a.example") == 0);
    EXPECT(a.alpn_len == 8 && memcmp(a.alpn, "http/1.1", 8) == 0);
    EXPECT(!a.resumed);
    end_two(&s, &c);
    CHECK_EQ(c.answer, 0);
}

static int say_and_hear(client *c) {
    char got[32];
    if (write_whole(&c->s, "from client", 11) != 11) return -EBADMSG;
    if (read_whole(&c->s, got, 11) != 11 || memcmp(got, "from server", 11) != 0) return -EBADMSG;
    return 0;
}

/* A relay between two descriptors that forwards `step` bytes at a time. */
typedef struct relay {
    int fds[2];
    size_t step;
    _Atomic bool stop, done;
} relay;

static void run_relay(void *arg) {
    relay *r = arg;
    char buf[4096];
    while (!atomic_load(&r->stop)) {
        bool moved = false;
        for (int i = 0; i < 2; i++) {
            ssize_t n = recv(r->fds[i], buf, r->step, MSG_DONTWAIT);
            if (n <= 0) continue;
            moved = true;
            while (send(r->fds[1 - i], buf, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 &&
                   errno == EAGAIN)
                rt_yield();
        }
        if (moved)
            rt_yield();
        else
            rt_sleep(MS / 20);
    }
    atomic_store(&r->done, true);
}

static void bytes_come_one_by_one(void *arg) {
    (void)arg;
    for (size_t step = 1; step <= 1000; step = step * 3 + 1) {
        int a[2], b[2];
        stream s;
        client c = {.what = say_and_hear};
        CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, a), 0);
        CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, b), 0);
        CHECK_EQ(stream_open(&s, a[0], &stream_socket), 0);
        CHECK_EQ(stream_open(&c.s, b[0], &stream_socket), 0);
        relay r = {.fds = {a[1], b[1]}, .step = step};
        CHECK(rt_go(run_relay, &r));
        tls_config *sc = server_a(), *cc = client_of("a.pem");
        CHECK_EQ(tls_begin(&s, sc, NULL), 0);
        CHECK_EQ(tls_begin(&c.s, cc, "a.example"), 0);
        tls_config_release(sc);
        tls_config_release(cc);
        CHECK(rt_go(run_client, &c));
        char got[32];
        CHECK_EQ(shake_whole(&s), 0);
        CHECK_EQ(read_whole(&s, got, 11), 11);
        CHECK_EQ(write_whole(&s, "from server", 11), 11);
        end_two(&s, &c);
        atomic_store(&r.stop, true);
        EXPECT_SOON(atomic_load(&r.done));
        close(a[1]);
        close(b[1]);
        CHECK_EQ(c.answer, 0);
    }
}

/* What a client says of a server with these files. */
static void refused(const char *cert, const char *key, const char *ca, const char *name,
                    const char *why) {
    stream s;
    client c = {0};
    tls_config *sc = server_of((const char *const[]){cert, key}, 1);
    CHECK(begin_two(&s, &c, sc, client_of(ca), name));
    int err = shake_whole(&s);
    char buf[8];
    if (!err)
        err = (int)read_whole(&s, buf,
                              1); /* with TLS 1.3 the server is done before the client refuses */
    EXPECT_EQ(err, STREAM_ETLS);
    expect_at(strstr(tls_why(&s), "the peer refused") != NULL, __FILE__, __LINE__, "server: %s",
              tls_why(&s));
    end_two(&s, &c);
    EXPECT_EQ(c.answer, STREAM_ETLS);
    expect_at(strstr(c.why, why) != NULL, __FILE__, __LINE__, "client: %s, not %s", c.why, why);
}

static void a_client_trusts_whom_it_should(void *arg) {
    (void)arg;
    refused("a.pem", "a.key", "a.pem", "c.example",
            "name does not match: the certificate is for a.example, *.wild.example");
    refused("a.pem", "a.key", "b.pem", "a.example", "certificate is not trusted: ");
    refused("old.pem", "old.key", "old.pem", "old.example",
            "certificate expired on 2021-01-01 00:00:00 UTC");
    refused("a.pem", "a.key", "a.pem", "x.y.wild.example", "name does not match");
    refused("a.pem", "a.key", "a.pem", "127.0.0.2", "name does not match");
}

static void served(tls_config *sc, tls_config *cc, const char *name, const char *cipher) {
    stream s;
    client c = {.what = say_and_hear};
    char got[16];
    CHECK(begin_two(&s, &c, sc, cc, name));
    CHECK_EQ(shake_whole(&s), 0);
    CHECK_EQ(read_whole(&s, got, 11), 11);
    CHECK_EQ(write_whole(&s, "from server", 11), 11);
    tls_agreed a;
    tls_agreed_on(&s, &a);
    if (cipher) expect_at(strstr(a.cipher, cipher) != NULL, __FILE__, __LINE__, "%s", a.cipher);
    end_two(&s, &c);
    expect_at(c.answer == 0, __FILE__, __LINE__, "%s: %d, %s", name, c.answer, c.why);
}

static void names_choose_certificates(void *arg) {
    (void)arg;
    const char *const both[] = {"a.pem", "a.key", "b.pem", "b.key", "r.pem", "r.key"};
    served(server_of(both, 3), client_of("a.pem"), "a.example", NULL);
    served(server_of(both, 3), client_of("b.pem"), "b.example", NULL);
    served(server_of(both, 3), client_of("b.pem"), "B.Example", NULL);
    served(server_of(both, 3), client_of("a.pem"), "x.wild.example", NULL);
    served(server_of(both, 3), client_of("a.pem"), "127.0.0.1", NULL);
    served(server_of(both, 3), config(&(tls_settings){.insecure = true}), "unknown.example", NULL);
}

static void bad_files_are_named(void *arg) {
    (void)arg;
    char why[TLS_WHY];
    tls_pair pairs[] = {{path("a.pem"), path("b.key")},
                        {path("none.pem"), path("a.key")},
                        {path("a.key"), path("a.key")}};
    const char *said[] = {"mismatch", "No such file", "certificate"};
    for (int i = 0; i < 3; i++) {
        EXPECT(!tls_config_new(&(tls_settings){.server = true, .pairs = &pairs[i], .n_pairs = 1},
                               why));
        expect_at(strcasestr(why, said[i]) && strstr(why, dir), __FILE__, __LINE__, "%s", why);
    }
    EXPECT(!tls_config_new(&(tls_settings){.server = true}, why));
    EXPECT(!tls_config_new(&(tls_settings){.pin = "abc"}, why));
    EXPECT(strstr(why, "64 hexadecimal"));
    EXPECT(!tls_config_new(&(tls_settings){.ca = path("a.key")}, why));
    EXPECT(strstr(why, "a.key"));
}

static void an_end_without_notice_is_an_error(void *arg) {
    (void)arg;
    stream s;
    client c = {0};
    char got[8];
    CHECK(begin_two(&s, &c, server_a(), client_of("a.pem"), "a.example"));
    CHECK_EQ(shake_whole(&s), 0);
    EXPECT_SOON(atomic_load(&c.done));
    CHECK_EQ(shutdown(c.s.fd, SHUT_WR), 0);
    EXPECT_EQ(read_whole(&s, got, 1), STREAM_ETLS);
    EXPECT(strstr(tls_why(&s), "without saying so"));
    end_two(&s, &c);
}

/* In place of libc's. */
static _Atomic int shutdowns;

int shutdown(int fd, int how) {
    atomic_fetch_add(&shutdowns, 1);
    return (int)syscall(SYS_shutdown, fd, how);
}

static int read_to_the_end(client *c) {
    char got[8];
    return (int)read_whole(&c->s, got, 1);
}

static void an_end_costs_one_call(void *arg) {
    (void)arg;
    for (int shut = 0; shut < 2; shut++) {
        stream s;
        client c = {.what = read_to_the_end};
        CHECK(begin_two(&s, &c, server_a(), client_of("a.pem"), "a.example"));
        CHECK_EQ(shake_whole(&s), 0);
        atomic_store(&shutdowns, 0);
        if (shut) CHECK_EQ(s.ops->shutdown(&s), 0);
        stream_close(&s, false);
        EXPECT_EQ(atomic_load(&shutdowns), shut);
        EXPECT_SOON(atomic_load(&c.done));
        EXPECT_EQ(c.answer, 0); /* the end, in order */
        stream_close(&c.s, false);
    }
}

static void plain_http_is_recognized(void *arg) {
    (void)arg;
    stream s, plain;
    connect_two(&s, &plain);
    tls_config *sc = server_a();
    CHECK_EQ(tls_begin(&s, sc, NULL), 0);
    tls_config_release(sc);
    CHECK_EQ(stream_write(&plain, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", 27), 27);
    EXPECT_EQ(shake_whole(&s), STREAM_ETLS);
    EXPECT(strcmp(tls_why(&s), TLS_PLAIN_HTTP) == 0);
    stream_close(&s, false);
    stream_close(&plain, false);
}

/* A client that asks for new keys again and again. */
static void new_keys_have_an_end(void *arg) {
    (void)arg;
    stream s;
    client c = {0};
    char got[8];
    tls_config *sc = server_a(), *cc = client_of("a.pem");
    connect_two(&s, &c.s);
    CHECK_EQ(tls_begin(&s, sc, NULL), 0);
    tls_config_release(sc);
    int fd = c.s.fd;
    SSL *ssl = tls_config_ssl(cc, "a.example");
    CHECK_EQ(fcntl(fd, F_SETFL, 0), 0);
    SSL_set_fd(ssl, fd);
    /* The client blocks in a call of its own thread: what it says fits into the socket's buffer. */
    SSL_set_connect_state(ssl);
    CHECK_EQ(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
    for (bool both = false; !both; rt_sleep(MS / 10)) {
        int r = SSL_do_handshake(ssl), err = s.ops->shake(&s);
        both = r == 1 && err == 0;
        CHECK(err == 0 || err == -EAGAIN);
    }
    for (int i = 0; i < 20; i++)
        CHECK_EQ(SSL_key_update(ssl, SSL_KEY_UPDATE_REQUESTED) == 1 && SSL_do_handshake(ssl) == 1,
                 1);
    CHECK_EQ(SSL_write(ssl, "x", 1), 1);
    CHECK_EQ(read_whole(&s, got, 1), 1); /* a few are all right */
    for (int i = 0; i < 100; i++)
        if (SSL_key_update(ssl, SSL_KEY_UPDATE_NOT_REQUESTED) != 1 || SSL_do_handshake(ssl) != 1)
            break;
    EXPECT_EQ(read_whole(&s, got, 1), STREAM_ETLS);
    EXPECT(strstr(tls_why(&s), "again and again"));
    SSL_free(ssl);
    tls_config_release(cc);
    stream_close(&s, false);
    stream_close(&c.s, false);
}

/* The peer reads nothing: a write takes as much as the kernel does, and goes on at the same byte. */
static void a_slow_reader_gets_all(void *arg) {
    (void)arg;
    stream s;
    client c = {0};
    int size = 4096;
    CHECK(begin_two(&s, &c, server_a(), client_of("a.pem"), "a.example"));
    CHECK_EQ(setsockopt(s.fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size), 0);
    CHECK_EQ(shake_whole(&s), 0);
    EXPECT_SOON(atomic_load(&c.done));
    size_t at = 0, got = 0;
    char *all = malloc(MUCH);
    bool blocked = false;
    while (got < MUCH) {
        ssize_t n = at < MUCH ? stream_write(&s, pattern + at, MUCH - at) : -EAGAIN;
        if (n > 0) at += (size_t)n;
        CHECK(n > 0 || n == -EAGAIN);
        if (n > 0) continue;
        blocked = true;
        ssize_t r = stream_read(&c.s, all + got, MUCH - got < 5000 ? MUCH - got : 5000);
        if (r == -EAGAIN)
            rt_sleep(MS / 20);
        else
            got += (size_t)r;
        CHECK(r > 0 || r == -EAGAIN);
    }
    EXPECT(blocked);
    EXPECT(memcmp(all, pattern, MUCH) == 0);
    free(all);
    end_two(&s, &c);
}

static int write_much_and_read_nothing(client *c) {
    return write_whole(&c->s, pattern, MUCH) == MUCH ? 0 : -EBADMSG;
}

/* The server has written a ticket behind the handshake, which stays in the client's socket. */
static void a_ticket_that_nobody_reads_holds_up_nothing(void *arg) {
    (void)arg;
    stream s;
    client c = {.what = write_much_and_read_nothing};
    char *got = malloc(MUCH);
    CHECK(begin_two(&s, &c, server_a(), client_of("a.pem"), "a.example"));
    CHECK_EQ(shake_whole(&s), 0);
    EXPECT_EQ(read_whole(&s, got, MUCH), MUCH);
    EXPECT(memcmp(got, pattern, MUCH) == 0);
    free(got);
    int unread = 0;
    EXPECT_EQ(ioctl(c.s.fd, FIONREAD, &unread), 0);
    EXPECT(unread > 100);
    end_two(&s, &c);
    CHECK_EQ(c.answer, 0);
}

static void an_abandoned_write_is_the_last(void *arg) {
    (void)arg;
    stream s;
    client c = {0};
    CHECK(begin_two(&s, &c, server_a(), client_of("a.pem"), "a.example"));
    CHECK_EQ(shake_whole(&s), 0);
    EXPECT_SOON(atomic_load(&c.done));
    while (stream_write(&s, pattern, MUCH) != -EAGAIN) {
    }
    tls_abandon_write(&s);
    EXPECT_EQ(stream_write(&s, "other", 5), STREAM_ETLS);
    EXPECT(strstr(tls_why(&s), "broken off"));
    end_two(&s, &c);
}

/* What a blocked write has encrypted, the peer gets. A writer that has lost the rest of its bytes meanwhile, and offers a
 * few, has written these few. */
static void a_write_takes_no_more_than_it_is_offered(void *arg) {
    (void)arg;
    stream s;
    client c = {0};
    char got[5000];
    CHECK(begin_two(&s, &c, server_a(), client_of("a.pem"), "a.example"));
    CHECK_EQ(shake_whole(&s), 0);
    EXPECT_SOON(atomic_load(&c.done));
    while (stream_write(&s, pattern, MUCH) != -EAGAIN) {
    }
    ssize_t n;
    while ((n = stream_write(&s, pattern, 10)) == -EAGAIN)
        if (stream_read(&c.s, got, sizeof got) < 0) rt_sleep(MS / 20);
    EXPECT_EQ(n, 10);
    end_two(&s, &c);
}

/* Bytes that stop short of what was promised are no end in order. */
static void a_cut_is_no_end(void *arg) {
    (void)arg;
    stream s;
    client c = {0};
    char got[8];
    CHECK(begin_two(&s, &c, server_a(), client_of("a.pem"), "a.example"));
    CHECK_EQ(shake_whole(&s), 0);
    EXPECT_SOON(atomic_load(&c.done));
    EXPECT_EQ(stream_write(&s, "begin", 5), 5);
    tls_cut(&s);
    stream_close(&s, false);
    EXPECT_EQ(read_whole(&c.s, got, 5), 5);
    EXPECT_EQ(read_whole(&c.s, got, 1), STREAM_ETLS);
    EXPECT(strstr(tls_why(&c.s), "bytes may be missing"));
    stream_close(&c.s, false);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        in_g_test(much_goes_both_ways),
        in_g_test(bytes_come_one_by_one),
        in_g_test(a_client_trusts_whom_it_should),
        in_g_test(names_choose_certificates),
        in_g_test(bad_files_are_named),
        in_g_test(an_end_without_notice_is_an_error),
        in_g_test(an_end_costs_one_call),
        in_g_test(plain_http_is_recognized),
        in_g_test(new_keys_have_an_end),
        in_g_test(a_slow_reader_gets_all),
        in_g_test(a_ticket_that_nobody_reads_holds_up_nothing),
        in_g_test(an_abandoned_write_is_the_last),
        in_g_test(a_write_takes_no_more_than_it_is_offered),
        in_g_test(a_cut_is_no_end),
    };
    make_certs();
    atexit(remove_certs);
    RUN_TESTS("tls", tests);
}
