/* Has a file changed? stat is asked first. If device, inode, size, mode, mtime and ctime are as before, the file counts
 * as unchanged. But clocks of file systems tick slowly, 4 ms and up to 2 s: two saves in one tick look the same to stat
 * (not where Linux 6.13 and newer keeps finer times). So the stamp of a file that was changed less than 2 s before is
 * `racy`, as git calls such files: then the bytes are compared as well, until the stamp is not racy any more.
 */
#include "diskfile.h"

#include "../base/array.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { RACY_S = 2 };

/* ---- stat ---- */

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

/* Reads to the end, whatever size stat has told: files in /proc, pipes. 0 or errno. */
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
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* path may be a pipe */
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

/* A folder of the walk: its visible names in their order. glibc's fts does not check for memory. */
typedef struct level {
    struct level *up;
    size_t len; /* of the path up to the folder's name, with its slash */
    char **names;
    size_t n, at;
} level;

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool add_name(level *l, const char *name) {
    if (!ARRAY_ROOM(l->names, l->n)) return false;
    l->names[l->n] = strdup(name);
    return l->names[l->n] && ++l->n;
}

static int read_names(level *l, const char *path) {
    DIR *d = opendir(path);
    if (!d) return errno;
    int err = 0;
    struct dirent *e;
    while (!err && (errno = 0, e = readdir(d)))
        if (e->d_name[0] != '.' && !add_name(l, e->d_name)) err = ENOMEM;
    if (!err) err = errno;
    closedir(d);
    if (l->n) qsort(l->names, l->n, sizeof *l->names, by_name);
    return err;
}

/* Frees *l, which becomes the folder around it. */
static void leave(level **l) {
    level *up = (*l)->up;
    for (size_t i = 0; i < (*l)->n; i++)
        free((*l)->names[i]);
    free((*l)->names);
    free(*l);
    *l = up;
}

typedef struct walk {
    level *in;
    char path[PATH_MAX];
    disk_visit fn;
    void *arg;
} walk;

/* Walks on in the folder w->path. A folder that went meanwhile, except the first, counts as missing. */
static int enter(walk *w, size_t len) {
    level *l = calloc(1, sizeof *l);
    if (!l) return ENOMEM;
    l->up = w->in;
    w->in = l;
    int err = w->fn(w->arg, w->path, true);
    if (!err) err = read_names(l, w->path);
    if (len > 0 && w->path[len - 1] != '/')
        w->path[len++] = '/'; /* there is room: the longest name is shorter */
    l->len = len;
    return err == ENOENT && l->up ? 0 : err;
}

static int visit(walk *w, const char *name) {
    struct stat st;
    size_t at = w->in->len, n = strlen(name);
    if (at + n + 2 > sizeof w->path) return ENAMETOOLONG;
    memcpy(w->path + at, name, n + 1);
    if (lstat(w->path, &st) < 0) return errno == ENOENT ? 0 : errno;
    if (S_ISDIR(st.st_mode)) return enter(w, at + n);
    if (S_ISLNK(st.st_mode) && stat(w->path, &st) < 0) return 0;
    return S_ISREG(st.st_mode) ? w->fn(w->arg, w->path, false) : 0;
}

int disk_walk(const char *dir, disk_visit fn, void *arg) {
    size_t n = strlen(dir);
    if (n + 2 > PATH_MAX) return ENAMETOOLONG;
    walk *w = calloc(1, sizeof *w);
    if (!w) return ENOMEM;
    w->fn = fn;
    w->arg = arg;
    memcpy(w->path, dir, n + 1);
    int err = enter(w, n);
    while (w->in) {
        level *l = w->in;
        if (err || l->at == l->n)
            leave(&w->in);
        else
            err = visit(w, l->names[l->at++]);
    }
    free(w);
    return err;
}
