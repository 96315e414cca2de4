/* Which VM answers the next request. */
#include "host.h"

host_vm *vm_for_request(void) {
    return serve_vms[rt_p_id()];
}
