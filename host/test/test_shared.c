/* shared: counts are exact and the budget is kept while threads hammer a dict; entries come and go as told. */
#include "../shared/shared_ffi.h"

#include "../../runtime/test/harness.h"

#include <malloc.h>

enum { THREADS = 4, TEXT = 300 };

static int set_number(host_dict *d, const char *key, double n, double ttl_ns, int how) {
    return host_dict_put(d, key, strlen(key), HOST_NUMBER, n, NULL, 0, ttl_ns, how, 0);
}

static int set_text(host_dict *d, const char *key, const char *text, size_t len) {
    return host_dict_put(d, key, strlen(key), HOST_STRING, 0, text, len, 0, HOST_SET, 0);
}

static double number_at(host_dict *d, const char *key) {
    host_dict_value v;
    int type = host_dict_get(d, key, strlen(key), NULL, 0, &v);
    return type == HOST_NUMBER ? v.number : -1;
}

static host_dict_figures figures(host_dict *d) {
    host_dict_figures f;
    host_dict_read(d, &f);
    return f;
}

static void on_threads(void *(*fn)(void *), void *arg) {
    pthread_t t[THREADS];
    for (int i = 0; i < THREADS; i++)
        t[i] = foreign(fn, arg);
    for (int i = 0; i < THREADS; i++)
        pthread_join(t[i], NULL);
}

/* ---- counting ---- */

static void *count(void *arg) {
    for (int i = 0; i < ROUNDS(200000); i++) {
        double sum;
        char key[16];
        snprintf(key, sizeof key, "n%d", i % 7);
        if (host_dict_incr(arg, key, strlen(key), 1, 1, 0, 0, &sum) != 0) break;
    }
    return NULL;
}

static void threads_count_together(void **state) {
    (void)state;
    host_dict *d = host_dict_open("count", 5, 0);
    on_threads(count, d);
    double sum = 0;
    for (int i = 0; i < 7; i++)
        sum += number_at(d, (char[]){'n', (char)('0' + i), 0});
    EXPECT_EQ(sum, THREADS * ROUNDS(200000));
    EXPECT_EQ(figures(d).keys, 7);
    fail_if_recorded();
}

/* ---- compare and swap ---- */

static void *swap(void *arg) {
    for (int i = 0; i < ROUNDS(20000);) {
        host_dict_value v;
        int type = host_dict_get(arg, "x", 1, NULL, 0, &v);
        double n = type == HOST_NIL ? 0 : v.number;
        int r = host_dict_put(arg, "x", 1, HOST_NUMBER, n + 1, NULL, 0, 0, HOST_SWAP, v.version);
        if (r == 0) i++;
    }
    return NULL;
}

static void a_swap_loses_nothing(void **state) {
    (void)state;
    host_dict *d = host_dict_open("swap", 4, 0);
    on_threads(swap, d);
    EXPECT_EQ(number_at(d, "x"), THREADS * ROUNDS(20000));
    fail_if_recorded();
}

/* ---- everything at once ---- */

static void *hammer(void *arg) {
    static _Atomic uint64_t seeds;
    uint64_t rnd = atomic_fetch_add(&seeds, 1) + 1;
    host_dict *d = arg;
    char text[TEXT], got[TEXT], keys[512];
    for (int i = 0; i < ROUNDS(100000); i++) {
        char key[16];
        snprintf(key, sizeof key, "%d", (int)random_below(&rnd, 500));
        size_t n = strlen(key), len = (size_t)random_below(&rnd, TEXT);
        memset(text, key[n - 1], len);
        double sum, cursor = 0;
        host_dict_value v;
        switch (random_below(&rnd, 12)) {
        case 0:
            host_dict_delete(d, key, n);
            break;
        case 1:
            host_dict_expire(d, key, n, (double)random_below(&rnd, 100000));
            break;
        case 2:
            host_dict_incr(d, key, n, 1, 1, 0, 50000, &sum);
            break;
        case 3:
            host_dict_ttl(d, key, n, &sum);
            break;
        case 4:
            if (i % 100 == 0) host_dict_keys(d, &cursor, keys, sizeof keys);
            if (i % 5000 == 0) host_dict_flush(d);
            if (i % 3000 == 0) host_dict_open("hammer", 6, 20000 + (double)(i % 7) * 60000);
            break;
        case 5:
        case 6:
        case 7:
            if (host_dict_get(d, key, n, got, sizeof got, &v) == HOST_STRING)
                for (size_t k = 0; k < (size_t)v.len; k++)
                    EXPECT(got[k] == key[n - 1]);
            break;
        default:
            set_text(d, key, text, len);
        }
    }
    return NULL;
}

static void threads_hammer_it(void **state) {
    (void)state;
    host_dict *d = host_dict_open("hammer", 6, 40000 + (test_procs() == 2) * 2000000);
    on_threads(hammer, d);
    host_dict_open("hammer", 6, 40000);
    EXPECT(figures(d).bytes <= 40000);
    EXPECT(figures(d).evictions > 0);
    host_dict_flush(d);
    EXPECT_EQ(figures(d).bytes, 0);
    EXPECT_EQ(figures(d).keys, 0);
    fail_if_recorded();
}

/* ---- one at a time ---- */

static void the_least_recently_used_goes(void *arg) {
    (void)arg;
    host_dict *d = host_dict_open("lru", 3, 10000);
    char text[1000] = {0}, key[2] = {0};
    for (key[0] = 'a'; key[0] < 'i'; key[0]++)
        CHECK_EQ(set_text(d, key, text, sizeof text), 0);
    CHECK_EQ(figures(d).evictions, 0);
    host_dict_value v;
    CHECK_EQ(host_dict_get(d, "a", 1, text, sizeof text, &v), HOST_STRING);
    CHECK_EQ(set_text(d, "y", text, sizeof text), 0);
    CHECK_EQ(set_text(d, "z", text, sizeof text), 0);
    EXPECT_EQ(figures(d).evictions, 1);
    EXPECT_EQ(host_dict_get(d, "b", 1, text, sizeof text, &v), HOST_NIL);
    EXPECT_EQ(host_dict_get(d, "a", 1, text, sizeof text, &v), HOST_STRING);
    EXPECT_EQ(host_dict_get(d, "z", 1, text, sizeof text, &v), HOST_STRING);
}

static void one_value_may_take_it_all(void *arg) {
    (void)arg;
    enum { BIG = (2 << 20) - 1000 };
    host_dict *d = host_dict_open("big", 3, 2 << 20);
    for (int i = 0; i < 100; i++) {
        char key[8];
        snprintf(key, sizeof key, "%d", i);
        CHECK_EQ(set_number(d, key, i, 0, HOST_SET), 0);
    }
    char *text = calloc(1, BIG + 1000);
    CHECK_EQ(set_text(d, "big", text, BIG), 0);
    EXPECT(figures(d).bytes <= 2 << 20);
    EXPECT(figures(d).evictions >= 80);
    host_dict_value v;
    EXPECT_EQ(host_dict_get(d, "big", 3, text, BIG, &v), HOST_STRING);
    EXPECT_EQ(set_text(d, "big", text, BIG + 1000), -EFBIG);
    free(text);
}

static void entries_expire(void *arg) {
    (void)arg;
    host_dict *d = host_dict_open("ttl", 3, 0);
    CHECK_EQ(set_number(d, "x", 1, 5e6, HOST_SET), 0);
    CHECK_EQ(set_number(d, "stays", 1, 0, HOST_SET), 0);
    EXPECT_EQ(set_number(d, "x", 2, 0, HOST_ADD), -EEXIST);
    rt_sleep(20 * MS);
    EXPECT_EQ(number_at(d, "x"), -1);
    EXPECT_EQ(set_number(d, "x", 2, 0, HOST_REPLACE), -ENOENT);
    EXPECT_EQ(set_number(d, "x", 2, 0, HOST_ADD), 0);
    double ttl;
    EXPECT_EQ(host_dict_ttl(d, "x", 1, &ttl), 0);
    EXPECT_EQ(ttl, 0);
    EXPECT_EQ(host_dict_expire(d, "x", 1, 1e18), 0);
    EXPECT_EQ(host_dict_ttl(d, "x", 1, &ttl), 0);
    EXPECT(ttl > 9e17 && ttl <= 1e18);
    EXPECT_EQ(figures(d).expired, 1);
}

static void keys_come_in_pieces(void *arg) {
    (void)arg;
    host_dict *d = host_dict_open("keys", 4, 0);
    for (int i = 0; i < 1000; i++) {
        char key[8];
        snprintf(key, sizeof key, "%d", i);
        CHECK_EQ(set_number(d, key, i, 0, HOST_SET), 0);
    }
    double cursor = 0;
    char buf[64];
    int n = 0;
    bool seen[1000] = {0};
    while (cursor >= 0) {
        int64_t used = host_dict_keys(d, &cursor, buf, sizeof buf);
        CHECK(used >= 0);
        for (int64_t at = 0; at < used;) {
            uint32_t len;
            memcpy(&len, buf + at, sizeof len);
            char key[8] = {0};
            memcpy(key, buf + at + sizeof len, len);
            seen[strtol(key, NULL, 10)] = true;
            at += (int64_t)sizeof len + len;
            n++;
        }
    }
    EXPECT_EQ(n, 1000);
    for (int i = 0; i < 1000; i++)
        EXPECT(seen[i]);
    cursor = 0;
    EXPECT(host_dict_keys(d, &cursor, buf, 2) < -2);
}

/* ---- memory ---- */

static size_t in_use(void) {
#if defined(RT_ASAN) || defined(RT_TSAN) /* malloc is theirs, and says nothing */
    return 0;
#else
    return mallinfo2().uordblks + mallinfo2().hblkhd;
#endif
}

static host_dict *numbered(const char *what, int i) {
    char name[32];
    int n = snprintf(name, sizeof name, "%s %d", what, i);
    return host_dict_open(name, (size_t)n, 0);
}

static void empty_dicts_cost_little(void *arg) {
    (void)arg;
    size_t before = in_use();
    for (int i = 0; i < 100; i++)
        EXPECT(numbered("empty", i) != NULL);
    EXPECT(in_use() - before < 100 * 8192);
}

static void buckets_come_and_go_with_entries(void *arg) {
    (void)arg;
    enum { KEYS = 20000 };
    host_dict *d = host_dict_open("grows", 5, 64 << 20);
    size_t before = in_use();
    char key[16];
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < KEYS; i++) {
            snprintf(key, sizeof key, "k%d", i);
            EXPECT_EQ(set_number(d, key, i, 0, HOST_ADD), 0);
        }
        for (int i = 0; i < KEYS; i++) {
            snprintf(key, sizeof key, "k%d", i);
            EXPECT_EQ(number_at(d, key), i);
        }
        EXPECT_EQ(figures(d).keys, KEYS);
        EXPECT_EQ(figures(d).evictions, 0);
        if (round == 1) {
            host_dict_flush(d);
        } else {
            for (int i = 0; i < KEYS; i++) {
                snprintf(key, sizeof key, "k%d", i);
                EXPECT_EQ(host_dict_delete(d, key, strlen(key)), 1);
            }
        }
        EXPECT_EQ(figures(d).bytes, 0);
        EXPECT(in_use() < before + 65536);
    }
}

static void *fill(void *arg) {
    static _Atomic int next;
    int own = atomic_fetch_add(&next, 1);
    char key[24];
    for (int i = 0; i < ROUNDS(20000); i++) {
        snprintf(key, sizeof key, "%d %d", own, i);
        if (set_number(arg, key, i, 0, HOST_SET) != 0) break;
    }
    return NULL;
}

static void threads_grow_it_together(void **state) {
    (void)state;
    host_dict *d = host_dict_open("together", 8, 1 << 30);
    on_threads(fill, d);
    EXPECT_EQ(figures(d).keys, THREADS * ROUNDS(20000));
    char key[24];
    for (int own = 0; own < THREADS; own++)
        for (int i = 0; i < ROUNDS(20000); i++) {
            snprintf(key, sizeof key, "%d %d", own, i);
            EXPECT_EQ(number_at(d, key), i);
        }
    fail_if_recorded();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_count_together),
        cmocka_unit_test(a_swap_loses_nothing),
        cmocka_unit_test(threads_hammer_it),
        in_g_test(the_least_recently_used_goes),
        in_g_test(one_value_may_take_it_all),
        in_g_test(entries_expire),
        in_g_test(keys_come_in_pieces),
        in_g_test(empty_dicts_cost_little),
        in_g_test(buckets_come_and_go_with_entries),
        cmocka_unit_test(threads_grow_it_together),
    };
    RUN_TESTS("shared", tests);
}
