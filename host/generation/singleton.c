/* Singletons: for each name (lunapark.singleton) one G runs in all VMs of the process together.
 *
 * Every VM that uses a name stands for it, with a job that ends when it is the VM's turn (job.c). This file keeps who
 * stands for a name and who holds it. A name without a holder goes to a VM that may answer requests and is not stuck.
 * The holder gives the name back when its G ends. It loses the name when its VM is thrown away or has been stuck for a
 * second. It is canceled when another generation serves. Two Gs of a name may run at the same time for a
 * moment only after a VM was stuck: the old G is canceled, and notices at its next wait.
 *
 * A holder is known by its VM and the slot of its G there. Giving back a lost name does no harm: a G stands or holds
 * once, and a VM gives all its names back before its struct becomes another VM's.
 */
#include "singleton.h"

#include "../base/list.h"
#include "../base/log.h"
#include "../vm/job.h"
#include "../vm/luag.h"
#include "../vm/owned.h"
#include "generation.h"
#include "generation_ffi.h"
#include "pool.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

typedef struct who {
    host_vm *vm; /* NULL: none */
    int slot;
    double serial;
} who;

typedef struct candidate {
    struct name *name;
    who who;
    host_job *job;
    list_link link; /* of name->candidates */
} candidate;

typedef struct name {
    struct name *next;
    list_head candidates; /* in the order in which they came */
    who holder;
    bool asked;      /* the holder was canceled, to make it go */
    int done_number; /* generation for which the singleton has ended for good; -1: none */
    char text[];
} name;

static struct {
    rt_lock lock; /* of everything here */
    name *first;
} singletons;

/* ---- asking a holder to go ---- */

typedef struct cancel_local {
    host_vm *vm; /* visited */
    double serial;
} cancel_local; /* the rt_g's locals, which have no room for the slot */

static rt_step cancel_step(rt_g *g) {
    cancel_local *l = RT_LOCAL(g, cancel_local);
    host_vm *vm = l->vm;
    bool dropped = atomic_load(&vm->dropped); /* false: it stays so while this runs in its cell */
    vm_leave(vm);
    if (dropped) return RT_EXIT;
    for (int i = 0; i < vm->slots.n; i++) {
        host_luag *lg = vm->slots.v[i];
        if (lg->g && lg->serial == l->serial) luag_cancel(lg, HOST_CANCELED);
    }
    return RT_EXIT;
}

static void cancel(const who *w) {
    if (!vm_visit(w->vm)) return;
    rt_g *g = rt_new_step_sure(cancel_step, w->vm->cell);
    *RT_LOCAL(g, cancel_local) = (cancel_local){w->vm, w->serial};
    rt_ready(g);
}

/* ---- choosing ---- */

static bool may_hold(host_vm *vm) {
    if (!vm->generation) return true;
    return vm_serves(vm) && !atomic_load_explicit(&vm->stuck, memory_order_relaxed);
}

static int number_of(const host_vm *vm) {
    return vm->generation ? vm->generation->number : 0;
}

/* lock held. Makes the first candidate that may hold n the holder and takes it out. NULL: n has a holder, or no
 * candidate may hold it. */
static candidate *take(name *n) {
    if (n->holder.vm) return NULL;
    for (list_link *l = n->candidates.first; l; l = l->next) {
        candidate *c = list_of(l, candidate, link);
        if (!may_hold(c->who.vm) || n->done_number == number_of(c->who.vm)) continue;
        list_remove(&n->candidates, l);
        n->holder = c->who;
        n->asked = false;
        return c;
    }
    return NULL;
}

static void choose(name *n) {
    rt_lock_acquire(&singletons.lock);
    candidate *c = take(n);
    rt_lock_release(&singletons.lock);
    if (c) job_finish(c->job);
}

/* lock held. True: the holder's generation serves no more, and the caller cancels the holder. */
static bool is_to_go(name *n) {
    host_vm *vm = n->holder.vm;
    if (!vm || n->asked || !vm->generation || vm_serves(vm)) return false;
    n->asked = true;
    return true;
}

/* Names are never given back. */
static name *first_name(void) {
    rt_lock_acquire(&singletons.lock);
    name *n = singletons.first;
    rt_lock_release(&singletons.lock);
    return n;
}

void singleton_look(void) {
    for (name *n = first_name(); n; n = n->next) {
        rt_lock_acquire(&singletons.lock);
        who old = n->holder;
        bool go = is_to_go(n);
        rt_lock_release(&singletons.lock);
        if (go) cancel(&old);
        choose(n);
    }
}

void singleton_stuck(host_vm *vm) {
    for (name *n = first_name(); n; n = n->next) {
        rt_lock_acquire(&singletons.lock);
        who old = n->holder;
        bool lost = old.vm == vm;
        if (lost) n->holder = (who){0};
        rt_lock_release(&singletons.lock);
        if (!lost) continue;
        log_line(LOG_WARN, "singleton %s: VM %d is stuck, another one runs it", n->text,
                 vm->view.vm_id);
        cancel(&old);
        choose(n);
    }
}

/* lock held. Takes out the first candidate of vm (with this slot; -1: any). NULL: there is none. */
static candidate *take_of(name *n, const host_vm *vm, int slot) {
    for (list_link *l = n->candidates.first; l; l = l->next) {
        candidate *c = list_of(l, candidate, link);
        if (c->who.vm != vm || (slot >= 0 && c->who.slot != slot)) continue;
        list_remove(&n->candidates, l);
        return c;
    }
    return NULL;
}

/* Ends the standing and the holding of vm (with this slot; -1: any). done: the singleton has ended for good. */
static void leave(name *n, const host_vm *vm, int slot, bool done) {
    rt_lock_acquire(&singletons.lock);
    candidate *c = take_of(n, vm, slot);
    if (n->holder.vm == vm && (slot < 0 || n->holder.slot == slot)) {
        n->holder = (who){0};
        if (done) n->done_number = number_of(vm);
    }
    rt_lock_release(&singletons.lock);
    if (c) job_finish(c->job);
    choose(n);
}

static void leave_all(host_owned *o) {
    for (name *n = first_name(); n; n = n->next)
        leave(n, o->vm, -1, false);
}

static const owned_kind singletons_kind = {OWNED_ROLES, leave_all};

/* ---- from Lua ---- */

static name *find(const char *text, size_t len) {
    rt_lock_acquire(&singletons.lock);
    name *n = singletons.first;
    while (n && (strlen(n->text) != len || memcmp(n->text, text, len) != 0))
        n = n->next;
    if (!n && (n = calloc(1, sizeof *n + len + 1))) {
        memcpy(n->text, text, len);
        n->done_number = -1;
        n->next = singletons.first;
        singletons.first = n;
    }
    rt_lock_release(&singletons.lock);
    return n;
}

static void begin(host_job *job, void *arg) {
    candidate *c = arg;
    host_vm *vm = vm_current();
    c->job = job;
    c->who = (who){vm, vm->view.slot, vm->view.serial};
    owned_once(vm, &vm->entries.singletons, &singletons_kind);
    rt_lock_acquire(&singletons.lock);
    list_append(&c->name->candidates, &c->link);
    rt_lock_release(&singletons.lock);
    choose(c->name);
}

host_job *host_singleton_stand(const char *text, size_t len) {
    candidate *c = calloc(1, sizeof *c);
    if (!c) return NULL;
    c->name = find(text, len);
    if (c->name) return job_new_begun(begin, free, c);
    free(c);
    return NULL;
}

void host_singleton_leave(const char *text, size_t len, int done) {
    host_vm *vm = vm_current();
    name *n = find(text, len);
    if (n) leave(n, vm, vm->view.slot, done);
}
