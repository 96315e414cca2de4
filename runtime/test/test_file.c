/* file: what open's flags promise; offsets; no deadlines; other Gs run while a call lasts; close. */
#include "net.h"

#include <sys/stat.h>

static void temp_path(char *path, size_t n, const char *name) {
    const char *dir = getenv("TMPDIR");
    snprintf(path, n, "%s/lunapark_test_%d_%s", dir ? dir : "/tmp", (int)getpid(), name);
}

static void flags_do_what_they_say(void *arg) {
    (void)arg;
    char path[200], buf[64];
    rt_fd f, g;
    temp_path(path, sizeof path, "flags");
    CHECK_EQ(rt_file_open(&f, path, O_RDONLY, 0), -ENOENT);
    CHECK_EQ(rt_fd_close(&f), RT_ECLOSED); /* it did not open */
    CHECK_EQ(rt_file_open(&f, path, O_RDWR | O_CREAT | O_EXCL, 0600), 0);
    CHECK_EQ(rt_file_open(&g, path, O_RDWR | O_CREAT | O_EXCL, 0600), -EEXIST);
    CHECK(fcntl(f.fd, F_GETFD) & FD_CLOEXEC);
    struct stat st;
    CHECK_EQ(fstat(f.fd, &st), 0);
    CHECK_EQ(st.st_mode & 0777, 0600);
    CHECK_EQ(rt_fd_write(&f, "hello", 5), 5);
    CHECK_EQ(rt_file_open(&g, path, O_WRONLY | O_APPEND | O_SYNC, 0), 0);
    CHECK(fcntl(g.fd, F_GETFL) & O_SYNC);
    CHECK_EQ(rt_fd_write(&g, ", world", 7), 7);
    CHECK_EQ(rt_file_pwrite(&g, "x", 1, 0), -EINVAL);
    CHECK_EQ(rt_fd_read(&g, buf, 1), -EBADF);
    CHECK_EQ(rt_fd_close(&g), 0);
    CHECK_EQ(rt_file_seek(&f, 0, SEEK_SET), 0);
    CHECK_EQ(rt_fd_read(&f, buf, sizeof buf), 12);
    CHECK_EQ(memcmp(buf, "hello, world", 12), 0);
    CHECK_EQ(rt_fd_read(&f, buf, sizeof buf), 0);
    CHECK_EQ(rt_file_open(&g, path, O_WRONLY | O_TRUNC, 0), 0);
    CHECK_EQ(rt_fd_close(&g), 0);
    CHECK_EQ(rt_file_seek(&f, 0, SEEK_END), 0);
    CHECK_EQ(rt_fd_close(&f), 0);
    CHECK_EQ(rt_fd_close(&f), RT_ECLOSED);
    CHECK_EQ(rt_file_pread(&f, buf, 1, 0), RT_ECLOSED);
    CHECK_EQ(rt_file_pwrite(&f, buf, 1, 0), RT_ECLOSED);
    CHECK_EQ(rt_file_seek(&f, 0, SEEK_SET), RT_ECLOSED);
    CHECK_EQ(rt_file_sync(&f, true), RT_ECLOSED);
    CHECK_EQ(rt_file_open(&f, "/", O_RDONLY, 0), 0);
    CHECK_EQ(rt_fd_read(&f, buf, 1), -EISDIR);
    CHECK_EQ(rt_fd_close(&f), 0);
    CHECK_EQ(rt_file_init(&f, -1), -EBADF);
    unlink(path);
}

static void files_have_no_deadlines(void *arg) {
    (void)arg;
    rt_fd f;
    CHECK_EQ(rt_file_open(&f, "/proc/self/exe", O_RDONLY, 0), 0);
    CHECK_EQ(rt_fd_set_deadline(&f, RT_R, 1), RT_ENODEADLINE);
    CHECK_EQ(rt_fd_set_deadline(&f, RT_RW, 0), RT_ENODEADLINE);
    EXPECT(strcmp(rt_strerror(RT_ENODEADLINE), "no deadline") == 0);
    char b;
    CHECK_EQ(rt_fd_read(&f, &b, 1), 1);
    CHECK_EQ(rt_fd_accept(&f), -EINVAL);
    CHECK_EQ(rt_fd_connect(&f, NULL, 0), -ENOTSOCK);
    CHECK_EQ(rt_fd_close(&f), 0);
    CHECK_EQ(rt_fd_set_deadline(&f, RT_R, 1), RT_ECLOSED);
}

enum { BIG = 300000 };

static void offsets_and_large_calls(void *arg) {
    (void)arg;
    char path[200];
    rt_fd f;
    temp_path(path, sizeof path, "large");
    unsigned char *data = malloc(BIG), *back = malloc(BIG);
    for (size_t i = 0; i < BIG; i++)
        data[i] = (unsigned char)(i * 13 + i / 255);
    CHECK_EQ(rt_file_open(&f, path, O_RDWR | O_CREAT | O_TRUNC, 0600), 0);
    struct iovec iov[3] = {{data, 10}, {data + 10, 0}, {data + 10, BIG - 10}};
    CHECK_EQ(rt_fd_writev(&f, iov, 3), BIG); /* all of it */
    CHECK_EQ(rt_file_pread(&f, back, BIG, 0), BIG);
    CHECK_EQ(memcmp(data, back, BIG), 0);
    CHECK_EQ(rt_file_pread(&f, back, BIG, BIG - 7), 7);
    CHECK_EQ(rt_file_pread(&f, back, BIG, 2 * BIG), 0);
    CHECK_EQ(rt_file_pread(&f, back, 1, -1), -EINVAL);
    CHECK_EQ(rt_file_seek(&f, 0, SEEK_CUR), BIG); /* pread has not moved it */
    CHECK_EQ(rt_file_pwrite(&f, data, 5000, 100), 5000);
    CHECK_EQ(rt_file_sync(&f, false), 0);
    CHECK_EQ(rt_file_sync(&f, true), 0);
    CHECK_EQ(rt_file_seek(&f, 100, SEEK_SET), 100);
    CHECK(read_full(&f, back, 5000));
    CHECK_EQ(memcmp(data, back, 5000), 0);
    CHECK_EQ(rt_fd_close(&f), 0);
    free(data);
    free(back);
    unlink(path);
}

/* ---- a call that lasts ---- */

static _Atomic bool in_call;

static ssize_t read_slowly(rt_fd *f) {
    atomic_store(&in_call, true);
    return read_one(f);
}

/* A pipe that blocks, as somebody's terminal would. */
static void others_run_while_a_call_lasts(void *arg) {
    (void)arg;
    for (int nonblocking = 0; nonblocking < 2; nonblocking++) {
        int p[2];
        rt_fd f;
        crowd c = {0};
        one_call k;
        CHECK_EQ(pipe2(p, O_CLOEXEC | (nonblocking ? O_NONBLOCK : 0)), 0);
        CHECK_EQ(rt_file_init(&f, p[0]), 0);
        start_call(&c, &k, &f, read_slowly);
        for (int i = 0; i < 20; i++)
            rt_sleep(MS); /* with one P: it is ours now */
        CHECK(!atomic_load(&k.ended));
        CHECK_EQ(write(p[1], "x", 1), 1);
        crowd_wait(&c);
        CHECK_EQ(k.r, 1);
        CHECK_EQ(rt_fd_close(&f), 0);
        close(p[1]);
    }
}

static ssize_t close_it(rt_fd *f) {
    return rt_fd_close(f);
}

static void close_waits_for_the_call(void *arg) {
    (void)arg;
    int p[2];
    rt_fd f;
    crowd c = {0};
    one_call k[3];
    CHECK_EQ(pipe2(p, O_CLOEXEC), 0);
    CHECK_EQ(rt_file_init(&f, p[0]), 0);
    start_call(&c, &k[0], &f, read_one);
    start_call(&c, &k[1], &f, read_one); /* queues */
    start_call(&c, &k[2], &f, close_it);
    EXPECT_SOON(atomic_load(&k[1].ended));
    CHECK_EQ(k[1].r, RT_ECLOSED);
    CHECK_EQ(write(p[1], "x", 1), 1);
    crowd_wait(&c);
    CHECK_EQ(k[0].r, 1);
    CHECK_EQ(k[2].r, 0);
    close(p[1]);
}

static _Atomic int64_t appended;

static void append_lines(void *arg) {
    for (int i = 0; i < 50; i++) {
        char line[100];
        memset(line, 'a' + i % 26, sizeof line);
        line[99] = '\n';
        CHECK_EQ(rt_fd_write(arg, line, sizeof line), 100);
        atomic_fetch_add(&appended, 100);
    }
}

static void many_gs_write_one_file(void *arg) {
    (void)arg;
    char path[200], line[100];
    rt_fd f;
    crowd c = {0};
    temp_path(path, sizeof path, "many");
    atomic_store(&appended, 0);
    CHECK_EQ(rt_file_open(&f, path, O_RDWR | O_CREAT | O_TRUNC, 0600), 0);
    for (int i = 0; i < 20; i++)
        crowd_go(&c, append_lines, &f);
    crowd_wait(&c);
    CHECK_EQ(rt_file_seek(&f, 0, SEEK_CUR), atomic_load(&appended));
    CHECK_EQ(rt_file_seek(&f, 0, SEEK_SET), 0);
    for (int i = 0; i < 20 * 50; i++) {
        CHECK(read_full(&f, line, 100));
        for (int k = 1; k < 99; k++)
            CHECK_EQ(line[k], line[0]);
        CHECK_EQ(line[99], '\n');
    }
    CHECK_EQ(rt_fd_close(&f), 0);
    unlink(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        in_g_test(flags_do_what_they_say),   in_g_test(files_have_no_deadlines),
        in_g_test(offsets_and_large_calls),  in_g_test(others_run_while_a_call_lasts),
        in_g_test(close_waits_for_the_call), in_g_test(many_gs_write_one_file),
    };
    RUN_TESTS("file", tests);
}
