/* The ids that git gives to a set of files, without git.
 *
 * A file is a blob: SHA-1 of "blob LENGTH", NUL, bytes. A folder is a tree: SHA-1 of "tree LENGTH", NUL, and an entry
 * for each file and folder in it, "MODE NAME", NUL, the 20 bytes of its id. Modes are 100644, 100755 and, for folders,
 * 40000. A commit is text (history.c).
 *
 * Entries are sorted by name as bytes, a folder's as if it ended in '/'. This is also the order of whole paths, in
 * which git's index is sorted. So one sort by path puts every folder's entries together and in order, and one pass over
 * them is enough. The pass keeps open the folders that lead to the present path. A path that leaves some of them ends
 * these, the innermost first, and each gives its id to the folder around it. (A recursive function would be as short,
 * but the user chooses how deep folders go, and stacks are small.)
 *
 * SHA-1 is libmd's. OpenSSL's costs a process that needs nothing else of it 0.7 ms at its start and 1.4 MB. libmd costs
 * 0.1 ms and 0.1 MB, and hashes the files of an app in well under a millisecond.
 */
#include "gittree.h"

#include <errno.h>
#include <sha1.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PIECE = 64 << 10 };

static void begin(SHA1_CTX *sha, const char *type, uint64_t len) {
    char head[40];
    int n = snprintf(head, sizeof head, "%s %llu", type, (unsigned long long)len);
    SHA1Init(sha);
    SHA1Update(sha, (const uint8_t *)head, (size_t)n + 1);
}

git_id git_object(const char *type, const void *bytes, size_t len) {
    SHA1_CTX sha;
    git_id id;
    begin(&sha, type, len);
    SHA1Update(&sha, bytes, len);
    SHA1Final(id.sha1, &sha);
    return id;
}

int git_blob_fd(int fd, uint64_t len, git_id *id) {
    SHA1_CTX sha;
    uint8_t *piece = malloc(PIECE);
    if (!piece) return -ENOMEM;
    int err = 0;
    begin(&sha, "blob", len);
    while (len > 0) {
        ssize_t r = read(fd, piece, len < PIECE ? (size_t)len : PIECE);
        if (r < 0 && errno == EINTR) continue;
        if (r < 0) err = -errno;
        if (r <= 0) break;
        SHA1Update(&sha, piece, (size_t)r);
        len -= (uint64_t)r;
    }
    free(piece);
    SHA1Final(id->sha1, &sha);
    return err;
}

void git_print(const git_id *id, char digits[GIT_ID_DIGITS + 1]) {
    for (size_t i = 0; i < sizeof id->sha1; i++)
        snprintf(digits + 2 * i, 3, "%02x", id->sha1[i]);
}

static int digit(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool git_scan(const char *digits, git_id *id) {
    for (size_t i = 0; i < sizeof id->sha1; i++) {
        int high = digit(digits[2 * i]), low = high < 0 ? -1 : digit(digits[2 * i + 1]);
        if (low < 0) return false;
        id->sha1[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

/* ---- trees ---- */

typedef struct making {
    git_each_tree each;
    void *arg;
} making;

/* A folder that leads to the present path; a list, the innermost first. */
typedef struct folder {
    struct folder *up;
    const char *path; /* begins with the folder's path, which ends in a slash; empty: the tree */
    size_t len;       /* bytes of the folder's path */
    FILE *out;        /* its entries go into: */
    char *entries;
    size_t n_bytes;
} folder;

/* *in becomes a folder within itself. False: no memory, and *in is as it was. */
static bool enter(folder **in, const char *path, size_t len) {
    folder *f = calloc(1, sizeof *f);
    if (f) f->out = open_memstream(&f->entries, &f->n_bytes);
    if (!f || !f->out) {
        free(f);
        return false;
    }
    f->up = *in;
    f->path = path;
    f->len = len;
    *in = f;
    return true;
}

static void add_entry(folder *f, const char *mode, const char *name, size_t len, const git_id *id) {
    fprintf(f->out, "%s %.*s%c", mode, (int)len, name, 0);
    fwrite(id->sha1, sizeof id->sha1, 1, f->out);
}

/* Ends the folder *in: its id becomes an entry of the folder around it, which *in becomes. False: there was no memory
 * for some entry. */
static bool leave(const making *m, folder **in, git_id *id) {
    folder *f = *in;
    bool whole = !ferror(f->out);
    if (fclose(f->out) != 0) whole = false;
    if (whole) {
        *id = git_object("tree", f->entries, f->n_bytes);
        whole = !m->each || m->each(m->arg, id, f->entries, f->n_bytes);
        if (f->up) add_entry(f->up, "40000", f->path + f->up->len, f->len - 1 - f->up->len, id);
    }
    *in = f->up;
    free(f->entries);
    free(f);
    return whole;
}

/* Enters the folder of the file, and adds the file's entry there. */
static bool add_file(const making *m, folder **in, const git_file *file) {
    const char *path = file->path, *slash;
    git_id id;
    while (strncmp(path, (*in)->path, (*in)->len) != 0)
        if (!leave(m, in, &id)) return false;
    while ((slash = strchr(path + (*in)->len, '/')))
        if (!enter(in, path, (size_t)(slash + 1 - path))) return false;
    const char *name = path + (*in)->len;
    add_entry(*in, file->executable ? "100755" : "100644", name, strlen(name), &file->blob);
    return true;
}

static int by_path(const void *a, const void *b) {
    return strcmp(((const git_file *)a)->path, ((const git_file *)b)->path);
}

bool git_tree(git_file *files, size_t n, git_id *id, git_each_tree each, void *arg) {
    making m = {each, arg};
    if (n) qsort(files, n, sizeof *files, by_path);
    folder *in = NULL;
    bool whole = enter(&in, "", 0);
    for (size_t i = 0; whole && i < n; i++)
        whole = add_file(&m, &in, &files[i]);
    while (in)
        if (!leave(&m, &in, id)) whole = false;
    return whole;
}
