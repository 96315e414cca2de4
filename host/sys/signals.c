/* Signals of scripts: the ground of lunapark.signal.
 *
 * The runtime reports each signal to one G that waits for it (runtime/signal.c). Here one G waits for the whole
 * process: under serve the main G, which has the host's own signals, else a G that is started when a script first asks.
 * This G tells every VM that wants the signal, by a step G in the VM's cell, which calls a Lua function between two Gs
 * of the VM. Signals that a VM was not told yet are kept as a set. So a stuck VM holds no queue, and a signal that
 * comes twice meanwhile is told once, as by the kernel.
 *
 * The first VM that wants a signal takes it from its default action. The last VM that wants it no more, or ends, gives
 * it back. Lua knows which scripts of a VM want it (signal.lua).
 *
 * Under serve some signals are the host's, also where the host has no use for them today: a script that took SIGTERM
 * would make a server that cannot be stopped. SIGUSR1 and SIGQUIT are not: as in Go, a script that asks for them gets
 * them in place of the dump.
 *
 * A VM must not end while it is told a signal: the step is a visitor (vm.c).
 */
#include "signals.h"

#include "../base/list.h"
#include "../base/log.h"
#include "../vm/luag.h"
#include "../vm/owned.h"
#include "../vm/vm.h"
#include "sys_ffi.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>

enum { SIGNALS = 64 };
#define BIT(signo) (UINT64_C(1) << (signo))

struct host_signals {
    host_owned owned; /* first */
    host_vm *vm;
    list_link link;  /* of sigs.all */
    uint64_t wanted; /* lock: bit signo */
    uint64_t untold; /* lock: signals that came and the VM does not know of */
    bool telling;    /* lock: a step that will tell the VM is on its way */
};

static struct {
    rt_lock lock;
    list_head all;         /* lock: at most one of each VM */
    int n_wanted[SIGNALS]; /* lock: how many VMs want each */
    uint64_t reserved;     /* set before any script runs */
    bool looked_after;     /* lock: a G waits for signals, or will */
} sigs;

void signals_reserve(void) {
    sigs.reserved = BIT(SIGTERM) | BIT(SIGINT) | BIT(SIGHUP) | BIT(SIGUSR2);
    sigs.looked_after = true;
}

/* ---- telling VMs ---- */

/* The signals that vm is to be told now. */
static uint64_t take_untold(const host_vm *vm) {
    uint64_t set = 0;
    rt_lock_acquire(&sigs.lock);
    for (list_link *l = sigs.all.first; l; l = l->next) {
        host_signals *s = list_of(l, host_signals, link);
        if (s->vm != vm) continue;
        set |= s->untold & s->wanted;
        s->untold = 0;
        s->telling = false;
    }
    rt_lock_release(&sigs.lock);
    return set;
}

static int call_lua(lua_State *L) {
    uint64_t set = *(uint64_t *)lua_touserdata(L, 1);
    for (; set; set &= set - 1) {
        lua_getfield(L, LUA_REGISTRYINDEX, "lunapark.signaled");
        lua_pushinteger(L, __builtin_ctzll(set));
        lua_call(L, 1, 0);
    }
    return 0;
}

static rt_step tell_step(rt_g *g) {
    host_vm *vm = *RT_LOCAL(g, host_vm *);
    if (!atomic_load_explicit(&vm->dropped, memory_order_relaxed)) {
        uint64_t set = take_untold(vm);
        barrier_push(vm, BARRIER_HOST, __builtin_frame_address(0));
        if (set && luag_cpcall(vm, call_lua, &set) != 0) {
            const char *msg = lua_tostring(vm->L, -1);
            log_line(LOG_ERROR, "VM %d could not be told of a signal: %s", vm->view.vm_id,
                     msg ? msg : "(no message)");
            lua_pop(vm->L, 1);
        }
        barrier_pop(vm);
        vm_gc_ran(vm);
    }
    vm_leave(vm);
    return RT_EXIT;
}

/* lock held. */
static void tell(host_signals *s, int signo) {
    s->untold |= BIT(signo);
    if (s->telling || !vm_visit(s->vm)) return;
    rt_g *g = rt_new_step(tell_step, s->vm->cell);
    if (!g) { /* the next signal tries again */
        vm_leave(s->vm);
        return;
    }
    s->telling = true;
    *RT_LOCAL(g, host_vm *) = s->vm;
    rt_ready(g);
}

int signals_wait(void) {
    for (;;) {
        int signo = rt_signal_wait();
        if (signo < 0 || (sigs.reserved & BIT(signo))) return signo;
        rt_lock_acquire(&sigs.lock);
        for (list_link *l = sigs.all.first; l; l = l->next) {
            host_signals *s = list_of(l, host_signals, link);
            if (s->wanted & BIT(signo)) tell(s, signo);
        }
        rt_lock_release(&sigs.lock);
    }
}

static void look_after(void *arg) {
    (void)arg;
    for (;;)
        signals_wait();
}

/* ---- wanting ---- */

/* lock held. */
static int want(host_signals *s, int signo) {
    if (s->wanted & BIT(signo)) return 0;
    int err = sigs.n_wanted[signo] == 0 ? rt_signal_notify(signo) : 0;
    if (err) return err;
    sigs.n_wanted[signo]++;
    s->wanted |= BIT(signo);
    return 0;
}

/* lock held. */
static void unwant(host_signals *s, int signo) {
    if (!(s->wanted & BIT(signo))) return;
    s->wanted &= ~BIT(signo);
    s->untold &= ~BIT(signo);
    if (--sigs.n_wanted[signo] == 0) rt_signal_reset(signo);
}

int host_signals_want(host_signals *s, int signo, int on) {
    if (signo <= 0 || signo >= SIGNALS) return -EINVAL;
    if (sigs.reserved & BIT(signo)) return -EBUSY;
    int err = 0;
    rt_lock_acquire(&sigs.lock);
    if (on)
        err = want(s, signo);
    else
        unwant(s, signo);
    bool start = on && !err && !sigs.looked_after;
    if (start) sigs.looked_after = true;
    rt_lock_release(&sigs.lock);
    if (!start || rt_go(look_after, NULL)) return err;
    rt_lock_acquire(&sigs.lock);
    sigs.looked_after = false;
    unwant(s, signo);
    rt_lock_release(&sigs.lock);
    return -ENOMEM;
}

static void let_go(host_owned *o) {
    host_signals *s = (host_signals *)o;
    rt_lock_acquire(&sigs.lock);
    for (int signo = 1; signo < SIGNALS; signo++)
        unwant(s, signo);
    list_remove(&sigs.all, &s->link);
    rt_lock_release(&sigs.lock);
    free(s);
}

static const owned_kind signals_kind = {OWNED_THINGS, let_go};

host_signals *host_signals_new(void) {
    host_signals *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    s->vm = vm_current();
    owned_take(&s->owned, &signals_kind);
    rt_lock_acquire(&sigs.lock);
    list_prepend(&sigs.all, &s->link);
    rt_lock_release(&sigs.lock);
    return s;
}

void host_signals_free(host_signals *s) {
    owned_free(&s->owned);
}
