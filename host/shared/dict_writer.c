/* The writer of a dict's file: the G that alone writes it. See dict_file.c.
 *
 * A turn of the writer: gets the lock if somebody waits, takes the queue and writes it, does a step of a compaction,
 * syncs if it is time or somebody waits, gives the lock back if another process may want it. Then it ends the waits
 * whose changes are safe. All but the last happens in one bracket of blocking calls. */
#include "dict_writer.h"

#include "../base/log.h"
#include "../vm/job.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Somebody waits until the lock is ours and what was queued before is written; or until it is synced, whoever has the
 * lock then. */
typedef struct waiter {
    list_link link; /* of f->waiters */
    dict_file *f;
    host_job *job;
    uint64_t target; /* of f->queued */
    bool sync;
    int err;
} waiter;

/* ---- writing ---- */

int writer_put(int fd, const char *buf, size_t n, size_t at) {
    while (n > 0) {
        ssize_t w = pwrite(fd, buf, n, (off_t)at);
        if (w < 0 && errno == EINTR) continue;
        if (w <= 0) return w < 0 ? -errno : -EIO;
        buf += w;
        n -= (size_t)w;
        at += (size_t)w;
    }
    return 0;
}

/* Frees the records from f->unwritten on up to `end`, or keeps them for the file that a compaction makes. */
static void done_with(dict_file *f, dict_record *end, size_t bytes) {
    uint64_t n = 0;
    while (f->unwritten != end) {
        dict_record *r = f->unwritten;
        f->unwritten = r->next;
        n++;
        if (f->new_fd < 0) {
            free(r);
            continue;
        }
        r->next = NULL;
        *(f->kept ? &f->kept_last->next : &f->kept) = r;
        f->kept_last = r;
    }
    f->written += n;
    f->size += bytes;
    f->unsynced = true;
    rt_lock_acquire(&f->lock);
    f->queued_bytes -= bytes;
    rt_lock_release(&f->lock);
}

bool writer_room(dict_file *f, size_t n) {
    if (n <= f->batch_bytes) return true;
    size_t size = n > BATCH_BYTES ? n : BATCH_BYTES;
    char *batch = realloc(f->batch, size);
    if (!batch) return false;
    f->batch = batch;
    f->batch_bytes = size;
    return true;
}

/* Writes as many of the unwritten records as fit into a batch: one at least. */
static int write_batch(dict_file *f) {
    size_t n = 0;
    dict_record *r = f->unwritten;
    for (; r; r = r->next) {
        size_t size = dict_record_size(r);
        if (n > 0 && n + size > f->batch_bytes) break;
        if (!writer_room(f, n + size)) return -ENOMEM;
        dict_record_seal(r);
        memcpy(f->batch + n, &r->head, size);
        n += size;
    }
    int err = writer_put(f->fd, f->batch, n, f->size);
    if (!err)
        done_with(f, r, n);
    else if (ftruncate(f->fd, (off_t)f->size) < 0)
        log_line(LOG_DEBUG, "%s: half a record stays until the next try", f->path);
    return err;
}

int writer_write(dict_file *f) {
    rt_lock_acquire(&f->lock);
    dict_record *first = f->first;
    f->first = f->last = NULL;
    rt_lock_release(&f->lock);
    dict_record **at = &f->unwritten;
    while (*at)
        at = &(*at)->next;
    *at = first;
    int err = 0;
    while (f->unwritten && !err)
        err = write_batch(f);
    if (f->batch_bytes > BATCH_BYTES) {
        free(f->batch);
        f->batch = NULL;
        f->batch_bytes = 0;
    }
    return err;
}

int writer_sync(dict_file *f) {
    if (f->broken) return -EIO;
    if (!f->unsynced) return 0;
    f->synced_ns = rt_nanotime();
    if (fdatasync(f->fd) < 0) {
        f->broken = true;
        return -errno;
    }
    f->unsynced = false;
    f->synced = f->written;
    return 0;
}

/* ---- turns ---- */

static bool somebody_waits(dict_file *f, bool *for_sync) {
    rt_lock_acquire(&f->lock);
    bool waits = f->waiters.first != NULL;
    *for_sync = false;
    for (list_link *l = f->waiters.first; l; l = l->next)
        *for_sync = *for_sync || list_of(l, waiter, link)->sync;
    rt_lock_release(&f->lock);
    return waits;
}

static bool sync_is_due(const dict_file *f) {
    return f->unsynced && f->sync == HOST_SYNC_SECOND && rt_nanotime() - f->synced_ns >= NS_PER_SEC;
}

/* Gets the lock. -EINPROGRESS: the process that shares the file has it, so try again. */
static int lease(dict_file *f, bool shares) {
    int64_t now = rt_nanotime();
    int err = writer_acquire(f);
    if (err == -EBUSY && shares) {
        if (f->wanted_ns == 0) f->wanted_ns = now;
        if (now - f->wanted_ns < LOCK_NS) return -EINPROGRESS;
    }
    if (err) writer_give_up(f);
    f->wanted_ns = 0;
    return err;
}

/* One turn. *more: there is more to do at once. `shares` is asked before the lock is: a lock that is not free was that
 * of a process that lived then. */
static int turn(dict_file *f, bool *more) {
    bool for_sync, waits = somebody_waits(f, &for_sync), shares = writer_shares();
    if (!f->leased && waits) {
        int err = lease(f, shares);
        if (err) return err;
    }
    if (!f->leased) return 0;
    bool give_back = shares && rt_nanotime() - f->since_ns >= HOLD_NS;
    if (give_back) writer_close_queue(f);
    int err = writer_write(f);
    if (shares) compact_abort(f);
    if (!err && !shares) *more = compact_step(f);
    bool sync = for_sync || sync_is_due(f) || (give_back && f->sync != HOST_SYNC_NO);
    if (!err && sync) err = writer_sync(f);
    if (give_back) writer_release(f, err == 0);
    return err;
}

/* Ends the waits of those whose changes are safe; err: of all. */
static void end_waits(dict_file *f, int err) {
    list_head over = {NULL, NULL};
    rt_lock_acquire(&f->lock);
    for (list_link *next, *l = f->waiters.first; l; l = next) {
        next = l->next;
        waiter *w = list_of(l, waiter, link);
        bool safe = w->sync ? f->synced >= w->target : f->leased && f->written >= w->target;
        if (!err && !safe) continue;
        w->err = err;
        list_remove(&f->waiters, l);
        list_append(&over, l);
    }
    rt_lock_release(&f->lock);
    for (list_link *l; (l = list_take_first(&over));)
        job_finish(list_of(l, waiter, link)->job);
}

static void say(dict_file *f, int err) {
    if (err && !f->failing && f->loaded)
        log_line(LOG_ERROR, "%s: cannot write: %s; changes wait in memory", f->path,
                 rt_strerror(err));
    if (!err && f->failing) log_line(LOG_INFO, "%s: written again", f->path);
    f->failing = err && f->loaded;
}

/* Until when the writer may sleep if nobody rings; 0: for ever. */
static int64_t next_turn(const dict_file *f, int err) {
    int64_t now = rt_nanotime(), at = 0;
    if (err == -EINPROGRESS) return now + LOOK_NS;
    if (f->unsynced && f->sync == HOST_SYNC_SECOND) at = f->synced_ns + NS_PER_SEC;
    if (f->leased && writer_shares()) at = f->since_ns + HOLD_NS;
    if (err && f->loaded) at = now + NS_PER_SEC;
    return at == 0 || at > now ? at : now + 1;
}

void writer_main(void *arg) {
    dict_file *f = arg;
    bool more = false;
    for (int err = 0;;) {
        int64_t until = next_turn(f, err);
        bool for_sync;
        if (!more && bell_wait(&f->bell, until) && !somebody_waits(f, &for_sync))
            bell_wait(&f->bell, rt_nanotime() + PACE_NS); /* let the queue grow */
        more = false;
        rt_entersyscallblock();
        pthread_mutex_lock(&f->io);
        err = turn(f, &more);
        pthread_mutex_unlock(&f->io);
        rt_exitsyscall();
        if (err != -EINPROGRESS) say(f, err);
        end_waits(f, err == -EINPROGRESS ? 0 : err);
    }
}

/* ---- for Lua ---- */

static void begin(host_job *job, void *arg) {
    waiter *w = arg;
    w->job = job;
    rt_lock_acquire(&w->f->lock);
    w->target = w->f->queued;
    list_append(&w->f->waiters, &w->link);
    rt_lock_release(&w->f->lock);
    bell_ring(&w->f->bell);
}

host_job *host_dict_settle(host_dict *d, int sync) {
    dict_file *f = atomic_load(&d->file);
    waiter *w = f ? calloc(1, sizeof *w) : NULL;
    if (!w) return NULL;
    w->f = f;
    w->sync = sync;
    return job_new_begun(begin, free, w);
}

int host_dict_settled(host_job *job) {
    const waiter *w = job_arg(job);
    return w ? w->err : -ENOMEM;
}
