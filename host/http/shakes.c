/* Turns of handshakes: established connections keep their latency while many clients shake hands.
 *
 * A step of a handshake takes most of a millisecond of the CPU, a request takes microseconds. When clients come in a
 * flood, each poll brings dozens of handshakes. In the order of their coming, all of them would run before the request
 * that comes next is even looked at.
 *
 * So a handshake step needs a turn, and there are as many turns as Ps. A connection that finds none free stands in a
 * list, not among the Gs that are ready. Who finds one free lets the Gs run that are ready, before it uses the turn: so
 * all handshakes of a poll stand in the list but the first. Who gives a turn back has the P's timers and events looked at first (rt_look):
 * what has come meanwhile runs before the next handshake does. So a request waits for one handshake for each turn, at
 * most.
 *
 * Rejected: fewer bytes in each poll, yields: the Gs of handshakes keep the ring from ever being empty, so nothing is
 * polled. A G per P that does all handshakes: the connection's G would have to be handed over and back. */
#include "shakes.h"

#include "../../runtime/lock.h"

static struct {
    rt_lock lock;
    list_head waiting; /* lock */
    int n;             /* lock: turns that are taken */
} shakes;

bool shakes_take(shake_turn *t, rt_g *g) {
    int most = rt_procs();
    rt_lock_acquire(&shakes.lock);
    bool free = shakes.n < most;
    if (free) {
        shakes.n++;
    } else {
        t->g = g;
        t->ticket = rt_wait_open(g);
        t->waits = true;
        list_append(&shakes.waiting, &t->link);
    }
    rt_lock_release(&shakes.lock);
    return free;
}

bool shakes_given(shake_turn *t) {
    rt_lock_acquire(&shakes.lock);
    bool waits = t->waits;
    if (waits) list_remove(&shakes.waiting, &t->link);
    t->waits = false;
    rt_lock_release(&shakes.lock);
    return !waits;
}

/* The turn has gone to g before g is woken: a g whose wait ends otherwise at this moment finds it. g's memory is never
 * freed, and a ticket of a wait that has ended wakes nobody (rt_wake). */
void shakes_give(void) {
    rt_g *g = NULL;
    uint64_t ticket = 0;
    rt_look();
    rt_lock_acquire(&shakes.lock);
    list_link *l = list_take_first(&shakes.waiting);
    if (l) {
        shake_turn *t = list_of(l, shake_turn, link);
        g = t->g;
        ticket = t->ticket;
        t->waits = false;
    } else {
        shakes.n--;
    }
    rt_lock_release(&shakes.lock);
    if (g) rt_wake(g, ticket, RT_WOKEN);
}
