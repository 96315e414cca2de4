/* State that lives on. Right before the switch the app's hand_over functions run in the old VMs, and the take_over
 * functions in the new VMs. Values go by copy. The value of each old VM goes to one new VM. Changes that requests make
 * in between are lost. A stuck VM hands nothing over: the reload may be its cure.
 */
#include "handover.h"

#include "../base/base.h"
#include "../base/log.h"
#include "../vm/vmcall.h"
#include "../vm/vmend.h"
#include "message.h"
#include "pool.h"

#include <stdatomic.h>

enum { CALL_S = 10 /* that hand_over and take_over may take in a VM */ };
#define CALL_NS  (CALL_S * NS_PER_SEC)
#define STUCK_NS (200 * NS_PER_MS) /* a VM that has not begun a call by then is stuck */

/* Passes the value to `to`. NULL, or what is wrong. */
static char *take_over(host_vm *to, const void *value, size_t len) {
    vm_call *c = vm_call_begin(to, "take_over", 1, &(struct iovec){(void *)value, len});
    vm_call_state state = vm_call_wait(c, rt_nanotime() + CALL_NS);
    char *err = NULL;
    if (state != CALL_DONE)
        err = message_format("take_over has not ended after %d s", CALL_S);
    else if (vm_call_error(c))
        err = message_format("take_over: %s", vm_call_error(c));
    vm_call_free(c);
    return err;
}

/* Passes the value of the app in `from` to `to`. NULL, or what is wrong. */
static char *hand_one_over(host_vm *from, host_vm *to) {
    char *err = NULL;
    size_t len;
    bool stuck = atomic_load(&from->stuck);
    vm_call *c = vm_call_begin(from, "hand_over", 0, NULL);
    vm_call_state state = vm_call_wait(c, rt_nanotime() + (stuck ? STUCK_NS : CALL_NS));
    const char *value = state == CALL_DONE ? vm_call_value(c, &len) : NULL;
    if (state == CALL_LATE)
        log_line(LOG_WARN, "VM %d hands nothing over: it %s", from->view.vm_id,
                 stuck ? "is stuck" : "takes too long");
    else if (state == CALL_DONE && vm_call_error(c))
        err = message_format("hand_over: %s", vm_call_error(c));
    if (value) err = take_over(to, value, len);
    vm_call_free(c);
    return err;
}

char *hand_over(generation *from, generation *to) {
    static host_vm *old[MAX_VMS], *new[MAX_VMS]; /* the G that reloads */
    char *err = NULL;
    int n_old = pool_list(from, old, MAX_VMS), n_new = pool_list(to, new, MAX_VMS);
    for (int i = 0; i < n_old && n_new > 0 && !err; i++)
        err = hand_one_over(old[i], new[i % n_new]);
    for (int i = 0; i < n_old; i++)
        vm_leave(old[i]);
    for (int i = 0; i < n_new; i++)
        vm_leave(new[i]);
    return err;
}
