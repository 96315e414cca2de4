/* Noticing that files change, by inotify.
 *
 * Folders are watched, never files: an editor replaces a file by renaming another one over it, and a watch of the file
 * would stay with the old one. An event of a folder carries a name, and a table of marks, (folder, name), says whether
 * the name is one of ours. A path is marked from the root on, at each step the name in its folder. So a folder that is
 * renamed or not there yet is noticed like a file. Where a step is a link, the path that it leads to is marked as well.
 * In watched folders and the folders below them every name counts that begins with no dot.
 *
 * Marks go stale when folders or links come and go, so they are made anew after each burst of events, before the change
 * is reported. A folder is watched before its content is read: changes in between are events.
 *
 * A burst: editors write, rename and touch several files within milliseconds, and `git checkout` many. A burst ends
 * when nothing has happened for QUIET_MS, which users do not notice, or MAX_MS after its first event, so that a program
 * that writes all the time does not put off a reload for good. Longer writing leads to more than one burst. A write
 * counts when the file is closed, when a save is complete. A program that keeps a file open and writes to it is not
 * noticed.
 *
 * inotify has limits (fs.inotify.max_user_watches), needs the right to read a folder, and may be missing altogether.
 * Paths that cannot be watched are looked at every second, and the log says so. Events that the kernel drops because
 * its queue is full count as a change.
 *
 * The watch is a native G that reads the descriptor. It reports a change without holding any lock, so that the called
 * function may wait, and call watch_files. The table belongs to a pthread mutex, which is taken between rt_entersyscall
 * and rt_exitsyscall: making marks waits for the disk.
 */
#include "watch.h"

#include "../../runtime/runtime.h"
#include "../base/array.h"
#include "../base/base.h"
#include "../base/log.h"
#include "diskfile.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <search.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

enum { QUIET_MS = 50, MAX_MS = 1000, LOOK_MS = 1000, BUFFER = 16 << 10 };

/* A folder's own end needs no event: the folder around it tells. */
enum {
    EVENTS = IN_CLOSE_WRITE | IN_ATTRIB | IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO |
             IN_ONLYDIR,
};

typedef struct mark {
    int wd;
    char *name; /* empty: any but those with a dot */
} mark;

/* A path that inotify cannot watch. */
typedef struct looked_at {
    char *path;
    struct stat st; /* all zero: the path is missing */
} looked_at;

typedef struct wanted {
    char *path;
    source_kind kind;
} wanted;

/* The watched paths: made at once, replaced as a whole. */
typedef struct table {
    mark *marks; /* by wd and name */
    size_t n_marks;
    looked_at *looks;
    size_t n_looks;
    int err; /* why there are paths to look at */
} table;

static struct {
    void (*changed)(void);
    rt_fd fd;       /* inotify's; closed: there is none */
    int inotify;    /* its number, -1 */
    int no_inotify; /* errno, why not */
    pthread_mutex_t lock;
    wanted *paths; /* lock */
    size_t n_paths;
    table now;           /* lock */
    int said;            /* lock: the error that the log has told last */
    _Atomic bool looks;  /* atomic: now.n_looks > 0 */
    _Atomic bool missed; /* atomic: a path has changed before it was watched */
    _Atomic bool kicked; /* atomic: the G shall look at the two flags before */
} w = {.lock = PTHREAD_MUTEX_INITIALIZER, .inotify = -1};

/* ---- making a table ---- */

typedef struct building {
    table *t;
    void *seen;   /* tree of paths that are marked */
    char **links; /* where links lead, still to be marked */
    size_t n_links;
    bool failed; /* no memory: the table is not whole */
} building;

static int by_string(const void *a, const void *b) {
    return strcmp(a, b);
}

/* Notes a path as seen. False: it was already. */
static bool add_seen(building *b, const char *path) {
    char *p = strndup(path, PATH_MAX);
    char **found = p ? tsearch(p, &b->seen, by_string) : NULL;
    if (!found) b->failed = true;
    if (found && *found == p) return true;
    free(p);
    return false;
}

static void look_at(building *b, const char *path, int err) {
    table *t = b->t;
    char *own = strndup(path, PATH_MAX);
    if (!own || !ARRAY_ROOM(t->looks, t->n_looks)) {
        free(own);
        b->failed = true;
        return;
    }
    looked_at *l = &t->looks[t->n_looks++];
    *l = (looked_at){.path = own};
    if (lstat(path, &l->st) != 0) memset(&l->st, 0, sizeof l->st);
    if (!t->err) t->err = err;
}

/* Marks the name in dir, all names if it is empty. False: there is no such folder. */
static bool add_mark(building *b, const char *dir, const char *name) {
    char path[PATH_MAX];
    int err = w.no_inotify;
    if (!err) {
        int wd = inotify_add_watch(w.inotify, dir, EVENTS);
        if (wd >= 0) {
            table *t = b->t;
            char *own = strndup(name, NAME_MAX);
            if (own && ARRAY_ROOM(t->marks, t->n_marks)) {
                t->marks[t->n_marks++] = (mark){.wd = wd, .name = own};
            } else {
                free(own);
                b->failed = true;
            }
            return true;
        }
        err = errno;
    }
    if (err == ENOENT || err == ENOTDIR || err == ELOOP || err == ENAMETOOLONG) return false;
    bool root = strcmp(dir, "/") == 0;
    int n = snprintf(path, sizeof path, "%s%s%s", root ? "" : dir, name[0] ? "/" : "", name);
    if (n < PATH_MAX) look_at(b, path[0] ? path : "/", err);
    return true;
}

/* The path is a link: notes its target, to be marked. */
static void add_link(building *b, const char *path, size_t dir_len) {
    char target[PATH_MAX], *to = NULL;
    ssize_t n = readlink(path, target, sizeof target - 1);
    if (n <= 0) return;
    target[n] = 0;
    bool absolute = target[0] == '/'; /* if not, PATH_MAX twice at most */
    if (asprintf(&to, "%.*s%s%s", absolute ? 0 : (int)dir_len, path, absolute ? "" : "/", target) <
        0)
        to = NULL;
    if (to && ARRAY_ROOM(b->links, b->n_links)) {
        b->links[b->n_links++] = to;
    } else {
        free(to);
        b->failed = true;
    }
}

/* Marks each step of an absolute path, as far as it exists. */
static void mark_path(building *b, const char *path) {
    char upto[PATH_MAX], dir[PATH_MAX];
    if (strlen(path) >= sizeof upto) return; /* the system takes no such path */
    size_t dir_len = 0;
    for (const char *at = path; *at;) {
        size_t skip = strspn(at, "/"), len = strcspn(at + skip, "/");
        const char *name = at + skip;
        at = name + len;
        snprintf(upto, sizeof upto, "%.*s", (int)(at - path), path);
        bool nothing =
            len == 0 || (len == 1 && name[0] == '.') || (len == 2 && strncmp(name, "..", 2) == 0);
        if (!nothing && add_seen(b, upto)) {
            struct stat st;
            snprintf(dir, sizeof dir, "%.*s", dir_len ? (int)dir_len : 1, path);
            if (!add_mark(b, dir, upto + (name - path)) || lstat(upto, &st) != 0) return;
            if (S_ISLNK(st.st_mode)) add_link(b, upto, dir_len);
        }
        dir_len = (size_t)(at - path);
    }
}

static int mark_one(void *b, const char *path, bool folder) {
    if (folder) add_mark(b, path, "");
    return 0;
}

/* All names in dir and in the folders below it, as far as they can be read. */
static void mark_folder(building *b, const char *dir) {
    if (disk_walk(dir, mark_one, b) == ENOMEM) b->failed = true;
}

static int by_mark(const void *a, const void *b) {
    const mark *x = a, *y = b;
    if (x->wd != y->wd) return x->wd < y->wd ? -1 : 1;
    return strcmp(x->name, y->name);
}

static int by_wd(const void *a, const void *b) {
    const mark *x = a, *y = b;
    return (x->wd > y->wd) - (x->wd < y->wd);
}

static bool has_wd(const table *t, int wd) {
    mark key = {.wd = wd};
    return t->n_marks && bsearch(&key, t->marks, t->n_marks, sizeof key, by_wd);
}

static bool has_mark(const table *t, int wd, const char *name) {
    mark key = {.wd = wd, .name = (char *)name};
    return t->n_marks && bsearch(&key, t->marks, t->n_marks, sizeof key, by_mark);
}

static void free_table(table *t) {
    for (size_t i = 0; i < t->n_marks; i++)
        free(t->marks[i].name);
    for (size_t i = 0; i < t->n_looks; i++)
        free(t->looks[i].path);
    free(t->marks);
    free(t->looks);
}

/* lock held. Watches w.paths as the disk is now; drops watches that are not needed any more. */
static void rebuild(void) {
    table t = {0}, old = w.now;
    building b = {.t = &t};
    for (size_t i = 0; i < w.n_paths; i++) {
        mark_path(&b, w.paths[i].path);
        if (w.paths[i].kind == SOURCE_FOLDER) mark_folder(&b, w.paths[i].path);
    }
    for (size_t i = 0; i < b.n_links; i++) { /* the array grows meanwhile */
        char *link = b.links[i];
        mark_path(&b, link);
        free(link);
    }
    free(b.links);
    tdestroy(b.seen, free);
    if (b.failed && !t.err) t.err = ENOMEM;
    if (t.n_marks) qsort(t.marks, t.n_marks, sizeof *t.marks, by_mark);
    for (size_t i = 0; i < old.n_marks; i++) {
        int wd = old.marks[i].wd;
        if (i > 0 && old.marks[i - 1].wd == wd) continue;
        if (!has_wd(&t, wd)) (void)inotify_rm_watch(w.inotify, wd); /* its folder may be gone */
    }
    free_table(&old);
    w.now = t;
    atomic_store(&w.looks, t.n_looks > 0);
}

/* ---- events ---- */

static bool is_ours(const table *t, const struct inotify_event *e) {
    if (e->mask & IN_Q_OVERFLOW) return true;
    if (e->mask & IN_UNMOUNT) return has_wd(t, e->wd);
    if (e->len == 0) return false; /* the folder's own attributes; the end of a watch */
    return has_mark(t, e->wd, e->name) || (e->name[0] != '.' && has_mark(t, e->wd, ""));
}

/* True: one of these events is about a file of ours. */
static bool any_is_ours(const char *events, size_t n) {
    bool ours = false;
    rt_entersyscall();
    pthread_mutex_lock(&w.lock);
    for (size_t at = 0; at < n && !ours;) {
        const struct inotify_event *e = (const struct inotify_event *)(events + at);
        ours = is_ours(&w.now, e);
        at += sizeof *e + e->len;
    }
    pthread_mutex_unlock(&w.lock);
    rt_exitsyscall();
    return ours;
}

static bool same_stat(const struct stat *a, const struct stat *b) {
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_mode == b->st_mode &&
           a->st_size == b->st_size && a->st_mtim.tv_sec == b->st_mtim.tv_sec &&
           a->st_mtim.tv_nsec == b->st_mtim.tv_nsec && a->st_ctim.tv_sec == b->st_ctim.tv_sec &&
           a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

/* True: a path that is only looked at has changed since the last look. */
static bool any_looks_changed(void) {
    bool changed = false;
    rt_entersyscall();
    pthread_mutex_lock(&w.lock);
    for (size_t i = 0; i < w.now.n_looks; i++) {
        looked_at *l = &w.now.looks[i];
        struct stat st;
        if (lstat(l->path, &st) != 0) memset(&st, 0, sizeof st);
        if (!same_stat(&st, &l->st)) changed = true;
        l->st = st;
    }
    pthread_mutex_unlock(&w.lock);
    rt_exitsyscall();
    return changed;
}

/* News for the log, about paths that are only looked at. */
typedef struct news {
    int err;
    size_t n;
    char path[PATH_MAX]; /* the first such path */
} news;

/* lock held. */
static void get_news(news *n) {
    const table *t = &w.now;
    n->err = t->err == w.said ? 0 : t->err;
    n->n = t->n_looks;
    if (n->err) snprintf(n->path, sizeof n->path, "%s", n->n ? t->looks[0].path : "files");
    w.said = t->err;
}

static void tell(const news *n) {
    if (!n->err) return;
    const char *why = n->err == ENOSPC ? "the limit fs.inotify.max_user_watches is reached"
                      : n->err == EMFILE
                          ? "no descriptor for inotify, or fs.inotify.max_user_instances is reached"
                          : strerror(n->err);
    log_line(LOG_WARN, "watch: %s: %s; this and %zu more are looked at every second", n->path, why,
             n->n ? n->n - 1 : 0);
}

static void rebuild_now(void) {
    rt_entersyscallblock();
    pthread_mutex_lock(&w.lock);
    rebuild();
    news n;
    get_news(&n);
    pthread_mutex_unlock(&w.lock);
    rt_exitsyscall();
    tell(&n);
}

/* ---- the G ---- */

static int64_t sooner(int64_t a, int64_t b) {
    return a == 0 || (b != 0 && b < a) ? b : a;
}

/* Waits for events until until_ns; 0: however long. True: one was about a file of ours. */
static bool wait_for_events(int64_t until_ns) {
    static _Alignas(struct inotify_event) char events[BUFFER];
    if (w.no_inotify) {
        int64_t most = rt_nanotime() + LOOK_MS * NS_PER_MS;
        (void)rt_sleep(sooner(until_ns, most) - rt_nanotime());
        return false;
    }
    /* A kick sets its flag first, then moves the deadline. */
    (void)rt_fd_set_deadline(&w.fd, RT_R, until_ns);
    if (atomic_exchange(&w.kicked, false)) return false;
    ssize_t r = rt_fd_read(&w.fd, events, sizeof events);
    if (r >= 0) return any_is_ours(events, (size_t)r);
    if (r == RT_ETIMEOUT) return false;
    log_line(LOG_ERROR, "watch: cannot read inotify's events: %s", rt_strerror((int)r));
    (void)rt_sleep(LOOK_MS * NS_PER_MS);
    return true;
}

static void watch_main(void *arg) {
    (void)arg;
    int64_t first = 0, due = 0, next_look = 0; /* of the burst; when it is over; 0: none */
    for (;;) {
        int64_t now = rt_nanotime();
        if (first && now >= due) {
            first = due = 0;
            rebuild_now();
            w.changed();
            continue;
        }
        bool event = false;
        if (!atomic_load(&w.looks)) {
            next_look = 0;
        } else if (now >= next_look) {
            event = next_look && any_looks_changed();
            next_look = now + LOOK_MS * NS_PER_MS;
        }
        if (!event) event = wait_for_events(sooner(due, next_look));
        if (atomic_exchange(&w.missed, false)) event = true;
        if (!event) continue;
        now = rt_nanotime();
        if (!first) first = now;
        due = sooner(now + QUIET_MS * NS_PER_MS, first + MAX_MS * NS_PER_MS);
    }
}

/* noinline: errno. */
__attribute__((noinline)) static void open_inotify(void) {
    w.inotify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (w.inotify < 0) {
        w.no_inotify = errno;
        return;
    }
    int err = rt_fd_init(&w.fd, w.inotify);
    if (!err) return;
    w.no_inotify = -err;
    close(w.inotify);
    w.inotify = -1;
}

void watch_start(void (*changed)(void)) {
    w.changed = changed;
    open_inotify();
    if (!rt_go(watch_main, NULL))
        log_line(LOG_ERROR, "watch: not enough memory: changes are not seen");
}

/* ---- what to watch ---- */

static void want(void *arg, const char *path, source_kind kind) {
    bool *failed = arg;
    char *own = strndup(path, PATH_MAX);
    if (own && ARRAY_ROOM(w.paths, w.n_paths)) {
        w.paths[w.n_paths++] = (wanted){.path = own, .kind = kind};
    } else {
        free(own);
        *failed = true;
    }
}

void watch_files(source_set *current, source_set *failed) {
    source_set *newest = failed ? failed : current;
    rt_entersyscall();
    pthread_mutex_lock(&w.lock);
    for (size_t i = 0; i < w.n_paths; i++)
        free(w.paths[i].path);
    free(w.paths);
    w.paths = NULL;
    w.n_paths = 0;
    bool no_memory = false;
    if (current) source_each(current, want, &no_memory);
    if (failed) source_each(failed, want, &no_memory);
    rebuild();
    news n;
    get_news(&n);
    pthread_mutex_unlock(&w.lock);
    /* An older set is known to differ from the disk. */
    bool missed = newest && !source_unchanged(newest);
    rt_exitsyscall();
    tell(&n);
    if (no_memory) log_line(LOG_ERROR, "watch: not enough memory: some changes are not seen");
    if (missed) atomic_store(&w.missed, true);
    atomic_store(&w.kicked, true);
    if (!w.no_inotify) (void)rt_fd_set_deadline(&w.fd, RT_R, 1);
}
