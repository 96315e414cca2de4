/* Opening files below a folder, whatever their names say.
 *
 * A name that a client sends is put behind a folder's name, and must stay in the folder: "../../etc/passwd",
 * "/etc/passwd" and a symbolic link in the folder must not lead out. Looking at the text is not enough, because of
 * links. Resolving the name first and opening it then is not enough where other users can put links there in between.
 * So the kernel does both in one step: openat2 with RESOLVE_BENEATH, which answers EXDEV when any step would leave the
 * folder, and follows links inside. Absolute names and links lead out by this rule.
 *
 * Kernels before 5.6 lack openat2, and some containers forbid it. There the name is walked, a folder at a time, with
 * O_NOFOLLOW: no link is followed, not even a harmless one. ".." goes back to a folder that is still open from the way
 * down, not to the folder that is above by now. So a folder that is moved meanwhile leads nowhere else either.
 *
 * openat2 may have to wait for a disk, so a G leaves it to a job. With RESOLVE_CACHED (beneath_open_cached) the kernel
 * answers at once, or says EAGAIN: names that were asked for lately need no job.
 *
 * beneath_check looks and does not open: the folder may have changed when its caller opens the file. It is for folders
 * that only their owner changes. A file that does not exist yet is right if its folder is there, and its name is no
 * link to nothing: a maker of the file would follow the link.
 */
#include "beneath.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    TRIES = 64, /* while other processes move folders */
    DEPTH = 64, /* folders that a walk has open */
};

/* ---- by hand ---- */

typedef struct walk {
    int dirs[DEPTH]; /* from root on; dirs[0] is the caller's */
    int n;           /* the last one's index */
} walk;

static int go_down(walk *w, const char *name) {
    if (w->n + 1 == DEPTH) return -ENAMETOOLONG;
    int fd = openat(w->dirs[w->n], name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return -errno;
    w->dirs[++w->n] = fd;
    return 0;
}

static int go_up(walk *w) {
    if (w->n == 0) return -EXDEV;
    close(w->dirs[w->n--]);
    return 0;
}

/* Opens the name in the present folder. With O_PATH, O_NOFOLLOW would open a link itself. */
static int open_here(walk *w, const char *name, int flags, mode_t mode) {
    int fd = openat(w->dirs[w->n], name, flags | O_NOFOLLOW | O_CLOEXEC, mode);
    if (fd < 0) return -errno;
    struct stat st;
    int err = !(flags & O_PATH)     ? 0
              : fstat(fd, &st) < 0  ? -errno
              : S_ISLNK(st.st_mode) ? -ELOOP
                                    : 0;
    if (!err) return fd;
    close(fd);
    return err;
}

/* One name of the path, path[0 .. len). last: nothing follows, not even a slash. */
static int step(walk *w, const char *path, size_t len, bool last, int flags, mode_t mode) {
    char name[NAME_MAX + 1];
    if (len > NAME_MAX) return -ENAMETOOLONG;
    memcpy(name, path, len);
    name[len] = 0;
    bool stays = len == 0 || strcmp(name, ".") == 0, up = strcmp(name, "..") == 0;
    if (!stays && !up && last) return open_here(w, name, flags, mode);
    int err = stays ? 0 : up ? go_up(w) : go_down(w, name);
    if (err || !last) return err;
    return open_here(w, ".", flags, mode);
}

int beneath_walk(int dir, const char *path, int flags, mode_t mode) {
    walk w = {.dirs = {dir}};
    int r = *path == '/' ? -EXDEV : 0;
    for (bool last = false; r == 0 && !last;) {
        size_t len = strcspn(path, "/");
        last = path[len] == 0;
        r = step(&w, path, len, last, flags, mode);
        path += len + !last;
    }
    while (w.n > 0)
        go_up(&w);
    return r;
}

/* ---- by the kernel ---- */

static int open_in(int dir, const char *path, int flags, mode_t mode) {
    struct open_how how = {
        .flags = (uint64_t)flags | O_CLOEXEC,
        .mode = flags & O_CREAT ? mode : 0,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS,
    };
    if (!*path) path = ".";
    for (int i = 0; i < TRIES; i++) {
        int fd = (int)syscall(SYS_openat2, dir, path, &how, sizeof how);
        if (fd >= 0) return fd;
        if (errno == ENOSYS || errno == EPERM) return beneath_walk(dir, path, flags, mode);
        if (errno != EINTR && errno != EAGAIN) return -errno;
    }
    return -EBUSY;
}

/* openat2 that looks at no disk. The descriptor, or -errno; -EAGAIN: only a disk could tell, or the kernel cannot do
 * this (before 5.12; forbidden). */
static int open_cached(int dir, const char *path, int flags, uint64_t resolve) {
    struct open_how how = {
        .flags = (uint64_t)flags | O_CLOEXEC,
        .resolve = resolve | RESOLVE_CACHED,
    };
    int fd = (int)syscall(SYS_openat2, dir, path, &how, sizeof how);
    if (fd >= 0) return fd;
    bool cannot = errno == ENOSYS || errno == EPERM || errno == EINVAL || errno == EINTR;
    return cannot ? -EAGAIN : -errno;
}

int beneath_open_cached(const char *root, const char *path, int flags) {
    int dir = open_cached(AT_FDCWD, root, O_PATH | O_DIRECTORY, 0);
    if (dir < 0) return dir;
    int fd = open_cached(dir, *path ? path : ".", flags, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS);
    close(dir);
    return fd;
}

static int open_root(const char *root) {
    int fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

int beneath_open(const char *root, const char *path, int flags, mode_t mode) {
    int dir = open_root(root);
    if (dir < 0) return dir;
    int fd = open_in(dir, path, flags, mode);
    close(dir);
    return fd;
}

/* ---- looking ---- */

/* Could a file be made there? */
static int check_new(int dir, const char *path) {
    char parent[PATH_MAX];
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    size_t len = slash ? (size_t)(slash - path) : 0;
    if (!*name) return -ENOENT; /* folders are not made by opening them */
    if (len >= sizeof parent) return -ENAMETOOLONG;
    memcpy(parent, path, len);
    parent[len] = 0;
    int fd = open_in(dir, parent, O_PATH | O_DIRECTORY, 0);
    if (fd < 0) return fd;
    struct stat st;
    int err = 0;
    if (fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0)
        err = S_ISLNK(st.st_mode) ? -ENOENT : 0; /* 0: the file has just been made */
    else if (errno != ENOENT)
        err = -errno;
    close(fd);
    return err;
}

int beneath_check(const char *root, const char *path) {
    int dir = open_root(root);
    if (dir < 0) return dir;
    int fd = open_in(dir, path, O_PATH, 0);
    int err = fd == -ENOENT ? check_new(dir, path) : fd < 0 ? fd : 0;
    if (fd >= 0) close(fd);
    close(dir);
    return err;
}
