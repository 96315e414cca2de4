/* C functions on other threads. See offload.c; what Lua calls is in vm_ffi.h. */
#ifndef OFFLOAD_H
#define OFFLOAD_H

#include "vm_ffi.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct host_luag host_luag;

/* host_call.result. */
enum { HOST_RESULT_NONE, HOST_RESULT_INT, HOST_RESULT_DOUBLE, HOST_RESULT_FLOAT };

/* From now on the end of c ends lg's wait of this ticket. False: c has ended. By the thread that runs lg's VM. Does not
 * wait. */
bool call_open(host_call *c, host_luag *lg, uint64_t ticket);

#endif
