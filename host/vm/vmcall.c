/* Calling functions of lunapark.command.boot in a VM.
 *
 * A call is a Lua G of the VM, so the called function may wait, start Gs and open sockets. The function reports by its
 * results: nothing when all is well, a message, or nil and a string.
 *
 * Two Gs hold a call, the G that began it and the G that runs it. The first may lose patience, and the VM of the second
 * may be thrown away. While the second G lives, it visits its VM, so that it cannot begin in another VM that has taken
 * the struct over (vm.c).
 */
#include "vmcall.h"

#include "../base/bell.h"
#include "../base/refs.h"
#include "luag.h"
#include "vm.h"

#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>

struct vm_call {
    host_vm *vm;
    const char *fn;
    int n;
    struct iovec *args;
    bell over;         /* rung when state is CALL_LATE no more */
    _Atomic int state; /* vm_call_state; what follows is written before CALL_DONE is */
    char *error;
    char *value;
    size_t value_len;
    refs refs;
};

static char no_memory[] = "not enough memory"; /* an error that is not freed */

static void let_go(vm_call *c) {
    if (!refs_drop(&c->refs)) return;
    for (int i = 0; i < c->n; i++)
        free(c->args[i].iov_base);
    free(c->args);
    if (c->error != no_memory) free(c->error);
    free(c->value);
    free(c);
}

static void end(vm_call *c, vm_call_state state) {
    if (c->vm) vm_leave(c->vm);
    atomic_store(&c->state, state);
    bell_ring(&c->over);
    let_go(c);
}

/* In the VM. require itself runs in the G, so that an error there is reported as any other. */
/* The name and the arguments, for the Lua below. */
static int take_args(lua_State *L) {
    vm_call *c = luag_current()->done_arg;
    luaL_checkstack(L, c->n + 1, "too many arguments");
    lua_pushstring(L, c->fn);
    for (int i = 0; i < c->n; i++)
        lua_pushlstring(L, c->args[i].iov_base, c->args[i].iov_len);
    return c->n + 1;
}

void vm_call_open(host_vm *vm, lua_State *L) {
    static const char trampoline[] =
        "local take_args = ...\n"
        "local function call(name, ...) return require('lunapark.command.boot')[name](...) end\n"
        "return function() return call(take_args()) end";
    if (luaL_loadbuffer(L, trampoline, sizeof trampoline - 1, "=boot") != 0) lua_error(L);
    lua_pushcfunction(L, take_args);
    lua_call(L, 1, 1);
    vm->call_ref = luaL_ref(L, LUA_REGISTRYINDEX);
}

/* Nothing protects it: it must not allocate. */
static int push_call(host_vm *vm, lua_State *L, void *arg) {
    (void)arg;
    lua_rawgeti(L, LUA_REGISTRYINDEX, vm->call_ref);
    return 0;
}

static void *copy(const void *bytes, size_t len) {
    char *to = malloc(len + 1);
    if (!to) return NULL;
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
        if (!c->error) c->error = no_memory;
    } else if (n > 1) {
        const char *value = lua_tolstring(L, 2, &c->value_len);
        if (value) c->value = copy(value, c->value_len);
        if (value && !c->value) c->error = no_memory;
    }
    luag_give(lg, status);
    end(c, CALL_DONE);
}

static void end_without_memory(vm_call *c) {
    c->error = no_memory;
    end(c, CALL_DONE);
}

static void call_lost(void *arg) {
    vm_call *c = arg;
    if (atomic_load(&c->vm->dropped))
        end(c, CALL_LOST);
    else
        end_without_memory(c);
}

/* NULL: no memory. */
static vm_call *new_call(const char *fn, int n, const struct iovec *args) {
    vm_call *c = calloc(1, sizeof *c);
    if (!c) return NULL;
    c->fn = fn;
    atomic_init(&c->state, CALL_LATE);
    refs_init(&c->refs, 1);
    if (n > 0) c->args = calloc((size_t)n, sizeof *c->args);
    bool complete = n == 0 || c->args;
    for (; complete && c->n < n; c->n++) {
        const struct iovec *a = &args[c->n];
        c->args[c->n] = (struct iovec){copy(a->iov_base, a->iov_len), a->iov_len};
        complete = c->args[c->n].iov_base;
    }
    if (complete) return c;
    let_go(c);
    return NULL;
}

vm_call *vm_call_begin(host_vm *vm, const char *fn, int n, const struct iovec *args) {
    vm_call *c = new_call(fn, n, args);
    if (!c) return NULL;
    refs_hold(&c->refs);
    if (vm_visit(vm)) {
        c->vm = vm;
        if (!luag_spawn(vm, push_call, c, call_done, call_lost, c)) end_without_memory(c);
    } else {
        end(c, CALL_LOST);
    }
    return c;
}

vm_call_state vm_call_wait(vm_call *c, int64_t until_ns) {
    if (!c) return CALL_DONE;
    while (atomic_load(&c->state) == CALL_LATE && bell_wait(&c->over, until_ns))
        ;
    return (vm_call_state)atomic_load(&c->state);
}

const char *vm_call_error(const vm_call *c) {
    return c ? c->error : no_memory;
}

const char *vm_call_value(const vm_call *c, size_t *len) {
    *len = c ? c->value_len : 0;
    return c ? c->value : NULL;
}

void vm_call_free(vm_call *c) {
    if (c) let_go(c);
}
