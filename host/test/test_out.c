/* out: whatever is queued, bytes and files, and however little the kernel takes at a time, the peer gets these bytes in
 * this order, once; what is left of the tail is told; a broken stream and a file that has become shorter are; memory
 * and descriptors are given back. */
#include "../http/out.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../runtime/test/harness.h"

/* ---- a stream that takes what it is told to ---- */

enum { MOST = 4 << 20, CALLS = 1 << 12 };

static struct {
    stream s;
    char got[MOST];
    size_t n;
    /* What the next calls take: so many bytes, 0: -EAGAIN, negative: that error. The last one goes on for ever. */
    ssize_t takes[CALLS];
    int n_takes, calls;
    bool more;       /* what the last writev was told */
    int files;       /* calls of sendfile that took something */
    int no_sendfile; /* -errno: there is none */
} peer;

static ssize_t next_take(void) {
    int nth = peer.calls++;
    return peer.takes[nth < peer.n_takes ? nth : peer.n_takes - 1];
}

static ssize_t take(stream *s, const struct iovec *iov, int n, bool more) {
    EXPECT(s == &peer.s);
    peer.more = more;
    ssize_t most = next_take();
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

static ssize_t take_file(stream *s, int file, off_t *at, size_t n) {
    EXPECT(s == &peer.s);
    if (peer.no_sendfile) return peer.no_sendfile;
    ssize_t most = next_take();
    if (most <= 0) return most == 0 ? -EAGAIN : most;
    if (n > (size_t)most) n = (size_t)most;
    if (!EXPECT(n > 0 && peer.n + n <= MOST)) return -EIO;
    ssize_t r = pread(file, peer.got + peer.n, n, *at);
    if (!EXPECT(r >= 0)) return -EIO;
    peer.n += (size_t)r;
    *at += r;
    peer.files += r > 0;
    return r;
}

static const stream_ops ops = {.writev = take, .sendfile = take_file};

static void begin_peer(void) {
    peer.s = (stream){.ops = &ops, .fd = -1};
    peer.n = 0;
    peer.calls = peer.files = peer.no_sendfile = 0;
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

/* out_file of a file that nobody else holds. */
static int queue_file(host_out *o, int fd, off_t at, size_t n) {
    out_fd *f = out_fd_new(fd);
    int rc = out_file(o, f, at, n);
    out_fd_drop(f);
    return rc;
}

/* Queues a file's bytes, between others. */
static void add_file(host_out *o, size_t n) {
    const char *bytes = some(n);
    size_t before = o->n;
    int fd = memfd_create("out", 0);
    CHECK(fd >= 0);
    CHECK_EQ(write(fd, "before-", 7), 7);
    CHECK_EQ(write(fd, bytes, n), n);
    CHECK_EQ(write(fd, "behind", 6), 6);
    CHECK_EQ(queue_file(o, fd, 7, n), 0);
    CHECK_EQ(o->n, before + OUT_FULL);
}

static int open_fds(void) {
    int n = 0;
    DIR *d = opendir("/proc/self/fd");
    if (!EXPECT(d)) return -1;
    while (readdir(d))
        n++;
    closedir(d);
    return n;
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
    CHECK(!o.first);
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

/* A queue and a tail of five pieces, of which the first call takes k bytes, the next nothing, and the rest one by
 * one. */
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

/* ---- files ---- */

/* Of a short file and what stands around it, one call; a long one is sendfile's. joined: the kernel is told that more
 * follows. */
static void head_and_file(size_t n, int calls, int files, bool joined) {
    host_out o = {0};
    size_t n_tail = 0, count = 0;
    int fds = open_fds();
    sent.n = 0;
    begin_peer();
    add(&o, 300, true);
    add_file(&o, n);
    CHECK_EQ(open_fds(), fds + 1);
    CHECK_EQ(out_send(&o, &peer.s, "", &n_tail, &count), 0);
    CHECK_EQ(peer.files, files);
    CHECK_EQ(peer.calls, calls);
    CHECK_EQ(peer.more, joined);
    CHECK_EQ(count, 300 + n);
    CHECK_EQ(o.n, 0);
    CHECK(!o.first);
    CHECK_EQ(open_fds(), fds);
    all_came();
}

static void a_head_and_a_file(void *arg) {
    (void)arg;
    head_and_file(1, 1, 0, false);
    head_and_file(16384, 1, 0, false);
    head_and_file(16385, 2, 1, true);
    head_and_file(400000, 2, 1, true);
}

/* A file up to 2 MiB begins where the head ends, a longer one in a segment of its own. */
static void a_head_and_a_long_file(void *arg) {
    (void)arg;
    for (size_t more = 0; more <= 1; more++) {
        host_out o = {0};
        size_t n_tail = 0, count = 0;
        sent.n = 0;
        begin_peer();
        add(&o, 300, true);
        add_file(&o, (2 << 20) + more);
        CHECK_EQ(out_send(&o, &peer.s, "", &n_tail, &count), -EINPROGRESS);
        CHECK_EQ(peer.more, more == 0);
        while (o.first)
            CHECK(out_send(&o, &peer.s, "", &n_tail, &count) != -EAGAIN);
        CHECK_EQ(count, 300 + (2 << 20) + more);
        all_came();
    }
}

/* Bytes, a long file, bytes, two short files, a tail: each call takes k bytes, but for the `dry`th, which takes
 * none. */
static void mixed(ssize_t k, int dry, int no_sendfile) {
    host_out o = {0};
    size_t n_tail = 40, count = 0;
    int fds = open_fds(), turns = 0, err;
    sent.n = 0;
    begin_peer();
    peer.no_sendfile = no_sendfile;
    peer.n_takes = CALLS;
    for (int i = 0; i < CALLS; i++)
        peer.takes[i] = i == dry ? 0 : k;
    add(&o, 300, true);
    add_file(&o, 40000);
    add(&o, 50, false);
    add_file(&o, 100);
    add_file(&o, 1);
    const char *tail = some(40), *at = tail;
    while ((err = out_send(&o, &peer.s, at, &n_tail, &count)) == -EAGAIN) {
        CHECK_EQ(count, peer.n);
        at = tail + 40 - n_tail;
        CHECK(turns++ < 3);
    }
    CHECK_EQ(err, 0);
    CHECK_EQ(turns > 0, dry < peer.calls);
    CHECK_EQ(peer.files > 0, no_sendfile == 0);
    CHECK_EQ(count, 40491);
    CHECK(!o.first && o.n == 0);
    CHECK_EQ(open_fds(), fds);
    all_came();
}

static void nothing_taken_at_any_call(void *arg) {
    (void)arg;
    static const ssize_t ks[] = {60,    299,   300,   301,   16000, 16384,
                                 23617, 40300, 40301, 40350, 40451, 50000};
    static const int without[] = {0, -EOPNOTSUPP, -EINVAL};
    for (int w = 0; w < 3; w++)
        for (size_t i = 0; i < sizeof ks / sizeof *ks; i++) {
            int calls = (int)(40491 / ks[i]) + 6;
            for (int dry = 0; dry <= calls; dry += 1 + calls / 100)
                mixed(ks[i], dry, without[w]);
        }
}

/* A file that became shorter ends the output, after what there is of it. */
static void shortened(size_t n, size_t to, int no_sendfile) {
    host_out o = {0};
    size_t n_tail = 3, count = 0;
    int fds = open_fds(), fd = memfd_create("out", 0);
    sent.n = 0;
    begin_peer();
    peer.no_sendfile = no_sendfile;
    add(&o, 100, false);
    CHECK_EQ(ftruncate(fd, (off_t)to), 0);
    CHECK_EQ(queue_file(&o, fd, 0, n), 0);
    CHECK_EQ(out_send(&o, &peer.s, "abc", &n_tail, &count), -ENODATA);
    CHECK_EQ(count, 100 + to);
    CHECK_EQ(peer.n, 100 + to);
    CHECK_EQ(n_tail, 3);
    out_drop(&o);
    CHECK(!o.first && o.n == 0);
    CHECK_EQ(open_fds(), fds);
}

static void a_file_that_became_shorter(void *arg) {
    (void)arg;
    for (int no_sendfile = 0; no_sendfile >= -EOPNOTSUPP; no_sendfile -= EOPNOTSUPP) {
        shortened(40000, 0, no_sendfile);
        shortened(40000, 10000, no_sendfile);
        shortened(40000, 39999, no_sendfile);
        shortened(500, 0, no_sendfile);
        shortened(500, 499, no_sendfile);
    }
}

/* A file that two outputs share is open until both have sent it. */
static void a_shared_file(void *arg) {
    (void)arg;
    int fds = open_fds(), fd = memfd_create("out", 0);
    host_out a = {0}, b = {0};
    size_t n_tail = 0, count = 0;
    sent.n = 0;
    CHECK_EQ(ftruncate(fd, 100), 0);
    out_fd *f = out_fd_new(fd);
    CHECK_EQ(out_file(&a, f, 0, 100), 0);
    CHECK_EQ(out_file(&b, f, 50, 50), 0);
    out_fd_drop(f);
    CHECK_EQ(open_fds(), fds + 1);
    begin_peer();
    CHECK_EQ(out_send(&a, &peer.s, "", &n_tail, &count), 0);
    CHECK_EQ(count, 100);
    CHECK_EQ(open_fds(), fds + 1);
    out_drop(&b);
    CHECK_EQ(open_fds(), fds);
}

/* A file that can not be read, by a stream that can not sendfile; and a stream that breaks in a file. */
static void what_breaks_in_a_file(void *arg) {
    (void)arg;
    int fds = open_fds();
    host_out o = {0};
    size_t n_tail = 0, count = 0;
    sent.n = 0;
    begin_peer();
    peer.no_sendfile = -EINVAL;
    CHECK_EQ(queue_file(&o, dup(1), 0, 0), 0); /* nothing of it */
    CHECK(!o.first && o.n == 0);
    int ends[2];
    CHECK_EQ(pipe(ends), 0);
    close(ends[1]);
    CHECK_EQ(queue_file(&o, ends[0], 0, 100), 0);
    CHECK_EQ(out_send(&o, &peer.s, "", &n_tail, &count), -ESPIPE);
    out_drop(&o);
    begin_peer();
    add_file(&o, 40000);
    peer.n_takes = 2;
    peer.takes[0] = 20000;
    peer.takes[1] = -EPIPE;
    CHECK_EQ(out_send(&o, &peer.s, "", &n_tail, &count), -EPIPE);
    CHECK_EQ(count, 20000);
    out_drop(&o);
    CHECK_EQ(o.n, 0);
    CHECK_EQ(open_fds(), fds);
}

/* After half a megabyte of a file it is the turn of others. */
static void others_have_a_turn(void *arg) {
    (void)arg;
    for (int no_sendfile = 0; no_sendfile >= -EOPNOTSUPP; no_sendfile -= EOPNOTSUPP) {
        host_out o = {0};
        size_t n_tail = 0, count = 0;
        sent.n = 0;
        begin_peer();
        peer.no_sendfile = no_sendfile;
        add_file(&o, 700000);
        CHECK_EQ(out_send(&o, &peer.s, "", &n_tail, &count), -EINPROGRESS);
        CHECK(count >= 512 << 10 && count < 600000);
        CHECK_EQ(out_send(&o, &peer.s, "", &n_tail, &count), 0);
        all_came();
    }
}

/* What is queued behind a file, and dropped with it. */
static void dropped_in_the_middle(void *arg) {
    (void)arg;
    host_out o = {0};
    size_t n_tail = 0, count = 0;
    int fds = open_fds();
    sent.n = 0;
    begin_peer();
    peer.n_takes = 2;
    peer.takes[0] = 20000;
    peer.takes[1] = 0;
    add_file(&o, 40000);
    add(&o, 4072, false);
    add_file(&o, 4056); /* as long as a piece of bytes */
    add(&o, 10, true);
    CHECK_EQ(out_send(&o, &peer.s, "", &n_tail, &count), -EAGAIN);
    CHECK_EQ(o.n, 2 * OUT_FULL + 4082);
    CHECK_EQ(open_fds(), fds + 2);
    out_drop(&o);
    CHECK(!o.first && o.n == 0);
    CHECK_EQ(open_fds(), fds);
}

/* ---- */

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
        peer.no_sendfile = seed % 3 == 0 ? -EOPNOTSUPP : 0;
        int fds = open_fds();
        for (int round = 0; round < 30; round++) {
            for (uint64_t i = random_below(&random, 4); i > 0; i--)
                if (random_below(&random, 8) == 0)
                    add_file(&o, 1 + random_below(&random, 30000));
                else
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
        CHECK_EQ(open_fds(), fds);
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
    CHECK(!o.first);
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
        in_g_test(a_head_and_a_file),
        in_g_test(a_head_and_a_long_file),
        in_g_test(nothing_taken_at_any_call),
        in_g_test(a_file_that_became_shorter),
        in_g_test(a_shared_file),
        in_g_test(what_breaks_in_a_file),
        in_g_test(others_have_a_turn),
        in_g_test(dropped_in_the_middle),
        in_g_test(at_random),
        in_g_test(a_broken_stream),
        in_g_test(room_that_is_not_used),
    };
    RUN_TESTS("out", tests);
}
