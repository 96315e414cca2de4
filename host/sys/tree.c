/* Making, renaming and removing files and directories, for Lua.
 *
 * Each works on a name in an open directory (mkdirat, renameat, unlinkat): that of the path's last part, in the directory
 * that the rest of the path leads to; with a root by beneath.c, so that no part leads out of it. The last part itself is
 * never followed: a link is renamed and removed as a link.
 *
 * A tree is removed from below (dirs.c), following no link in it either. It may be large, so it is removed in several
 * jobs, PIECE_NS each: one that is over its time says that there is more, and the next begins at the top, where less is
 * left. So a deadline or a cancellation of the G ends the removal soon. The first thing that can't be removed ends it as
 * well, and is named.
 */
#include "../../runtime/runtime.h"
#include "../base/base.h"
#include "../vm/job.h"
#include "beneath.h"
#include "dirs.h"
#include "sys_ffi.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PIECE_NS (50 * NS_PER_MS)

typedef struct tree_job {
    host_fs_changed result;
    int op, mode, flags;
    char *root, *path, *to;
    char *failed; /* result.failed */
    /* Of a removal. */
    int64_t until_ns, removed;
    int vain; /* directories that seemed empty and were not, since something was removed */
} tree_job;

/* ---- a name in a directory ---- */

typedef struct place {
    int dir;
    bool wants_dir; /* a slash followed it */
    char name[NAME_MAX + 1];
} place;

/* The directory of path[0 .. len), which is a copy, and the name in it. Without a directory p->dir is -1. */
static int find_place(const char *root, const char *path, size_t len, place *p) {
    char parent[PATH_MAX];
    *p = (place){.dir = -1};
    if (root && *path == '/') return -EXDEV;
    if (len == 0) return -ENOENT;
    for (; len > 1 && path[len - 1] == '/'; len--)
        p->wants_dir = true;
    size_t at = len;
    while (at > 0 && path[at - 1] != '/')
        at--;
    if (len - at > NAME_MAX || at >= sizeof parent) return -ENAMETOOLONG;
    memcpy(p->name, path + at, len - at);
    if (!p->name[0] || strcmp(p->name, ".") == 0 || strcmp(p->name, "..") == 0) return -EINVAL;
    memcpy(parent, path, at);
    parent[at] = 0;
    if (!at && !root) strcpy(parent, ".");
    int flags = O_PATH | O_DIRECTORY | O_CLOEXEC;
    p->dir = root ? beneath_open(root, parent, flags, 0) : open(parent, flags);
    if (p->dir >= 0) return 0;
    int err = root ? p->dir : -errno;
    p->dir = -1;
    return err;
}

static void leave_place(place *p) {
    if (p->dir >= 0) close(p->dir);
}

/* ---- mkdir ---- */

static int make_one(const tree_job *x, size_t len, int mode) {
    place p;
    int err = find_place(x->root, x->path, len, &p);
    if (!err && mkdirat(p.dir, p.name, (mode_t)mode) < 0) err = -errno;
    leave_place(&p);
    return err;
}

/* Is path[0 .. len) a directory, perhaps by a link? */
static int check_dir(const tree_job *x, size_t len) {
    char path[PATH_MAX];
    if (len >= sizeof path) return -ENAMETOOLONG;
    memcpy(path, x->path, len);
    path[len] = 0;
    int flags = O_PATH | O_DIRECTORY | O_CLOEXEC;
    int fd = x->root ? beneath_open(x->root, path, flags, 0) : open(path, flags);
    if (fd < 0) return x->root ? fd : -errno;
    close(fd);
    return 0;
}

/* Makes what is missing on the way to the path, and that. */
static int make_all(const tree_job *x) {
    size_t at = strspn(x->path, "/");
    int err = x->path[at] ? 0 : check_dir(x, at);
    while (!err && x->path[at]) {
        at += strcspn(x->path + at, "/");
        size_t next = at + strspn(x->path + at, "/");
        err = check_dir(x, at);
        if (err == -ENOENT) err = make_one(x, at, x->path[next] ? 0777 : x->mode);
        if (err == -EEXIST)
            err = check_dir(x, at); /* somebody has just made it; or a link to nothing */
        at = next;
    }
    return err;
}

static int make_dir(const tree_job *x) {
    return x->flags & HOST_FS_PARENTS ? make_all(x) : make_one(x, strlen(x->path), x->mode);
}

/* ---- rename ---- */

static int rename_it(const tree_job *x) {
    place from, to = {.dir = -1};
    int err = find_place(x->root, x->path, strlen(x->path), &from);
    if (!err) err = find_place(x->root, x->to, strlen(x->to), &to);
    if (!err && renameat(from.dir, from.name, to.dir, to.name) < 0)
        err = errno == EXDEV ? HOST_FS_EACROSS : -errno;
    leave_place(&from);
    leave_place(&to);
    return err;
}

/* ---- remove ---- */

enum { VAIN_MAX = 100 };
enum { GONE, HAS_MORE }; /* 1 or less: gone, or not empty; else -errno */

static int remove_dir(int at, const char *name) {
    if (unlinkat(at, name, AT_REMOVEDIR) == 0 || errno == ENOENT) return GONE;
    return errno == ENOTEMPTY || errno == EEXIST ? HAS_MORE : -errno;
}

/* type: dirent's, DT_UNKNOWN too. */
static int remove_one(int at, const char *name, int type) {
    if (type == DT_DIR) return remove_dir(at, name);
    if (unlinkat(at, name, 0) == 0 || errno == ENOENT) return GONE;
    int err = -errno; /* of a directory EISDIR, or EPERM */
    if (err != -EISDIR && err != -EPERM) return err;
    int r = remove_dir(at, name);
    return r == -ENOTDIR ? err : r;
}

static void note_failed(tree_job *x, const char *rel) {
    if (asprintf(&x->failed, "%s%s%s", x->path, rel && *rel ? "/" : "", rel ? rel : "") < 0)
        x->failed = NULL;
    x->result.failed = x->failed;
}

/* Reads on in the last directory of d, and removes what it finds. GONE: nothing is left; HAS_MORE: a directory that is not
 * empty was entered, or the time is over. */
static int remove_entries(tree_job *x, dirs *d) {
    DIR *dir = dirs_last(d);
    for (;;) {
        errno = 0;
        const struct dirent *e = readdir(dir);
        if (!e) return -errno;
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        int err = dirs_name(d, e->d_name);
        if (err) return err;
        int r = remove_one(dirfd(dir), e->d_name, e->d_type);
        if (r == HAS_MORE) {
            int fd = openat(dirfd(dir), e->d_name, DIRS_FLAGS);
            if (fd < 0 && errno == ENOENT) continue;
            r = fd < 0 ? -errno : dirs_push(d, fd);
            return r ? r : HAS_MORE;
        }
        if (r < 0) return r;
        dirs_unname(d);
        x->removed++;
        if (rt_nanotime() >= x->until_ns) return HAS_MORE;
    }
}

/* The last directory of d is empty: removes it from the one above, which is the last one then. */
static int remove_last(tree_job *x, dirs *d) {
    size_t own = d->v[d->n - 1].path_len;
    int r = dirs_pop(d);
    if (r) return r;
    size_t above = d->v[d->n - 1].path_len;
    d->path[own] = 0;
    r = remove_dir(dirfd(dirs_last(d)), d->path + above + (above > 0));
    if (r < 0) return r;
    if (r == HAS_MORE) { /* something was made there, or stands before a position that was kept */
        if (++x->vain > VAIN_MAX) return -ENOTEMPTY;
        rewinddir(dirs_last(d));
    } else {
        x->vain = 0;
        x->removed++;
    }
    dirs_unname(d);
    return 0;
}

/* Empties the directory; then it may be gone. GONE: it is empty; HAS_MORE: the time is over. */
static int empty(tree_job *x, const place *p) {
    dirs d = {0};
    int fd = openat(p->dir, p->name, DIRS_FLAGS);
    int r = fd < 0 ? -errno : dirs_push(&d, fd);
    while (r >= 0) {
        r = remove_entries(x, &d);
        if (r == HAS_MORE && x->removed && rt_nanotime() >= x->until_ns) break;
        if (r != GONE) continue;
        if (d.n == 1) break;
        r = remove_last(x, &d);
    }
    if (r < 0) note_failed(x, d.path);
    dirs_free(&d);
    return r;
}

static int remove_tree(tree_job *x, const place *p) {
    int r = empty(x, p);
    if (r != GONE) return r;
    r = remove_dir(p->dir, p->name);
    if (r == HAS_MORE && !x->removed) r = -ENOTEMPTY; /* of what does not show */
    return r;
}

static int remove_it(tree_job *x) {
    place p;
    int r = find_place(x->root, x->path, strlen(x->path), &p);
    struct stat st;
    if (!r && fstatat(p.dir, p.name, &st, AT_SYMLINK_NOFOLLOW) < 0) r = -errno;
    if (!r && p.wants_dir && !S_ISDIR(st.st_mode)) r = -ENOTDIR;
    if (!r) r = remove_one(p.dir, p.name, IFTODT(st.st_mode));
    if (r == HAS_MORE) r = x->flags & HOST_FS_RECURSIVE ? remove_tree(x, &p) : -ENOTEMPTY;
    leave_place(&p);
    return r;
}

/* ---- jobs ---- */

/* noinline, as everything that looks at errno: afterwards the G may be on another thread. */
__attribute__((noinline)) static int change(tree_job *x) {
    switch (x->op) {
    case HOST_FS_MKDIR:
        return make_dir(x);
    case HOST_FS_RENAME:
        return rename_it(x);
    default:
        return remove_it(x);
    }
}

static void run(void *arg) {
    tree_job *x = arg;
    x->until_ns = rt_nanotime() + PIECE_NS;
    if (x->flags & HOST_FS_RECURSIVE)
        rt_entersyscallblock();
    else
        rt_entersyscall();
    x->result.n = change(x);
    rt_exitsyscall();
}

static void free_job(void *arg) {
    tree_job *x = arg;
    free(x->failed);
    free(x->root);
    free(x->path);
    free(x->to);
    free(x);
}

host_job *host_fs_change(int op, const char *root, const char *path, const char *to, int mode,
                         int flags) {
    tree_job *x = calloc(1, sizeof *x);
    if (!x) return NULL;
    *x = (tree_job){.op = op, .mode = mode, .flags = flags};
    if (root) x->root = strdup(root);
    x->path = strdup(path);
    if (to) x->to = strdup(to);
    if ((root && !x->root) || !x->path || (to && !x->to)) {
        free_job(x);
        return NULL;
    }
    return job_new(run, free_job, x);
}

const host_fs_changed *host_fs_changed_of(host_job *job) {
    tree_job *x = job_arg(job);
    return x ? &x->result : NULL;
}
