/* Starting programs: exec.c, upgrade.c. See spawn.c. */
#ifndef SPAWN_H
#define SPAWN_H

#include <stdbool.h>
#include <sys/types.h>

/* In place of a descriptor. */
enum {
    SPAWN_NULL = -1, /* /dev/null */
    SPAWN_OUT = -2,  /* what the program's descriptor 1 is */
};

typedef struct spawn_program {
    const char *path; /* without a slash: looked for in PATH */
    char **argv, **env;
    const char *cwd; /* NULL: ours */
    const int *
        fds; /* descriptor i of the program is fds[i] or SPAWN_*; a descriptor of ours is i, or at least n_fds */
    int n_fds;      /* it has no other descriptors */
    bool own_group; /* it leads a process group of its own */
} spawn_program;

/* Starts a program: *pid. No signal is blocked or ignored there. 0 or -errno: no program runs. Any thread. Blocks until
 * the program has begun, which may be read from a disk. */
int spawn(const spawn_program *p, pid_t *pid);

#endif
