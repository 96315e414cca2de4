/* http1: wherever the bytes of a request are cut, the head and the body that come out are those of the bytes in one
 * piece, and so is the refusal; what belongs to the next request is left for it. */
#include "../base/options.h"
#include "../http/conn.h"
#include "../http/http1.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "../../runtime/test/harness.h"

static const char *const heads[] = {
    "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET /a/b?c=d&e HTTP/1.1\r\nHost: example.org:8080\r\nAccept: */*\r\nX-Empty:\r\nX-Y:  z "
    "\t\r\n\r\n",
    "HEAD http://x?a=1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    "POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
    "PUT /%41//b/../c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: "
    "close\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
    "\r\n\r\nGET /after-lines HTTP/1.1\r\nHost: x\r\n\r\n",
    "PROPFIND /a HTTP/1.7\r\nHost: [::1]:80\r\n\r\n",
    "GET /zo\xc3\xab?\xff HTTP/1.1\r\nHost:\t\r\nConnection:\tclose\t\r\nX:\ta\tb\t\r\n\r\n",
    "POST /p HTTP/1.1\r\nTransfer-Encoding: ,\tchunked\t,\r\nHost: x\r\n\r\n",
    "POST /p HTTP/1.1\r\nContent-Length:\t5\t\r\nHost: x\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: x\r\nA: 1\r\nB: 2\r\nC: 3\r\nD: 4\r\nE: 5\r\nF: 6\r\nG: 7\r\nH: "
    "8\r\nI: 9\r\nJ: 10\r\nK: 11\r\n"
    "L: 12\r\nM: 13\r\nN: 14\r\nO: 15\r\nP: 16\r\nQ: 17\r\nR: 18\r\nS: 19\r\nT: 20\r\nU: 21\r\nV: "
    "22\r\nW: 23\r\nX: 24\r\n"
    "Y: 25\r\nZ: 26\r\nAA: 27\r\nAB: 28\r\nAC: 29\r\nAD: 30\r\nAE: 31\r\nAF: 32\r\nAG: 33\r\nAH: "
    "34\r\n\r\n",
};

static const char *const bad_heads[] = {
    "GET / HTTP/1.1\r\n\r\n",                                        /* no Host */
    "GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",                  /* two */
    "GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n",               /* folded */
    "GET / HTTP/1.1\r\nHost: x\r\nA: b\rC: d\r\n\r\n",               /* bare CR */
    "GET / HTTP/1.1\r\nHost: x\r\nA: b\r-C: d\r\n\r\n",              /* and a good line behind */
    "GET / HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n",                    /* a space before the colon */
    "CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",                       /* no proxy */
    "GET / HTTP/2.0\r\nHost: x\r\n\r\n",                             /* no such version */
    "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n", /* too long */
    "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
    "PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1 1\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: x\r\nExpect: the-best\r\n\r\n",
    "get / HTTP/1.1\r\nHost: x\r\n\r\n",
    "BREW / HTTP/2.0\r\nHost: x\r\n\r\n",
    "GET / RTSP/1.0\r\nHost: x\r\n\r\n",
    "GET /\x01 HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET http://u@x/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: u@x\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: x\r\n: b\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: x\n\r\n",
    "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: x\r\nExpect:\r\n\r\n",
};

static host_server server = {.listener.limits = &options.limits};
static host_conn conn = {.base.server = &server};

/* What a head says, for comparison. */
static void print_head(const host_exchange *x, char *text, size_t size) {
    const host_req *r = &x->req;
    int n = snprintf(text, size,
                     "%d.%d [%.*s] [%.*s] [%.*s] plain %d length %lld keep %d 100 %d fields",
                     r->method, r->minor, (int)r->target.len, x->in + r->target.off,
                     (int)r->path.len, x->in + r->path.off, (int)r->query.len, x->in + r->query.off,
                     r->plain, (long long)r->content_length, !x->close_after, x->expects_100);
    for (int i = 0; i < r->nheaders && n < (int)size; i++) {
        const host_header *h = &r->headers[i];
        n += snprintf(text + n, size - (size_t)n, " (%.*s)(%.*s)", (int)h->name.len,
                      x->in + h->name.off, (int)h->value.len, x->in + h->value.off);
    }
}

/* Parses a head that comes in pieces: up to `cut`, and then `step` bytes at a time. What http1_head says at its end. */
static int head_in_pieces(const char *bytes, size_t cut, size_t step, char *text, size_t size) {
    host_exchange *x = exchange_take(&conn, &http1_ops);
    size_t len = strlen(bytes), at = 0;
    int r = 0;
    text[0] = 0;
    while (r == 0 && at < len) {
        size_t n = at < cut ? cut - at : step;
        if (n > len - at) n = len - at;
        if (!EXPECT_EQ(exchange_keep(x, bytes + at, n), 0)) break;
        at += n;
        r = http1_head(x);
    }
    if (r > 0) {
        EXPECT_EQ(at, len);
        print_head(x, text, size);
    }
    exchange_give(x);
    return r;
}

static void a_head_is_the_same_wherever_it_is_cut(void *arg) {
    (void)arg;
    static char whole[4096], pieces[4096];
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
        size_t len = strlen(heads[i]);
        CHECK_EQ(head_in_pieces(heads[i], len, 1, whole, sizeof whole), 1);
        for (size_t cut = 0; cut < len; cut++) {
            CHECK_EQ(head_in_pieces(heads[i], cut, cut % 3 ? len : 1, pieces, sizeof pieces), 1);
            CHECK(strcmp(whole, pieces) == 0);
        }
    }
}

static void a_bad_head_is_refused_alike_wherever_it_is_cut(void *arg) {
    (void)arg;
    char text[4096];
    for (size_t i = 0; i < sizeof bad_heads / sizeof *bad_heads; i++) {
        size_t len = strlen(bad_heads[i]);
        int status = head_in_pieces(bad_heads[i], len, 1, text, sizeof text);
        CHECK(status <= -400);
        for (size_t cut = 0; cut < len; cut++)
            CHECK_EQ(head_in_pieces(bad_heads[i], cut, cut % 3 ? len : 1, text, sizeof text),
                     status);
    }
}

enum { MOST = 16384 }; /* --max-head */

/* A head of n bytes, which a field fills up. */
static const char *head_of(size_t n) {
    static char head[MOST + 16];
    size_t at = (size_t)snprintf(head, sizeof head, "GET / HTTP/1.1\r\nHost: x\r\nA: ");
    memset(head + at, 'a', n - at - 4);
    memcpy(head + n - 4, "\r\n\r\n", 5);
    return head;
}

static void a_head_has_its_limit_wherever_it_is_cut(void *arg) {
    (void)arg;
    int64_t usual = atomic_load(&options.limits.max_head);
    atomic_store(&options.limits.max_head, MOST);
    static const size_t cuts[] = {1, MOST / 2, MOST - 1, MOST, MOST + 1};
    char text[4096];
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        CHECK_EQ(head_in_pieces(head_of(MOST), cuts[i], MOST, text, sizeof text), 1);
        CHECK_EQ(head_in_pieces(head_of(MOST + 1), cuts[i], MOST, text, sizeof text), -431);
    }
    atomic_store(&options.limits.max_head, usual);
}

/* ---- bodies ---- */

#define CHUNKED "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
#define NEXT    "GET /next HTTP/1.1\r\n"

static const struct {
    const char *head, *body;
    int result;
    size_t n;
} bodies[] = {
    {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n", "0123456789" NEXT, 1, 10},
    {CHUNKED, "5\r\nabcde\r\n0\r\n\r\n" NEXT, 1, 5},
    {CHUNKED, "1;ext=\"a\"\r\na\r\nF\r\n0123456789abcde\r\n0\r\nTrailer: t\r\nHost: y\r\n\r\n" NEXT,
     1, 16},
    {CHUNKED, "0\r\n\r\n" NEXT, 1, 0},
    {CHUNKED, "3 ; a = \"b;\\\"\" ;c\r\nabc\r\n0;d=e\r\n\r\n" NEXT, 1, 3},
    {CHUNKED, "1\r\na\r\n0\r\nA:\r\nB: \t c \r\nA: d\r\n\r\n" NEXT, 1, 1},
    {CHUNKED, "1\r\na\r\n0\r\nA\r\n\r\n", -EPROTO, 1},
    {CHUNKED, "1\r\na\r\n0\r\nA: b\n\r\n", -EPROTO, 1},
    {CHUNKED, "1\r\na\r\n0\r\nA: b\x01\r\n\r\n", -EPROTO, 1},
    {CHUNKED, "1 \r\na\r\n", -EPROTO, 0},
    {CHUNKED, "1;a=\"b\r\na\r\n", -EPROTO, 0},
    {CHUNKED, "100001\r\n", -EMSGSIZE, 0},
    {CHUNKED, "3\r\nabcX", -EPROTO, 3},
    {CHUNKED, "g\r\n", -EPROTO, 0},
    {CHUNKED, "2\r\nab\r\n0\r\nA: b\r\n folded\r\n\r\n", -EPROTO, 2},
    {CHUNKED, "FFFFFFFFFFFFFFFFF\r\n", -EPROTO, 0},
};

/* Parses a body that comes in pieces, and drops it. The result, the bytes of it, and whether the next request is
 * left. */
static int body_in_pieces(size_t i, size_t cut, size_t step, size_t *n, bool *next_is_left) {
    host_exchange *x = exchange_take(&conn, &http1_ops);
    const char *bytes = bodies[i].body;
    size_t len = strlen(bytes), at = 0;
    int r = 0;
    EXPECT_EQ(exchange_keep(x, bodies[i].head, strlen(bodies[i].head)), 0);
    EXPECT_EQ(http1_head(x), 1);
    while (r == 0 && at < len) {
        size_t part = at < cut ? cut - at : step;
        if (part > len - at) part = len - at;
        r = http1_body_of(x, bytes + at, part, false);
        at += part;
    }
    *n = x->body_seen;
    size_t left = x->in_end - x->in_pos;
    *next_is_left =
        r == 1 && left + (len - at) == strlen(NEXT) && memcmp(x->in + x->in_pos, NEXT, left) == 0;
    exchange_give(x);
    return r;
}

static void a_body_is_the_same_wherever_it_is_cut(void *arg) {
    (void)arg;
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        size_t len = strlen(bodies[i].body);
        for (size_t cut = 0; cut <= len; cut++) {
            size_t n;
            bool next;
            CHECK_EQ(body_in_pieces(i, cut, cut % 3 ? len : 1, &n, &next), bodies[i].result);
            CHECK_EQ(n, bodies[i].n);
            CHECK_EQ(next, bodies[i].result == 1);
        }
    }
}

int main(void) {
    options.limits.max_body = 1 << 20;
    const struct CMUnitTest tests[] = {
        in_g_test(a_head_is_the_same_wherever_it_is_cut),
        in_g_test(a_bad_head_is_refused_alike_wherever_it_is_cut),
        in_g_test(a_head_has_its_limit_wherever_it_is_cut),
        in_g_test(a_body_is_the_same_wherever_it_is_cut),
    };
    RUN_TESTS("http1", tests);
}
