/* The log: threads hammer it while its reader dawdles, and every line is whole, in order, or counted as lost; a line
 * keeps to its length whatever is in it. */
#include "../base/base.h"
#include "../base/log.h"
#include "../base/logline.h"
#include "../base/logq.h"
#include "../base/options.h"

#include "../../runtime/test/harness.h"

enum { THREADS = 4 };

typedef struct reader {
    int fd;
    int64_t lines, told, next[THREADS];
    bool slow;
} reader;

static void read_line(reader *r, const char *line) {
    int thread;
    long long i, n;
    char word[16];
    if (sscanf(line, "%*s info from %d: %lld", &thread, &i) == 2) {
        EXPECT(i > r->next[thread]);
        r->next[thread] = i;
        r->lines++;
    } else if (sscanf(line, "%*s warn %lld %15s lost", &n, word) == 2) {
        r->told += n;
    } else {
        EXPECT(strstr(line, "the end") != NULL);
    }
}

static void *read_all(void *arg) {
    reader *r = arg;
    FILE *f = fdopen(r->fd, "r");
    char line[1024];
    for (int64_t lost = logq_read(logq_log).lost; r->slow && logq_read(logq_log).lost == lost;)
        nanosleep(&(struct timespec){0, MS}, NULL); /* until the pipe and the queue are full */
    for (int n = 0; fgets(line, sizeof line, f); n++) {
        if (strstr(line, "the end")) break;
        read_line(r, line);
        if (r->slow && n % 1000 == 0) nanosleep(&(struct timespec){0, MS}, NULL);
    }
    fclose(f);
    return NULL;
}

typedef struct talker {
    int id;
    int64_t n;
} talker;

static void *talk(void *arg) {
    const talker *t = arg;
    for (int64_t i = 1; i <= t->n; i++)
        log_line(LOG_INFO, "from %d: %lld %0*d", t->id, (long long)i, (int)(i % 100), 0);
    return NULL;
}

/* What threads log, with stderr into a pipe; r as it read it. */
static void converse(reader *r, int64_t n) {
    int fds[2], saved = dup(STDERR_FILENO);
    CHECK_EQ(pipe(fds), 0);
    r->fd = fds[0];
    CHECK(dup2(fds[1], STDERR_FILENO) >= 0);
    close(fds[1]);
    pthread_t reading = foreign(read_all, r), t[THREADS];
    talker talkers[THREADS];
    for (int i = 0; i < THREADS; i++) {
        talkers[i] = (talker){i, n};
        t[i] = foreign(talk, &talkers[i]);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(t[i], NULL);
    EXPECT(logq_flush(logq_log, LIMIT_NS));
    log_line(LOG_ERROR, "the end");
    EXPECT(logq_flush(logq_log, LIMIT_NS));
    dup2(saved, STDERR_FILENO);
    close(saved);
    pthread_join(reading, NULL);
}

static void lines_of_threads_are_whole(void **state) {
    (void)state;
    options.log_level = LOG_INFO;
    logq_figures before = logq_read(logq_log);
    reader r = {0};
    converse(&r, ROUNDS(2000));
    EXPECT_EQ(r.lines, THREADS * ROUNDS(2000));
    EXPECT_EQ(logq_read(logq_log).lost, before.lost);
    EXPECT_EQ(logq_read(logq_log).queued, before.queued + THREADS * ROUNDS(2000) + 1);
    fail_if_recorded();
}

static void lost_lines_are_counted(void **state) {
    (void)state;
    logq_figures before = logq_read(logq_log);
    reader r = {.slow = true};
    converse(&r, ROUNDS(100000));
    EXPECT(r.told > 0);
    EXPECT_EQ(r.lines + r.told, THREADS * ROUNDS(100000));
    EXPECT_EQ(logq_read(logq_log).lost, before.lost + r.told);
    EXPECT_EQ(logq_read(logq_log).waiting, 0);
    fail_if_recorded();
}

/* No byte, length or number of pairs makes a line longer than it may be, or two of it. */
static void lines_keep_to_their_length(void **state) {
    (void)state;
    char *buf = malloc(LOG_LINE_MAX), *text = malloc(20000);
    assert_non_null(buf);
    assert_non_null(text);
    host_log_pair pairs[70];
    uint64_t seed = 5;
    for (int round = 0; round < ROUNDS(4000); round++) {
        size_t len = random_below(&seed, 4) ? random_below(&seed, 200) : random_below(&seed, 20000);
        uint64_t kind = random_below(&seed, 4);
        for (size_t i = 0; i < 20000; i++)
            text[i] = (kind == 0   ? 1
                       : kind == 1 ? 'x'
                       : kind == 2 ? "\n\"\xc3\x28\xe2\x80\xa8"[i % 7]
                                   : (char)random_below(&seed, 256));
        int n = (int)random_below(&seed, 71);
        for (int i = 0; i < n; i++) {
            pairs[i] = (host_log_pair){.key = text, .text = text, .kind = HOST_LOG_STRING};
            pairs[i].key_len = (uint32_t)random_below(&seed, random_below(&seed, 2) ? 10 : 300);
            pairs[i].text_len = (uint32_t)random_below(&seed, random_below(&seed, 2) ? 50 : 20000);
            if (random_below(&seed, 3)) continue;
            pairs[i].kind = HOST_LOG_NUMBER;
            pairs[i].number = (double)random_below(&seed, UINT64_MAX) / 3e-300;
        }
        int format = (int)random_below(&seed, 2);
        size_t size = logline_format(buf, format, LOG_INFO, text, len, pairs, n);
        assert_true(size > 0 && size <= LOG_LINE_MAX);
        assert_int_equal(buf[size - 1], '\n');
        for (size_t i = 0; i + 1 < size; i++)
            if (buf[i] == '\n') assert_true(format == LOG_TEXT && buf[i + 1] == '\t');
    }
    free(buf);
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_of_threads_are_whole),
        cmocka_unit_test(lost_lines_are_counted),
        cmocka_unit_test(lines_keep_to_their_length),
    };
    RUN_TESTS("log", tests);
}
