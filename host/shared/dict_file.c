/* Dicts that outlive the process: each change is appended to a file as a record (dict_record.c).
 *
 * A change queues its record under the lock of its shard and that of the file, so that the records of a key have the
 * order of its changes. One G per file, the writer, takes the queue and writes it, PACE_NS after the first record or at
 * once if somebody waits; it syncs each second (HOST_SYNC_SECOND), never (HOST_SYNC_NO), or whenever a Lua G waits for
 * it, as after each change with HOST_SYNC_ALWAYS. Changes of many Gs share a sync. What kill -9 can take is what was
 * not written yet; what a crash of the machine can take, what was not synced.
 *
 * The writer alone uses the descriptor (`io` is for the end of the process). A write that fails leaves the file as it
 * was: what was written of a batch is cut off, the records stay queued, and the next try comes a second later. When the
 * queue is long, changes are refused (-EBUSY) until their callers have waited. After a sync that failed, nobody knows
 * what the disk has: the file is written anew.
 *
 * Reading. The file is applied record by record until one is not whole. What follows is the tail of a write that a kill
 * cut short: it is cut off, and kept beside, as NAME.dropped.
 *
 * Compaction (dict_compact.c): a file that has twice the bytes of its entries is written anew beside, while the dict is
 * used, and takes the place of the old one.
 *
 * Two processes. flock says who may write: the lock goes with the process, whatever ends it. Elsewhere a second process
 * is refused. In an upgrade (dict_files_share), both processes serve for a while, and pass the lock to and fro: a
 * process that wants to change its dict and has no lock (-EBUSY) waits for it (host_dict_settle), applies what the
 * other has appended meanwhile, and gives the lock back after HOLD_NS: from then on it makes no change, and writes
 * those that are queued. So each change is made to the value that the last one left, whoever made it. Reads are not
 * held up, and are as old as that.
 *
 * The lock is tried each LOOK_NS, and not waited for in flock: such a wait has no end, and keeps `io` meanwhile. So that
 * the process that gave the lock back is not the next to have it for ever, there is a gate before the lock (an OFD lock
 * on the first byte): who wants the lock passes the gate first and stands in it until the lock is there. So who waits
 * comes before who comes back. After LOCK_NS without the lock, those who wait hear that another process uses the file.
 *
 * Rejected: a snapshot now and then (loses more, and writes all for little); a lock file (is left behind); mapping the
 * table itself (a crash leaves it torn); handing the dict to the new process through a socket (changes of requests that
 * still run in the old one would be lost).
 */
#include "dict_file.h"

#include "../base/folder.h"
#include "../base/log.h"
#include "dict_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static struct {
    rt_lock lock;
    _Atomic(dict_file *) first; /* lock writes; a file that was seen stays */
    _Atomic bool shared;        /* atomic */
    _Atomic pid_t parent;       /* atomic: shared ends with this process; 0: otherwise */
} files;

/* ---- opening: the writer ---- */

/* Passes the gate (F_WRLCK), or leaves it (F_UNLCK). 0; -EBUSY: another process stands in it. A file system without such
 * locks has no gate. */
static int gate(int fd, short what) {
    struct flock first = {.l_type = what, .l_whence = SEEK_SET, .l_len = 1};
    while (fcntl(fd, F_OFD_SETLK, &first) < 0)
        if (errno != EINTR) return errno == EAGAIN || errno == EACCES ? -EBUSY : 0;
    return 0;
}

void writer_give_up(dict_file *f) {
    if (f->fd >= 0) (void)gate(f->fd, F_UNLCK);
}

/* -EBUSY: another process has the lock, and perhaps we stand in the gate. */
static int lock_file(int fd) {
    if (gate(fd, F_WRLCK) < 0) return -EBUSY;
    while (flock(fd, LOCK_EX | LOCK_NB) < 0)
        if (errno != EINTR) return errno == EWOULDBLOCK ? -EBUSY : -errno;
    (void)gate(fd, F_UNLCK);
    return 0;
}

static bool is_at(int fd, const char *path) {
    struct stat here, there;
    return fstat(fd, &here) == 0 && stat(path, &there) == 0 && here.st_dev == there.st_dev &&
           here.st_ino == there.st_ino;
}

/* Keeps text[0 .. len), which is cut off, as NAME.dropped. */
static void keep_tail(dict_file *f, const char *text, size_t len) {
    char name[PATH_MAX + 16];
    snprintf(name, sizeof name, "%s.dropped", f->path);
    int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    bool kept = fd >= 0 && write(fd, text, len) == (ssize_t)len;
    if (fd >= 0) close(fd);
    log_line(LOG_WARN, "%s: the last %zu bytes are no whole records, and dropped%s%s", f->path, len,
             kept ? "; they are in " : "", kept ? name : "");
}

/* Applies what the file has behind f->size. */
static int read_on(dict_file *f) {
    struct stat st;
    if (fstat(f->fd, &st) < 0) return -errno;
    if (!S_ISREG(st.st_mode)) return -EINVAL;
    size_t size = (size_t)st.st_size;
    if (size == f->size) return 0;
    if (size < f->size) return -EBADMSG;
    char *text = mmap(NULL, size, PROT_READ, MAP_PRIVATE, f->fd, 0);
    if (text == MAP_FAILED) return -errno;
    int64_t n = 0;
    if (f->size == 0) {
        size_t begun = size < DICT_MAGIC_BYTES ? size : DICT_MAGIC_BYTES;
        bool ours = memcmp(text, DICT_MAGIC, begun) == 0;
        n = !ours ? -EBADMSG : begun == DICT_MAGIC_BYTES ? DICT_MAGIC_BYTES : 0;
        if (n > 0) f->size = DICT_MAGIC_BYTES;
    }
    if (n >= 0 && f->size > 0) n = dict_records_apply(f->d, text + f->size, size - f->size);
    if (n >= 0) {
        f->size += f->size > 0 ? (size_t)n : 0;
        if (f->size > 0 && f->size < size) keep_tail(f, text + f->size, size - f->size);
        n = f->size < size && ftruncate(f->fd, (off_t)f->size) < 0 ? -errno : 0;
    }
    munmap(text, size);
    return (int)n;
}

static int begin_file(dict_file *f) {
    if (f->size > 0) return 0;
    int err = writer_put(f->fd, DICT_MAGIC, DICT_MAGIC_BYTES, 0);
    if (err) return err;
    f->size = DICT_MAGIC_BYTES;
    f->unsynced = true;
    return folder_sync(f->path);
}

/* Opens the file, or what has taken its place, and locks it. */
static int open_and_lock(dict_file *f) {
    for (;;) {
        if (f->fd < 0) {
            f->fd = open(f->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
            if (f->fd < 0) return -errno;
            if (f->size > 0) host_dict_flush(f->d);
            f->size = 0;
        }
        int err = lock_file(f->fd);
        if (err) return err;
        if (is_at(f->fd, f->path)) return 0;
        close(f->fd);
        f->fd = -1;
    }
}

static void set_leased(dict_file *f, bool leased) {
    rt_lock_acquire(&f->lock);
    f->leased = leased;
    rt_lock_release(&f->lock);
}

int writer_acquire(dict_file *f) {
    int err = open_and_lock(f);
    if (err) return err;
    err = read_on(f);
    if (!err) err = begin_file(f);
    if (err) {
        flock(f->fd, LOCK_UN);
        return err;
    }
    f->loaded = true;
    f->since_ns = rt_nanotime();
    if (f->compact_at == 0) writer_set_compaction(f, (double)atomic_load(&f->d->bytes));
    set_leased(f, true);
    return 0;
}

void writer_close_queue(dict_file *f) {
    set_leased(f, false);
}

void writer_release(dict_file *f, bool written) {
    if (!written) {
        set_leased(f, true);
        return;
    }
    flock(f->fd, LOCK_UN);
}

/* ---- changes ---- */

bool dict_file_enter(dict_file *f) {
    rt_lock_acquire(&f->lock);
    if (f->leased && f->queued_bytes < QUEUE_BYTES) return true;
    rt_lock_release(&f->lock);
    return false;
}

void dict_file_add(dict_file *f, dict_record *r) {
    bool first = f->first == NULL;
    r->next = NULL;
    *(first ? &f->first : &f->last->next) = r;
    f->last = r;
    f->queued++;
    f->queued_bytes += dict_record_size(r);
    rt_lock_release(&f->lock);
    if (first) bell_ring(&f->bell);
}

/* ---- files ---- */

dict_file *dict_file_new(host_dict *d, const char *path, size_t path_len, int sync) {
    char cwd[PATH_MAX];
    dict_file *f = calloc(1, sizeof *f);
    if (!f) return NULL;
    bool absolute = path_len > 0 && path[0] == '/';
    f->given = strndup(path, path_len);
    if (!absolute && !getcwd(cwd, sizeof cwd)) cwd[0] = 0;
    int n = asprintf(&f->path, "%s%s%.*s", absolute ? "" : cwd, absolute ? "" : "/", (int)path_len,
                     path);
    f->d = d;
    f->sync = sync;
    f->fd = f->new_fd = -1;
    pthread_mutex_init(&f->io, NULL);
    if (!f->given || n < 0 || !rt_go(writer_main, f)) {
        free(f->given);
        if (n >= 0) free(f->path);
        free(f);
        return NULL;
    }
    rt_lock_acquire(&files.lock);
    f->next = atomic_load(&files.first);
    atomic_store(&files.first, f);
    rt_lock_release(&files.lock);
    return f;
}

bool dict_file_is(const dict_file *f, const char *path, size_t path_len, int sync) {
    return f->sync == sync && strlen(f->given) == path_len && memcmp(f->given, path, path_len) == 0;
}

int dict_file_sync(const dict_file *f) {
    return f->sync;
}

bool writer_shares(void) {
    pid_t parent = atomic_load(&files.parent);
    if (parent && getppid() != parent) {
        atomic_store(&files.shared, false);
        atomic_store(&files.parent, 0);
    }
    return atomic_load(&files.shared);
}

void dict_files_share(bool on, bool by_parent) {
    if (by_parent) atomic_store(&files.parent, getppid());
    atomic_store(&files.shared, on);
    for (dict_file *f = atomic_load(&files.first); f; f = f->next)
        bell_ring(&f->bell);
}

void dict_files_end(void) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 2;
    for (dict_file *f = atomic_load(&files.first); f; f = f->next) {
        if (pthread_mutex_timedlock(&f->io, &until) != 0) {
            log_line(LOG_ERROR, "%s: the last changes may be lost: the disk is busy", f->path);
            continue;
        }
        int err = f->leased ? writer_write(f) : 0;
        if (!err && f->leased && f->sync != HOST_SYNC_NO) err = writer_sync(f);
        compact_abort(f);
        pthread_mutex_unlock(&f->io);
        if (err) log_line(LOG_ERROR, "%s: changes are lost: %s", f->path, rt_strerror(err));
    }
}
