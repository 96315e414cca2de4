/* Sets of files from what source_list has written down. See source_restore.c. Any thread. */
#ifndef SOURCE_RESTORE_H
#define SOURCE_RESTORE_H

#include "blob.h"
#include "source.h"

/* The bytes of a blob, which the caller holds then. 0 or -errno. */
typedef int (*source_read_blob)(void *arg, const git_id *id, file_blob **b);

/* Makes the set that text tells of, which has loaded, for an app whose script is app_path now. NULL: *err is what
 * read_blob has said of *blob, or -EBADMSG: text is none of source_list's, -ESRCH: it is of another script, -ENOMEM. */
source_set *source_restore(const char *app_path, const char *text, size_t len,
                           source_read_blob read_blob, void *arg, int *err, git_id *blob);

/* What git needs to know the files that text tells of: calls fn for the blob of each, with its path as `bytes`, then
 * for the tree of those below the root, and for the trees in it. False: fn said so, there is no memory, or text is
 * none of source_list's. */
typedef bool (*source_object)(void *arg, const char *type, const git_id *id, const void *bytes,
                              size_t len);
bool source_objects(const char *text, size_t len, source_object fn, void *arg);

#endif
