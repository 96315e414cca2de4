/* Blocks of specs: what `lunapark test` asks of the host; see block.c. */
#ifndef BLOCK_H
#define BLOCK_H

#include <stdatomic.h>

typedef struct host_vm host_vm;
typedef struct host_luag host_luag;

/* vm->block. block.c's. */
typedef struct vm_block {
    struct block *last; /* the block that runs, or the last one; NULL: none yet */
    /* atomic: the G that waits for the block, whose limit is not its own; or NULL */
    _Atomic(host_luag *) runner;
} vm_block;

/* Lua that runs in vm without a wait is over its time. Does something if this Lua is a block: says so and dumps, once,
 * and ends the process when the block can not be ended. The keeper. Waits. */
void block_overdue(host_vm *vm);

/* The reason why the VM of the specs was dropped, for the user. */
const char *block_lost(void);

#endif
