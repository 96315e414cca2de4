/* Channels that all VMs share, as chan.c and chan_wait.c see them. */
#ifndef CHAN_H
#define CHAN_H

#include "../../runtime/lock.h"
#include "../../runtime/runtime.h"
#include "../base/list.h"
#include "../base/refs.h"
#include "../vm/owned.h"
#include "../vm/queue.h"
#include "shared_ffi.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A value on its way: a copy. It has one owner at a time: its sender until it is sent, then the channel, then the
 * waiter that gets it. */
typedef struct message {
    struct message *next;
    uint64_t seq; /* which of the channel's messages; set when it is sent */
    double number;
    size_t len;
    int type;
    char bytes[];
} message;

typedef struct chan_wait chan_wait;
typedef struct chan_waiter chan_waiter;

typedef struct chan {
    rt_lock lock;
    refs refs;
    message *first, *last;        /* lock, as all that follows up to max_bytes: the buffer */
    double count, bytes;          /* messages in it, and their bytes */
    list_head receivers, senders; /* chan_waiters */
    uint64_t seq;                 /* of the message that was sent last */
    bool closed;
    double max_bytes; /* that it may have */
    double cap;       /* constant, as the next three */
    uint64_t hash;
    size_t name_len;
    char *name;
    bool listed;       /* the list's lock: it can be found by its name */
    struct chan *next; /* the list's lock */
} chan;

/* A G in one queue of one channel. */
struct chan_waiter {
    list_link link; /* first; ch's lock */
    chan *ch;       /* refers to it */
    chan_wait *of;
    bool queued;  /* ch's lock */
    int fired;    /* ch's lock. -1: not; 0: ch is closed; 1: done */
    message *msg; /* ch's lock: the message to send, or that was handed over */
    rt_g *g;      /* constant while it is queued, as the ticket */
    uint64_t ticket;
    int op, index;
};

/* The wait of a G. `claimable` is anybody's; the rest belongs to the thread that runs the G's VM. */
struct chan_wait {
    outer_wait outer; /* first: lg->outer */
    host_owned owned;
    host_luag *lg;
    _Atomic bool
        claimable; /* atomic: the G waits, and nobody has ended the wait; the thread that clears it has ended the wait */
    bool open;     /* it stands in queues, or did until it was claimed */
    int n, cap;
    chan_waiter *w;
    chan **locks; /* room for the n channels, in the order of their locks */
    message *
        got; /* the message that it was handed, until Lua takes it; then got_ch refers to its channel */
    chan *got_ch;
};

struct host_chan {
    struct host_owned owned;
    chan *ch;
};

/* ---- chan.c --------------------------------------------------------------------------- */

message *message_new(int type, double number, const void *data, size_t len);
/* Returns the type, and copies the bytes to buf unless there are more than cap. */
int message_read(const message *m, void *buf, size_t cap, host_chan_value *v);
bool message_fits(const chan *c, const message *m, bool ever);

chan *chan_ref(chan *c);
void chan_unref(chan *c);

/* Gs whose waits have ended, to be woken when the lock is given back. */
enum { WAKES = 16 };
typedef struct chan_wakes {
    int n;
    struct {
        rt_g *g;
        uint64_t ticket;
    } v[WAKES];
} chan_wakes;

/* Takes the lock. */
void chan_enter(chan *c, chan_wakes *k);
/* Serves the Gs that wait and can go on now, gives the lock back, wakes the Gs that were claimed. */
void chan_leave(chan *c, chan_wakes *k);
/* True: the operation would not wait now. m: the message to send; NULL: any small one. lock held. */
bool chan_can(chan *c, int op, const message *m);
/* Puts m back, in front of the messages that came later. */
void chan_give_back(chan *c, message *m);

/* ---- chan_wait.c: with the lock of the queue's channel ------------------------------------- */

/* The first waiter that still waits. NULL: none. */
chan_waiter *chan_first(list_head *q);
/* Takes w out of its queue. True: has also ended its wait; w's G is to be woken. */
bool chan_claim(list_head *q, chan_waiter *w, int fired, chan_wakes *k);

#endif
