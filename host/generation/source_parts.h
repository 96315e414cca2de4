/* The parts of a source_set, for source.c, source_list.c and source_restore.c. */
#ifndef SOURCE_PARTS_H
#define SOURCE_PARTS_H

#include "../base/refs.h"
#include "blob.h"
#include "diskfile.h"
#include "source.h"

#include <pthread.h>

typedef struct file {
    source_file pub; /* bytes: NULL if it is only watched */
    git_id blob;
    file_blob *held; /* of pub.bytes */
    disk_stamp stamp;
} file;

typedef struct name {
    char *path; /* absolute, as it was asked for */
    source_kind kind;
    file *file;     /* SOURCE_FILE */
    git_id listing; /* SOURCE_FOLDER: of the names in it */
} name;

struct source_set {
    refs refs;
    pthread_mutex_t lock;
    void *names, *files; /* lock: trees of name and file, by path */
    void *kept;          /* lock: of file, not yet loaded */
    bool loaded;         /* lock: source_has_loaded */
    size_t n_names;      /* lock */
    size_t n_bytes;      /* lock: in memory */
    char *root;          /* of the tree id; ends in a slash */
    char *base,
        *real; /* the app's folder as it was named, and without links; both end in a slash, or NULL */
};

/* ---- source.c; with the set's lock, or before others know the set ---- */

/* The order of the trees of files. */
int source_by_path(const void *a, const void *b);

/* The file of that path, without links, in a tree of files; NULL: there is none. */
file *source_find_file(void *const *files, const char *path);

/* The file's bytes are b's, which f holds from now on. */
void source_set_bytes(file *f, file_blob *b);

/* The name of that path, made if need be. NULL: there are too many, or no memory. */
name *source_add_name(source_set *s, const char *path, source_kind kind);

#endif
