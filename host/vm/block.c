/* Blocks of specs, for `lunapark test` (lua/lunapark/testing/runner.lua).
 *
 * Each block (it, before_each, ...) runs in a G of its own. The runner, another G of the same VM, waits for the block's
 * end, for --block-timeout at most. A block may hang in three ways:
 *
 *   - It waits: the runner's own wait ends in time.
 *   - It waits for an event that can never come: every Lua G of the VM waits for another one, none for a moment, a
 *     descriptor, a job, a channel that VMs share or a client. The runner need not wait until the time is over: it
 *     looks a few times a second (host_block_asleep). The process's own look (runtime/debug.c, check_dead) cannot tell,
 *     since the runner's wait is a timer.
 *   - It runs without waiting: no other G of the VM runs, not even the runner. runaway.c is made for this, and gets the
 *     block's limit. In the interpreter the G gets an error. Compiled code can be ended only with its VM, and with the
 *     VM go the runner, busted, and its counts so far. So the process names the block, says where all Gs were, and ends
 *     with 1. Running the other specs in a new VM would not help: the output of the lost VM cannot be told from the
 *     output that it would have made. A C function that does not come back to its error ends the process in the same
 *     way, when its thread has had GIVE_UP_TRIES signals: seconds would not tell whether the machine has let the thread
 *     run. A C function that no signal reaches is given up when the keeper has looked at it GIVE_UP_LOOKS times.
 *
 * The limit holds for the block and its Gs, not for the runner: when a block's time is over, the runner has much to do
 * (where all Gs were), and on a busy machine it does not get far in 20 ms.
 *
 * A block that has hung is not waited for any more, and must not go on when another runs. So the block, and all Gs that
 * it has started, are doomed. A doomed G raises an error at its next instruction, and, if the error is caught, at the
 * one after. So the G leaves its waits and its C functions in an orderly way, but runs no Lua. (Canceling would not do:
 * a loop around a wait that answers "canceled" at once never ends. Forgetting the G would leave the locks taken that
 * its C functions hold.)
 */
#include "block.h"

#include "../base/log.h"
#include "../base/options.h"
#include "luag.h"
#include "owned.h"
#include "runaway.h"
#include "vm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Each 10 ms one look and one signal. */
enum { GIVE_UP_TRIES = 500, GIVE_UP_LOOKS = 6000 };

typedef struct block {
    host_owned owned; /* first */
    char what[512];
    int64_t limit_ns; /* how long the block may take */
    bool said;        /* the block's overtime was logged */
    int looks;        /* since the block was logged */
} block;

static rt_lock lock;    /* of the VMs' blocks */
static char lost[1024]; /* lock: the block that was overdue last */

double host_block_timeout(void) {
    return options.block_timeout;
}

void host_block_limit(double until_ns) {
    host_vm *vm = vm_current();
    rt_lock_acquire(&lock);
    if (vm->block.last) {
        vm->block.last->limit_ns = (int64_t)until_ns - rt_nanotime();
        vm->block.last->said = false;
        vm->block.last->looks = 0;
    }
    rt_lock_release(&lock);
    atomic_store(&vm->loads_until_ns, (int64_t)until_ns);
}

static void free_block(host_owned *o) {
    rt_lock_acquire(&lock);
    o->vm->block.last = NULL;
    rt_lock_release(&lock);
    free(o);
}

static const owned_kind block_kind = {OWNED_REMAINS, free_block};

void host_block_begin(const char *what) {
    host_vm *vm = vm_current();
    rt_lock_acquire(&lock);
    if (!vm->block.last && (vm->block.last = calloc(1, sizeof *vm->block.last)))
        owned_add(vm, &vm->block.last->owned, &block_kind);
    block *b = vm->block.last;
    if (b) snprintf(b->what, sizeof b->what, "%s", what);
    rt_lock_release(&lock);
    atomic_store(&vm->block.runner, luag_current());
    host_block_limit(0);
}

/* ---- will any G wake? ---- */

/* True: lg waits for another G of its VM and for nothing else. */
static bool waits_inside(const host_luag *lg) {
    rt_g_state s;
    rt_read_g(lg->g, &s);
    if (strcmp(s.status, "waiting") != 0 || (lg->want != WANT_TICKET && lg->want != WANT_QUEUE))
        return false;
    bool inside = strcmp(s.reason, rt_reason_name(RT_WAIT_PARK)) == 0 ||
                  strcmp(s.reason, rt_reason_name(RT_WAIT_JOIN)) == 0 ||
                  strcmp(s.reason, rt_reason_name(RT_WAIT_OTHER)) == 0;
    bool others_vms = lg->outer != NULL; /* lg stands, or stood once, in a shared channel */
    return inside && lg->deadline_ns == 0 && !others_vms && !lg->x;
}

double host_block_asleep(void) {
    host_vm *vm = vm_current();
    host_luag *me = luag_current();
    uint64_t mark = 0;
    int n = 0;
    for (int i = 0; i < vm->slots.n; i++) {
        const host_luag *lg = vm->slots.v[i];
        if (!lg->g || lg == me) continue;
        if (!waits_inside(lg)) return 0;
        n++;
        mark = mark * 31 + (uint64_t)lg->serial * 7 + lg->ticket;
    }
    if (n == 0 || luag_requests->awaited(vm)) return 0;
    return (double)(mark % (UINT64_C(1) << 52)) + 1;
}

/* ---- the end of Gs that hang ---- */

void host_block_doom(int32_t slot) {
    host_vm *vm = vm_current();
    if (slot < 0 || slot >= vm->slots.n || !vm->slots.v[slot]->g) return;
    host_luag *lg = vm->slots.v[slot];
    if (lg == luag_current() || lg->x) return;
    lg->doomed = true;
    luag_cancel(lg, HOST_CANCELED);
}

/* Nothing could end the block: ends the process. */
static _Noreturn void give_up(host_vm *vm) {
    char place[160];
    runaway_place(vm, place, sizeof place);
    log_end();
    fprintf(stderr, "lunapark: %s, in %s, and could not be ended\n", lost, place);
    fflush(NULL);
    _exit(1);
}

void block_overdue(host_vm *vm) {
    rt_lock_acquire(&lock);
    block *b = vm->block.last;
    bool say = b && !b->said;
    if (say) {
        b->said = true;
        snprintf(lost, sizeof lost, "%s: runs on, without waiting, after %.3g s (--block-timeout)",
                 b->what, (double)b->limit_ns / 1e9);
    }
    bool lost_it =
        b && (atomic_load(&vm->runaway.tries) >= GIVE_UP_TRIES || b->looks++ >= GIVE_UP_LOOKS);
    rt_lock_release(&lock);
    if (lost_it) give_up(vm);
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
