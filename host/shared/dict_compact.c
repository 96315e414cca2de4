/* The compaction of a dict's file: its entries are written to NAME.new, which then takes the file's place.
 *
 * The dict is used meanwhile. Its entries are copied bucket by bucket, some at a time, so the copy shows no single
 * moment. What was written to the old file since the compaction began (f->kept) is written behind the entries: then the
 * new file says what the old one says (dict_record.c tells why). Between two steps the writer goes on with the old file;
 * so changes wait for a step at most. A compaction that fails, or is killed, leaves the old file as it is. */
#include "dict_writer.h"

#include "../base/folder.h"
#include "../base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

void writer_set_compaction(dict_file *f, double live) {
    f->compact_at = (size_t)(live * 2) + COMPACT_LEAST;
}

static void name_new(const dict_file *f, char *name, size_t size) {
    snprintf(name, size, "%s.new", f->path);
}

static void drop_kept(dict_file *f) {
    while (f->kept) {
        dict_record *r = f->kept;
        f->kept = r->next;
        free(r);
    }
    f->kept_last = NULL;
}

void compact_abort(dict_file *f) {
    if (f->new_fd < 0) return;
    char name[PATH_MAX + 16];
    name_new(f, name, sizeof name);
    unlink(name);
    close(f->new_fd);
    f->new_fd = -1;
    drop_kept(f);
}

static int begin(dict_file *f) {
    char name[PATH_MAX + 16];
    struct stat st;
    name_new(f, name, sizeof name);
    if (fstat(f->fd, &st) < 0) return -errno;
    f->new_fd = open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (f->new_fd < 0) return -errno;
    f->cursor = 0;
    f->new_size = DICT_MAGIC_BYTES;
    if (flock(f->new_fd, LOCK_EX | LOCK_NB) < 0 || fchmod(f->new_fd, st.st_mode & 07777) < 0)
        return -errno;
    return writer_put(f->new_fd, DICT_MAGIC, DICT_MAGIC_BYTES, 0);
}

/* Copies some entries. */
static int copy_some(dict_file *f) {
    int64_t n;
    if (!writer_room(f, BATCH_BYTES)) return -ENOMEM;
    while ((n = dict_copy(f->d, &f->cursor, f->batch, f->batch_bytes, dict_records_of)) < 0) {
        if (!writer_room(f, (size_t)-n)) return -ENOMEM;
    }
    int err = writer_put(f->new_fd, f->batch, (size_t)n, f->new_size);
    f->new_size += err ? 0 : (size_t)n;
    return err;
}

static int copy_kept(dict_file *f) {
    int err = 0;
    for (dict_record *r = f->kept; r && !err; r = r->next) {
        err = writer_put(f->new_fd, (char *)&r->head, dict_record_size(r), f->new_size);
        f->new_size += err ? 0 : dict_record_size(r);
    }
    return err;
}

static int end(dict_file *f) {
    char name[PATH_MAX + 16];
    name_new(f, name, sizeof name);
    int err = copy_kept(f);
    if (!err && (fdatasync(f->new_fd) < 0 || rename(name, f->path) < 0)) err = -errno;
    if (err) return err;
    drop_kept(f);
    close(f->fd);
    f->fd = f->new_fd;
    f->new_fd = -1;
    f->size = f->new_size;
    f->unsynced = f->broken = false;
    f->synced = f->written;
    writer_set_compaction(f, (double)f->size);
    return folder_sync(f->path);
}

bool compact_step(dict_file *f) {
    int err = 0;
    if (f->new_fd < 0 && !f->broken && f->size < f->compact_at) return false;
    if (f->new_fd < 0)
        err = begin(f);
    else if (f->cursor >= 0)
        err = copy_some(f);
    else
        err = end(f);
    if (!err) return f->new_fd >= 0;
    log_line(LOG_ERROR, "%s: cannot be compacted: %s", f->path, rt_strerror(err));
    compact_abort(f);
    f->compact_at = f->size * 2;
    return false;
}
