/* What dict_file.c, dict_writer.c and dict_compact.c share: a dict's file, and its writer. */
#ifndef DICT_WRITER_H
#define DICT_WRITER_H

#include "../../runtime/runtime.h"
#include "../base/base.h"
#include "../base/bell.h"
#include "../base/list.h"
#include "dict_file.h"

#include <limits.h>
#include <pthread.h>

enum {
    QUEUE_BYTES = 64 << 20, /* a longer queue takes no more */
    BATCH_BYTES = 256 << 10,
    COMPACT_LEAST = 1 << 20, /* a smaller file is left as it is */
};
#define PACE_NS (20 * NS_PER_MS)
#define HOLD_NS (20 * NS_PER_MS)
#define LOOK_NS NS_PER_MS
#define LOCK_NS (10 * NS_PER_SEC)

struct dict_file {
    dict_file *next; /* constant, as the next five */
    host_dict *d;
    char *given, *path; /* as it was given; absolute */
    int sync;
    rt_lock lock;              /* of what follows */
    dict_record *first, *last; /* the queue */
    uint64_t queued;           /* records ever */
    size_t queued_bytes;       /* not written yet */
    list_head waiters;
    bool leased; /* this process has the lock of the file; the writer writes */
    bell bell;   /* rings the writer */

    pthread_mutex_t io; /* the writer's, or the end of the process's; of what follows */
    int fd;             /* -1: none */
    bool loaded;        /* was applied once */
    bool unsynced;
    bool failing;             /* a failure was logged */
    size_t size;              /* of the whole records in the file */
    uint64_t written, synced; /* records ever */
    dict_record *unwritten;   /* taken from the queue */
    char *batch;              /* BATCH_BYTES or more */
    size_t batch_bytes;
    int64_t since_ns;  /* leased since */
    int64_t wanted_ns; /* since when the lock is tried in vain; 0: it is not */
    int64_t synced_ns; /* the last sync */

    size_t compact_at; /* f->size from which on a compaction begins; 0: not known */
    bool broken; /* a sync has failed: nobody knows what the disk has before the next compaction */
    int new_fd;  /* of the compaction that runs; -1: none */
    double cursor; /* of dict_copy */
    size_t new_size;
    dict_record *kept, *kept_last; /* written to the old file since the compaction began */
};

/* The writer, a native G for ever; arg: the dict_file. */
void writer_main(void *arg);

/* The functions below: with f->io. They block. 0 or -errno. */

/* Gets the lock of the file and applies what is new in it. -EBUSY: another process has the lock; call again, or
 * writer_give_up: this process waits for the lock no more. */
int writer_acquire(dict_file *f);
void writer_give_up(dict_file *f);

/* The lock is given back in two steps. Between them the queue, which takes no more, is written. writer_release: not
 * written: the lock stays, and the queue takes more again. */
void writer_close_queue(dict_file *f);
void writer_release(dict_file *f, bool written);

/* Writes the queue; syncs what was written. */
int writer_write(dict_file *f);
int writer_sync(dict_file *f);

/* The batch has n bytes from now on, or more. False: no memory. */
bool writer_room(dict_file *f, size_t n);

/* Writes all of buf at `at`. */
int writer_put(int fd, const char *buf, size_t n, size_t at);

/* Does other processes' use of the files have to be reckoned with? */
bool writer_shares(void);

/* The file, of which `live` bytes are entries, is compacted when it has twice as many. */
void writer_set_compaction(dict_file *f, double live);

/* A step of the compaction that runs, or is due. True: there is more to do. */
bool compact_step(dict_file *f);
void compact_abort(dict_file *f);

#endif
