/* --pid-file: the process that serves, which an upgrade changes. See pidfile.c. */
#ifndef PIDFILE_H
#define PIDFILE_H

#include <stdbool.h>
#include <sys/types.h>

/* Without --pid-file each does nothing. They read and write a file, and wait for nothing else. Any thread, one at a
 * time. */

/* An empty file in its place, which is that user's. 0 or -errno. */
int pidfile_give(uid_t uid, gid_t gid);
/* Says this process. 0 or -errno. */
int pidfile_write(void);
/* It says this process. Another one may have put its own there. */
bool pidfile_is_ours(void);
/* Removes it, if it was written and says this process. */
void pidfile_remove(void);

#endif
