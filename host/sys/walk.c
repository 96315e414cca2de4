/* What is in a tree of directories, for Lua: fs.walk.
 *
 * Lua asks for a batch of names at a time, by a job. The walk stops between two jobs, in the midst of a directory: so a
 * tree of a million files costs a batch of memory and the directories on the way (dirs.c), and a walk that nobody goes on
 * with reads no further. A batch ends when it is full, or after BATCH_NS, so that the first names of a slow disk come
 * before the last.
 *
 * A record is a letter, a path counted from the walk's beginning, and a NUL: what stat(2) calls it, as in dirent's types;
 * or 'e', a number, a space, the path: that errno is why the directory of this path, or what is left of it, is not told.
 *
 * Links are told and not followed, except the first name, which is opened as any path; with a root it does not lead out
 * of that (beneath.c).
 */
#include "../base/base.h"
#include "../base/refs.h"
#include "../vm/job.h"
#include "../vm/owned.h"
#include "../vm/vm.h"
#include "beneath.h"
#include "dirs.h"
#include "sys_ffi.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BATCH = 32768, RECORD_MAX = DIRS_PATH_MAX + 32 };
#define BATCH_NS (20 * NS_PER_MS)

struct host_walk {
    host_owned owned;
    refs refs;
    enum { BEGINS, GOES_ON, ENDED } state;
    char *root, *path;
    dirs dirs;
};

typedef struct walk_job {
    host_walk_batch batch;
    host_walk *walk; /* a holder */
    char *text;      /* batch.text */
    size_t len;
    vm_charge charge;
} walk_job;

static void let_go(host_walk *w) {
    if (!refs_drop(&w->refs)) return;
    dirs_free(&w->dirs);
    free(w->root);
    free(w->path);
    free(w);
}

/* ---- records ---- */

/* There is room for one. */
static void put(walk_job *x, const char *fmt, int a, const char *path) {
    x->len += (size_t)snprintf(x->text + x->len, RECORD_MAX, fmt, a, path) + 1;
}

static void put_error(walk_job *x, int err) {
    const char *path = x->walk->dirs.path;
    put(x, "e%d %s", -err, path ? path : "");
}

static char letter_of(int type) {
    switch (type) {
    case DT_REG:
        return 'f';
    case DT_DIR:
        return 'd';
    case DT_LNK:
        return 'l';
    case DT_SOCK:
        return 's';
    case DT_FIFO:
        return 'p';
    case DT_CHR:
        return 'c';
    case DT_BLK:
        return 'b';
    default:
        return '?';
    }
}

/* Some file systems do not say. */
static int type_of(DIR *dir, const struct dirent *e) {
    struct stat st;
    if (e->d_type != DT_UNKNOWN) return e->d_type;
    if (fstatat(dirfd(dir), e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0) return DT_UNKNOWN;
    return IFTODT(st.st_mode);
}

/* ---- steps ---- */

static void begin(walk_job *x) {
    host_walk *w = x->walk;
    int flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC, err = 0;
    int fd = w->root ? beneath_open(w->root, w->path, flags, 0) : open(w->path, flags);
    if (fd < 0) err = w->root ? fd : -errno;
    if (!err) err = dirs_push(&w->dirs, fd);
    if (err) put_error(x, err);
    w->state = err ? ENDED : GOES_ON;
}

static void leave(walk_job *x) {
    host_walk *w = x->walk;
    int err = dirs_pop(&w->dirs);
    dirs_unname(&w->dirs);
    if (err) put_error(x, err); /* of the directory above, to which no way leads back */
    if (err || w->dirs.n == 0) w->state = ENDED;
}

/* The path is that of a name in dir. */
static void enter(walk_job *x, DIR *dir, const char *name) {
    host_walk *w = x->walk;
    int fd = openat(dirfd(dir), name, DIRS_FLAGS);
    int err = fd < 0 ? -errno : dirs_push(&w->dirs, fd);
    if (err) put_error(x, err);
}

/* noinline, as everything that looks at errno: afterwards the G may be on another thread. */
__attribute__((noinline)) static void step(walk_job *x) {
    host_walk *w = x->walk;
    if (w->state == BEGINS) {
        begin(x);
        return;
    }
    DIR *dir = dirs_last(&w->dirs);
    errno = 0;
    const struct dirent *e = readdir(dir);
    if (!e) {
        if (errno) put_error(x, -errno);
        leave(x);
        return;
    }
    if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) return;
    int type = type_of(dir, e), err = dirs_name(&w->dirs, e->d_name);
    if (err) {
        put_error(x, err);
        return;
    }
    put(x, "%c%s", letter_of(type), w->dirs.path);
    int depth = w->dirs.n;
    if (type == DT_DIR) enter(x, dir, e->d_name);
    if (w->dirs.n == depth) dirs_unname(&w->dirs);
}

/* ---- jobs ---- */

static void run(void *arg) {
    enum { SIZE = BATCH + 2 * RECORD_MAX }; /* a step adds two records at most */
    walk_job *x = arg;
    host_walk *w = x->walk;
    if (charge_set(&x->charge, SIZE)) x->text = malloc(SIZE);
    if (x->text) {
        int64_t until = rt_nanotime() + BATCH_NS;
        rt_entersyscall();
        while (w->state != ENDED && x->len < BATCH && (x->len == 0 || rt_nanotime() < until))
            step(x);
        rt_exitsyscall();
    }
    x->batch = (host_walk_batch){x->text, x->len, x->text ? 0 : -ENOMEM};
}

static void free_job(void *arg) {
    walk_job *x = arg;
    let_go(x->walk);
    free(x->text);
    charge_set(&x->charge, 0);
    free(x);
}

host_job *host_walk_next(host_walk *w) {
    walk_job *x = calloc(1, sizeof *x);
    if (!x) return NULL;
    x->walk = w;
    refs_hold(&w->refs);
    charge_begin(&x->charge);
    return job_new(run, free_job, x);
}

const host_walk_batch *host_walk_batch_of(host_job *job) {
    walk_job *x = job_arg(job);
    return x ? &x->batch : NULL;
}

static void lua_lets_go(host_owned *o) {
    let_go((host_walk *)o);
}

static const owned_kind walk_kind = {OWNED_THINGS, lua_lets_go};

host_walk *host_walk_new(const char *root, const char *path) {
    host_walk *w = calloc(1, sizeof *w);
    if (!w) return NULL;
    refs_init(&w->refs, 1);
    if (root) w->root = strdup(root);
    w->path = strdup(path);
    if (!w->path || (root && !w->root)) {
        let_go(w);
        return NULL;
    }
    owned_take(&w->owned, &walk_kind);
    return w;
}

void host_walk_free(host_walk *w) {
    owned_free(&w->owned);
}
