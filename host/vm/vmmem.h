/* The memory of a VM: what LuaJIT has mapped, and giving it back when the VM goes. See vmmem.c. By the thread that runs
 * the VM, unless a function says otherwise. Does not wait. */
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
    } tables;            /* of the unwinder */
    void *table_object;  /* memory that the unwinder needs for the next table */
    uintptr_t callbacks; /* the page of FFI callbacks' entries, or 0 */
    bool refused;        /* an allocation was refused since the last full collection */
    volatile bool busy;  /* `ranges` or `code` is being changed: for the signal handler of `code` */
    volatile bool stopped; /* vmmem_stop_code */
} vm_mem;

/* Gives back every page that LuaJIT has mapped for vm, and closes its files. Afterwards vm's lua_State must not be
 * touched. A G of its own waits for files that are pipes to processes. */
void vmmem_drop(host_vm *vm);

/* True: pc lies in machine code of vm, outside of the entries of FFI callbacks. Also in a signal handler on the thread
 * that runs vm. */
bool vmmem_has_code(host_vm *vm, uintptr_t pc);

/* True: n bytes from p on lie in memory that LuaJIT has mapped for vm. False also while the mappings change. Also in a
 * signal handler on the thread that runs vm. */
bool vmmem_holds(const host_vm *vm, const void *p, size_t n);

/* stop true: a thread that enters or returns to machine code of vm gets a SIGSEGV there, until a call with stop false.
 * Code that LuaJIT compiles meanwhile is not stopped. Also in a signal handler on the thread that runs vm. */
void vmmem_stop_code(host_vm *vm, bool stop);

#endif
