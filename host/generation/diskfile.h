/* Files on the disk: their bytes, and the stamps that tell whether a file has changed. See diskfile.c. Any thread. The
 * functions block for the disk. */
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
    bool racy; /* the file may have changed since without a difference for stat */
} disk_stamp;

/* The stamp of a file; follows links. False: there is no such file. */
bool disk_stat(const char *path, disk_stamp *stamp);

/* True: stat sees no difference. */
bool disk_same(const disk_stamp *a, const disk_stamp *b);

/* True: the owner of the file may execute it. Git knows no more of a mode. */
bool disk_executable(const disk_stamp *stamp);

/* Reads a file: its bytes, malloc'd, with a NUL behind them. The stamp may be NULL. *opened: the file could at least be
 * opened. A file that is not regular is read to its end. 0 or errno; EFBIG: larger than DISKFILE_MAX. */
int disk_read(const char *path, char **bytes, size_t *len, disk_stamp *stamp, bool *opened);

/* The id of a file's blob, whatever its size. stamp, opened: as disk_read. 0 or errno; EISDIR, EINVAL: no regular
 * file. */
int disk_hash(const char *path, git_id *blob, disk_stamp *stamp, bool *opened);

/* Calls fn for dir, and for each folder and each regular file in dir, also behind a link, in the order of names, until
 * fn answers an error. Passes over names that begin with a dot, folders behind links, and files that go meanwhile. 0 or
 * errno. */
typedef int (*disk_visit)(void *arg, const char *path, bool folder);
int disk_walk(const char *dir, disk_visit fn, void *arg);

#endif
