/* Ids of files and trees, as git computes them. See gittree.c. Any thread. Does not wait. */
#ifndef GITTREE_H
#define GITTREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct git_id {
    uint8_t sha1[20];
} git_id;

enum { GIT_ID_DIGITS = 40 };

/* A file of a tree: its path below the tree's folder, its blob. */
typedef struct git_file {
    const char *path;
    bool executable;
    git_id blob;
} git_file;

/* The id of a file with these bytes. */
git_id git_blob(const void *bytes, size_t len);

/* The id of a file with the next `len` bytes of a descriptor; if there are fewer, the id of nothing. Blocks for the
 * disk. 0 or -errno. */
int git_blob_fd(int fd, uint64_t len, git_id *id);

/* The id of the tree of these files, whose paths differ. Sorts them. False: no memory. */
bool git_tree(git_file *files, size_t n, git_id *id);

/* Writes an id in hexadecimal digits and a NUL. */
void git_print(const git_id *id, char digits[GIT_ID_DIGITS + 1]);

#endif
