/* Calling functions of lunapark.command.boot in a VM, and waiting for them with a limit. See vmcall.c. */
#ifndef VMCALL_H
#define VMCALL_H

#include <lua.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

typedef struct host_vm host_vm;

/* Once in each VM, while it is made. May raise. */
void vm_call_open(host_vm *vm, lua_State *L);

typedef struct vm_call vm_call;

typedef enum vm_call_state {
    CALL_DONE, /* returned: nothing, or what vm_call_error or vm_call_value say */
    CALL_LATE, /* not yet returned; goes on */
    CALL_LOST, /* its VM was thrown away */
} vm_call_state;

/* Calls lunapark.command.boot[fn](args[0], ..., args[n - 1]) in vm, as the main of a new G. The strings are copied. In
 * a VM that has ended the call is lost. NULL: no memory; for the functions below NULL is a call that is done with the
 * error "not enough memory". Any native G. Does not wait. */
vm_call *vm_call_begin(host_vm *vm, const char *fn, int n, const struct iovec *args);
/* Waits for the end of c, at the latest at until_ns (0: none). The G that began c. */
vm_call_state vm_call_wait(vm_call *c, int64_t until_ns);
/* The error that c raised, or the string that it returned first; NULL: all went well. Ends with c. */
const char *vm_call_error(const vm_call *c);
/* The string that c returned after a nil, and its length; NULL: there is none. Ends with c. */
const char *vm_call_value(const vm_call *c, size_t *len);
/* The G that began c needs c no more. The call itself goes on. */
void vm_call_free(vm_call *c);

#endif
