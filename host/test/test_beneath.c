/* beneath: what is below a folder is opened, by the kernel and by hand; nothing else is. */
#include "../sys/beneath.h"

#include "../../runtime/test/harness.h"
#include "files.h"

enum { BY_KERNEL = 1, BY_HAND = 2, BOTH = 3 };

static int open_by(int way, const char *path, int flags) {
    if (way == BY_KERNEL) return beneath_open(path_of("root"), path, flags, 0644);
    int dir = open(path_of("root"), O_PATH | O_DIRECTORY | O_CLOEXEC);
    assert_true(dir >= 0);
    int fd = beneath_walk(dir, path, flags, 0644);
    close(dir);
    return fd;
}

/* What is read there; fails where it can't be. */
static void expect_in(int ways, const char *path, const char *text) {
    for (int way = BY_KERNEL; way <= BY_HAND; way++) {
        char got[64] = "";
        if (!(ways & way)) continue;
        int fd = open_by(way, path, O_RDONLY);
        if (fd < 0) fail_msg("%s, way %d: %s", path, way, strerror(-fd));
        assert_true(read(fd, got, sizeof got - 1) >= 0);
        assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
        close(fd);
        assert_string_equal(got, text);
    }
}

static void expect_no(int ways, const char *path, int err) {
    for (int way = BY_KERNEL; way <= BY_HAND; way++) {
        static const int all[] = {O_RDONLY, O_PATH, O_WRONLY | O_CREAT, O_RDONLY | O_DIRECTORY};
        for (size_t i = 0; (ways & way) && i < sizeof all / sizeof *all; i++) {
            int fd = open_by(way, path, all[i]);
            if (fd >= 0) fail_msg("%s, way %d, flags %x: opened", path, way, all[i]);
            if (err && fd != -err)
                fail_msg("%s, way %d, flags %x: %s", path, way, all[i], strerror(-fd));
        }
    }
}

static void make_tree(void) {
    assert_true(put("secret/s", "secret"));
    assert_true(put("root/a", "a"));
    assert_true(put("root/d/e/f", "f"));
    assert_true(shell(
        "cd root && ln -s a in && ln -s d/e deep && ln -s ../secret/s out && ln -s ../secret dir &&"
        "ln -s /etc/passwd abs && ln -s nothing dangling && ln -s ../new made && ln -s loop loop &&"
        "ln -s d/../../secret round"));
}

static void what_is_below_is_opened(void **state) {
    (void)state;
    make_tree();
    expect_in(BOTH, "a", "a");
    expect_in(BOTH, "d/e/f", "f");
    expect_in(BOTH, "./d//./e/f", "f");
    expect_in(BOTH, "d/../a", "a");
    expect_in(BOTH, "d/e/../../d/e/f", "f");
    expect_in(BY_KERNEL, "in", "a");
    expect_in(BY_KERNEL, "deep/f", "f");
    for (int way = BY_KERNEL; way <= BY_HAND; way++) {
        static const char *const folders[] = {"d", "d/", "d/.", ".", "d/e/..", ""};
        for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
            int fd = open_by(way, folders[i], O_RDONLY | O_DIRECTORY);
            if (fd < 0) fail_msg("%s: %s", folders[i], strerror(-fd));
            close(fd);
        }
        assert_int_equal(open_by(way, "nothing", O_RDONLY), -ENOENT);
        assert_int_equal(open_by(way, "a/", O_RDONLY), -ENOTDIR);
        int fd = open_by(way, way == BY_KERNEL ? "d/new1" : "d/new2", O_WRONLY | O_CREAT | O_EXCL);
        assert_true(fd >= 0);
        close(fd);
    }
    assert_int_equal(access(path_of("root/d/new1"), F_OK) | access(path_of("root/d/new2"), F_OK),
                     0);
}

static void nothing_else_is(void **state) {
    (void)state;
    make_tree();
    static const char *const out[] = {"..",          "../secret/s", "d/../../secret/s",
                                      "/etc/passwd", "/",           "d/e/../../..",
                                      "../root/a",   "./../secret", "//etc/passwd"};
    for (size_t i = 0; i < sizeof out / sizeof *out; i++)
        expect_no(BOTH, out[i], EXDEV);
    static const char *const links[] = {"out", "dir/s", "abs", "made", "round/s", "dir"};
    for (size_t i = 0; i < sizeof links / sizeof *links; i++) {
        expect_no(BY_KERNEL, links[i], EXDEV);
        expect_no(BY_HAND, links[i], 0);
    }
    expect_no(BOTH, "loop", 0);
    expect_no(BY_HAND, "in", 0);
    expect_no(BY_HAND, "deep/f", 0);
    assert_int_equal(access(path_of("new"), F_OK), -1);
}

/* The kernel may say at any time that it has to ask the disk. */
static void what_the_kernel_knows_is_opened_at_once(void **state) {
    (void)state;
    make_tree();
    static const char *const in[] = {"a", "in", "d/e/../../a", "./a"};
    for (size_t i = 0; i < sizeof in / sizeof *in; i++) {
        char got[64] = "";
        close(beneath_open(path_of("root"), in[i], O_RDONLY, 0));
        int fd = beneath_open_cached(path_of("root"), in[i], O_RDONLY);
        if (fd == -EAGAIN) continue;
        if (fd < 0) fail_msg("%s: %s", in[i], strerror(-fd));
        assert_true(read(fd, got, sizeof got - 1) >= 0);
        assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
        close(fd);
        assert_string_equal(got, "a");
    }
    static const char *const no[] = {"..",  "../secret/s", "/etc/passwd", "d/../../secret/s",
                                     "out", "dir/s",       "abs",         "round/s",
                                     "/",   "made"};
    for (size_t i = 0; i < sizeof no / sizeof *no; i++) {
        int fd = beneath_open_cached(path_of("root"), no[i], O_RDONLY);
        if (fd != -EXDEV && fd != -EAGAIN) fail_msg("%s: %d", no[i], fd);
    }
    int fd = beneath_open_cached(path_of("root"), "nothing", O_RDONLY);
    assert_true(fd == -ENOENT || fd == -EAGAIN);
    fd = beneath_open_cached(path_of("nowhere"), "a", O_RDONLY);
    assert_true(fd == -ENOENT || fd == -EAGAIN);
}

static void a_walk_is_bounded_and_leaves_no_descriptor(void **state) {
    (void)state;
    make_tree();
    char deep[1024] = "";
    for (int i = 0; i < 100; i++)
        strcat(deep, "x/");
    assert_true(shell("cd root && mkdir -p %s", deep));
    int before = open_by(BY_HAND, "a", O_RDONLY);
    assert_true(before >= 0);
    close(before);
    assert_int_equal(open_by(BY_HAND, deep, O_RDONLY), -ENAMETOOLONG);
    assert_int_equal(open_by(BY_HAND, "d/e/nothing", O_RDONLY), -ENOENT);
    assert_int_equal(open_by(BY_HAND, "d/e/../../../secret", O_RDONLY), -EXDEV);
    close(open_by(BY_HAND, "d/e/f", O_RDONLY));
    int after = open_by(BY_HAND, "a", O_RDONLY);
    assert_int_equal(after, before);
    close(after);
    char name[NAME_MAX + 10];
    memset(name, 'x', sizeof name);
    name[sizeof name - 1] = 0;
    expect_no(BOTH, name, ENAMETOOLONG);
}

static void a_check_says_what_could_be_made(void **state) {
    (void)state;
    make_tree();
    static const struct {
        const char *path;
        int err;
    } cases[] = {
        {"a", 0},
        {"d", 0},
        {"", 0},
        {"new", 0},
        {"d/e/new", 0},
        {"in", 0},
        {"../new", EXDEV},
        {"/new", EXDEV},
        {"dir/new", EXDEV},
        {"out", EXDEV},
        {"made", EXDEV},
        {"d/../..", EXDEV},
        {"no/new", ENOENT},
        {"dangling", ENOENT},
        {"new/", ENOENT},
        {"a/new", ENOTDIR},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int err = beneath_check(path_of("root"), cases[i].path);
        if (err != -cases[i].err) fail_msg("%s: %d", cases[i].path, err);
    }
    assert_int_equal(beneath_check(path_of("nowhere"), "a"), -ENOENT);
    assert_int_equal(beneath_check(path_of("root/a"), ""), -ENOTDIR);
}

#define row(f)                                                                                     \
    { #f, f, make_dir, remove_dir, NULL }

int main(void) {
    const struct CMUnitTest tests[] = {
        row(what_is_below_is_opened),
        row(nothing_else_is),
        row(a_walk_is_bounded_and_leaves_no_descriptor),
        row(what_the_kernel_knows_is_opened_at_once),
        row(a_check_says_what_could_be_made),
    };
    RUN_TESTS("beneath", tests);
}
