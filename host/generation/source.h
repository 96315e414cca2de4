/* The files that a generation has loaded. See source.c.
 *
 * Any thread. The functions block for the disk: a native G calls them between rt_entersyscall and rt_exitsyscall, Lua
 * as they are. */
#ifndef SOURCE_H
#define SOURCE_H

#include <stdbool.h>
#include <stddef.h>

enum {
    SOURCE_NAMES_MAX = 100000,  /* names that one set knows */
    SOURCE_BYTES_MAX = 1 << 30, /* bytes that it holds */
    SOURCE_ID_SIZE = 50,        /* 40 digits, perhaps "+" and 8 more, NUL */
};

typedef struct source_set source_set;

/* A file as its set has it: lives as long as the set. */
typedef struct source_file {
    const char *path;  /* absolute, without links */
    const char *bytes; /* a NUL follows them */
    size_t len;
} source_file;

/* An empty set. The folder in which the app script really lies is the root of its id. app_path need not exist.
 * NULL: no memory. */
source_set *source_set_new(const char *app_path);

/* Nobody uses it, or a file of it, any more. NULL: nothing. */
void source_set_free(source_set *s);

/* The file: read from the disk the first time, the same bytes ever after. NULL: *err is errno, and *opened (may be
 * NULL) whether it could at least be opened; EFBIG: larger than DISKFILE_MAX. A file that can not be opened is
 * noted: the set has changed when it can be. */
const source_file *source_get(source_set *s, const char *path, int *err, bool *opened);

/* A file, or all files in a folder and the folders in it, counts as loaded; without its bytes being kept. Names
 * that begin with a dot and folders behind links are passed over. 0 or -errno; -E2BIG: more than SOURCE_NAMES_MAX. */
int source_watch(source_set *s, const char *path);

/* Reads a file that belongs to no set: malloc'd bytes with a NUL behind them; NULL: as source_get. */
char *source_read(const char *path, size_t *len, int *err, bool *opened);

/* What `git write-tree` prints for an index of exactly the loaded files; source.c says which files that are, and
 * when more follows. False: no memory. */
bool source_id(source_set *s, char id[SOURCE_ID_SIZE]);

/* The disk still holds what was loaded: every file has its bytes and its x bit, no file came that was missed, none
 * came or went in a watched folder. Looks at the bytes only where stat tells a difference, or could not tell one. */
bool source_unchanged(source_set *s);

/* When the first VM has loaded: reads also the Lua files below the app's folder that were not loaded, for a require
 * that comes later. False: there are too many, no memory, or they can't be read; then such files come from the disk. */
bool source_keep(source_set *s);

/* When the first VM has loaded. True: no file has changed since it was read, so all were on the disk together as they
 * were loaded. */
bool source_settled(source_set *s);

/* For watch.c: calls fn for every name by which the set knows a file, also one that it only keeps, absolute, links and
 * all; for names of files that were not there; and for watched folders, in which any visible name counts. fn must not
 * call the set. */
typedef enum source_kind { SOURCE_FILE, SOURCE_MISSING, SOURCE_FOLDER } source_kind;
void source_each(source_set *s, void (*fn)(void *arg, const char *name, source_kind kind),
                 void *arg);

#endif
