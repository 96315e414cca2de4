/* Lua Gs that wait for a descriptor. See waitfd.c. */
#ifndef WAITFD_H
#define WAITFD_H

typedef struct host_luag host_luag;

/* The Lua Gs of one VM that wait for one descriptor, by direction: [0] read, [1] write. The VM's. */
typedef struct host_waitq {
    host_luag *holder[2]; /* the G that the poller knows */
    host_luag *queue[2];  /* Gs whose turn is later, by next_wait */
} host_waitq;

/* The descriptor goes: every wait in q answers "closed". No G stands in the pollDesc any more. By the thread that runs
 * the VM. Does not wait. */
void waitq_close(host_waitq *q);

#endif
