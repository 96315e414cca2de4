/* What programs that we start have in common: exec.c, upgrade.c. */
#ifndef EXEC_H
#define EXEC_H

#include <spawn.h>
#include <stdbool.h>

/* No signal is blocked or ignored; the program leads a process group of its own, if that is wanted. 0 or an errno.
 * Any thread. */
int exec_attributes(posix_spawnattr_t *attr, bool own_group);

#endif
