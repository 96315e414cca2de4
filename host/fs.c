/* Files for Lua: each call is a job (job.c), between rt_entersyscall and rt_exitsyscall.
 *
 * A file in a page cache would often be quicker read at once. But nobody knows before whether it is there, and a disk
 * that has fallen asleep would take the VM and all its requests along.
 *
 * A file is replaced by a new one beside it, which is written, synced and renamed; then the directory is
 * synced. Whoever reads sees the old or the new content, also after a power failure. Symbolic links are followed: the
 * file behind them is replaced. What is no regular file (a device, a pipe) is written to.
 *
 * An open file is held by Lua and by the jobs that work on it. Its rt_fd lets one of these read, and one
 * write, at a time, and makes a close wait for them.
 */
#include "job.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

struct host_file {
    host_owned owned;
    rt_fd fd;
    _Atomic int holders;
};

typedef struct fs_job {
    host_fs_result result;
    char *read; /* result.data, to be freed */
    char *path, *data;
    size_t len;
    int64_t n;
    int op, flags, whence;
    host_file *file; /* a holder; of open: made, and not taken yet */
} fs_job;

enum { READ_AT_LEAST = 4096 };

/* ---- reading and writing a descriptor: between the two brackets ---- */

/* Reads to the end, at most max bytes; how many. */
static int64_t read_all(fs_job *x, int fd, size_t expected, size_t max) {
    size_t cap = expected < READ_AT_LEAST ? READ_AT_LEAST : expected + 1, n = 0;
    while (n < max) {
        if (cap > max) cap = max;
        if (n == cap || !x->read) {
            if (n == cap) cap = cap * 2 < max ? cap * 2 : max;
            char *grown = realloc(x->read, cap);
            if (!grown) return -ENOMEM;
            x->read = grown;
        }
        ssize_t r = read(fd, x->read + n, cap - n);
        if (r < 0 && errno == EINTR) continue;
        if (r < 0) return -errno;
        if (r == 0) break;
        n += (size_t)r;
    }
    x->result.data = x->read;
    x->result.len = n;
    return (int64_t)n;
}

static int write_all(int fd, const char *data, size_t len) {
    while (len > 0) {
        ssize_t r = write(fd, data, len);
        if (r < 0 && errno == EINTR) continue;
        if (r < 0) return -errno;
        data += r;
        len -= (size_t)r;
    }
    return 0;
}

/* Closes fd; err, or why that failed. */
static int close_after(int fd, int err) {
    int r = close(fd) < 0 && errno != EINTR ? -errno : 0;
    return err ? err : r;
}

static int64_t read_file(fs_job *x) {
    int fd = open(x->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -errno;
    struct stat st;
    size_t size = fstat(fd, &st) == 0 && st.st_size > 0 ? (size_t)st.st_size : 0;
    int64_t n = read_all(x, fd, size, SIZE_MAX);
    close(fd);
    return n;
}

static int write_to(fs_job *x, int flags) {
    int fd = open(x->path, O_WRONLY | O_CLOEXEC | flags, 0666);
    if (fd < 0) return -errno;
    return close_after(fd, write_all(fd, x->data, x->len));
}

/* ---- replacing ---- */

/* The length of the directory's part of path, 0: it has none. */
static size_t dir_len(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? (size_t)(slash - path) + 1 : 0;
}

/* Opens a new file beside path. Its name is in temp. */
static int open_beside(const char *path, char *temp, size_t size, mode_t mode) {
    for (int i = 0; i < 100; i++) {
        uint64_t x;
        if (getrandom(&x, sizeof x, 0) != sizeof x) return -EIO;
        snprintf(temp, size, "%.*s.lunapark-%016llx", (int)dir_len(path), path,
                 (unsigned long long)x);
        int fd = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
        if (fd >= 0) return fd;
        if (errno != EEXIST) return -errno;
    }
    return -EEXIST;
}

static int sync_dir(const char *path) {
    size_t n = dir_len(path);
    char *dir = n ? strndup(path, n) : strdup(".");
    if (!dir) return -ENOMEM;
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    free(dir);
    if (fd < 0) return 0; /* one may write into directories that one may not read */
    int err = fsync(fd) < 0 && errno != EINVAL ? -errno : 0;
    close(fd);
    return err;
}

/* st: of what is replaced; NULL: nothing. */
static int write_beside(fs_job *x, const char *path, const struct stat *st) {
    size_t size = dir_len(path) + 64;
    char *temp = malloc(size);
    if (!temp) return -ENOMEM;
    int fd = open_beside(path, temp, size, st ? 0600 : 0666);
    if (fd < 0) {
        free(temp);
        return fd;
    }
    int err = write_all(fd, x->data, x->len);
    if (!err && st && fchmod(fd, st->st_mode & 07777) < 0) err = -errno;
    if (!err && fsync(fd) < 0) err = -errno;
    err = close_after(fd, err);
    if (!err && rename(temp, path) < 0) err = -errno;
    if (err) unlink(temp);
    free(temp);
    return err ? err : sync_dir(path);
}

static int replace_file(fs_job *x) {
    struct stat st;
    if (stat(x->path, &st) < 0) {
        if (errno != ENOENT) return -errno;
        struct stat link;
        if (lstat(x->path, &link) == 0) return write_to(x, O_CREAT); /* a link to nothing yet */
        return write_beside(x, x->path, NULL);
    }
    if (!S_ISREG(st.st_mode)) return write_to(x, 0);
    if (access(x->path, W_OK) < 0) return -errno; /* a directory's permission is not enough */
    char *path = realpath(x->path, NULL);
    if (!path) return -errno;
    int err = write_beside(x, path, &st);
    free(path);
    return err;
}

/* ---- stat and list ---- */

static double seconds(struct timespec t) {
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int64_t stat_file(fs_job *x) {
    struct stat st;
    if (stat(x->path, &st) < 0) return -errno;
    host_fs_result *r = &x->result;
    r->size = st.st_size;
    r->mtime = seconds(st.st_mtim);
    r->atime = seconds(st.st_atim);
    r->ctime = seconds(st.st_ctim);
    r->mode = st.st_mode;
    r->uid = st.st_uid;
    r->gid = st.st_gid;
    r->links = (uint32_t)st.st_nlink;
    r->ino = (double)st.st_ino;
    r->dev = (double)st.st_dev;
    return 0;
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The n names as one block. */
static int64_t join_names(fs_job *x, char **names, size_t n) {
    size_t len = 0;
    for (size_t i = 0; i < n; i++)
        len += strlen(names[i]) + 1;
    x->read = malloc(len + 1);
    if (!x->read) return -ENOMEM;
    char *at = x->read;
    for (size_t i = 0; i < n; i++)
        at = stpcpy(at, names[i]) + 1;
    x->result.data = x->read;
    x->result.len = len;
    return (int64_t)n;
}

/* Adds a name to the list. */
static bool add_name(char ***names, size_t *n, const char *name) {
    if ((*n & (*n - 1)) == 0) { /* 0 or a power of two: full */
        char **grown = realloc(*names, (*n ? *n * 2 : 1) * sizeof(char *));
        if (!grown) return false;
        *names = grown;
    }
    (*names)[*n] = strdup(name);
    return (*names)[*n] && ++*n;
}

static int64_t list_dir(fs_job *x) {
    DIR *d = opendir(x->path);
    if (!d) return -errno;
    char **names = NULL;
    size_t n = 0;
    int64_t r = 0;
    for (;;) {
        errno = 0;
        struct dirent *e = readdir(d);
        if (!e) {
            r = -errno;
            break;
        }
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        if (!add_name(&names, &n, e->d_name)) {
            r = -ENOMEM;
            break;
        }
    }
    closedir(d);
    if (n) qsort(names, n, sizeof *names, by_name);
    if (r == 0) r = join_names(x, names, n);
    for (size_t i = 0; i < n; i++)
        free(names[i]);
    free(names);
    return r;
}

/* ---- jobs on paths ---- */

/* noinline, as everything that looks at errno: afterwards the G may be on another thread. */
__attribute__((noinline)) static int64_t on_path(fs_job *x) {
    switch (x->op) {
    case HOST_FS_READ:
        return read_file(x);
    case HOST_FS_REPLACE:
        return replace_file(x);
    case HOST_FS_APPEND:
        return write_to(x, O_CREAT | O_APPEND);
    case HOST_FS_STAT:
        return stat_file(x);
    default:
        return list_dir(x);
    }
}

static void path_run(void *arg) {
    fs_job *x = arg;
    rt_entersyscall();
    x->result.n = on_path(x);
    rt_exitsyscall();
}

static void file_let_go(host_file *f) {
    if (!f || atomic_fetch_sub(&f->holders, 1) > 1) return;
    (void)rt_fd_close(&f->fd); /* nobody is left to hear of an error */
    free(f);
}

static void fs_free(void *arg) {
    fs_job *x = arg;
    file_let_go(x->file);
    free(x->read);
    free(x->path);
    free(x->data);
    free(x);
}

/* A job's copy of what it gets. NULL: no memory. */
static fs_job *new_fs_job(int op, const char *path, const char *data, size_t len) {
    fs_job *x = calloc(1, sizeof *x);
    if (!x) return NULL;
    x->op = op;
    x->len = len;
    if (path) x->path = strdup(path);
    if (len) x->data = malloc(len);
    if ((path && !x->path) || (len && !x->data)) {
        fs_free(x);
        return NULL;
    }
    if (len) memcpy(x->data, data, len);
    return x;
}

host_job *host_fs(int op, const char *path, const char *data, size_t len) {
    fs_job *x = new_fs_job(op, path, data, len);
    return x ? job_new(path_run, fs_free, x) : NULL;
}

const host_fs_result *host_fs_result_of(host_job *job) {
    fs_job *x = job_arg(job);
    return x ? &x->result : NULL;
}

/* ---- open files ---- */

static void open_run(void *arg) {
    fs_job *x = arg;
    host_file *f = calloc(1, sizeof *f);
    if (!f) {
        x->result.n = -ENOMEM;
        return;
    }
    atomic_init(&f->holders, 1);
    x->result.n = rt_file_open(&f->fd, x->path, x->flags, 0666);
    if (x->result.n == 0)
        x->file = f;
    else
        free(f);
}

host_job *host_fs_open(const char *path, int flags) {
    fs_job *x = new_fs_job(0, path, NULL, 0);
    if (!x) return NULL;
    x->flags = flags;
    return job_new(open_run, fs_free, x);
}

static void lua_lets_go(host_owned *o) {
    file_let_go((host_file *)o);
}

host_file *host_fs_take(host_job *job) {
    fs_job *x = job_arg(job);
    host_file *f = x ? x->file : NULL;
    if (!f) return NULL;
    x->file = NULL;
    owned_take(&f->owned, lua_lets_go);
    return f;
}

void host_file_free(host_file *f) {
    owned_leave(&f->owned);
    file_let_go(f);
}

/* At most x->n bytes, fewer only at the end. */
static int64_t read_some(fs_job *x) {
    size_t max = (size_t)x->n, cap = 0, n = 0;
    while (n < max) {
        if (n == cap) {
            cap = cap ? cap * 2 : 65536;
            if (cap > max) cap = max;
            char *grown = realloc(x->read, cap);
            if (!grown) return -ENOMEM;
            x->read = grown;
        }
        ssize_t r = rt_fd_read(&x->file->fd, x->read + n, cap - n);
        if (r < 0) return r;
        if (r == 0) break;
        n += (size_t)r;
    }
    x->result.data = x->read;
    x->result.len = n;
    return (int64_t)n;
}

static int64_t on_file(fs_job *x) {
    rt_fd *f = &x->file->fd;
    switch (x->op) {
    case HOST_FILE_READ:
        return read_some(x);
    case HOST_FILE_WRITE:
        return rt_fd_write(f, x->data, x->len);
    case HOST_FILE_SEEK:
        return rt_file_seek(f, x->n, x->whence);
    case HOST_FILE_SYNC:
        return rt_file_sync(f, false);
    default:
        return rt_fd_close(f);
    }
}

static void file_run(void *arg) {
    fs_job *x = arg;
    x->result.n = on_file(x);
}

host_job *host_file_job(host_file *f, int op, const char *data, size_t len, double n, int whence) {
    fs_job *x = new_fs_job(op, NULL, data, len);
    if (!x) return NULL;
    x->n = (int64_t)n;
    x->whence = whence;
    x->file = f;
    atomic_fetch_add(&f->holders, 1);
    return job_new(file_run, fs_free, x);
}
