/* For all code that starts programs: exec.c, upgrade.c. */
#ifndef EXEC_H
#define EXEC_H

#include <spawn.h>
#include <stdbool.h>

/* Attributes for a new program: no signal is blocked or ignored. own_group: it leads a process group of its own. 0 or
 * an errno. Any thread. */
int exec_attributes(posix_spawnattr_t *attr, bool own_group);

#endif
