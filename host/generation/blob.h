/* Bytes of files, each once: equal bytes that several generations hold are one block of memory. See blob.c. Any thread.
 * The functions do not wait. */
#ifndef BLOB_H
#define BLOB_H

#include "gittree.h"

/* A blob never changes, and lives as long as it has a holder. */
typedef struct file_blob {
    git_id id;
    const char *bytes; /* a NUL follows them */
    size_t len;
    int holders; /* blob.c's lock */
    bool alone;  /* other bytes have its id */
} file_blob;

/* The blob of these bytes, which are malloc'd, have a NUL behind them, and belong to the blob from now on. The caller
 * is a holder. NULL: no memory, and the bytes are freed. */
file_blob *blob_keep(char *bytes, size_t len);

/* The blob with this id, if it has a holder: the caller is one, too. Else NULL. */
file_blob *blob_find(const git_id *id);

/* The caller is no holder of b any more. b NULL: does nothing. */
void blob_drop(file_blob *b);

#endif
