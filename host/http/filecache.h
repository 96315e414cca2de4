/* Files that app:static has answered with, open or in memory, for a moment. See filecache.c. Any thread of the runtime,
 * with a P. None waits, except for a disk that has to read a file's bytes. */
#ifndef FILECACHE_H
#define FILECACHE_H

#include "../base/refs.h"

#include <stddef.h>
#include <stdint.h>

typedef struct filecache filecache;
typedef struct out_fd out_fd;         /* out.h */
typedef struct site_mount site_mount; /* site.h */

/* Codings that a client takes. */
enum { CODING_BR = 1, CODING_ZSTD = 2, CODING_GZIP = 4, CODING_ANY = 8 };

enum { FILE_HEAD_MAX = 1024 /* bytes of the header lines of a file */ };

/* A file, as it is answered to clients that take the same codings. Constant while it is held. */
typedef struct cached_file {
    refs refs;
    uint8_t codings;          /* of these clients; CODING_ANY: whatever they take */
    struct cached_file *next; /* the cache's: in a chain, under its lock */
    const site_mount *mount;  /* the cache's, as the next three */
    uint64_t hash;
    int64_t ends_ns, mtime_ns; /* until when it is right; when the file was changed */
    out_fd *fd;                /* NULL: `bytes` has the file */
    const char *bytes;
    int64_t size;
    /* Header lines of an answer. The first head_304 bytes are those of an answer without the file. */
    const char *head;
    const char *etag;     /* in `head`, with its quotes */
    const char *modified; /* in `head`: Last-Modified; NULL: not known */
    uint16_t head_len, head_304, etag_len, name_len;
    uint16_t type_at, type_len; /* in `head`: the line of its Content-Type */
    char name[];                /* below the mount's folder; then head and bytes */
} cached_file;

/* NULL: no memory. */
filecache *filecache_new(void);
/* The owner lets go of c, which closes all its files, once nobody sends them. */
void filecache_free(filecache *c);

/* The regular file name[0 .. n) below m's folder, or its variant in one of the codings, which the caller holds. now_ns:
 * rt_nanotime, or a little earlier. NULL: the file is not there, or only a wait could tell, or it is rare. */
cached_file *filecache_find(filecache *c, const site_mount *m, const char *name, size_t n,
                            unsigned codings, int64_t now_ns);
void filecache_drop(cached_file *f);

/* Closes all files that nobody sends. */
void filecache_clear(filecache *c);

#endif
