/* Listeners that apps ask for by app:tcp. See listeners.c. */
#ifndef LISTENERS_H
#define LISTENERS_H

#include "../serve/server.h"

enum { MAX_APP_LISTEN = 16 };

/* Opens a server for a listener: server_open, or what finds a socket that the process was given. */
typedef host_server *(*listeners_opener)(const host_listener *l, int *err);

/* An app that loads asks for a listener; max, backlog: as in host_listener. late: its generation serves already. Returns
 * the number of the handler that answers there, in all VMs. -ENOSPC: there are too many; -EBUSY: late, and no VM asked
 * for that address in time. Any thread. Does not wait. */
int listeners_ask(const char *addr, int max, int backlog, bool late);

/* An app begins to load: nothing is asked for yet. The G that loads a generation. */
void listeners_stage(void);
/* Opens what was asked for and is not open. NULL, or what is wrong, which the caller frees by message_free; then nothing
 * has changed. The G that loads a generation. Does not wait. */
char *listeners_open(listeners_opener open);
/* What was opened for a generation that will not serve is closed. The G that loads a generation. */
void listeners_drop(void);
/* The generation serves: what was opened accepts, what was not asked for any more stops. NULL, or what is wrong with the
 * one that could not start, which the caller frees. Does nothing before listeners_begin. The G that loads a generation. */
char *listeners_commit(void);
/* From now on listeners may accept: those that are open do. As listeners_commit. Once, the main G. */
char *listeners_begin(void);

/* The servers that accept, each held for the caller. Returns how many. Any thread. Does not wait. */
int listeners_list(host_server *list[MAX_APP_LISTEN]);
/* Calls stop for each, now and when a further one is opened. Any native G. Does not wait. */
void listeners_stop(void (*stop)(host_server *));

#endif
