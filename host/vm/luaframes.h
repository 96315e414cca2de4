/* The Lua functions on the stack, for a signal handler. See luaframes.c. */
#ifndef LUAFRAMES_H
#define LUAFRAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct host_vm host_vm;

typedef struct lua_frame {
    const char
        *chunk; /* as load was told: "@app.lua", "=name" or the text; lives in the VM's heap */
    size_t len;
    int line;      /* where the function, or the trace, begins */
    bool compiled; /* a trace */
} lua_frame;

/* Writes at most max frames of the coroutine that runs, the innermost first. *more: there are further frames. Returns
 * the number; -1: the state can not be told at this moment, or LuaJIT is the packaged one. In a signal handler with
 * this context, on the thread that runs vm, while a G's Lua runs. */
int luaframes_read(const host_vm *vm, const void *context, lua_frame *to, int max, bool *more);

/* luaframes_is_interpreter: pc lies in LuaJIT's interpreter. luaframes_is_instruction: pc lies in the code of one
 * bytecode instruction there. Any thread, signal handlers too. */
bool luaframes_is_interpreter(uintptr_t pc);
bool luaframes_is_instruction(uintptr_t pc);

#endif
