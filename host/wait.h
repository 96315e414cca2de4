/* What all waits of Lua Gs share: luag.c has it, waitfd.c uses it. In the VM's cell. */
#ifndef WAIT_H
#define WAIT_H

#include "host.h"

/* The words that a wait answers. They lie in the VM's registry from its beginning, at -1, -2, -3: a wait that ends takes
 * no memory, for which nobody could be told that there is none. */
enum { CANCELED = -1, TIMEOUT = -2, CLOSED = -3 };

/* Who begins a wait for what comes from outside of the VM, in words. Raises where nothing can wait, and in virtual time. */
host_luag *wait_begin(lua_State *L, const char *what);

/* With --seed: one wait in four lets others run first. */
bool wait_early(const host_luag *lg);

/* The G was told to end its waits, and nothing shelters it. */
bool wait_canceled(host_luag *lg);

/* The nearest of a wait's deadline, the G's and its request's; 0: none. */
int64_t wait_until(const host_luag *lg, int64_t deadline_ns);

/* Waits as lg->want says, in whatever way works here: what the lua_CFunction then returns. */
int wait_leave(lua_State *L, host_luag *lg);

/* Pushes a word, or that for an RT_E..., and is 1. */
int wait_answer(lua_State *L, int word);
int wait_answer_error(lua_State *L, int err);

/* Why a wait with a ticket ended: 0 or an RT_E... */
int wait_ticket_result(host_luag *lg);

/* The same of a wait for a descriptor, or for its turn there, which ends here (waitfd.c). */
int wait_fd_result(host_luag *lg);

#endif
