/* The ids that git gives to files and trees of them. See gittree.c. Any thread; nothing waits. */
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

/* The same of `len` bytes that come from a descriptor, which has perhaps fewer: then it is the id of nothing. 0, or
 * -errno. Blocks for the disk. */
int git_blob_fd(int fd, uint64_t len, git_id *id);

/* The id of the tree of these files, no two of which have the same path. Sorts them. Throws without memory. */
git_id git_tree(git_file *files, size_t n);

/* In hexadecimal digits and a NUL. */
void git_print(const git_id *id, char digits[GIT_ID_DIGITS + 1]);

#endif
