/* Ids of files, trees and commits, as git computes them. See gittree.c. Any thread. Does not wait. */
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

/* The id of an object of this type ("blob", "tree", "commit") with these bytes. */
git_id git_object(const char *type, const void *bytes, size_t len);

/* The id of a blob of the next `len` bytes of a descriptor; the id of nothing, if there are fewer. Blocks for the disk.
 * 0 or -errno. */
int git_blob_fd(int fd, uint64_t len, git_id *id);

/* The id of the tree of these files, whose paths differ. Sorts them. each (may be NULL) is called for the tree and all
 * trees in it, the inner first, with id and bytes, which are freed afterwards. False: no memory, or a call of each
 * answered so. */
typedef bool (*git_each_tree)(void *arg, const git_id *id, const void *bytes, size_t len);
bool git_tree(git_file *files, size_t n, git_id *id, git_each_tree each, void *arg);

/* Writes an id in hexadecimal digits and a NUL. */
void git_print(const git_id *id, char digits[GIT_ID_DIGITS + 1]);

/* Reads an id from 40 hexadecimal digits, whatever follows. False: these are none. */
bool git_scan(const char *digits, git_id *id);

#endif
