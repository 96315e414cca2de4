/* Files for Lua: each call is a job (job.c), between rt_entersyscall and rt_exitsyscall.
 *
 * A file in the page cache would often be read sooner at once. But whether the file is there is unknown before, and a
 * disk that has fallen asleep would stop the VM and all its requests.
 *
 * A regular file that is written as a whole is replaced (replace.c). Any other file (a device, a pipe) is written to.
 *
 * FIFOs, terminals and other devices are not ready when a disk is, but when a process at their other side says so,
 * which may be never: they would hold the workers of all jobs. So every file is opened without waiting. A file that is
 * not regular and can be polled becomes a stream. Lua reads and writes it as it does sockets (sock.c), with the
 * deadlines and cancellations of its own G. Files that cannot be polled (/dev/null, /dev/zero) have no other side.
 *
 * Lua holds an open file, and so do the jobs that work on it. The file's rt_fd lets one job read and one write at a
 * time, and makes a close wait for them.
 */
#include "../base/array.h"
#include "../base/refs.h"
#include "../net/sock.h"
#include "../vm/job.h"
#include "../vm/owned.h"
#include "beneath.h"
#include "replace.h"
#include "sys_ffi.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/major.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

struct host_file {
    host_owned owned;
    rt_fd fd;
    refs refs;
};

typedef struct fs_job {
    host_fs_result result;
    char *read; /* result.data, to be freed */
    char *root; /* path is counted from it and does not lead out (beneath.c); NULL: no bound */
    char *path, *data;
    size_t len;
    vm_charge charge; /* of read and data */
    int64_t n;
    int op, flags, whence;
    int fd;          /* opened, perhaps a stream, not taken yet; -1: none */
    host_file *file; /* held; of open: made and not taken yet */
} fs_job;

enum { READ_AT_LEAST = 4096 };

/* ---- reading and writing a descriptor: between the two brackets ---- */

/* Room for cap bytes in x->read. False: no memory, or more than the VM may have. */
static bool read_room(fs_job *x, size_t cap) {
    size_t had = x->charge.bytes;
    if (!charge_set(&x->charge, cap + x->len)) return false;
    char *grown = realloc(x->read, cap);
    if (grown)
        x->read = grown;
    else
        charge_set(&x->charge, had);
    return grown;
}

/* Reads to the end, at most max bytes; how many. */
static int64_t read_all(fs_job *x, int fd, size_t expected, size_t max) {
    size_t cap = expected < READ_AT_LEAST ? READ_AT_LEAST : expected + 1, n = 0;
    while (n < max) {
        if (cap > max) cap = max;
        if (n == cap || !x->read) {
            if (n == cap) cap = cap * 2 < max ? cap * 2 : max;
            if (!read_room(x, cap)) return -ENOMEM;
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

/* ---- opening ---- */

static int wait_again(int fd) {
    int flags = fcntl(fd, F_GETFL);
    return flags < 0 || fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) < 0 ? -errno : 0;
}

/* A file whose name is gone at once, for file systems without O_TMPFILE, such as overlays. dir ends with a slash. */
static int open_nameless(const char *dir) {
    size_t size = strlen(dir) + NAME_MAX;
    char *temp = malloc(size);
    if (!temp) return -ENOMEM;
    int fd = replace_open_beside(dir, temp, size, 0600);
    if (fd >= 0) unlink(temp);
    free(temp);
    return fd;
}

static int open_path(const fs_job *x, int flags) {
    if (x->root) return beneath_open(x->root, x->path, flags, 0666);
    int fd = open(x->path, flags, 0666);
    if (fd < 0 && (flags & O_TMPFILE) == O_TMPFILE) return open_nameless(x->path);
    return fd < 0 ? -errno : fd;
}

/* Opens x's path without waiting for another side. The descriptor, or -errno; -EAGAIN: a FIFO without a reader yet.
 * *st: the file's status. A file that is not regular stays nonblocking. */
static int open_now(fs_job *x, int flags, struct stat *st) {
    flags |= O_CLOEXEC | O_NOCTTY; /* a terminal that hangs up would end this process */
    int fd = open_path(x, flags | O_NONBLOCK);
    if (fd == -EAGAIN) fd = open_path(x, flags); /* EAGAIN: a lease ends */
    if (fd < 0) {
        bool fifo = fd == -ENXIO && !x->root && stat(x->path, st) == 0 && S_ISFIFO(st->st_mode);
        return fifo ? -EAGAIN : fd;
    }
    int err = fstat(fd, st) < 0 ? -errno : 0;
    if (!err && S_ISREG(st->st_mode)) err = wait_again(fd);
    return err ? replace_close(fd, err) : fd;
}

static int64_t read_file(fs_job *x) {
    struct stat st;
    int fd = open_now(x, O_RDONLY, &st);
    if (fd < 0) return fd;
    if (!S_ISREG(st.st_mode)) {
        x->fd = fd;
        return 0;
    }
    int64_t n = read_all(x, fd, st.st_size > 0 ? (size_t)st.st_size : 0, SIZE_MAX);
    close(fd);
    return n;
}

static int write_to(fs_job *x, int flags) {
    struct stat st;
    int fd = open_now(x, O_WRONLY | flags, &st);
    if (fd < 0) return fd;
    if (S_ISREG(st.st_mode)) return replace_close(fd, replace_write_all(fd, x->data, x->len));
    x->fd = fd;
    return 0;
}

/* Is fd, which is no regular file, a stream? */
static bool is_stream(int fd) {
    int err;
    rt_pd *pd = rt_pd_open(fd, &err);
    if (pd) rt_pd_close(pd);
    return pd;
}

/* Reads or writes fd directly: a device that cannot be waited for, or a directory. */
__attribute__((noinline)) static int64_t on_device(fs_job *x) {
    int fd = x->fd;
    x->fd = -1;
    int64_t r = wait_again(fd);
    if (r == 0)
        r = x->op == HOST_FS_READ ? read_all(x, fd, 0, SIZE_MAX)
                                  : replace_write_all(fd, x->data, x->len);
    close(fd);
    return r;
}

/* Writes a file as a whole. A link to nothing yet, and a file that is not regular, are written to. */
static int write_file(fs_job *x) {
    struct stat st;
    bool there = stat(x->path, &st) == 0;
    if (!there && errno != ENOENT) return -errno;
    if (!there && lstat(x->path, &st) == 0) return write_to(x, O_CREAT);
    if (there && !S_ISREG(st.st_mode)) return write_to(x, 0);
    return replace_file(x->path, x->data, x->len, there ? &st : NULL);
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
    if (!ARRAY_ROOM(*names, *n)) return false;
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
        return write_file(x);
    case HOST_FS_APPEND:
        return write_to(x, O_CREAT | O_APPEND);
    case HOST_FS_STAT:
        return stat_file(x);
    case HOST_FS_CHECK:
        return beneath_check(x->root, x->path);
    default:
        return list_dir(x);
    }
}

static void path_run(void *arg) {
    fs_job *x = arg;
    if (x->op == HOST_FS_REPLACE)
        rt_entersyscallblock(); /* the call waits until the disk has the data */
    else
        rt_entersyscall();
    x->result.n = on_path(x);
    rt_exitsyscall();
    if (x->fd < 0) return;
    x->result.stream = is_stream(x->fd);
    if (x->result.stream) return;
    rt_entersyscallblock();
    x->result.n = on_device(x);
    rt_exitsyscall();
}

static void file_let_go(host_file *f) {
    if (!f || !refs_drop(&f->refs)) return;
    (void)rt_fd_close(&f->fd); /* no caller is left to hear of an error */
    free(f);
}

static void fs_free(void *arg) {
    fs_job *x = arg;
    file_let_go(x->file);
    if (x->fd >= 0) close(x->fd);
    free(x->read);
    free(x->root);
    free(x->path);
    free(x->data);
    charge_set(&x->charge, 0);
    free(x);
}

/* A job with copies of its arguments. NULL: no memory. */
static fs_job *new_fs_job(int op, const char *root, const char *path, const char *data,
                          size_t len) {
    fs_job *x = calloc(1, sizeof *x);
    if (!x) return NULL;
    x->op = op;
    x->len = len;
    x->fd = -1;
    if (root) x->root = strdup(root);
    if (path) x->path = strdup(path);
    charge_begin(&x->charge);
    if (len && charge_set(&x->charge, len)) x->data = malloc(len);
    if ((root && !x->root) || (path && !x->path) || (len && !x->data)) {
        fs_free(x);
        return NULL;
    }
    if (len) memcpy(x->data, data, len);
    return x;
}

host_job *host_fs(int op, const char *root, const char *path, const char *data, size_t len) {
    fs_job *x = new_fs_job(op, root, path, data, len);
    return x ? job_new(path_run, fs_free, x) : NULL;
}

const host_fs_result *host_fs_result_of(host_job *job) {
    fs_job *x = job_arg(job);
    return x ? &x->result : NULL;
}

host_sock *host_fs_stream(host_job *job, int *err) {
    fs_job *x = job_arg(job);
    *err = x && x->fd >= 0 ? sock_allowed() : -EAGAIN;
    if (*err) return NULL;
    int fd = x->fd;
    x->fd = -1;
    return sock_of_pipe(fd, err);
}

int host_fs_may_wait(const char *path) {
    struct stat st;
    if (stat(path, &st) < 0) return 0;
    return S_ISFIFO(st.st_mode) || (S_ISCHR(st.st_mode) && major(st.st_rdev) != MEM_MAJOR);
}

/* ---- open files ---- */

/* Makes a file of fd, which it takes over unless it fails. NULL: *err. */
static host_file *make_file(int fd, int *err) {
    host_file *f = calloc(1, sizeof *f);
    *err = f ? wait_again(fd) : -ENOMEM;
    if (!*err) refs_init(&f->refs, 1);
    if (!*err) *err = rt_file_init(&f->fd, fd);
    if (!*err) return f;
    free(f);
    return NULL;
}

static void tell_of(host_fs_result *r, const struct stat *st) {
    r->size = st->st_size;
    r->mode = st->st_mode;
    r->ino = (double)st->st_ino;
    r->mtime_ns = st->st_mtim.tv_sec * INT64_C(1000000000) + st->st_mtim.tv_nsec;
}

static void open_run(void *arg) {
    fs_job *x = arg;
    struct stat st;
    rt_entersyscall();
    int fd = open_now(x, x->flags, &st);
    rt_exitsyscall();
    x->result.n = fd < 0 ? fd : 0;
    if (fd < 0) return;
    x->fd = fd;
    tell_of(&x->result, &st);
    x->result.stream = !S_ISREG(st.st_mode) && is_stream(fd);
    if (x->result.stream) return;
    int err;
    x->file = make_file(fd, &err);
    if (x->file) x->fd = -1;
    x->result.n = err;
}

host_job *host_fs_open(const char *root, const char *path, int flags) {
    fs_job *x = new_fs_job(0, root, path, NULL, 0);
    if (!x) return NULL;
    x->flags = flags;
    return job_new(open_run, fs_free, x);
}

static void lua_lets_go(host_owned *o) {
    file_let_go((host_file *)o);
}

static const owned_kind file_kind = {OWNED_THINGS, lua_lets_go};

host_file *host_fs_open_cached(const char *root, const char *path, host_fs_result *r) {
    *r = (host_fs_result){.n = 0};
    struct stat st;
    int err, fd = beneath_open_cached(root, path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
    if (fd >= 0 && fstat(fd, &st) < 0) fd = replace_close(fd, -errno);
    if (fd < 0) {
        r->n = fd;
        return NULL;
    }
    tell_of(r, &st);
    host_file *f = S_ISREG(st.st_mode) ? make_file(fd, &err) : NULL;
    if (f) {
        owned_take(&f->owned, &file_kind);
        return f;
    }
    if (S_ISREG(st.st_mode)) r->n = err;
    close(fd);
    return NULL;
}

host_file *host_fs_take(host_job *job) {
    fs_job *x = job_arg(job);
    host_file *f = x ? x->file : NULL;
    if (!f) return NULL;
    x->file = NULL;
    owned_take(&f->owned, &file_kind);
    return f;
}

int host_file_fd(host_file *f) {
    return f->fd.fd;
}

void host_file_free(host_file *f) {
    owned_free(&f->owned);
}

/* At most x->n bytes, fewer only at the end. */
static int64_t read_some(fs_job *x) {
    size_t max = (size_t)x->n, cap = 0, n = 0;
    while (n < max) {
        if (n == cap) {
            cap = cap ? cap * 2 : 65536;
            if (cap > max) cap = max;
            if (!read_room(x, cap)) return -ENOMEM;
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
    fs_job *x = new_fs_job(op, NULL, NULL, data, len);
    if (!x) return NULL;
    x->n = (int64_t)n;
    x->whence = whence;
    x->file = f;
    refs_hold(&f->refs);
    return job_new(file_run, fs_free, x);
}
