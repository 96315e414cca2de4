/* exchange: a response begins once, ends once, and has the bytes that it promised, whatever the protocol; the bytes of
 * HTTP/1; what an old name of a request can reach; bodies that grow; what an exchange was, in bytes. Where exchanges
 * end: test_over.c. */
#include "../base/options.h"
#include "../http/conn.h"
#include "../http/hold.h"
#include "../http/http1.h"
#include "../http/over.h"
#include "../http/pace.h"
#include "../http/response.h"
#include "../vm/vm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "../../runtime/test/harness.h"

#define GET    "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
#define HEAD   "HEAD / HTTP/1.1\r\nHost: x\r\n\r\n"
#define OLD    "GET / HTTP/1.0\r\n\r\n"
#define OLD_KA "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"

enum { LONG = 4 << 20 };

/* ---- a connection whose handler is the test ---- */

static host_server server = {.listener.limits = &options.limits};
static double last_id;

typedef struct one {
    host_conn conn;
    host_exchange *x;
    double id;
    int peer;
    char got[LONG + 4096];
    size_t n;
} one;

/* The handler gets a request. */
static void ask(one *o, const exchange_ops *ops, const char *request) {
    o->x = o->conn.x = exchange_take(&o->conn, ops);
    o->x->begin_ns = rt_nanotime();
    if (exchange_keep(o->x, request, strlen(request)) < 0 || http1_head(o->x) != 1)
        rt_throw("a bad request");
    o->x->req.id = o->id = ++last_id;
    hold_begin(o->x, 0);
}

static one *open_one(const char *request) {
    static one ones[2];
    static int n;
    int sv[2];
    one *o = &ones[n++ % 2];
    *o = (one){.conn.base.server = &server};
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, sv) < 0 ||
        stream_open(&o->conn.io, sv[0], &stream_socket) < 0)
        rt_throw("no socket");
    o->peer = sv[1];
    ask(o, &http1_ops, request);
    return o;
}

static void close_one(one *o) {
    out_drop(&o->conn.out);
    exchange_give(o->x);
    stream_close(&o->conn.io, false);
    close(o->peer);
}

/* Reads what there is. */
static void take_all(one *o) {
    ssize_t n;
    while ((n = recv(o->peer, o->got + o->n, sizeof o->got - 1 - o->n, 0)) > 0)
        o->n += (size_t)n;
    o->got[o->n] = 0;
}

/* What came, without the date. */
static const char *answer(one *o) {
    take_all(o);
    char *date = strstr(o->got, "Date: "), *end = date ? strchr(date, '\n') : NULL;
    if (end) memmove(date, end + 1, strlen(end + 1) + 1);
    return o->got;
}

static int respond(one *o, int status, const char *body) {
    return host_respond(&o->x->req, o->id, status, 0, "", 0, body, strlen(body));
}
static int stream_begin(one *o, int status, int64_t length) {
    return host_stream_begin(&o->x->req, o->id, status, 0, "A: b\r\n", 6, length);
}
static int put(one *o, const char *data) {
    return host_stream_write(&o->x->req, o->id, data, strlen(data));
}
static int flush(one *o) {
    return host_stream_flush(&o->x->req, o->id);
}
static int end(one *o) {
    return host_stream_end(&o->x->req, o->id);
}

/* ---- states ---- */

static void a_whole_response_is_begun_once(void *arg) {
    (void)arg;
    one *o = open_one(GET);
    CHECK_EQ(put(o, "x"), -EALREADY); /* it has no head */
    CHECK_EQ(end(o), -EALREADY);
    CHECK_EQ(flush(o), 0);
    CHECK_EQ(o->x->req.status, 0);
    CHECK_EQ(respond(o, 200, "one"), 0);
    CHECK_EQ(respond(o, 500, "two"), -EALREADY);
    CHECK_EQ(stream_begin(o, 500, -1), -EALREADY);
    CHECK_EQ(put(o, "x"), -EALREADY);
    CHECK_EQ(end(o), -EALREADY);
    CHECK_EQ(o->x->req.status, 200);
    CHECK(!response_is_partial(o->x));
    CHECK(strcmp(answer(o), "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none") == 0);
    close_one(o);
}

static void a_stream_is_begun_once_and_ends_once(void *arg) {
    (void)arg;
    one *o = open_one(GET);
    CHECK_EQ(stream_begin(o, 201, -1), 0);
    CHECK(response_is_partial(o->x));
    CHECK_EQ(stream_begin(o, 500, -1), -EALREADY);
    CHECK_EQ(respond(o, 500, "two"), -EALREADY);
    CHECK(put(o, "one") == 0 && put(o, "") == 0);
    CHECK_EQ(end(o), 0);
    CHECK(!response_is_partial(o->x));
    CHECK_EQ(put(o, "x"), -EALREADY);
    CHECK_EQ(end(o), -EALREADY);
    CHECK_EQ(o->x->req.status, 201);
    CHECK(strcmp(answer(o), "HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\nA: b\r\n\r\n"
                            "3\r\none\r\n0\r\n\r\n") == 0);
    close_one(o);
}

/* ---- promised lengths ---- */

static void more_than_promised_is_refused(void *arg) {
    (void)arg;
    one *o = open_one(GET);
    CHECK_EQ(stream_begin(o, 200, 5), 0);
    CHECK_EQ(put(o, "abc"), 0);
    CHECK_EQ(put(o, "def"), -E2BIG);
    CHECK_EQ(put(o, "de"), 0);
    CHECK_EQ(put(o, ""), 0);
    CHECK_EQ(put(o, "f"), -E2BIG);
    CHECK_EQ(end(o), 0);
    CHECK(!o->x->close_after);
    CHECK(strcmp(answer(o), "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nA: b\r\n\r\nabcde") == 0);
    close_one(o);
}

static void less_than_promised_ends_the_connection(void *arg) {
    (void)arg;
    one *o = open_one(GET);
    CHECK_EQ(stream_begin(o, 200, 5), 0);
    CHECK_EQ(put(o, "abcd"), 0);
    CHECK(!o->x->close_after);
    CHECK_EQ(end(o), 0);
    CHECK(o->x->close_after);
    CHECK(strcmp(answer(o), "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nA: b\r\n\r\nabcd") == 0);
    close_one(o);
}

/* ---- bytes of HTTP/1 ---- */

static const struct {
    const char *request;
    int status;
    bool streamed;
    int64_t length;
    const char *body;
    bool closes;
    const char *answer;
} responses[] = {
    {GET, 200, false, 0, "", false, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"},
    {GET, 299, false, 0, "a", false, "HTTP/1.1 299 \r\nContent-Length: 1\r\n\r\na"},
    {HEAD, 200, false, 0, "body", false, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"},
    {GET, 204, false, 0, "body", false, "HTTP/1.1 204 No Content\r\n\r\n"},
    {GET, 304, false, 0, "body", false, "HTTP/1.1 304 Not Modified\r\n\r\n"},
    {HEAD, 200, true, -1, "body", false, "HTTP/1.1 200 OK\r\nA: b\r\n\r\n"},
    {HEAD, 200, true, 4, "body", false, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nA: b\r\n\r\n"},
    {HEAD, 200, true, 9, "body", false, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nA: b\r\n\r\n"},
    {GET, 204, true, -1, "body", false, "HTTP/1.1 204 No Content\r\nA: b\r\n\r\n"},
    {GET, 304, true, 4, "body", false, "HTTP/1.1 304 Not Modified\r\nA: b\r\n\r\n"},
    {OLD, 200, false, 0, "a", true,
     "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\na"},
    {OLD_KA, 200, false, 0, "a", false,
     "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\na"},
    {OLD_KA, 200, true, -1, "a", true, "HTTP/1.1 200 OK\r\nConnection: close\r\nA: b\r\n\r\na"},
    {OLD_KA, 200, true, 1, "a", false,
     "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\nA: b\r\n\r\na"},
    {"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 200, false, 0, "a", true,
     "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\na"},
};

static void responses_are_these_bytes(void *arg) {
    (void)arg;
    for (size_t i = 0; i < sizeof responses / sizeof *responses; i++) {
        one *o = open_one(responses[i].request);
        if (responses[i].streamed) {
            CHECK_EQ(stream_begin(o, responses[i].status, responses[i].length), 0);
            CHECK_EQ(put(o, responses[i].body), 0);
            CHECK_EQ(end(o), 0);
        } else {
            CHECK_EQ(respond(o, responses[i].status, responses[i].body), 0);
        }
        CHECK_EQ(o->x->close_after, responses[i].closes);
        const char *got = answer(o);
        if (strcmp(got, responses[i].answer) != 0)
            rt_throw("response %zu is\n%s\nnot\n%s", i, got, responses[i].answer);
        close_one(o);
    }
}

/* Answers to pipelined requests leave together; the last one does not wait for another. */
static void answers_wait_for_the_next_one(void *arg) {
    (void)arg;
    one *o = open_one(GET GET);
    CHECK_EQ(respond(o, 200, "one"), 0);
    CHECK_EQ(*answer(o), 0);
    size_t queued = o->conn.out.n;
    CHECK(queued > 0);
    exchange_next(o->x);
    CHECK_EQ(o->x->sent, -(int64_t)queued);
    CHECK_EQ(http1_head(o->x), 1);
    o->x->req.id = o->id = ++last_id;
    hold_begin(o->x, 0);
    CHECK_EQ(respond(o, 200, "two"), 0);
    CHECK_EQ(o->conn.out.n, 0);
    answer(o);
    CHECK(strstr(o->got, "one") && strstr(o->got, "two"));
    exchange_account a;
    exchange_account_of(o->x, rt_nanotime(), &a);
    CHECK_EQ(a.out, queued);
    CHECK_EQ(a.in, strlen(GET));
    close_one(o);
}

/* ---- a client that does not read at once ---- */

static char body[LONG];

static int rest(one *o, size_t n, bool all) {
    return host_respond_rest(&o->x->req, o->id, body, n, all);
}

static void a_long_answer_waits_for_its_client(void *arg) {
    (void)arg;
    for (size_t i = 0; i < LONG; i++)
        body[i] = (char)(i * 31 + i / 251);
    one *o = open_one(GET);
    int rc = host_respond(&o->x->req, o->id, 200, 0, "", 0, body, LONG);
    CHECK_EQ(rc, -EAGAIN);
    CHECK(o->x->left > 0 && response_is_partial(o->x));
    CHECK(o->x->answer_us > 0); /* it has begun, and does not end soon */
    while (rc == -EAGAIN) {
        take_all(o);
        rc = rest(o, LONG, false);
    }
    CHECK_EQ(rc, 0);
    CHECK(!response_is_partial(o->x));
    while (o->conn.out.n > 0) {
        take_all(o);
        (void)http1_flush(o->x);
    }
    take_all(o);
    exchange_account a;
    exchange_account_of(o->x, rt_nanotime(), &a);
    CHECK_EQ(a.out, o->n);
    CHECK(o->n > LONG && memcmp(o->got + (o->n - LONG), body, LONG) == 0);
    close_one(o);
}

static void a_rest_that_is_not_there_breaks_off(void *arg) {
    (void)arg;
    one *o = open_one(GET);
    CHECK_EQ(host_respond(&o->x->req, o->id, 200, 0, "", 0, body, LONG), -EAGAIN);
    CHECK_EQ(rest(o, 10, false), -EPIPE);
    CHECK(o->x->broken);
    CHECK_EQ(o->conn.out.n, 0);
    CHECK_EQ(rest(o, LONG, false), -EPIPE);
    close_one(o);
}

static void a_client_that_is_gone(void *arg) {
    (void)arg;
    one *o = open_one(GET);
    shutdown(o->peer, SHUT_RDWR);
    CHECK_EQ(stream_begin(o, 200, -1), 0);
    CHECK_EQ(put(o, "abc"), 0);
    CHECK_EQ(flush(o), -EPIPE);
    CHECK(o->x->broken);
    CHECK_EQ(put(o, "abc"), -EPIPE);
    CHECK_EQ(flush(o), -EPIPE);
    CHECK_EQ(end(o), -EPIPE);
    exchange_account a;
    exchange_account_of(o->x, rt_nanotime(), &a);
    CHECK_EQ(a.out, 0);
    close_one(o);
}

/* ---- names ---- */

/* No call reaches anything by that id. */
static void names_nothing(host_req *r, double id) {
    char buf[64];
    host_waitq *q;
    EXPECT_EQ(host_respond(r, id, 200, 0, "", 0, "x", 1), -EPIPE);
    EXPECT_EQ(host_respond_rest(r, id, "x", 1, 0), -EPIPE);
    EXPECT_EQ(host_stream_begin(r, id, 200, 0, "", 0, -1), -EPIPE);
    EXPECT_EQ(host_stream_write(r, id, "x", 1), -EPIPE);
    EXPECT_EQ(host_stream_flush(r, id), -EPIPE);
    EXPECT_EQ(host_stream_end(r, id), -EPIPE);
    EXPECT_EQ(host_req_fill(r, id), -ECONNRESET);
    EXPECT_EQ(host_req_remote(r, id, buf, sizeof buf), -EPIPE);
    EXPECT_EQ(host_req_lost(r, id), 1);
    EXPECT(!exchange_pd_take(r, id, &q));
}

static void an_old_name_names_nothing(void *arg) {
    (void)arg;
    one *o = open_one(GET);
    host_exchange *x = o->x;
    double id = o->id;
    exchange_unname(x);
    names_nothing(&x->req, id);
    exchange_give(x);
    names_nothing(&x->req, id);

    /* The memory is another request's, in each state of a response. */
    ask(o, &http1_ops, GET);
    CHECK(o->x == x);
    names_nothing(&x->req, id);
    CHECK_EQ(x->req.state, 0);
    CHECK_EQ(stream_begin(o, 200, -1), 0);
    names_nothing(&x->req, id);
    CHECK_EQ(put(o, "abc"), 0);
    CHECK_EQ(end(o), 0);
    names_nothing(&x->req, id);
    names_nothing(&x->req, 0);
    CHECK(strcmp(answer(o), "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nA: b\r\n\r\n"
                            "3\r\nabc\r\n0\r\n\r\n") == 0);
    close_one(o);
}

/* The name is right, but C has the connection. */
static void a_handler_that_has_lost_its_connection_reaches_nothing(void *arg) {
    (void)arg;
    one *o = open_one(GET);
    CHECK(hold_part(o->x, 504));
    CHECK_EQ(respond(o, 200, "x"), -EPIPE);
    CHECK_EQ(stream_begin(o, 200, -1), -EPIPE);
    CHECK_EQ(host_req_lost(&o->x->req, o->id), 504);
    CHECK_EQ(o->x->req.state, 0);
    CHECK_EQ(*answer(o), 0);
    close_one(o);
}

/* The connection goes on with another exchange, which is the same request, and has bytes of the next one. */
static void a_request_moves_to_an_heir(void *arg) {
    (void)arg;
    one *o = open_one(GET GET);
    CHECK_EQ(stream_begin(o, 200, -1), 0);
    CHECK_EQ(put(o, "abc"), 0);
    CHECK_EQ(flush(o), 0);
    CHECK_EQ(put(o, "def"), 0);
    host_exchange *heir = exchange_take(&o->conn, &http1_ops);
    exchange_inherit(heir, o->x);
    CHECK_EQ(exchange_keep(heir, GET, strlen(GET)), 0);
    exchange_account a, b;
    exchange_account_of(heir, 1, &a);
    take_all(o);
    CHECK_EQ(a.status, 200);
    CHECK_EQ(a.in, strlen(GET));
    CHECK_EQ(a.out, o->n + o->conn.out.n);
    exchange_account_of(o->x, 1, &b);
    CHECK_EQ(a.out, b.out);
    CHECK_EQ(a.in, b.in);
    CHECK_EQ(a.begin_ns, b.begin_ns);
    CHECK_EQ(a.answer_ns, b.answer_ns);
    exchange_give(heir);
    close_one(o);
}

static void a_refused_head_has_its_bytes(void *arg) {
    (void)arg;
    static const char head[] = "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 1048577\r\n\r\n";
    host_conn conn = {.base.server = &server};
    host_exchange *x = exchange_take(&conn, &http1_ops);
    CHECK(exchange_keep(x, head, strlen(head)) == 0 && http1_head(x) == -413);
    exchange_account a;
    exchange_account_of(x, 1, &a);
    CHECK_EQ(a.in, strlen(head));
    exchange_give(x);
}

static void a_client_that_took_gigabytes_has_moved(void *arg) {
    (void)arg;
    bool moved;
    one *o = open_one(GET);
    pace_write(o->x, &moved);
    o->x->sent += 3LL << 30;
    pace_write(o->x, &moved);
    CHECK(moved);
    close_one(o);
}

/* ---- bodies ---- */

static struct {
    host_vm vm;
    _Atomic bool done; /* atomic */
} in_vm;

/* Keeps pieces of n bytes, of which each is read, if `reads`, when the next two are there. */
static void keep_pieces(size_t n, bool reads) {
    host_conn conn = {.base.server = &server};
    host_exchange *x = exchange_take(&conn, &http1_ops);
    host_req *r = &x->req;
    size_t seen = 0;
    r->content_length = -1;
    for (size_t at = 0; at + n <= 200000; at += n) {
        CHECK_EQ(exchange_keep_body(x, body + at, n), 0);
        if (!reads || r->body_len - r->body_pos < 2 * n) continue;
        CHECK(memcmp(r->body + r->body_pos, body + seen, r->body_len - r->body_pos) == 0);
        seen += r->body_len - r->body_pos;
        r->body_pos = r->body_len;
    }
    CHECK(memcmp(r->body + r->body_pos, body + seen, r->body_len - r->body_pos) == 0);
    if (reads)
        CHECK(charged(&in_vm.vm) < (int64_t)(8 * n + 4096));
    else
        CHECK(charged(&in_vm.vm) < 2 * 200000 + 4096);
    exchange_give(x);
    CHECK_EQ(charged(&in_vm.vm), 0);
}

static void keep_what_has_a_length(void) {
    host_conn conn = {.base.server = &server};
    host_exchange *x = exchange_take(&conn, &http1_ops);
    x->req.content_length = 30000;
    CHECK_EQ(exchange_keep_body(x, body, 10), 0);
    CHECK_EQ(charged(&in_vm.vm), 30000); /* at once */
    options.vm_memory = 40000;
    x->req.content_length = -1;
    CHECK_EQ(exchange_keep_body(x, body + 10, 29990), 0);
    CHECK_EQ(exchange_keep_body(x, body, 1), -ENOMEM);
    CHECK_EQ(x->req.body_len, 30000);
    CHECK(memcmp(x->req.body, body, 30000) == 0);
    options.vm_memory = 0;
    exchange_give(x);
    CHECK_EQ(charged(&in_vm.vm), 0);
}

static rt_step keep_bodies(rt_g *g) {
    (void)g;
    static const size_t sizes[] = {1, 7, 1000, 1024, 1025, 65536};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        keep_pieces(sizes[i], false);
        keep_pieces(sizes[i], true);
    }
    keep_what_has_a_length();
    atomic_store(&in_vm.done, true);
    return RT_EXIT;
}

static void a_body_grows_as_it_comes(void *arg) {
    (void)arg;
    options.vm_memory = 0;
    for (size_t i = 0; i < LONG; i++)
        body[i] = (char)(i * 31 + i / 251);
    rt_cell *cell = rt_cell_new(&in_vm.vm);
    CHECK(cell);
    rt_ready(rt_new_step(keep_bodies, cell));
    EXPECT_SOON(atomic_load(&in_vm.done));
}

/* ---- another protocol ---- */

static char said[256];

__attribute__((format(printf, 1, 2))) static int say(const char *fmt, ...) {
    va_list ap;
    size_t n = strlen(said);
    va_start(ap, fmt);
    vsnprintf(said + n, sizeof said - n, fmt, ap);
    va_end(ap);
    return 0;
}

static int say_head(host_exchange *x, int status, int ctype, const char *fields, size_t n,
                    int64_t length) {
    (void)x, (void)ctype, (void)fields, (void)n;
    return say("head %d %lld,", status, (long long)length);
}
static int say_write(host_exchange *x, const char *data, size_t n) {
    (void)x;
    return say("write %.*s,", (int)n, data);
}
static int say_end(host_exchange *x, const char *data, size_t n) {
    (void)x;
    return say("end %.*s,", (int)n, data);
}
static int say_send(host_exchange *x, const char *data, size_t n, size_t most) {
    (void)x, (void)most;
    return say("send %.*s,", (int)n, data);
}
static void say_cut(host_exchange *x, bool gone) {
    (void)x;
    say("cut %d,", gone);
}
static int say_fill(host_exchange *x) {
    x->req.body_complete = 1;
    return say("fill,") + 1;
}

static const exchange_ops spoken = {
    .fill = say_fill,
    .head = say_head,
    .write = say_write,
    .end = say_end,
    .send = say_send,
    .cut = say_cut,
};

static void begin_saying(one *o, const char *request) {
    exchange_give(o->x);
    ask(o, &spoken, request);
    said[0] = 0;
}

#define SAID(text) CHECK(strcmp(said, text) == 0)

static void a_protocol_is_told_what_is_allowed(void *arg) {
    (void)arg;
    one *o = open_one(GET);
    begin_saying(o, GET);
    CHECK_EQ(respond(o, 200, "abc"), 0);
    CHECK_EQ(respond(o, 200, "abc"), -EALREADY);
    SAID("head 200 3,end abc,");

    begin_saying(o, HEAD);
    CHECK_EQ(respond(o, 200, "abc"), 0);
    SAID("head 200 3,end ,");

    begin_saying(o, GET);
    CHECK_EQ(stream_begin(o, 200, 4), 0);
    CHECK_EQ(put(o, "abc"), 0);
    CHECK_EQ(put(o, "de"), -E2BIG);
    CHECK_EQ(flush(o), 0);
    CHECK_EQ(end(o), 0);
    SAID("head 200 4,write abc,send ,cut 0,send ,");

    begin_saying(o, HEAD);
    CHECK_EQ(stream_begin(o, 200, -1), 0);
    CHECK_EQ(put(o, "abc"), 0);
    CHECK_EQ(end(o), 0);
    SAID("head 200 -1,end ,");

    begin_saying(o, GET);
    o->x->req.body_complete = 0;
    CHECK_EQ(host_req_fill(&o->x->req, o->id), 1);
    CHECK_EQ(host_req_fill(&o->x->req, o->id), 1);
    CHECK(hold_take(o->x));
    response_error(o->x, 503);
    hold_give(o->x);
    SAID("fill,head 503 19,end Service Unavailable,");
    close_one(o);
}

int main(void) {
    options.limits.max_body = 1 << 20;
    options.limits.idle_timeout = 60;
    const struct CMUnitTest tests[] = {
        in_g_test(a_whole_response_is_begun_once),
        in_g_test(a_stream_is_begun_once_and_ends_once),
        in_g_test(more_than_promised_is_refused),
        in_g_test(less_than_promised_ends_the_connection),
        in_g_test(responses_are_these_bytes),
        in_g_test(answers_wait_for_the_next_one),
        in_g_test(a_long_answer_waits_for_its_client),
        in_g_test(a_rest_that_is_not_there_breaks_off),
        in_g_test(a_client_that_is_gone),
        in_g_test(an_old_name_names_nothing),
        in_g_test(a_handler_that_has_lost_its_connection_reaches_nothing),
        in_g_test(a_request_moves_to_an_heir),
        in_g_test(a_refused_head_has_its_bytes),
        in_g_test(a_client_that_took_gigabytes_has_moved),
        in_g_test(a_body_grows_as_it_comes),
        in_g_test(a_protocol_is_told_what_is_allowed),
    };
    RUN_TESTS("exchange", tests);
}
