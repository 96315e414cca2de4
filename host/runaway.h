/* Ending handlers that run without waiting; see runaway.c. */
#ifndef RUNAWAY_H
#define RUNAWAY_H

#include "host.h"

enum { RUNAWAY_NAME = 256 };

/* Once, before any VM runs. */
void runaway_init(void);

/* Says what runs in vm: "GET /path", or "a G". Any thread. */
void runaway_name(host_vm *vm, char *buf, size_t size);

/* A log line: who holds vm, for how long, in what. The keeper; waits. */
void runaway_say(host_vm *vm);

/* Where in the program vm's thread is: "compiled code", "Lua", "C (function+0x12)". vm is stuck, or was. A
 * native G, which waits for it, at most 100 ms. */
void runaway_place(host_vm *vm, char *buf, size_t size);

/* If what runs in vm, which is stuck, is --kill-after past its deadline: true, and ends it or tries
 * to. Call it again until vm is back or gone. The keeper. */
bool runaway_end(host_vm *vm);

/* Who runs next in vm is doomed: its Lua raises an error at its next instruction, and at each after that. The hook
 * goes away when another G runs. By who runs vm, before it resumes that G. */
void runaway_doom(host_vm *vm);

/* The G that was to be ended has left its Lua, by whatever way: the hook is the user's again. waits: it
 * has not ended. True: we have interfered with it. By who runs vm. */
bool runaway_over(host_vm *vm, bool waits);

#endif
