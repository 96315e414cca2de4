/* Blocks of specs: what `lunapark test` asks of the host (lua/lunapark/testing/runner.lua).
 *
 * Each block (it, before_each, ...) runs in a G of its own, and the runner, another G of the same VM, waits for its end,
 * at most for --block-timeout. A block may hang in three ways:
 *
 *   - it waits: the runner's own wait ends in time.
 *   - it waits for what can never come: every Lua G of the VM waits for another, none for a moment, a descriptor, a
 *     job, a channel that VMs share or a client. The runner need not wait until the time is over: it looks a few times
 *     a second (host_block_asleep). The process's own look (runtime/debug.c, check_dead) can not tell, since the
 *     runner's wait is a timer.
 *   - it runs without waiting: nothing else of the VM runs, the runner neither. That is what runaway.c is for, and the
 *     block's limit is told to it. In the interpreter the G gets an error. Compiled code can be ended only with its VM,
 *     and with the VM go the runner, busted, and what it has counted so far: so the process says which block it was,
 *     where all Gs were, and ends with 1. It would be no kindness to run the other specs in a new VM: what the lost
 *     one has printed can not be told from what it would have. A C function (os.execute) gets GIVE_UP_NS more, then the
 *     process ends in the same way: it comes back to an error, if it comes back.
 *
 * A block that has hung is not waited for any more, and must not go on when another runs: it, and what it has started,
 * is doomed. A doomed G raises an error at its next instruction, and, if that is caught, at the one after: so its waits
 * and its C functions are left in an orderly way, but no Lua of it runs. (To cancel it would not do: a loop around
 * a wait that answers "canceled" at once never ends. To forget it would leave the locks taken that C functions hold.)
 */
#include "block.h"

#include "dump.h"
#include "runaway.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GIVE_UP_NS (5 * NS_PER_SEC)

typedef struct block {
    char what[512];
    int64_t limit_ns; /* how long it may take */
    bool said;        /* that it is over its time */
} block;

static rt_lock lock;    /* of the VMs' blocks */
static char lost[1024]; /* lock: the one that was overdue last */

double host_block_timeout(void) {
    return options.block_timeout;
}

void host_block_begin(const char *what, double until_ns) {
    host_vm *vm = vm_current();
    rt_lock_acquire(&lock);
    block *b = vm->block ? vm->block : calloc(1, sizeof *b);
    vm->block = b;
    if (b) {
        snprintf(b->what, sizeof b->what, "%s", what);
        b->limit_ns = (int64_t)until_ns - rt_nanotime();
        b->said = false;
    }
    rt_lock_release(&lock);
    atomic_store(&vm->loads_until_ns, (int64_t)until_ns);
}

void block_free(host_vm *vm) {
    rt_lock_acquire(&lock);
    free(vm->block);
    vm->block = NULL;
    rt_lock_release(&lock);
}

/* ---- is anybody going to wake? ---- */

/* It waits for another G of its VM, and for nothing else. */
static bool waits_inside(const host_luag *lg) {
    rt_g_state s;
    rt_read_g(lg->g, &s);
    if (strcmp(s.status, "waiting") != 0 || (lg->want != WANT_TICKET && lg->want != WANT_QUEUE))
        return false;
    bool inside = strcmp(s.reason, rt_reason_name(RT_WAIT_PARK)) == 0 ||
                  strcmp(s.reason, rt_reason_name(RT_WAIT_JOIN)) == 0 ||
                  strcmp(s.reason, rt_reason_name(RT_WAIT_OTHER)) == 0;
    bool others_vms =
        lg->shared != NULL; /* it stands, or stood once, in a channel that they share */
    return inside && lg->deadline_ns == 0 && !others_vms && !lg->x;
}

double host_block_asleep(void) {
    host_vm *vm = vm_current();
    host_luag *me = luag_current();
    uint64_t mark = 0;
    int n = 0;
    for (int i = 0; i < vm->n_slots; i++) {
        const host_luag *lg = vm->slots[i];
        if (!lg->g || lg == me) continue;
        if (!waits_inside(lg)) return 0;
        n++;
        mark = mark * 31 + (uint64_t)lg->serial * 7 + lg->ticket;
    }
    if (n == 0 || server_any_of(vm)) return 0;
    return (double)(mark % (UINT64_C(1) << 52)) + 1;
}

/* ---- the end of those that hang ---- */

void host_block_doom(int32_t slot) {
    host_vm *vm = vm_current();
    if (slot < 0 || slot >= vm->n_slots || !vm->slots[slot]->g) return;
    host_luag *lg = vm->slots[slot];
    if (lg == luag_current() || lg->x) return;
    lg->doomed = true;
    luag_cancel(lg, HOST_CANCELED);
}

/* Nothing could end it. */
static _Noreturn void give_up(host_vm *vm) {
    char place[160];
    runaway_place(vm, place, sizeof place);
    log_end();
    fprintf(stderr, "lunapark: %s, in %s, and could not be ended\n", lost, place);
    fflush(NULL);
    _exit(1);
}

void block_overdue(host_vm *vm) {
    int64_t until = atomic_load(&vm->loads_until_ns), now = rt_nanotime();
    if (until == 0 || now < until) return;
    rt_lock_acquire(&lock);
    block *b = vm->block;
    bool say = b && !b->said;
    if (say) {
        b->said = true;
        snprintf(lost, sizeof lost, "%s: runs on, without waiting, after %.3g s (--block-timeout)",
                 b->what, (double)b->limit_ns / 1e9);
    }
    rt_lock_release(&lock);
    if (b && now - until >= GIVE_UP_NS) give_up(vm);
    if (!say) return;
    fflush(NULL);
    fprintf(stderr, "lunapark: %s\n", lost);
    rt_dump();
}

const char *block_lost(void) {
    static char text[1200];
    rt_lock_acquire(&lock);
    if (lost[0])
        snprintf(text, sizeof text, "%s, in compiled code, and could be ended only with its VM",
                 lost);
    else
        snprintf(text, sizeof text, "the VM was ended");
    rt_lock_release(&lock);
    return text;
}
