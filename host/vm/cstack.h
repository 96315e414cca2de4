/* The end of the C stack beneath Lua. See cstack.c. */
#ifndef CSTACK_H
#define CSTACK_H

typedef struct host_vm host_vm;

/* Tells vm's Lua where its C stack ends, and what to do when Lua can not go on. Before vm runs anything. */
void cstack_open(host_vm *vm);

/* In the handler of SIGSEGV: the stack of the running VM, whose lowest byte is lo, is full. The VM is dropped. */
void cstack_overflow(void *context, char *lo);

#endif
