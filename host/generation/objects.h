/* Objects in files, as git keeps them: loose. See objects.c. Any thread. The functions block for the disk: a G calls
 * them between rt_entersyscall and rt_exitsyscall. 0 or -errno. */
#ifndef OBJECTS_H
#define OBJECTS_H

#include "gittree.h"

typedef struct object_pending object_pending;

/* Objects that are written together. Zeroed but for dir it is empty. */
typedef struct object_batch {
    const char *dir; /* the folder of the objects */
    object_pending *list;
    size_t n;
} object_batch;

/* Writes an object, unless it is there. It has its name after objects_end. */
int objects_write(object_batch *b, const char *type, const git_id *id, const void *bytes,
                  size_t len);

/* Writes the blob of a file. -ESTALE: the file has other bytes by now. */
int objects_write_file(object_batch *b, const git_id *id, const char *path);

/* Gives all objects of the batch their names when they are on the disk; err: the batch has failed with that already,
 * and leaves nothing. Returns err, or how it went. Empties the batch. */
int objects_end(object_batch *b, int err);

/* Reads an object of that type: malloc'd bytes with a NUL behind them. -EBADMSG: the file does not hold it. */
int objects_read(const char *dir, const git_id *id, const char *type, char **bytes, size_t *len);

/* Removes an object. One that is not there is no error. */
int objects_remove(const char *dir, const git_id *id);

#endif
