/* Ending handlers that run without waiting; see runaway.c. */
#ifndef RUNAWAY_H
#define RUNAWAY_H

#include "host.h"

enum { RUNAWAY_NAME = 256 };

/* Once, before any VM runs. */
void runaway_init(void);

/* Says what runs in vm: "GET /path", or "a G". Any thread. */
void runaway_name(host_vm *vm, char *buf, size_t size);

/* vm's running G is --kill-after past its deadline; if it has none, as a request that began when it got
 * stuck would be, in a process that serves. vm is stuck. */
bool runaway_is_due(host_vm *vm, int64_t now, bool serving);

/* Where in the program vm's thread is: "compiled code", "Lua", "C (function+0x12)". vm is stuck, or was. A
 * native G, which waits for it, at most 100 ms. */
void runaway_place(host_vm *vm, char *buf, size_t size);

/* A log line: who holds vm, for how long, in what. vm is stuck. */
void runaway_say(host_vm *vm, int64_t held_ns);

/* Ends vm's running G, or tries to: call it again until vm is back or gone. vm is stuck. */
void runaway_end(host_vm *vm);

/* The G that was to be ended is over, by whatever way: its VM's hook is the user's again. By who runs vm. */
void runaway_over(host_vm *vm);

#endif
