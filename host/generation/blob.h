/* Bytes of files, each once: equal bytes that several generations hold are one block of memory. See blob.c. Any thread.
 * The functions do not wait. */
#ifndef BLOB_H
#define BLOB_H

#include "gittree.h"

/* Never changes. A holder keeps it. */
typedef struct file_blob {
    git_id id;
    const char *bytes; /* a NUL follows them */
    size_t len;
    int holders; /* blob.c's lock */
    bool alone;  /* other bytes have its id */
} file_blob;

/* The blob of these bytes, which are malloc'd, with a NUL behind them, and belong to the blob from now on. The caller
 * holds it. NULL: no memory, and the bytes are freed. */
file_blob *blob_keep(char *bytes, size_t len);

/* The blob of that id, if anybody holds one; the caller then holds it too. Else NULL. */
file_blob *blob_find(const git_id *id);

/* The caller lets go of b. NULL: nothing. */
void blob_drop(file_blob *b);

#endif
