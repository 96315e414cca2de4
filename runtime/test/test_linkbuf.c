/* linkbuf: against a flat array, step by step, with several buffers that share blocks; book sizes itself;
 * limits hold; nothing leaks; fill and flush carry bytes through a socket. */
#include "net.h"

static void bytes_go_in_and_out(void *arg) {
    (void)arg;
    rt_linkbuf b;
    void *at;
    rt_linkbuf_init(&b, 0);
    CHECK(rt_linkbuf_peek(&b, 1) == NULL);
    CHECK(rt_linkbuf_peek(&b, 0) != NULL);
    CHECK(rt_linkbuf_book(&b, 5, &at) >= 5);
    memcpy(at, "hello", 5);
    rt_linkbuf_ack(&b, 5);
    CHECK_EQ(rt_linkbuf_write(&b, ", world", 7), 0);
    CHECK_EQ(b.len, 12);
    const char *whole = rt_linkbuf_peek(&b, 12);
    CHECK(whole && memcmp(whole, "hello, world", 12) == 0);
    const char *first = rt_linkbuf_next(&b, 5);
    rt_linkbuf_skip(&b, 2);
    const char *second = rt_linkbuf_next(&b, 5);
    CHECK(memcmp(first, "hello", 5) == 0 && memcmp(second, "world", 5) == 0);
    CHECK(rt_linkbuf_next(&b, 1) == NULL);
    CHECK(rt_linkbuf_bytes() > 0);
    rt_linkbuf_release(&b);
    CHECK_EQ(rt_linkbuf_bytes(), 0); /* an empty one holds nothing */
    CHECK_EQ(rt_linkbuf_book(&b, 0, &at) > 0, true);
    rt_linkbuf_ack(&b, 0);
    CHECK_EQ(rt_linkbuf_bytes(), 0);
}

static void slices_share_and_outlive(void *arg) {
    (void)arg;
    rt_linkbuf b = {0}, s = {0};
    char big[300], out[300];
    for (int i = 0; i < 300; i++)
        big[i] = (char)i;
    CHECK_EQ(rt_linkbuf_write(&b, big, 100), 0);
    int64_t before = rt_linkbuf_bytes();
    CHECK_EQ(rt_linkbuf_slice(&b, 60, &s), 0);
    CHECK_EQ(rt_linkbuf_bytes(), before);              /* not copied */
    CHECK_EQ(rt_linkbuf_write(&b, big + 100, 200), 0); /* behind what the slice sees */
    CHECK_EQ(rt_linkbuf_write(&s, "end", 3), 0);       /* not into the shared block */
    memcpy(out, rt_linkbuf_peek(&b, 240), 240);
    CHECK(memcmp(out, big + 60, 240) == 0);
    rt_linkbuf_free(&b);
    memcpy(out, rt_linkbuf_peek(&s, 63), 63);
    CHECK(memcmp(out, big, 60) == 0 && memcmp(out + 60, "end", 3) == 0);
    rt_linkbuf_free(&s);
    CHECK_EQ(rt_linkbuf_bytes(), 0);
}

static void limits_hold(void *arg) {
    (void)arg;
    rt_linkbuf b, o = {0};
    void *at;
    char data[64] = {0};
    rt_linkbuf_init(&b, 50);
    CHECK_EQ(rt_linkbuf_write(&b, data, 51), -ENOBUFS);
    CHECK_EQ(rt_linkbuf_write(&b, data, 40), 0);
    CHECK_EQ(rt_linkbuf_book(&b, 11, &at), -ENOBUFS);
    CHECK(rt_linkbuf_book(&b, 0, &at) <= 10); /* no more room than may be filled */
    rt_linkbuf_ack(&b, 0);
    CHECK_EQ(rt_linkbuf_book(&b, 10, &at), 10);
    rt_linkbuf_ack(&b, 10);
    CHECK_EQ(rt_linkbuf_book(&b, 0, &at), -ENOBUFS);
    CHECK_EQ(rt_linkbuf_write(&o, data, 1), 0);
    CHECK_EQ(rt_linkbuf_append(&b, &o), -ENOBUFS);
    CHECK_EQ(rt_linkbuf_insert(&b, 3, &o), -ENOBUFS);
    CHECK_EQ(rt_linkbuf_slice(&o, 1, &b), -ENOBUFS);
    CHECK_EQ(o.len, 1);
    CHECK_EQ(rt_linkbuf_append(&b, &b), -EINVAL);
    rt_linkbuf_skip(&b, 1);
    CHECK_EQ(rt_linkbuf_append(&b, &o), 0);
    CHECK_EQ(b.len, 50);
    rt_linkbuf_free(&b);
    CHECK_EQ(b.max, 50);
    CHECK_EQ(rt_linkbuf_bytes(), 0);
}

static size_t booked_after(rt_linkbuf *b, int reads, bool full) {
    void *at;
    ssize_t room = 0;
    for (int i = 0; i < reads; i++) {
        room = rt_linkbuf_book(b, 0, &at);
        rt_linkbuf_ack(b, full ? (size_t)room : 1);
        rt_linkbuf_skip(b, b->len);
        rt_linkbuf_release(b);
    }
    return (size_t)room;
}

static void rooms_follow_what_reads_bring(void *arg) {
    (void)arg;
    rt_linkbuf b;
    rt_linkbuf_init(&b, 0);
    size_t start = booked_after(&b, 1, true), most = booked_after(&b, 20, true);
    CHECK(most >= 8 * start);
    CHECK_EQ(booked_after(&b, 1, true), most);  /* there is a largest */
    CHECK_EQ(booked_after(&b, 2, false), most); /* one small message does not count */
    size_t least = booked_after(&b, 60, false);
    CHECK(least < start || start == least);
    CHECK(least * 8 <= most);
    CHECK_EQ(booked_after(&b, 10, false), least);
    rt_linkbuf_free(&b);
    CHECK_EQ(rt_linkbuf_bytes(), 0);
}

/* ---- a model ---- */

enum { BUFS = 4, MODEL_MAX = 4000, POINTERS = 32 };

typedef struct kept {
    const uint8_t *p;
    size_t n;
    uint64_t sum;
} kept;

typedef struct modeled {
    rt_linkbuf b;
    uint8_t flat[MODEL_MAX];
    size_t n;
    kept kept[POINTERS]; /* pointers that must stay good until release */
    int n_kept;
} modeled;

static uint64_t sum_of(const uint8_t *p, size_t n) {
    uint64_t h = n;
    for (size_t i = 0; i < n; i++)
        h = h * 31 + p[i];
    return h;
}

static void keep(modeled *m, const void *p, size_t n) {
    if (m->n_kept == POINTERS) return;
    m->kept[m->n_kept++] = (kept){p, n, sum_of(p, n)};
}

static void check_kept(modeled *m) {
    for (int i = 0; i < m->n_kept; i++)
        EXPECT(sum_of(m->kept[i].p, m->kept[i].n) == m->kept[i].sum);
}

static void take(modeled *m, size_t n) {
    memmove(m->flat, m->flat + n, m->n - n);
    m->n -= n;
}

static void check_all(modeled *m) {
    EXPECT_EQ(m->b.len, m->n);
    struct iovec iov[512];
    int k = rt_linkbuf_iov(&m->b, iov, 512);
    size_t at = 0;
    for (int i = 0; i < k; i++) {
        EXPECT(at + iov[i].iov_len <= m->n &&
               memcmp(m->flat + at, iov[i].iov_base, iov[i].iov_len) == 0);
        at += iov[i].iov_len;
    }
    if (k < 512) EXPECT_EQ(at, m->n);
}

static void put(modeled *m, size_t at, const uint8_t *p, size_t n) {
    memmove(m->flat + at + n, m->flat + at, m->n - at);
    memcpy(m->flat + at, p, n);
    m->n += n;
}

static void book_and_ack(modeled *m, const uint8_t *fresh, size_t n, size_t some, uint64_t *seed) {
    void *at;
    ssize_t room = rt_linkbuf_book(&m->b, random_below(seed, 2) ? n : 0, &at);
    if (!EXPECT(room > 0 || n == 0)) return;
    if (n > (size_t)room) n = (size_t)room;
    memcpy(at, fresh, n);
    memset((char *)at + n, 0xdd, (size_t)room - n); /* all of it is ours until ack */
    if (some && random_below(seed, 2)) {            /* reading goes on meanwhile */
        rt_linkbuf_skip(&m->b, some);
        take(m, some);
    }
    rt_linkbuf_ack(&m->b, n);
    put(m, m->n, fresh, n);
}

static void expect_first(modeled *m, const void *p, size_t some) {
    if (!EXPECT(p) || !some) return;
    EXPECT(memcmp(p, m->flat, some) == 0);
    keep(m, p, some);
}

static void move_all(modeled *m, modeled *o, size_t some, bool end) {
    check_kept(o);
    o->n_kept = 0; /* its unread spans are m's now */
    if (end)
        EXPECT_EQ(rt_linkbuf_append(&m->b, &o->b), 0);
    else
        EXPECT_EQ(rt_linkbuf_insert(&m->b, some, &o->b), 0);
    put(m, end ? m->n : some, o->flat, o->n);
    o->n = 0;
}

static void one_step(modeled *ms, uint64_t *seed) {
    modeled *m = &ms[random_below(seed, BUFS)], *o = &ms[random_below(seed, BUFS)];
    uint8_t fresh[120];
    size_t n = random_below(seed, random_below(seed, 4) ? 20 : sizeof fresh);
    size_t some = m->n ? random_below(seed, m->n + 1) : 0;
    if (random_below(seed, 2) && some > 30) some = random_below(seed, 30);
    for (size_t i = 0; i < n; i++)
        fresh[i] = (uint8_t)random_next(seed);
    switch (random_below(seed, 11)) {
    case 0:
    case 1:
        if (m->n + n > MODEL_MAX) break;
        EXPECT_EQ(rt_linkbuf_write(&m->b, fresh, n), 0);
        put(m, m->n, fresh, n);
        break;
    case 2:
    case 3:
        if (m->n + n <= MODEL_MAX) book_and_ack(m, fresh, n, some, seed);
        break;
    case 4:
        expect_first(m, rt_linkbuf_peek(&m->b, some), some);
        break;
    case 5:
        expect_first(m, rt_linkbuf_next(&m->b, some), some);
        take(m, some);
        break;
    case 6:
        rt_linkbuf_skip(&m->b, some);
        take(m, some);
        break;
    case 7:
        check_kept(m);
        m->n_kept = 0;
        rt_linkbuf_release(&m->b);
        break;
    case 8:
        if (m == o || o->n + some > MODEL_MAX) break;
        EXPECT_EQ(rt_linkbuf_slice(&m->b, some, &o->b), 0);
        put(o, o->n, m->flat, some);
        take(m, some);
        break;
    default:
        if (m != o && m->n + o->n <= MODEL_MAX) move_all(m, o, some, random_below(seed, 2));
    }
    check_all(m);
    check_all(o);
    EXPECT(rt_linkbuf_peek(&m->b, m->n + 1) == NULL);
}

static void it_is_a_flat_array(void *arg) {
    (void)arg;
    modeled *ms = calloc(BUFS, sizeof *ms);
    for (uint64_t seed0 = 1; seed0 <= (uint64_t)ROUNDS(60); seed0++) {
        uint64_t seed = seed0;
        for (int i = 0; i < BUFS; i++)
            rt_linkbuf_init(&ms[i].b, 0);
        for (int step = 0; step < 1500; step++)
            one_step(ms, &seed);
        for (int i = 0; i < BUFS; i++) {
            check_kept(&ms[i]);
            ms[i].n = 0;
            ms[i].n_kept = 0;
            rt_linkbuf_free(&ms[i].b);
        }
        if (!EXPECT_EQ(rt_linkbuf_bytes(), 0)) break;
        rt_yield();
    }
    free(ms);
}

/* ---- threads share blocks ---- */

static struct { rt_linkbuf part[16]; } shared;

static void check_part(void *arg) {
    rt_linkbuf *b = arg;
    for (unsigned i = 0; b->len > 0; i++) {
        const uint8_t *p = rt_linkbuf_next(b, 1);
        if (!EXPECT(p && *p == (uint8_t)i)) break;
        if (i % 50 == 0) rt_yield();
    }
    rt_linkbuf_free(b);
}

static void slices_go_to_other_gs(void *arg) {
    (void)arg;
    for (int round = 0; round < 20; round++) {
        rt_linkbuf b = {0};
        crowd c = {0};
        uint8_t data[200];
        for (int i = 0; i < 200; i++)
            data[i] = (uint8_t)i;
        for (int i = 0; i < 16; i++) {
            EXPECT_EQ(rt_linkbuf_write(&b, data, sizeof data),
                      0); /* while others read what is before */
            shared.part[i] = (rt_linkbuf){0};
            EXPECT_EQ(rt_linkbuf_slice(&b, sizeof data, &shared.part[i]), 0);
            crowd_go(&c, check_part, &shared.part[i]);
        }
        rt_linkbuf_free(&b);
        crowd_wait(&c);
        CHECK_EQ(rt_linkbuf_bytes(), 0);
    }
}

/* ---- descriptors ---- */

enum { CARRIED = 300000 };

typedef struct carrier {
    rt_fd *f;
} carrier;

static void send_carried(void *arg) {
    carrier *k = arg;
    rt_linkbuf b = {0};
    for (size_t at = 0; at < CARRIED;) {
        uint8_t piece[1000];
        size_t n = 0;
        while (n < 1 + at % 999 && at < CARRIED)
            piece[n++] = (uint8_t)(at++ * 7 % 251);
        EXPECT_EQ(rt_linkbuf_write(&b, piece, n), 0);
        if (b.len > 20000) CHECK_EQ(rt_linkbuf_flush(&b, k->f), 0);
    }
    CHECK_EQ(rt_linkbuf_flush(&b, k->f), 0);
    EXPECT_EQ(rt_fd_shutdown(k->f, SHUT_WR), 0);
}

static void fill_and_flush_carry(void *arg) {
    (void)arg;
    rt_fd a, f;
    crowd c = {0};
    CHECK(open_pair(&a, &f));
    carrier k = {&a};
    crowd_go(&c, send_carried, &k);
    rt_linkbuf b = {0};
    size_t at = 0;
    for (ssize_t r; (r = rt_linkbuf_fill(&b, &f)) != 0;) {
        CHECK(r > 0);
        while (b.len > 0) {
            size_t n = b.len < 37 ? b.len : 37;
            const uint8_t *p = rt_linkbuf_next(&b, n);
            for (size_t i = 0; i < n; i++, at++)
                CHECK_EQ(p[i], at * 7 % 251);
        }
        rt_linkbuf_release(&b);
    }
    CHECK_EQ(at, CARRIED);
    crowd_wait(&c);
    rt_linkbuf_free(&b);
    /* What could not be written is still there. */
    CHECK_EQ(rt_linkbuf_write(&b, "left", 4), 0);
    close_pair(&a, &f);
    CHECK_EQ(rt_linkbuf_flush(&b, &a), RT_ECLOSED);
    CHECK_EQ(b.len, 4);
    CHECK_EQ(rt_linkbuf_fill(&b, &a), RT_ECLOSED);
    rt_linkbuf_free(&b);
    CHECK_EQ(rt_linkbuf_bytes(), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        in_g_test(bytes_go_in_and_out),  in_g_test(slices_share_and_outlive),
        in_g_test(limits_hold),          in_g_test(rooms_follow_what_reads_bring),
        in_g_test(it_is_a_flat_array),   in_g_test(slices_go_to_other_gs),
        in_g_test(fill_and_flush_carry),
    };
    RUN_TESTS("linkbuf", tests);
}
