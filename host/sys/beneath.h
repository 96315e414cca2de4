/* Opening files below a folder, whatever their names say. See beneath.c.
 * Any thread. The functions block, but for beneath_open_cached: a G calls them between rt_entersyscall and
 * rt_exitsyscall. -errno; -EXDEV: the name leads out. */
#ifndef BENEATH_H
#define BENEATH_H

#include <sys/types.h>

/* Opens path, counted from the folder root; "" is root itself. flags and mode: as for open(2). The descriptor. */
int beneath_open(const char *root, const char *path, int flags, mode_t mode);

/* beneath_open that looks at no disk, and creates nothing. Does not block: it needs no rt_entersyscall. -EAGAIN: only
 * beneath_open can tell. */
int beneath_open_cached(const char *root, const char *path, int flags);

/* beneath_open where the kernel has no openat2. dir: the descriptor of root. Refuses all links. */
int beneath_walk(int dir, const char *path, int flags, mode_t mode);

/* 0: path is there below root, or a file could be made of that name. */
int beneath_check(const char *root, const char *path);

#endif
