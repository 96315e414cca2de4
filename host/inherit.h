/* What a serving process has been given by who started it. See inherit.c. */
#ifndef INHERIT_H
#define INHERIT_H

#include "host.h"

/* The variable by which an upgrade tells what it hands over. */
#define INHERIT_VARIABLE "LUNAPARK_INHERIT"

/* The descriptors that the child of an upgrade has: this one to say that it is ready, and those from the
 * next one on, a listening socket each. */
enum { INHERIT_READY_FD = 3 };

/* The line about one socket in that variable. */
int inherit_print(const host_server *s, int fd, char *buf, size_t size);

/* Looks at the environment, clears what it has found there, and makes it all close-on-exec. Once, while the
 * process has one thread. */
void inherit_init(void);

/* Addresses of the sockets that the service manager gave, at most max, for who was told none. How many. */
int inherit_given(const char **addrs, int max);

/* The listening socket of this address, -1: none was given. *owns_path: its file, if it has one, goes when
 * the socket does. A socket is taken once. */
int inherit_take(const char *addr, bool *owns_path);

/* We listen wherever we should, and the app is loaded: tells so whoever started us, which from then on serves no
 * more, and lets go of what nobody has taken. */
void inherit_done(void);

/* We were started by an upgrade. */
bool inherit_is_upgrade(void);

#endif
