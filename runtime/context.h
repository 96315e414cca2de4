/* Switching from one stack to another.
 *
 * A context is where a stack stopped: its stack pointer, with the callee-saved registers and the
 * return address lying on the stack itself. rt_context_switch pushes them, exchanges stack
 * pointers, pops the other side's and returns there; the compiler saved everything else around the
 * call. Signal masks and floating point control words belong to the thread and stay.
 *
 * The sanitizers keep a picture of the current stack, so each switch tells them: ASan gets the
 * bounds of the stack switched to (and a place to keep this one's fake frames), TSan gets a "fiber"
 * per stack. The hooks are macros around the assembly, so a plain build holds nothing of them.
 */
#ifndef CONTEXT_H
#define CONTEXT_H

#include <stddef.h>
#include <stdint.h>

#include "sanitizers.h"

/* The usable memory of a stack, without its guard: its lowest byte, and one past its highest. */
typedef struct rt_stack {
    char *lo, *hi;
} rt_stack;

typedef struct rt_context {
    void *sp; /* where the stack stopped; meaningless while it runs */
    rt_stack stack;
#ifdef RT_ASAN
    void *fake;
#endif
#ifdef RT_TSAN
    void *fiber;
#endif
} rt_context;

/* Makes `c` start at entry(arg) on `stack` when it is first switched to. entry must never return. */
void rt_context_make(rt_context *c, rt_stack stack, void (*entry)(void *), void *arg);

/* Makes `c` the context of the running thread's own stack, whose bounds are `stack`. */
void rt_context_adopt(rt_context *c, rt_stack stack);

/* Frees what the sanitizers keep for a context that will never run again, and for its stack. */
void rt_context_destroy(rt_context *c);

/* Leaves the running stack as `from` and goes on with `to`. Returns when a thread switches to `from`, perhaps another
 * thread. */
void rt_context_switch(rt_context *from, rt_context *to);

#endif
