/* Turns of handshakes. See shakes.c. */
#ifndef SHAKES_H
#define SHAKES_H

#include "../../runtime/runtime.h"
#include "../base/list.h"

#include <stdbool.h>

/* A wait for a turn. */
typedef struct shake_turn {
    list_link link; /* the lock of shakes.c */
    rt_g *g;        /* the G that waits, and the ticket of its wait; set by shakes_take */
    uint64_t ticket;
    bool
        waits; /* the lock: stands in the list. Also read by g, without: since shakes_take it was false, or is true */
} shake_turn;

/* Takes a turn for g: true. False: none is free, and a wait of g is open, which a turn ends: g waits (rt_wait,
 * rt_set_wait), then calls shakes_given. Only g itself. Does not wait. */
bool shakes_take(shake_turn *t, rt_g *g);

/* After the wait: true: g has a turn. False: the wait has ended otherwise, and no turn comes any more. Only g itself.
 * Does not wait. */
bool shakes_given(shake_turn *t);

/* Gives a turn back: the G that waits for longest gets it, behind the Gs whose timers and events have come by now. Only
 * a G that has a turn, with a P. Does not wait. */
void shakes_give(void);

#endif
