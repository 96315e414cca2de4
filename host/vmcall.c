/* Calling functions of lunapark.boot in a VM.
 *
 * A call is a Lua G of that VM, so what it runs may wait, start Gs and open sockets. It reports by what it
 * returns: nothing when all is well, a message, or nil and a string.
 *
 * Two hold a call, who began it and its G, and who lets go last frees it: the one may lose patience, and the VM
 * of the other may be thrown away. The waiter publishes its ticket, then looks whether the call is over; who ends
 * it says so, then looks for a ticket. While the G is there it visits its VM, so that it can't begin in
 * another VM that has taken the struct over (vm.c).
 */
#include "vmcall.h"

#include <stdlib.h>
#include <string.h>

struct vm_call {
    host_vm *vm;
    const char *fn;
    int n;
    struct iovec *args;
    rt_g *waiter;
    _Atomic uint64_t ticket; /* of its wait; 0: it does not wait */
    _Atomic int state;       /* vm_call_state; what follows is written before CALL_DONE is */
    char *error;
    char *value;
    size_t value_len;
    _Atomic int holders;
};

static void let_go(vm_call *c) {
    if (atomic_fetch_sub(&c->holders, 1) > 1) return;
    for (int i = 0; i < c->n; i++)
        free(c->args[i].iov_base);
    free(c->args);
    free(c->error);
    free(c->value);
    free(c);
}

static void end(vm_call *c, vm_call_state state) {
    if (c->vm) vm_leave(c->vm);
    atomic_store(&c->state, state);
    uint64_t ticket = atomic_load(&c->ticket);
    if (ticket) rt_wake(c->waiter, ticket, RT_WOKEN);
    let_go(c);
}

/* In the VM. require itself runs in the G, so that an error there is reported as any other. */
static int push_call(host_vm *vm, lua_State *L, void *arg) {
    (void)vm;
    vm_call *c = arg;
    static const char trampoline[] = "local name = ...\n"
                                     "return require('lunapark.boot')[name](select(2, ...))";
    if (luaL_loadbuffer(L, trampoline, sizeof trampoline - 1, "=boot") != 0)
        rt_throw("boot: %s", lua_tostring(L, -1));
    lua_pushstring(L, c->fn);
    for (int i = 0; i < c->n; i++)
        lua_pushlstring(L, c->args[i].iov_base, c->args[i].iov_len);
    return c->n + 1;
}

static void *copy(const void *bytes, size_t len) {
    char *to = malloc(len + 1);
    if (!to) rt_throw("out of memory for a call of %zu bytes", len);
    memcpy(to, bytes, len);
    to[len] = 0;
    return to;
}

static void call_done(host_luag *lg, int status) {
    vm_call *c = lg->done_arg;
    lua_State *L = lg->L;
    if (status == HOST_LOST) {
        end(c, CALL_LOST);
        return;
    }
    int n = lua_gettop(L);
    if (status != 0 || (n > 0 && !lua_isnil(L, 1))) {
        const char *msg = n > 0 ? lua_tostring(L, status != 0 ? -1 : 1) : NULL;
        if (!msg) msg = "(error object is not a string)";
        c->error = copy(msg, strlen(msg));
    } else if (n > 1) {
        const char *value = lua_tolstring(L, 2, &c->value_len);
        if (value) c->value = copy(value, c->value_len);
    }
    luag_give(lg, status);
    end(c, CALL_DONE);
}

static void call_lost(void *arg) {
    end(arg, CALL_LOST);
}

vm_call *vm_call_begin(host_vm *vm, const char *fn, int n, const struct iovec *args) {
    vm_call *c = calloc(1, sizeof *c);
    if (!c || (n > 0 && !(c->args = calloc((size_t)n, sizeof *c->args))))
        rt_throw("out of memory for a call");
    c->fn = fn;
    c->n = n;
    for (int i = 0; i < n; i++)
        c->args[i] = (struct iovec){copy(args[i].iov_base, args[i].iov_len), args[i].iov_len};
    c->waiter = rt_self();
    atomic_init(&c->state, CALL_LATE);
    atomic_init(&c->holders, 2);
    if (vm_visit(vm)) {
        c->vm = vm;
        luag_spawn(vm, push_call, c, call_done, call_lost, c);
    } else {
        end(c, CALL_LOST);
    }
    return c;
}

vm_call_state vm_call_wait(vm_call *c, int64_t until_ns) {
    for (;;) {
        uint64_t ticket = rt_wait_open(c->waiter);
        atomic_store(&c->ticket, ticket);
        if (atomic_load(&c->state) != CALL_LATE) rt_wake(c->waiter, ticket, RT_WOKEN);
        rt_wake_code code = rt_wait(RT_WAIT_OTHER, until_ns);
        atomic_store(&c->ticket, 0);
        vm_call_state state = (vm_call_state)atomic_load(&c->state);
        if (state != CALL_LATE || code == RT_TIMEOUT) return state;
    }
}

const char *vm_call_error(const vm_call *c) {
    return c->error;
}

const char *vm_call_value(const vm_call *c, size_t *len) {
    *len = c->value_len;
    return c->value;
}

void vm_call_free(vm_call *c) {
    let_go(c);
}
