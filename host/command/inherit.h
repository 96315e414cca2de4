/* Sockets that a serving process gets from the process that started it. See inherit.c. */
#ifndef INHERIT_H
#define INHERIT_H

#include <stdbool.h>
#include <stddef.h>

typedef struct host_server host_server;
typedef struct host_listener host_listener;

/* The variable by which an upgrade tells what it hands over. */
#define INHERIT_VARIABLE "LUNAPARK_INHERIT"

/* Descriptors of the child of an upgrade: this one, to say that the child is ready; from the next one on, a listening
 * socket each. */
enum { INHERIT_READY_FD = 3 };

/* Writes the line about one socket of that variable. */
int inherit_print(const host_server *s, int fd, char *buf, size_t size);

/* Reads what the environment says of sockets, clears these variables, and makes the sockets close-on-exec. Once, while
 * the process has one thread. */
void inherit_init(void);

/* Lists the addresses of the sockets that the service manager gave and that were not taken, for a process that was told
 * no address. Returns how many, max at most. */
int inherit_given(const char **addrs, int max);

/* Takes the listening socket of the address and protocol of l; -1: none was given, or it was taken. *owns_path: the
 * file of the socket, if it has one, goes when the socket does. */
int inherit_take(const host_listener *l, bool *owns_path);

/* True: there is a socket for this address. */
bool inherit_has(const char *addr);

/* Keeps a socket that this process has bound before it becomes --user's as if it had been given. asked: the address as
 * it was said; of_app: the app says what is spoken there. False: no memory. While the process has one thread. */
bool inherit_keep(int fd, const char *asked, bool of_app);

/* We listen on all addresses, and the app is loaded: tells the process that started us, which from then on no longer
 * serves, and closes the sockets that were not taken. */
void inherit_done(void);

/* True: we were started by an upgrade. */
bool inherit_is_upgrade(void);

/* Sets the number of Ps that the process before us was told to have by POST /procs, if it was. Any native G. Waits for
 * short locks and for the start of threads. */
void inherit_procs(void);

#endif
