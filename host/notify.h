/* Words for systemd, or whoever else gave us $NOTIFY_SOCKET: sd_notify(3). See notify.c. */
#ifndef NOTIFY_H
#define NOTIFY_H

#include <sys/types.h>

/* None of them waits or fails; without $NOTIFY_SOCKET they do nothing. Any thread. */

/* We listen and the app is loaded; also when a reload is over, whether it worked or not. */
void notify_ready(void);
/* A reload begins. */
void notify_reloading(void);
/* We finish what is in flight and end. */
void notify_stopping(void);
/* From now on that process is the service: this one may end. */
void notify_main_pid(pid_t pid);

#endif
