/* A way down into a tree of directories, of any depth, with few descriptors: for the walk and the removal of a tree.
 *
 * Each directory on the way is open, so that what is below is opened by its name there (openat), with O_NOFOLLOW: a
 * link in the tree, also one that somebody puts there meanwhile, leads nowhere. DIRS_OPEN_MAX of them are open at most, the
 * last ones. One that is left on the way down is closed, and its position kept; on the way back it is opened as "..",
 * and read on there. It must be the same directory, by device and inode: if the one below was moved meanwhile, ".." is
 * another.
 *
 * So the memory is that of the path and some 50 bytes for each directory on the way. A position that was kept is one of
 * the file system's: if the directory changed meanwhile, a name may come twice, or a new one not at all.
 */
#include "dirs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void close_level(dirs *d, int i) {
    d->v[i].at = telldir(d->v[i].dir);
    closedir(d->v[i].dir);
    d->v[i].dir = NULL;
}

static int grow(dirs *d) {
    if (d->n < d->cap) return 0;
    int cap = d->cap ? d->cap * 2 : 16;
    dirs_level *grown = realloc(d->v, (size_t)cap * sizeof *grown);
    if (!grown) return -ENOMEM;
    d->v = grown;
    d->cap = cap;
    return 0;
}

int dirs_push(dirs *d, int fd) {
    struct stat st;
    int err = fstat(fd, &st) < 0 ? -errno : grow(d);
    DIR *dir = err ? NULL : fdopendir(fd);
    if (!err && !dir) err = -errno;
    if (err) {
        close(fd);
        return err;
    }
    d->v[d->n++] = (dirs_level){.dir = dir, .dev = st.st_dev, .ino = st.st_ino, .path_len = d->len};
    if (d->n - d->first_open > DIRS_OPEN_MAX) close_level(d, d->first_open++);
    return 0;
}

/* Opens the level above the last one anew. */
static int reopen(dirs *d) {
    dirs_level *above = &d->v[d->n - 2];
    struct stat st;
    int fd = openat(dirfd(d->v[d->n - 1].dir), "..", DIRS_FLAGS);
    if (fd < 0) return -errno;
    int err = fstat(fd, &st) < 0                                   ? -errno
              : st.st_dev != above->dev || st.st_ino != above->ino ? -ESTALE
                                                                   : 0;
    if (!err && !(above->dir = fdopendir(fd))) err = -errno;
    if (err) {
        close(fd);
        return err;
    }
    seekdir(above->dir, above->at);
    d->first_open--;
    return 0;
}

int dirs_pop(dirs *d) {
    dirs_level *last = &d->v[d->n - 1];
    int err = d->n > 1 && !last[-1].dir ? reopen(d) : 0;
    d->len = last->path_len;
    if (d->path) d->path[d->len] = 0;
    if (last->dir) closedir(last->dir);
    d->n--;
    return err;
}

DIR *dirs_last(const dirs *d) {
    return d->n ? d->v[d->n - 1].dir : NULL;
}

int dirs_name(dirs *d, const char *name) {
    size_t own = d->v[d->n - 1].path_len, n = strlen(name), need = own + 1 + n + 1;
    if (need > DIRS_PATH_MAX) return -ENAMETOOLONG;
    if (need > d->path_cap) {
        size_t cap = need * 2 < 256 ? 256 : need * 2;
        char *grown = realloc(d->path, cap);
        if (!grown) return -ENOMEM;
        d->path = grown;
        d->path_cap = cap;
    }
    if (own) d->path[own++] = '/';
    memcpy(d->path + own, name, n + 1);
    d->len = own + n;
    return 0;
}

void dirs_unname(dirs *d) {
    d->len = d->n ? d->v[d->n - 1].path_len : 0;
    if (d->path) d->path[d->len] = 0;
}

void dirs_free(dirs *d) {
    for (int i = 0; i < d->n; i++)
        if (d->v[i].dir) closedir(d->v[i].dir);
    free(d->v);
    free(d->path);
    *d = (dirs){0};
}
