/* What ends with a VM.
 *
 * A VM has sockets, files, programs, a place in a pool, servers, singletons, calls on other threads, buffers of C
 * libraries. Each is made by a mechanism of its own, above the VM or beside it. Each has to end when the VM does, in
 * one of two ways (vmend.c): in order, when Gs have ended and finalizers have run; or at once, when the VM's Lua is
 * never touched again. So a mechanism that makes a thing for a VM puts a host_owned, a member of the thing, on the VM's
 * list, with its order, and takes it off when the thing ends by itself. The end of the VM walks the list and knows no
 * mechanism: the list's functions are the only calls up from the VM.
 *
 *     in order          at once
 *     OWNED_ROLES                       the VM gets nothing more to do
 *     finalizers                        they find all that Lua holds as it was
 *     OWNED_ROLES       OWNED_ROLES     also those that finalizers took
 *     OWNED_THINGS      OWNED_THINGS    `dropped` is set: Lua is not touched any more
 *     ----------- its Gs end, its cell stands still: vm_drop -----------
 *     OWNED_USERS       OWNED_USERS     may wait for others
 *     LuaJIT's memory   LuaJIT's memory
 *     OWNED_REMAINS     OWNED_REMAINS
 *
 * Within an order the latest goes first, as it may stand on what was there before.
 *
 * LuaJIT calls the finalizers of cdata first. If a socket's finalizer closed the socket, a later finalizer that says
 * goodbye on it would find it freed. So owned_free does nothing while a VM's last finalizers run (`closing`), and
 * OWNED_THINGS follows.
 *
 * The list needs no lock: only the thread that runs, makes or ends the VM touches it. A thing that another thread may
 * end (a server) stays listed until the VM hears of its end, or has one entry in the VM for all of its kind.
 *
 * Rejected: an entry's order as a number in one sorted list, since making a socket would be a search; a registry of
 * mechanisms that each VM's end asks, since each mechanism would have to search its things of all VMs.
 */
#include "owned.h"

#include "vm.h"

void owned_add(host_vm *vm, host_owned *o, const owned_kind *kind) {
    o->vm = vm;
    o->kind = kind;
    list_prepend(&vm->owned.of[kind->order], &o->link);
}

void owned_take(host_owned *o, const owned_kind *kind) {
    owned_add(vm_current(), o, kind);
}

static void end(host_owned *o) {
    const owned_kind *kind = o->kind;
    list_remove(&o->vm->owned.of[kind->order], &o->link);
    o->kind = NULL;
    kind->end(o);
}

void owned_free(host_owned *o) {
    if (!o->vm->end.closing) end(o);
}

void owned_end(host_vm *vm, owned_order last) {
    for (int order = 0; order <= (int)last; order++)
        for (list_link *l; (l = vm->owned.of[order].first);)
            end(list_of(l, host_owned, link));
}
