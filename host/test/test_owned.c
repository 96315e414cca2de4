/* owned: what ends with a VM ends once, in order, the latest of an order first; what has ended by itself, or is let go
 * of in time, is not ended again; while the last finalizers run nothing goes. */
#include "../vm/luag.h"
#include "../vm/owned.h"
#include "../vm/vm.h"

#include <lauxlib.h>

#include "../../runtime/test/harness.h"

/* ---- things that say when they end ---- */

typedef struct thing {
    host_owned owned; /* first */
    char name;
} thing;

static struct {
    char text[64];
    size_t n;
} ended;

static void note_end(host_owned *o) {
    ended.text[ended.n++] = ((thing *)o)->name;
    ended.text[ended.n] = 0;
}

static const owned_kind role = {OWNED_ROLES, note_end}, held = {OWNED_THINGS, note_end},
                        user = {OWNED_USERS, note_end}, remains = {OWNED_REMAINS, note_end};

static bool has_ended(const char *names) {
    bool so = strcmp(ended.text, names) == 0;
    if (!so) expect_at(false, __FILE__, __LINE__, "\"%s\", not \"%s\"", ended.text, names);
    ended.n = 0;
    ended.text[0] = 0;
    return so;
}

static void add(host_vm *vm, thing *t, char name, const owned_kind *kind) {
    *t = (thing){.name = name};
    owned_add(vm, &t->owned, kind);
}

/* ---- */

static void in_order_the_latest_first(void *arg) {
    (void)arg;
    host_vm *vm = vm_new(7);
    thing t[8];
    add(vm, &t[0], 'r', &remains);
    add(vm, &t[1], 'h', &held);
    add(vm, &t[2], 'i', &held);
    add(vm, &t[3], 'u', &user);
    add(vm, &t[4], 'a', &role);
    add(vm, &t[5], 'j', &held);
    add(vm, &t[6], 's', &remains);
    add(vm, &t[7], 'b', &role);
    owned_end(vm, OWNED_ROLES);
    CHECK(has_ended("ba"));
    owned_free(&t[2].owned);
    CHECK(has_ended("i"));
    add(vm, &t[0 + 4], 'c', &role); /* by a finalizer */
    owned_end(vm, OWNED_THINGS);
    CHECK(has_ended("cjh"));
    vm_drop(vm);
    CHECK(has_ended("usr"));
}

static void a_dropped_vm_ends_all(void *arg) {
    (void)arg;
    host_vm *vm = vm_new(7);
    thing t[4];
    add(vm, &t[0], 'r', &remains);
    add(vm, &t[1], 'u', &user);
    add(vm, &t[2], 'h', &held);
    add(vm, &t[3], 'a', &role);
    vm_drop(vm);
    CHECK(has_ended("ahur"));
    vm = vm_new(7); /* the same struct: nothing is left on it */
    vm_drop(vm);
    CHECK(has_ended(""));
}

static void one_entry_of_a_vm(void *arg) {
    (void)arg;
    host_vm *vm = vm_new(7);
    thing t = {.name = 'a'};
    owned_once(vm, &t.owned, &role);
    owned_once(vm, &t.owned, &role);
    owned_end(vm, OWNED_ROLES);
    CHECK(has_ended("a"));
    owned_end(vm, OWNED_ROLES);
    CHECK(has_ended(""));
    owned_once(vm, &t.owned, &role); /* a finalizer listens, say */
    vm_drop(vm);
    CHECK(has_ended("a"));
}

/* One that ends another thing of its VM, as a program ends its streams. */
typedef struct pair {
    thing of, other;
} pair;

static void end_both(host_owned *o) {
    note_end(o);
    pair *p = (pair *)o;
    if (p->other.owned.kind) owned_free(&p->other.owned);
}

static void an_end_may_end_another(void *arg) {
    (void)arg;
    static const owned_kind both = {OWNED_THINGS, end_both};
    host_vm *vm = vm_new(7);
    pair p;
    thing last;
    add(vm, &p.other, 'o', &held);
    add(vm, &last, 'l', &held);
    add(vm, &p.of, 'p', &both);
    owned_end(vm, OWNED_THINGS);
    CHECK(has_ended("pol"));
    vm_drop(vm);
    CHECK(has_ended(""));
}

/* ---- while the last finalizers run ---- */

static struct {
    thing thing;
    crowd done;
    bool early;
} last;

/* The finalizer of a userdata of the VM. */
static int let_go(lua_State *L) {
    (void)L;
    owned_free(&last.thing.owned);
    last.early = ended.n > 0;
    return 0;
}

static int make(host_vm *vm, lua_State *L, void *arg) {
    (void)arg;
    add(vm, &last.thing, 'h', &held);
    lua_newuserdata(L, 1);
    lua_newtable(L);
    lua_pushcfunction(L, let_go);
    lua_setfield(L, -2, "__gc");
    lua_setmetatable(L, -2);
    lua_setglobal(L, "kept");
    if (luaL_loadstring(L, "return") != 0) rt_throw("no memory");
    return 0;
}

static void made(host_luag *lg, int status) {
    luag_give(lg, status);
    crowd_leave(&last.done);
}

static rt_step finalize_step(rt_g *g) {
    vm_finalize(*(host_vm **)rt_local(g));
    crowd_leave(&last.done);
    return RT_EXIT;
}

static void finalizers_let_nothing_go(void *arg) {
    (void)arg;
    host_vm *vm = vm_new(7);
    crowd_enter(&last.done);
    luag_spawn(vm, make, NULL, made, NULL, NULL);
    crowd_wait(&last.done);
    rt_g *g = rt_new_step(finalize_step, vm->cell);
    *(host_vm **)rt_local(g) = vm;
    crowd_enter(&last.done);
    rt_ready(g);
    crowd_wait(&last.done);
    EXPECT(!last.early);
    CHECK(has_ended(""));
    vm_drop(vm);
    CHECK(has_ended("h"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        in_g_test(in_order_the_latest_first), in_g_test(a_dropped_vm_ends_all),
        in_g_test(one_entry_of_a_vm),         in_g_test(an_end_may_end_another),
        in_g_test(finalizers_let_nothing_go),
    };
    RUN_TESTS("owned", tests);
}
