/* Has a file changed? stat is asked first, and where device, inode, size, mode, mtime and ctime are as they were the
 * file is taken to be. But clocks of file systems tick slowly, 4 ms and up to 2 s: two saves in one tick look the same to
 * stat (not where Linux 6.13 and newer keeps finer times). So a stamp says of a file that was changed less than 2 s before
 * that it is `racy`, as git calls such files: who has one compares the bytes as well, until it is not.
 */
#include "diskfile.h"

#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { RACY_S = 2 };

/* ---- what stat says ---- */

static disk_stamp stamp_of(const struct stat *st) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (disk_stamp){
        .dev = st->st_dev,
        .ino = st->st_ino,
        .size = st->st_size,
        .mode = st->st_mode,
        .mtime = st->st_mtim,
        .ctime = st->st_ctim,
        .racy = st->st_ctim.tv_sec + RACY_S >= now.tv_sec,
    };
}

bool disk_stat(const char *path, disk_stamp *stamp) {
    struct stat st;
    if (stat(path, &st) != 0) return false;
    *stamp = stamp_of(&st);
    return true;
}

static bool same_time(struct timespec a, struct timespec b) {
    return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

bool disk_same(const disk_stamp *a, const disk_stamp *b) {
    return a->dev == b->dev && a->ino == b->ino && a->size == b->size && a->mode == b->mode &&
           same_time(a->mtime, b->mtime) && same_time(a->ctime, b->ctime);
}

bool disk_executable(const disk_stamp *stamp) {
    return stamp->mode & S_IXUSR;
}

/* ---- reading ---- */

/* To the end, whatever stat has said of it: files in /proc, pipes. 0 or errno. */
static int read_all(int fd, size_t guess, char **bytes, size_t *len) {
    size_t n = 0, cap = guess < DISKFILE_MAX ? guess + 2 : DISKFILE_MAX + 2;
    char *buf = malloc(cap);
    while (buf) {
        ssize_t r = read(fd, buf + n, cap - 1 - n);
        if (r < 0 && errno == EINTR) continue;
        if (r < 0) {
            int err = errno;
            free(buf);
            return err;
        }
        if (r == 0) {
            buf[n] = 0;
            *bytes = buf;
            *len = n;
            return 0;
        }
        n += (size_t)r;
        if (n > DISKFILE_MAX) {
            free(buf);
            return EFBIG;
        }
        if (n < cap - 1) continue;
        cap = cap < DISKFILE_MAX / 2 ? cap * 2 : DISKFILE_MAX + 2;
        char *grown = realloc(buf, cap);
        if (!grown) free(buf);
        buf = grown;
    }
    return ENOMEM;
}

int disk_read(const char *path, char **bytes, size_t *len, disk_stamp *stamp, bool *opened) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    *opened = fd >= 0;
    if (fd < 0) return errno;
    struct stat info;
    int err = fstat(fd, &info) < 0 ? errno : 0;
    if (!err && S_ISREG(info.st_mode) && info.st_size > DISKFILE_MAX) err = EFBIG;
    if (!err && stamp) *stamp = stamp_of(&info);
    if (!err) err = read_all(fd, (size_t)info.st_size, bytes, len);
    close(fd);
    return err;
}

int disk_hash(const char *path, git_id *blob, disk_stamp *stamp, bool *opened) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* it may be a pipe */
    *opened = fd >= 0;
    if (fd < 0) return errno;
    struct stat info;
    int err = fstat(fd, &info) < 0 ? errno : 0;
    if (!err && !S_ISREG(info.st_mode)) err = S_ISDIR(info.st_mode) ? EISDIR : EINVAL;
    if (!err) {
        *stamp = stamp_of(&info);
        err = -git_blob_fd(fd, (uint64_t)info.st_size, blob);
    }
    close(fd);
    return err;
}

/* ---- folders ---- */

static int by_name(const FTSENT **a, const FTSENT **b) {
    return strcmp((*a)->fts_name, (*b)->fts_name);
}

static bool leads_to_file(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

int disk_walk(const char *dir, int (*fn)(void *arg, const char *path), void *arg) {
    char *const roots[] = {(char *)dir, NULL};
    FTS *fts = fts_open(roots, FTS_PHYSICAL | FTS_COMFOLLOW | FTS_NOCHDIR, by_name);
    if (!fts) return errno;
    int err = 0;
    FTSENT *e;
    while (!err && (errno = 0, e = fts_read(fts))) {
        if (e->fts_level > 0 && e->fts_name[0] == '.') {
            if (e->fts_info == FTS_D) fts_set(fts, e, FTS_SKIP);
            continue;
        }
        switch (e->fts_info) {
        case FTS_DNR:
        case FTS_ERR:
        case FTS_NS:
            /* What went while we walk is not there. */
            if (e->fts_errno != ENOENT || e->fts_level == 0) err = e->fts_errno;
            break;
        case FTS_SL:
            if (!leads_to_file(e->fts_path)) break;
            err = fn(arg, e->fts_path);
            break;
        case FTS_F:
            err = fn(arg, e->fts_path);
        }
    }
    if (!err && !e) err = errno;
    fts_close(fts);
    return err;
}
