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
    SOURCE_CHANGES_MAX = 1000,  /* paths that source_compare names */
};

typedef struct source_set source_set;

/* A file of a set; lives as long as the set. */
typedef struct source_file {
    const char *path;  /* absolute, without links */
    const char *bytes; /* a NUL follows them */
    size_t len;
} source_file;

/* An empty set. The folder in which the app script really lies is the root of its id. app_path need not exist.
 * NULL: no memory. */
source_set *source_set_new(const char *app_path);

/* Adds a holder of the set, which s has; returns s. Does not wait. */
source_set *source_set_hold(source_set *s);

/* A holder lets go of the set; the last one frees it and its files, which nobody uses any more. NULL: nothing. */
void source_set_free(source_set *s);

/* The file: read from the disk the first time; later the bytes of that time. NULL: *err is errno, and *opened (may be
 * NULL) whether the file could at least be opened; EFBIG: larger than DISKFILE_MAX. A file that can not be opened is
 * noted: the set has changed when the file can be opened. */
const source_file *source_get(source_set *s, const char *path, int *err, bool *opened);

/* source_get for a VM that loads the app: after source_has_loaded, a name that led nowhere leads nowhere. */
const source_file *source_get_to_load(source_set *s, const char *path, int *err, bool *opened);

/* The app has loaded from the set. */
void source_has_loaded(source_set *s);

/* Counts a file, or all files in a folder and the folders in it, as loaded, without keeping their bytes. Passes over
 * names that begin with a dot and folders behind links. 0 or -errno; -E2BIG: more than SOURCE_NAMES_MAX. */
int source_watch(source_set *s, const char *path);

/* Reads a file that belongs to no set: malloc'd bytes with a NUL behind them; NULL: as source_get. */
char *source_read(const char *path, size_t *len, int *err, bool *opened);

/* Writes what `git write-tree` prints for an index of exactly the loaded files; source.c says which files these are,
 * and when more text follows. False: no memory. */
bool source_id(source_set *s, char id[SOURCE_ID_SIZE]);

/* The root, which ends in a slash; lives as long as the set. */
const char *source_root(const source_set *s);

/* What the set has loaded, as text: records of which each ends in a NUL (source_list.c). The caller frees *text. False:
 * no memory. */
bool source_list(source_set *s, char **text, size_t *len);

/* Compares the files of two such texts; NULL: no files. Returns records, in the order of paths, "added PATH", "changed
 * PATH" or "removed PATH", each with a NUL; the caller frees *text. Paths below the root are relative. Of more than
 * SOURCE_CHANGES_MAX the rest is counted in a last record "more N". False: no memory. */
bool source_compare(const char *from, size_t from_len, const char *to, size_t to_len, char **text,
                    size_t *len);

/* True: the disk still holds what was loaded. Every file has its bytes and its x bit, no file came that was missed, no
 * file came or went in a watched folder. Reads bytes only where stat tells a difference, or could not tell one. */
bool source_unchanged(source_set *s);

/* Also reads the Lua files below the app's folder that were not loaded, for a later require. False: too many files, no
 * memory, or a file can't be read; then such files come from the disk. When the first VM has loaded. */
bool source_keep(source_set *s);

/* True: no file has changed since it was read, so all were on the disk together as they were loaded. When the first VM
 * has loaded. */
bool source_settled(source_set *s);

/* A set of what the disk has now of the names of two sets, without bytes. b may be NULL. NULL: no memory. */
source_set *source_set_of_names(const char *app_path, source_set *a, source_set *b);

/* Calls fn for every name by which the set knows a file, also a file that it only keeps, absolute, with links; for
 * names of files that were not there; and for watched folders, in which any visible name counts. fn must not call the
 * set. For watch.c. */
typedef enum source_kind { SOURCE_FILE, SOURCE_MISSING, SOURCE_FOLDER } source_kind;
void source_each(source_set *s, void (*fn)(void *arg, const char *name, source_kind kind),
                 void *arg);

#endif
