/* Blocks of specs: what `lunapark test` asks of the host; see block.c. */
#ifndef BLOCK_H
#define BLOCK_H

#include "host.h"

/* If the block that vm runs, without waiting, is over its time: says so and dumps, once. The keeper; waits. */
void block_overdue(host_vm *vm);

/* The VM in which the specs run was dropped: why, for the user. */
const char *block_lost(void);

/* vm has ended. */
void block_free(host_vm *vm);

#endif
