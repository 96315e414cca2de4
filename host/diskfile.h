/* Files on the disk: their bytes, and what tells whether they have changed. See diskfile.c. Any thread; all of it
 * blocks for the disk. */
#ifndef DISKFILE_H
#define DISKFILE_H

#include "gittree.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>
#include <time.h>

enum { DISKFILE_MAX = 64 << 20 /* bytes of one file that is read */ };

/* What stat said before a file was read. */
typedef struct disk_stamp {
    dev_t dev;
    ino_t ino;
    off_t size;
    mode_t mode;
    struct timespec mtime, ctime;
    bool racy; /* it may have changed since, and look the same */
} disk_stamp;

/* Of a file, links followed. False: there is none. */
bool disk_stat(const char *path, disk_stamp *stamp);

/* Whether stat sees no difference. */
bool disk_same(const disk_stamp *a, const disk_stamp *b);

/* Its owner may execute it, which is all that git knows of a mode. */
bool disk_executable(const disk_stamp *stamp);

/* Its bytes, malloc'd and with a NUL behind them; the stamp may be NULL. 0 or errno, EFBIG if it is larger than
 * DISKFILE_MAX; *opened: it could at least be opened. What is no regular file is read to its end. */
int disk_read(const char *path, char **bytes, size_t *len, disk_stamp *stamp, bool *opened);

/* The same, of its bytes the blob's id alone, whatever its size. Of regular files; else EISDIR or EINVAL. */
int disk_hash(const char *path, git_id *blob, disk_stamp *stamp, bool *opened);

/* Calls fn(arg, path) for each file in dir and the folders in it, in the order of names, until it answers an error. Names
 * that begin with a dot and folders behind links are passed over, and what goes meanwhile is not there. 0 or errno. */
int disk_walk(const char *dir, int (*fn)(void *arg, const char *path), void *arg);

#endif
