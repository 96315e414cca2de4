/* --pid-file: names the process that serves, which an upgrade changes. See pidfile.c. */
#ifndef PIDFILE_H
#define PIDFILE_H

#include <stdbool.h>
#include <sys/types.h>

/* The functions do nothing without --pid-file. They wait for the file alone. Any thread, one at a time.
 *
 * libbsd, which libedit loads, has a pidfile_write and a pidfile_remove: functions of these names would take their
 * places. */

/* Puts an empty file in its place, which belongs to that user. 0 or -errno. */
int pidfile_give(uid_t uid, gid_t gid);
/* Writes the pid of this process. 0 or -errno. */
int pidfile_make(void);
/* True: the file has the pid of this process; false: another process has written it since. */
bool pidfile_is_ours(void);
/* Removes the file, if we wrote it and it has the pid of this process. */
void pidfile_unmake(void);

#endif
