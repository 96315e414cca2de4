/* objects: what is written is what git reads, and what is damaged is not taken for an object. */
#include "../generation/diskfile.h"
#include "../generation/objects.h"

#include "../../runtime/test/harness.h"
#include "files.h"

#include <sys/syscall.h>

static int no_rename; /* errno of rename, 0 */

/* In place of libc's. */
int rename(const char *from, const char *to) {
    if (!no_rename) return (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
    errno = no_rename;
    return -1;
}

static const char *objects_dir(void) {
    static char dir[128];
    snprintf(dir, sizeof dir, "%s/git/objects", test_dir);
    return dir;
}

static int make_repository(void **state) {
    return make_dir(state) == 0 && shell("GIT_CONFIG_GLOBAL=/dev/null git init -q --bare git") ? 0
                                                                                               : -1;
}

static const char *digits_of(const git_id *id) {
    static char digits[GIT_ID_DIGITS + 1];
    git_print(id, digits);
    return digits;
}

static void git_reads(const git_id *id, const void *bytes, size_t len) {
    assert_true(put_bytes("expected", bytes, len));
    assert_true(shell("git --git-dir=git cat-file blob %s | cmp - expected", digits_of(id)));
    assert_true(
        shell("git --git-dir=git fsck --strict --no-dangling 2>&1 | grep -v ^notice; test $? = 1"));
}

static void expect_read(const git_id *id, const void *bytes, size_t len) {
    char *got;
    size_t n;
    assert_int_equal(objects_read(objects_dir(), id, "blob", &got, &n), 0);
    assert_int_equal(n, len);
    assert_memory_equal(got, bytes, len);
    assert_int_equal(got[len], 0);
    free(got);
}

/* ---- what git reads ---- */

static void any_length(void **state) {
    (void)state;
    static const size_t lengths[] = {0,     1,     7,      65524,  65525, 65526,
                                     65535, 65536, 131061, 131070, 300000};
    static char bytes[300000];
    uint64_t rnd = 1;
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (char)(i < 100000 ? 255 : random_below(&rnd, 256));
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        object_batch b = {.dir = objects_dir()};
        git_id id = git_object("blob", bytes, lengths[i]);
        assert_int_equal(objects_write(&b, "blob", &id, bytes, lengths[i]), 0);
        assert_int_equal(objects_end(&b, 0), 0);
        git_reads(&id, bytes, lengths[i]);
        expect_read(&id, bytes, lengths[i]);
    }
}

static void files_too(void **state) {
    (void)state;
    static char bytes[200000];
    memset(bytes, 'x', sizeof bytes);
    assert_true(put_bytes("file", bytes, sizeof bytes));
    git_id id = git_object("blob", bytes, sizeof bytes), other = git_object("blob", "y", 1);
    object_batch b = {.dir = objects_dir()};
    assert_int_equal(objects_write_file(&b, &id, path_of("file")), 0);
    assert_int_equal(objects_end(&b, 0), 0);
    git_reads(&id, bytes, sizeof bytes);
    int err = objects_write_file(&b, &other, path_of("file"));
    assert_int_equal(err, -ESTALE);
    assert_int_equal(objects_end(&b, err), -ESTALE);
    err = objects_write_file(&b, &other, path_of("none"));
    assert_int_equal(err, -ESTALE);
    assert_int_equal(objects_end(&b, err), -ESTALE);
    assert_true(shell("test $(find git/objects -type f | wc -l) = 1"));
}

static bool write_tree(void *arg, const git_id *id, const void *bytes, size_t len) {
    return objects_write(arg, "tree", id, bytes, len) == 0;
}

static void trees(void **state) {
    (void)state;
    object_batch b = {.dir = objects_dir()};
    git_file files[] = {
        {.path = "a/b/c"}, {.path = "a.lua", .executable = true}, {.path = "a/d"}, {.path = "zed"}};
    git_id tree;
    for (int i = 0; i < 4; i++) {
        files[i].blob = git_object("blob", files[i].path, 3);
        assert_int_equal(objects_write(&b, "blob", &files[i].blob, files[i].path, 3), 0);
    }
    assert_true(git_tree(files, 4, &tree, write_tree, &b));
    assert_int_equal(objects_end(&b, 0), 0);
    assert_true(
        shell("git --git-dir=git fsck --strict --no-dangling 2>&1 | grep -v ^notice; test $? = 1"));
    assert_true(shell("test \"$(git --git-dir=git ls-tree -r --format='%%(objectmode) %%(path)' %s "
                      "| tr '\\n' ,)\" = "
                      "'100755 a.lua,100644 a/b/c,100644 a/d,100644 zed,'",
                      digits_of(&tree)));
}

/* ---- what goes wrong ---- */

static void a_batch_that_fails_leaves_nothing(void **state) {
    (void)state;
    object_batch b = {.dir = objects_dir()};
    git_id id = git_object("blob", "text", 4);
    char *got;
    size_t n;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(objects_write(&b, "blob", &id, "text", 4), 0);
        assert_int_equal(objects_read(objects_dir(), &id, "blob", &got, &n),
                         -ENOENT); /* it has no name yet */
        no_rename = i ? ENOSPC : 0;
        assert_int_equal(objects_end(&b, i ? 0 : -EIO), i ? -ENOSPC : -EIO);
        no_rename = 0;
        assert_true(shell("test $(find git/objects -type f | wc -l) = 0"));
    }
    assert_int_equal(objects_write(&b, "blob", &id, "text", 4), 0);
    assert_int_equal(objects_write(&b, "blob", &id, "text", 4), 0); /* twice in one batch */
    assert_int_equal(objects_end(&b, 0), 0);
    assert_int_equal(objects_write(&b, "blob", &id, "text", 4), 0); /* it is there */
    assert_int_equal(b.n, 0);
    expect_read(&id, "text", 4);
    assert_int_equal(objects_remove(objects_dir(), &id), 0);
    assert_int_equal(objects_remove(objects_dir(), &id), 0);
    assert_int_equal(objects_read(objects_dir(), &id, "blob", &got, &n), -ENOENT);
}

static void damage_is_noticed(void **state) {
    (void)state;
    object_batch b = {.dir = objects_dir()};
    git_id id = git_object("blob", "some text", 9);
    char rel[128], bytes[256], *got;
    size_t n, len, harmless = 0;
    bool opened;
    assert_int_equal(objects_write(&b, "blob", &id, "some text", 9), 0);
    assert_int_equal(objects_end(&b, 0), 0);
    assert_int_equal(objects_read(objects_dir(), &id, "tree", &got, &n), -EBADMSG);
    snprintf(rel, sizeof rel, "git/objects/%.2s/%s", digits_of(&id), digits_of(&id) + 2);
    assert_int_equal(disk_read(path_of(rel), &got, &len, NULL, &opened), 0);
    memcpy(bytes, got, len);
    free(got);
    assert_true(shell("chmod 644 %s", rel));
    for (size_t i = 0; i < len; i++) {
        bytes[i] ^= 4;
        assert_true(put_bytes(rel, bytes, len));
        int err = objects_read(objects_dir(), &id, "blob", &got, &n);
        if (!err) { /* a bit that fills up a byte means nothing */
            assert_true(n == 9 && memcmp(got, "some text", 9) == 0);
            free(got);
            harmless++;
        } else {
            assert_int_equal(err, -EBADMSG);
        }
        bytes[i] ^= 4;
        assert_true(put_bytes(rel, bytes, i));
        assert_int_equal(objects_read(objects_dir(), &id, "blob", &got, &n), -EBADMSG);
    }
    assert_in_range(harmless, 0, 1);
    assert_true(put_bytes(rel, bytes, len));
    expect_read(&id, "some text", 9);
}

static void objects_of_gits_are_read(void **state) {
    (void)state;
    static char bytes[100000];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (char)(i % 7 + i / 1000);
    assert_true(put_bytes("file", bytes, sizeof bytes));
    for (int level = 0; level < 10; level++) {
        git_id id = git_object("blob", bytes, sizeof bytes);
        assert_true(shell("rm -rf git/objects/??; git -c core.looseCompression=%d --git-dir=git "
                          "hash-object -w file >out",
                          level));
        expect_read(&id, bytes, sizeof bytes);
    }
}

#define row(f)                                                                                     \
    { #f, f, make_repository, remove_dir, NULL }

int main(void) {
    const struct CMUnitTest tests[] = {
        row(any_length),
        row(files_too),
        row(trees),
        row(a_batch_that_fails_leaves_nothing),
        row(damage_is_noticed),
        row(objects_of_gits_are_read),
    };
    RUN_TESTS("objects", tests);
}
