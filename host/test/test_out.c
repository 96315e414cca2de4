/* out: whatever is queued, and however little the kernel takes at a time, the peer gets these bytes in this order, once;
 * what is left of the tail is told; a broken stream is; memory is given back. */
#include "../http/out.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "../../runtime/test/harness.h"

/* ---- a stream that takes what it is told to ---- */

enum { MOST = 1 << 20, CALLS = 1 << 12 };

static struct {
    stream s;
    char got[MOST];
    size_t n;
    /* What the next calls take: so many bytes, 0: -EAGAIN, negative: that error. The last one goes on for ever. */
    ssize_t takes[CALLS];
    int n_takes, calls;
} peer;

static ssize_t take(stream *s, const struct iovec *iov, int n) {
    EXPECT(s == &peer.s);
    ssize_t most = peer.takes[peer.calls < peer.n_takes ? peer.calls : peer.n_takes - 1];
    peer.calls++;
    if (most <= 0) return most == 0 ? -EAGAIN : most;
    size_t all = 0;
    for (int i = 0; i < n && all < (size_t)most; i++) {
        size_t part = iov[i].iov_len < (size_t)most - all ? iov[i].iov_len : (size_t)most - all;
        if (!EXPECT(peer.n + part <= MOST)) return -EIO;
        memcpy(peer.got + peer.n, iov[i].iov_base, part);
        peer.n += part;
        all += part;
    }
    EXPECT(all > 0); /* nobody writes nothing */
    return (ssize_t)all;
}

static const stream_ops ops = {.writev = take};

static void begin_peer(void) {
    peer.s = (stream){.ops = &ops, .fd = -1};
    peer.n = 0;
    peer.calls = 0;
    peer.n_takes = 1;
    peer.takes[0] = MOST;
}

/* ---- what is queued, and what should come ---- */

static struct {
    char bytes[MOST];
    size_t n;
} sent;

/* Bytes that differ from those around them, also a piece further. */
static const char *some(size_t n) {
    char *at = sent.bytes + sent.n;
    for (size_t i = 0; i < n; i++)
        at[i] = (char)((sent.n + i) * 31 + (sent.n + i) / 251);
    sent.n += n;
    return at;
}

static void add(host_out *o, size_t n, bool in_place) {
    const char *bytes = some(n);
    size_t before = o->n;
    if (in_place) {
        char *at = out_room(o, n + 100);
        CHECK(at);
        memcpy(at, bytes, n);
        out_took(o, at + n);
    } else {
        CHECK_EQ(out_bytes(o, bytes, n), 0);
    }
    CHECK_EQ(o->n, before + n);
}

static void all_came(void) {
    CHECK_EQ(peer.n, sent.n);
    CHECK(memcmp(peer.got, sent.bytes, sent.n) == 0);
}

/* ---- */

static void in_one_call(void *arg) {
    (void)arg;
    host_out o = {0};
    sent.n = 0;
    begin_peer();
    for (int i = 0; i < 12; i++)
        add(&o, 1000, i % 2);
    const char *tail = some(5000);
    size_t n = 5000, count = 7;
    CHECK_EQ(out_send(&o, &peer.s, tail, &n, &count), 0);
    CHECK_EQ(n, 0);
    CHECK_EQ(count, 7 + 17000);
    CHECK_EQ(peer.calls, 1);
    CHECK_EQ(o.n, 0);
    CHECK(!o.first && !o.last);
    all_came();
}

static void more_pieces_than_one_call_takes(void *arg) {
    (void)arg;
    host_out o = {0};
    size_t n = 100, count = 0;
    sent.n = 0;
    begin_peer();
    for (int i = 0; i < 40; i++)
        add(&o, 4072, false);
    const char *tail = some(n);
    CHECK_EQ(out_send(&o, &peer.s, tail, &n, &count), 0);
    CHECK(peer.calls > 1);
    all_came();
}

/* A queue and a tail of five pieces, of which the first call takes k bytes, the next nothing, and the rest one by one. */
static void cut_at(size_t k) {
    static const size_t pieces[] = {1, 4000, 300, 4072};
    host_out o = {0};
    sent.n = 0;
    begin_peer();
    for (int i = 0; i < 4; i++)
        add(&o, pieces[i], i == 2);
    size_t queued = o.n, n = 50, n_tail = n, count = 0;
    const char *tail = some(n);
    peer.n_takes = 3;
    peer.takes[0] = (ssize_t)k;
    peer.takes[1] = 0;
    peer.takes[2] = 1000;
    int r = out_send(&o, &peer.s, tail, &n_tail, &count);
    if (r == 0) {
        CHECK(k >= queued + n);
    } else {
        CHECK_EQ(r, -EAGAIN);
        CHECK_EQ(count, k);
        CHECK_EQ(o.n, k < queued ? queued - k : 0);
        CHECK_EQ(o.first != NULL, o.n > 0); /* a piece that went out is given back */
        CHECK_EQ(n_tail, k < queued ? n : queued + n - k);
        CHECK_EQ(out_bytes(&o, tail + (n - n_tail), n_tail), 0);
        n_tail = 0;
        CHECK_EQ(out_send(&o, &peer.s, "", &n_tail, &count), 0);
    }
    CHECK_EQ(count, queued + n);
    all_came();
}

static void cut_at_every_offset(void *arg) {
    (void)arg;
    for (size_t k = 1; k <= 8500; k += k < 4200 || k > 8300 ? 1 : 7)
        cut_at(k);
}

/* More pieces than one call takes; each call takes a random number of bytes, or none. */
static void at_random(void *arg) {
    (void)arg;
    for (uint64_t seed = 1; seed <= (uint64_t)ROUNDS(400); seed++) {
        uint64_t random = seed;
        host_out o = {0};
        size_t count = 0;
        sent.n = 0;
        begin_peer();
        peer.n_takes = CALLS;
        for (int i = 0; i < CALLS; i++)
            peer.takes[i] = (ssize_t)random_below(&random, i % 3 == 0 ? 1 : 9000);
        peer.takes[CALLS - 1] = MOST;
        for (int round = 0; round < 30; round++) {
            for (uint64_t i = random_below(&random, 4); i > 0; i--)
                add(&o, 1 + random_below(&random, 6000), random_below(&random, 2));
            size_t n = random_below(&random, 2) ? random_below(&random, 9000) : 0, n_tail = n;
            const char *tail = some(n);
            int r = out_send(&o, &peer.s, tail, &n_tail, &count);
            CHECK(r == 0 || r == -EAGAIN);
            CHECK_EQ(r == 0, o.n == 0 && n_tail == 0);
            CHECK_EQ(count, peer.n);
            CHECK_EQ(out_bytes(&o, tail + (n - n_tail), n_tail), 0);
        }
        size_t n_tail = 0;
        while (out_send(&o, &peer.s, "", &n_tail, &count) == -EAGAIN)
            ;
        all_came();
    }
}

static void a_broken_stream(void *arg) {
    (void)arg;
    host_out o = {0};
    size_t n_tail = 3, count = 0;
    sent.n = 0;
    begin_peer();
    add(&o, 10000, false);
    peer.n_takes = 2;
    peer.takes[0] = 100;
    peer.takes[1] = -ECONNRESET;
    CHECK_EQ(out_send(&o, &peer.s, "abc", &n_tail, &count), -ECONNRESET);
    CHECK_EQ(count, 100);
    CHECK_EQ(n_tail, 3);
    out_drop(&o);
    CHECK_EQ(o.n, 0);
    CHECK(!o.first && !o.last);
}

/* Room that was not used is no output. */
static void room_that_is_not_used(void *arg) {
    (void)arg;
    host_out o = {0};
    size_t n_tail = 0, count = 0;
    sent.n = 0;
    begin_peer();
    char *at = out_room(&o, 600);
    CHECK(at);
    CHECK_EQ(o.n, 0);
    CHECK_EQ(out_send(&o, &peer.s, "", &n_tail, &count), 0);
    CHECK_EQ(peer.calls, 0);
    CHECK(!o.first);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        in_g_test(in_one_call),
        in_g_test(cut_at_every_offset),
        in_g_test(more_pieces_than_one_call_takes),
        in_g_test(at_random),
        in_g_test(a_broken_stream),
        in_g_test(room_that_is_not_used),
    };
    RUN_TESTS("out", tests);
}
