/* Memory that a VM's C side has from malloc: bodies of requests, buffers of sockets, files that are being read, JSON
 * that is being written. --vm-memory counts it together with LuaJIT's mappings, so that a hundred requests of a VM
 * cannot hold a hundred times what one may.
 *
 * Each block of such memory has a vm_charge, which names its VM and its size. A block may outlive its VM (a file that
 * is still being read when the VM is dropped), and the struct of a VM is used again. So a charge knows the VM's life,
 * and does not count when this life is over. The lock makes the comparison and the sum one step.
 *
 * Not counted, since each has a bound of its own: heads of requests (--max-head), the queued output of connections
 * (OUT_FULL), results of names (64 KiB), values on their way through shared channels (counted by the channel).
 */
#include "charge.h"

#include "../base/options.h"
#include "vm.h"

void charge_begin(vm_charge *c) {
    c->vm = vm_current();
    c->life = c->vm->charges.life;
}

/* lock held. */
static bool may_have(host_vm *vm, int64_t more) {
    int64_t limit = options.vm_memory;
    if (limit == 0) return true;
    int64_t has = __atomic_load_n(&vm->view.mapped, __ATOMIC_RELAXED) +
                  atomic_load_explicit(&vm->charges.bytes, memory_order_relaxed);
    return more <= limit && has <= limit - more;
}

bool charge_set(vm_charge *c, size_t bytes) {
    if (!c->vm) charge_begin(c);
    host_vm *vm = c->vm;
    int64_t more = (int64_t)bytes - (int64_t)c->bytes;
    rt_lock_acquire(&vm->charges.lock);
    bool lives = vm->charges.life == c->life, may = !lives || more <= 0 || may_have(vm, more);
    if (lives && may) atomic_fetch_add_explicit(&vm->charges.bytes, more, memory_order_relaxed);
    rt_lock_release(&vm->charges.lock);
    if (!may) return false;
    c->bytes = bytes;
    if (bytes == 0) *c = (vm_charge){0};
    return true;
}

int64_t charged(host_vm *vm) {
    return atomic_load_explicit(&vm->charges.bytes, memory_order_relaxed);
}

void charge_new_life(host_vm *vm) {
    rt_lock_acquire(&vm->charges.lock);
    vm->charges.life++;
    atomic_store_explicit(&vm->charges.bytes, 0, memory_order_relaxed);
    rt_lock_release(&vm->charges.lock);
}

double host_charged(void) {
    return (double)charged(vm_current());
}
