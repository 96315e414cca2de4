/* Files for tests: a folder of their own below /tmp, which is removed in the end. Main thread, or a G that nobody
 * waits for meanwhile. */
#ifndef FILES_H
#define FILES_H

#include <limits.h>
#include <sys/stat.h>

static char test_dir[64];

/* Runs a shell command in the folder; false: it failed. */
__attribute__((format(printf, 1, 2))) static bool shell(const char *fmt, ...) {
    char cmd[4096];
    int n = snprintf(cmd, sizeof cmd, "cd %s && ", test_dir);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(cmd + n, sizeof cmd - (size_t)n, fmt, ap);
    va_end(ap);
    return system(cmd) == 0; /* NOLINT: the shell is meant */
}

static int make_dir(void **state) {
    (void)state;
    strcpy(test_dir, "/tmp/lunapark-test-XXXXXX");
    return mkdtemp(test_dir) ? 0 : -1;
}

static int remove_dir(void **state) {
    (void)state;
    return shell("chmod -R u+rwx . && rm -rf %s", test_dir) ? 0 : -1;
}

/* `rel` in the folder: one of four buffers. */
static const char *path_of(const char *rel) {
    static char paths[4][PATH_MAX];
    static _Atomic unsigned turn;
    char *at = paths[atomic_fetch_add(&turn, 1) % 4];
    snprintf(at, PATH_MAX, "%s/%s", test_dir, rel);
    return at;
}

/* The file has these bytes now, written as `cat >` does it; folders are made. */
static bool put_bytes(const char *rel, const void *bytes, size_t len) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", test_dir, rel);
    for (char *at = path + strlen(test_dir) + 1; (at = strchr(at, '/')); *at++ = '/') {
        *at = 0;
        if (mkdir(path, 0755) != 0 && errno != EEXIST) return false;
    }
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) return false;
    bool ok = write(fd, bytes, len) == (ssize_t)len;
    return close(fd) == 0 && ok;
}

static bool put(const char *rel, const char *text) {
    return put_bytes(rel, text, strlen(text));
}

#endif
