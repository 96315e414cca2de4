/* replace: what is written is on the disk when replace_file returns: a file is synced when all of it is written and
 * before it gets its name, its directory after that. */
#include "../sys/replace.h"

#include "../../runtime/test/harness.h"
#include "files.h"

#include <sys/syscall.h>

static char events[256]; /* what was called since `begin` */
static int file_error, dir_error,
    name_error; /* errno of the next fsync of a file, of a directory, of rename */

static void event(const char *text) {
    strcat(strcat(events, *events ? ", " : ""), text);
}

static int fail_with(int err) {
    errno = err;
    return -1;
}

/* In place of libc's. */
int fsync(int fd) {
    struct stat st;
    char text[64];
    assert_int_equal(fstat(fd, &st), 0);
    if (S_ISDIR(st.st_mode))
        snprintf(text, sizeof text, "directory");
    else
        snprintf(text, sizeof text, "%d bytes", (int)st.st_size);
    event(text);
    int err = S_ISDIR(st.st_mode) ? dir_error : file_error;
    return err ? fail_with(err) : (int)syscall(SYS_fsync, fd);
}

int rename(const char *from, const char *to) {
    event("rename");
    return name_error ? fail_with(name_error)
                      : (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

/* Writes text to the file `name`; what comes of it. */
static int replace(const char *name, const char *text) {
    struct stat st;
    bool there = stat(path_of(name), &st) == 0;
    *events = '\0';
    return replace_file(path_of(name), text, strlen(text), there ? &st : NULL);
}

static void expect(const char *name, const char *text, const char *what_happened) {
    char got[64] = "";
    FILE *f = fopen(path_of(name), "r");
    if (!f) fail_msg("%s is not there", name);
    size_t n = fread(got, 1, sizeof got - 1, f);
    fclose(f);
    got[n] = '\0';
    assert_string_equal(got, text);
    assert_string_equal(events, what_happened);
}

static int begin(void **state) {
    file_error = dir_error = name_error = 0;
    return make_dir(state);
}

static void a_new_file_is_synced_and_then_named(void **state) {
    (void)state;
    assert_int_equal(replace("new", "twelve bytes"), 0);
    expect("new", "twelve bytes", "12 bytes, rename, directory");
}

static void a_file_that_is_replaced_too(void **state) {
    (void)state;
    assert_true(put("old", "what was there before"));
    assert_int_equal(replace("old", "new"), 0);
    expect("old", "new", "3 bytes, rename, directory");
}

static void a_file_that_is_written_over_is_synced_when_it_is_whole(void **state) {
    (void)state;
    assert_true(put("mount", "what was there before"));
    name_error = EBUSY;
    assert_int_equal(replace("mount", "new"), 0);
    expect("mount", "new", "3 bytes, rename, 3 bytes");
    file_error = EIO;
    assert_int_equal(replace("mount", "newer"), -EIO);
}

static void what_the_disk_refuses_leaves_nothing(void **state) {
    (void)state;
    file_error = EIO;
    assert_true(shell("mkdir d"));
    assert_int_equal(replace("d/new", "new"), -EIO);
    assert_string_equal(events, "3 bytes");
    assert_true(shell("[ -z \"$(ls -A d)\" ]"));
    assert_true(put("d/old", "old"));
    assert_int_equal(replace("d/old", "new"), -EIO);
    expect("d/old", "old", "3 bytes");
    assert_true(shell("[ \"$(ls -A d)\" = old ]"));
}

static void a_directory_that_is_not_synced_is_an_error(void **state) {
    (void)state;
    dir_error = EIO;
    assert_int_equal(replace("new", "new"), -EIO);
    dir_error = EINVAL; /* a file system that knows no such thing */
    assert_int_equal(replace("new", "newer"), 0);
}

#define row(f)                                                                                     \
    { #f, f, begin, remove_dir, NULL }

int main(void) {
    const struct CMUnitTest tests[] = {
        row(a_new_file_is_synced_and_then_named),
        row(a_file_that_is_replaced_too),
        row(a_file_that_is_written_over_is_synced_when_it_is_whole),
        row(what_the_disk_refuses_leaves_nothing),
        row(a_directory_that_is_not_synced_is_an_error),
    };
    RUN_TESTS("replace", tests);
}
