/* Blocks of specs: what `lunapark test` asks of the host (lua/lunapark/testing/runner.lua).
 *
 * Each block (it, before_each, ...) runs in a G of its own, and the runner, another G of the same VM, waits for its
 * end, at most for --block-timeout. A block may hang in three ways:
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
 *     one has printed can not be told from what it would have. A C function that does not come back to its error ends
 *     the process in the same way, when its thread has had GIVE_UP_TRIES signals: seconds would not tell whether the
 *     machine has let it run. One that no signal reaches is given up when the keeper has looked at it
 *     GIVE_UP_LOOKS times.
 *
 * The limit is the block's and its Gs', not the runner's: when a block's time is over, the runner has much to do (what
 * all Gs were doing), and on a busy machine it does not get far in 20 ms.
 *
 * A block that has hung is not waited for any more, and must not go on when another runs: it, and what it has started,
 * is doomed. A doomed G raises an error at its next instruction, and, if that is caught, at the one after: so its waits
 * and its C functions are left in an orderly way, but no Lua of it runs. (To cancel it would not do: a loop around
 * a wait that answers "canceled" at once never ends. To forget it would leave the locks taken that C functions hold.)
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

/* One look and one signal each 10 ms. */
enum { GIVE_UP_TRIES = 500, GIVE_UP_LOOKS = 6000 };

typedef struct block {
    host_owned owned; /* first */
    char what[512];
    int64_t limit_ns; /* how long it may take */
    bool said;        /* that it is over its time */
    int looks;        /* since then */
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
        lg->outer != NULL; /* it stands, or stood once, in a channel that they share */
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
