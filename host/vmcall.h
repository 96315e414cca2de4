/* Calling functions of lunapark.boot in a VM, and waiting for them with a limit. See vmcall.c. */
#ifndef VMCALL_H
#define VMCALL_H

#include "host.h"

#include <sys/uio.h>

typedef struct vm_call vm_call;

typedef enum vm_call_state {
    CALL_DONE, /* it has returned: nothing, or what vm_call_error or vm_call_value say */
    CALL_LATE, /* it has not, and goes on */
    CALL_LOST, /* its VM was thrown away */
} vm_call_state;

/* Calls lunapark.boot[fn](args[0], ..., args[n - 1]) in vm, as the main of a new G. The strings are copied. Any native
 * G; does not wait. Never NULL; a VM that has ended is a call that is lost. */
vm_call *vm_call_begin(host_vm *vm, const char *fn, int n, const struct iovec *args);
/* Waits for its end, until until_ns if that is not 0. Who began it. */
vm_call_state vm_call_wait(vm_call *c, int64_t until_ns);
/* What it raised, or returned first, if that was a string; NULL: all went well. Ends with the call. */
const char *vm_call_error(const vm_call *c);
/* The string that it returned after a nil, and its length; NULL: it did not. Ends with the call. */
const char *vm_call_value(const vm_call *c, size_t *len);
/* Who began it wants to know no more of it; the call itself goes on. */
void vm_call_free(vm_call *c);

#endif
