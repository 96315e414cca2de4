/* A way down into a tree of directories: see dirs.c. One thread at a time. The functions block: a G calls them between
 * rt_entersyscall and rt_exitsyscall. 0 or -errno. */
#ifndef DIRS_H
#define DIRS_H

#include <dirent.h>
#include <stddef.h>
#include <sys/types.h>

enum { DIRS_OPEN_MAX = 16, DIRS_PATH_MAX = 65536 };

/* How dirs_push's descriptors are opened, below the first: no link is followed. */
#define DIRS_FLAGS (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)

typedef struct dirs_level {
    DIR *dir; /* NULL: closed meanwhile */
    long at;  /* if closed: where to read on */
    dev_t dev;
    ino_t ino;
    size_t path_len; /* of its own path */
} dirs_level;

/* Zeroed: empty. */
typedef struct dirs {
    dirs_level *v; /* the directories on the way, the first one first */
    int n, cap;
    int first_open; /* all from there on are open */
    char *path;     /* of the last one, or of a name in it, counted from the first one; NULL: "" */
    size_t len, path_cap;
} dirs;

/* Enters the directory fd, which has the path d->path. Takes fd, also after an error. */
int dirs_push(dirs *d, int fd);

/* Leaves the last directory. d->path stays its path. -ESTALE: the directory above is no longer the one that it was, and
 * can't be read on; it is the last one then, and closed. */
int dirs_pop(dirs *d);

/* The last directory. NULL: there is none, or dirs_pop could not open it. */
DIR *dirs_last(const dirs *d);

/* d->path is that of a name in the last directory. -ENAMETOOLONG, -ENOMEM. */
int dirs_name(dirs *d, const char *name);

/* d->path is the last directory's own again. */
void dirs_unname(dirs *d);

/* Closes all and frees what d has. */
void dirs_free(dirs *d);

#endif
