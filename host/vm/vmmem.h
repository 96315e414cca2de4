/* The memory of a VM: what LuaJIT has mapped, and what is given back when the VM goes. See vmmem.c.
 * Unless it says otherwise: by the thread that runs the VM. Does not wait. */
#ifndef VMMEM_H
#define VMMEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct host_vm host_vm;
typedef struct mem_range mem_range; /* these four: vmmem.c */
typedef struct mem_file mem_file;
typedef struct mem_code mem_code;
typedef struct mem_table mem_table;

/* vm->mem. vmmem.c's; `refused` and `stopped` are read elsewhere. */
typedef struct vm_mem {
    struct {
        mem_range *v;
        int n, cap;
    } ranges; /* mapped, by address */
    struct {
        mem_file *v;
        int n, cap;
    } files;
    struct {
        mem_code *v;
        int n, cap;
    } code; /* areas of machine code; a signal handler on the same thread reads, and sets */
    struct {
        mem_table *v;
        int n, cap;
    } tables;              /* of the unwinder */
    void *table_object;    /* what the unwinder will want for the next one */
    uintptr_t callbacks;   /* the page of FFI callbacks' entries, or 0 */
    bool refused;          /* an allocation was, since the last full collection */
    volatile bool busy;    /* `ranges` or `code` is being changed: for that signal handler */
    volatile bool stopped; /* vmmem_stop_code */
} vm_mem;

/* Gives back every page that LuaJIT has mapped for vm and closes its files. Afterwards its lua_State must not be
 * touched. A G of its own waits for files that are pipes to processes. */
void vmmem_drop(host_vm *vm);

/* True: pc lies in machine code of vm, and not where FFI callbacks enter it. Also in a signal handler on the thread
 * that runs vm. */
bool vmmem_has_code(host_vm *vm, uintptr_t pc);

/* True: n bytes from p on lie in memory that LuaJIT has mapped for vm. False also while that changes. Also in a signal
 * handler on the thread that runs vm. */
bool vmmem_holds(const host_vm *vm, const void *p, size_t n);

/* stop: whatever enters or returns to machine code of vm gets a SIGSEGV there, until the code is let go on (stop is
 * false). Code that LuaJIT compiles meanwhile is not stopped. Also in a signal handler on the thread that runs vm. */
void vmmem_stop_code(host_vm *vm, bool stop);

#endif
