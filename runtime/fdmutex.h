/* Who uses a descriptor, who reads, who writes, and is it closed: one word. See fdmutex.c. */
#ifndef FDMUTEX_H
#define FDMUTEX_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "lock.h"

/* Zeroed, it is that of a closed descriptor. */
typedef struct rt_fdmutex {
    _Atomic uint64_t state;    /* atomic */
    rt_lock lock;              /* of everything below */
    bool gone;                 /* lock: it is closed and the last user has left */
    struct fd_waiter *last[2]; /* lock: who queues to read, to write; last->next is the first */
    struct rt_g *closer;       /* lock: waits for `gone` */
} rt_fdmutex;

/* Between the files of the descriptor layer; runtime.h has what is public. */

/* For a new descriptor. Nobody else may know it yet. */
void fdmutex_open(rt_fdmutex *m);

/* One user more, until fdmutex_leave: the descriptor stays what it is. 0 or RT_ECLOSED. Any thread;
 * neither waits. */
int fdmutex_enter(rt_fdmutex *m);
void fdmutex_leave(rt_fdmutex *m);

/* The lock of one direction (RT_R, RT_W), and with it one user more. `reason` is shown while the G
 * queues. 0, RT_ECLOSED, or RT_ETIMEOUT or RT_ECANCELED if the G's own deadline, an interrupt or a
 * cancellation ended its wait. May wait: native Gs; where nobody else uses the direction, any thread. */
int fdmutex_lock(rt_fdmutex *m, int mode, int reason);
void fdmutex_unlock(rt_fdmutex *m, int mode);

/* Closes and turns away who queues; the caller is a user more and ends with fdmutex_drain. 0 or
 * RT_ECLOSED. Any thread; does not wait. */
int fdmutex_close(rt_fdmutex *m);

/* Waits until the caller is the last user. After that nobody else touches the fdmutex. Native Gs; if
 * there is no other user, any thread. */
void fdmutex_drain(rt_fdmutex *m);

#endif
