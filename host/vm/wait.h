/* How a Lua G waits. See wait.c. By the thread that runs the VM. */
#ifndef WAIT_H
#define WAIT_H

#include "luag.h"
#include "spin.h"

#include <lua.h>
#include <stdbool.h>
#include <stdint.h>

/* ---- waits: lua_CFunctions that begin one ----
 *
 * `return luag_wait...(L, ...)`. They yield; the wait then answers nothing, "timeout", "canceled" or "closed". */

/* Until the deadline; 0: none. */
int luag_wait(lua_State *L, rt_reason reason, int64_t deadline_ns);

/* A wait that others end: begun(lg, arg) is called when lg->ticket is open. */
int luag_wait_with(lua_State *L, rt_reason reason, int64_t deadline_ns,
                   void (*begun)(host_luag *lg, void *arg), void *arg);

/* In q, or, if q is NULL, in the queues that the G stands in. Answers as the others, or what host_queue_fire says;
 * nothing if the G was woken otherwise, and still stands in its queues. */
int luag_rest(lua_State *L, host_queue *q, int64_t deadline_ns);

/* For the end of c; may end too early, with nothing. */
int luag_wait_call(lua_State *L, host_call *c, int64_t deadline_ns);

/* For a descriptor. mode: RT_R or RT_W. */
int luag_wait_fd(lua_State *L, host_waitq *q, rt_pd *pd, int mode, int64_t deadline_ns);

/* For the connection of a request. mode: RT_R or RT_W. */
int luag_wait_req(lua_State *L, host_req *r, double id, int mode, int64_t deadline_ns);

/* For the next turn. */
int luag_yield(lua_State *L);

/* For the next turn, behind the Gs, too, whose events have come by now: see rt_look. */
int luag_look(lua_State *L);

/* What the step of lg answers, which has left Lua for a wait. With a P. Does not wait. */
static inline rt_step wait_step(const host_luag *lg) {
    if (lg->want > WANT_LOOK) return RT_PARK;
    if (lg->want == WANT_LOOK) rt_look();
    return RT_YIELD;
}

/* For the next turn, now and then in a VM with --seed; else no wait. Where a G may wait, but need not. */
int luag_yield_early(lua_State *L);

/* For luag_ready: answers the values of luag_ready, or `again`, and host_park_end says why there are none. */
int luag_park(lua_State *L);
extern char luag_again;

/* Gives the values above the first on L's stack to lg's current or next park, and pops them. May raise. */
void luag_ready(lua_State *L, host_luag *lg);

/* ---- for mechanisms that have waits of their own ---- */

/* The words that a wait answers, in the VM's registry at -1, -2, -3 from its beginning on: the end of a wait takes no
 * memory, so it can not fail for want of memory. */
enum { CANCELED = -1, TIMEOUT = -2, CLOSED = -3 };

/* For a new VM: the words. May raise. */
void wait_open(lua_State *L);

/* The running G begins a wait for `what`, which comes from outside of the VM. Raises where nothing can wait, and in
 * virtual time. */
host_luag *wait_begin(lua_State *L, const char *what);

/* With --seed: one wait in four lets others run first. */
bool wait_early(const host_luag *lg);

/* True: lg was told to end its waits, and nothing shelters it. */
bool wait_canceled(host_luag *lg);

/* True: a wait of lg can not begin; then wait_refuse answers, or raises. */
static inline bool wait_refused(host_luag *lg) {
    return wait_canceled(lg) || wait_spins(lg);
}
int wait_refuse(lua_State *L, host_luag *lg);

/* The nearest of a wait's deadline, the G's and its request's; 0: none. */
int64_t wait_until(const host_luag *lg, int64_t deadline_ns);

/* Waits as lg->want says, in the way that works here. Returns what the lua_CFunction then returns. */
int wait_leave(lua_State *L, host_luag *lg);

/* Pushes the answer of lg's wait: a word, or the word for an RT_E... Returns 1. */
int wait_answer(lua_State *L, host_luag *lg, int word);
int wait_answer_error(lua_State *L, host_luag *lg, int err);

/* Why a wait with a ticket ended: 0 or an RT_E... */
int wait_ticket_result(host_luag *lg);

/* Why a wait for a descriptor, or for a turn there, ended: 0 or an RT_E... Ends the wait (waitfd.c). */
int wait_fd_result(host_luag *lg);

/* lg, whose coroutine yielded for a wait, goes on: pushes the answer onto lg->L. Returns the number of values. */
int wait_end(host_luag *lg);

/* Makes room for n values on the stack of `to`, for L, which runs. False: no memory. */
bool wait_make_room(lua_State *L, lua_State *to, int n);

/* Makes L the coroutine that LuaJIT takes to be running: wait.c says why. Raises nothing. */
void lj_state_set_current(lua_State *L);

#endif
