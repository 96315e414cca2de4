/* Queues of Lua Gs that wait for each other. See queue.c; the queue itself is in vm_ffi.h.
 * By the thread that runs the VM. Does not wait. */
#ifndef QUEUE_H
#define QUEUE_H

#include "vm_ffi.h"

#include <stdbool.h>

typedef struct host_luag host_luag;

/* A wait that Gs of other VMs may end, too: in channels of a room above, beside queues or alone. Stands first in the
 * room's own struct, to which lg->outer points; NULL: lg never waited so. */
typedef struct outer_wait {
    const struct outer_wait_ops *ops;
} outer_wait;

/* lg->outer is not NULL. */
typedef struct outer_wait_ops {
    /* The wait begins: lg's ticket is open. False: lg need not wait, and stands in no channel. */
    bool (*begin)(host_luag *lg);
    /* Claims the wait for the caller. False: the wait has been ended by another G. */
    bool (*claim)(host_luag *lg);
    /* lg leaves all channels. Returns the answer of the channel that has ended the wait; -1: none has. */
    int (*settle)(host_luag *lg);
    /* Ends a wait, if there is one. A message that lg was handed and has not taken goes back to its channel. */
    void (*end)(host_luag *lg);
} outer_wait_ops;

/* A Lua G in a host_queue. The VM's. */
struct host_waiter {
    host_queue *q; /* NULL: in none */
    host_luag *lg;
    host_waiter *prev, *next;
    int32_t index;
};

/* lg->queues: where a Lua G stands. queue.c's. */
typedef struct luag_queues {
    host_waiter one;    /* in a wait in one queue */
    host_waiter *cases; /* in a select, cases[0 .. n) */
    int n, cap;
} luag_queues;

/* lg joins q alone. */
void queue_join(host_queue *q, host_luag *lg);

/* lg leaves all its queues, and the answers of queues that have fired are forgotten. */
void queue_leave(host_luag *lg);

#endif
