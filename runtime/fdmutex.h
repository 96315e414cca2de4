/* One word that says which Gs use a descriptor, which reads, which writes, and whether it is closed. See fdmutex.c. */
#ifndef FDMUTEX_H
#define FDMUTEX_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "lock.h"

/* A zeroed fdmutex is that of a closed descriptor. */
typedef struct rt_fdmutex {
    _Atomic uint64_t state;    /* atomic */
    rt_lock lock;              /* of everything below */
    bool gone;                 /* lock: it is closed and the last user has left */
    struct fd_waiter *last[2]; /* lock: Gs that queue to read, to write; last->next is the first */
    struct rt_g *closer;       /* lock: waits for `gone` */
} rt_fdmutex;

/* The functions are for the files of the descriptor layer alone. */

/* Opens m, for a new descriptor, which nobody else knows yet. Does not wait. */
void fdmutex_open(rt_fdmutex *m);

/* Counts the caller as a user until fdmutex_leave: until then the descriptor is not closed. 0 or RT_ECLOSED. Any
 * thread. Do not wait. */
int fdmutex_enter(rt_fdmutex *m);
void fdmutex_leave(rt_fdmutex *m);

/* Takes the lock of one direction (RT_R, RT_W) and counts the caller as a user. reason: what dumps show while the G
 * queues. 0; RT_ECLOSED; RT_ETIMEOUT or RT_ECANCELED: the G's own deadline, an interrupt or a cancellation ended its
 * wait. Native Gs; where nobody else uses the direction, any thread. */
int fdmutex_lock(rt_fdmutex *m, int mode, int reason);
void fdmutex_unlock(rt_fdmutex *m, int mode);

/* Closes m, turns away the Gs that queue, and counts the caller as a user until fdmutex_drain. 0 or RT_ECLOSED. Any
 * thread. Does not wait. */
int fdmutex_close(rt_fdmutex *m);

/* Waits until the caller is the last user. After that nobody else touches m. Native Gs; if there is no other user, any
 * thread. */
void fdmutex_drain(rt_fdmutex *m);

#endif
