/* C functions on other threads. See offload.c; what Lua calls is in vm_ffi.h. */
#ifndef OFFLOAD_H
#define OFFLOAD_H

#include "vm_ffi.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct host_luag host_luag;
typedef struct rt_g rt_g;

/* host_call.result. */
enum { HOST_RESULT_NONE, HOST_RESULT_INT, HOST_RESULT_DOUBLE, HOST_RESULT_FLOAT };

/* From now on the end of c ends lg's wait of this ticket. Begins c if c has not begun; *first (NULL before) may then be
 * a G that makes the call, for rt_set_wait_start. False: c has ended, or can't be begun. By the thread that runs lg's
 * VM. Does not wait. */
bool call_open(host_call *c, host_luag *lg, uint64_t ticket, rt_g **first);

#endif
