/* Words for systemd, or another program that gave us $NOTIFY_SOCKET: sd_notify(3). See notify.c. */
#ifndef NOTIFY_H
#define NOTIFY_H

#include <sys/types.h>

/* The functions do nothing without $NOTIFY_SOCKET. Any thread. Do not wait. Do not fail. */

/* We listen and the app is loaded; also after each reload, whether it worked or not. */
void notify_ready(void);
/* A reload begins. */
void notify_reloading(void);
/* We finish what is in flight and end. */
void notify_stopping(void);
/* Process pid is the service from now on: this process may end. */
void notify_main_pid(pid_t pid);

#endif
