/* Ending Lua that runs without a wait. See runaway.c. */
#ifndef RUNAWAY_H
#define RUNAWAY_H

#include <lua.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct host_vm host_vm;
typedef struct host_luag host_luag;

enum { RUNAWAY_NAME = 256 };

/* vm->runaway: ending the Lua of a VM. runaway.c's, and of the thread that each field names. */
typedef struct vm_runaway {
    _Atomic(host_luag *) kill;  /* atomic: the G whose Lua is to be ended */
    _Atomic int tries;          /* atomic: signals since `kill` or `raised` was set */
    volatile bool raised;       /* its M: kill_hook has raised its error */
    _Atomic uintptr_t seen_pc;  /* atomic: where its thread was interrupted last */
    _Atomic bool seen_compiled; /* atomic: seen_pc was in compiled code */
    _Atomic(host_luag *) tell;  /* atomic: the G whose place in Lua the hook is to note */
    char held_at[128];          /* its M: the noted place, file and line, or empty */
    char ending[RUNAWAY_NAME];  /* the keeper: what `kill` runs, for the log */
    char ended_at[128]; /* its M: where `kill` was ended by an error, file and line, or empty */
    lua_Hook hook;      /* its M: the user's, while the hook is ours */
    int hook_mask, hook_count;
} vm_runaway;

/* Once, before any VM runs. */
void runaway_init(void);

/* Writes what runs in vm: "GET /path", "G 3.1". Any thread. */
void runaway_name(host_vm *vm, char *buf, size_t size);

/* Logs the G that holds vm, for how long, and in what. Notes the line of Lua in held_at. The keeper. Waits. */
void runaway_say(host_vm *vm);

/* Writes the G that holds vm, which is stuck, and its place in the script. False: no G holds vm any more. A native
 * G. */
bool runaway_holder(host_vm *vm, char *buf, size_t size);

/* Writes where in the program the thread of vm, which is stuck or was, is: "compiled code", "Lua", "C (function+0x12)".
 * A native G. Waits, a second at most: on a busy machine the thread gets its signal late. */
void runaway_place(host_vm *vm, char *buf, size_t size);

/* True: Lua that runs in vm, which is stuck, is --kill-after past its deadline; the call ends it, or tries to. Call
 * again until vm is back or gone. The keeper. */
bool runaway_end(host_vm *vm);

/* The G that runs next in vm is doomed: its Lua raises an error at its next instruction, and at each one after that,
 * until another G runs. By the thread that runs vm, before it resumes the G. */
void runaway_doom(host_vm *vm);

/* The G that was to be ended has left its Lua, in whatever way: the hook is the user's again. waits: the G has not
 * ended. True: the host has raised an error in it. By the thread that runs vm. */
bool runaway_over(host_vm *vm, bool waits);

/* In a handler of signals: when the handler returns, the interrupted thread, whose ucontext_t `context` is, calls fn
 * with its stack pointer below sp. fn does not return. */
void runaway_land(void *context, uintptr_t sp, void (*fn)(void));

/* Drops vm in the midst of what its G `name` runs, to whose stack nothing returns. The log says "NAME was ended HOW".
 * By the thread that runs vm, in Lua or not. */
_Noreturn void runaway_drop(host_vm *vm, const char *name, const char *how);

#endif
