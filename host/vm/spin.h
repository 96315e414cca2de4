/* Loops over waits that fail. See spin.c. By the thread that runs the VM. Does not wait. */
#ifndef SPIN_H
#define SPIN_H

#include "luag.h"

#include <lua.h>
#include <stdbool.h>

/* vm->spin: the object that has failed last since a G of the VM was resumed (NULL: none), and how often. spin.c's;
 * luag.c clears `failing`. */
typedef struct vm_spin {
    const void *failing;
    int n;
} vm_spin;

enum { SPIN_MAX = 100, SPIN_RAISED = 128 /* in n_failed: it has had its error */ };

/* SPIN_MAX waits of lg have failed in a row. True: their reason lasts. False: it is over, and the waits no longer
 * count. */
bool spin_lasts(host_luag *lg);

/* Raises the error of a G that spins. */
int spin_raise(lua_State *L, host_luag *lg);

/* A wait of lg answers this word, and has not lasted until a time of its own. */
void spin_count(host_luag *lg, int word);

/* A wait of lg has succeeded, or lasted until a time of its own. */
static inline void spin_over(host_luag *lg) {
    lg->n_failed = 0;
}

/* True: lg spins. */
static inline bool wait_spins(host_luag *lg) {
    return __builtin_expect((lg->n_failed & (SPIN_RAISED - 1)) >= SPIN_MAX, 0) && spin_lasts(lg);
}

/* The running G is about to answer a word for itself. May raise. */
void spin_answer(lua_State *L);

/* The running G is about to answer a word for an object that answers it without a wait. May raise. */
void spin_answer_for(lua_State *L, const void *object, const char *word);

#endif
