/* The host's part of a dump (SIGUSR1, SIGQUIT, a deadlock): every VM, its Lua Gs, and where in Lua each of them is.
 *
 * Only the thread that runs a VM may read its Lua. So the dumping G posts a step G into each VM's cell. The step G
 * writes the VM's text between two Gs of the VM. The dumping G waits 200 ms for all of them. Both hold the `ask`, and
 * the second to let go frees it.
 *
 * A stuck VM cannot answer. It gets a line that says which G holds it and where its thread is. Its other Gs are counted
 * without their Lua: their C side is read while the VM runs on, or, for memory that the VM may give back, while the VM
 * cannot come back (rt_cell_inspect). Where waiting is not possible (sysmon's dump, which comes when no P is free), all
 * VMs are treated so.
 *
 * At a deadlock nothing moves any more, and all VMs are read at once.
 *
 * A VM must not end while it is read: visits (vm.c).
 *
 * Tracebacks are our own and not luaL_traceback's: nothing is allocated on Lua's heap, so no collector and no finalizer
 * runs, and the VM's memory limit does not matter. Gs with the same traceback and the same wait are one group, so
 * 10,000 of them are a few lines. A VM with more than MAX_GROUPS groups is shown in part.
 */
#include "dump.h"

#include "../base/base.h"
#include "../base/bell.h"
#include "../base/refs.h"
#include "bubble.h"
#include "luag.h"
#include "runaway.h"
#include "vm.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    ANSWER_MS = 200,
    MAX_LEVELS = 20,
    MAX_GROUPS = 200,
    MAX_NAMES = 5, /* of a group's Gs */
    MAX_HELD = 32, /* names of a stuck VM's Gs */
    NAME_SIZE = 96,
    TRACE_SIZE = 4096,
    TEXT_MAX = 1 << 20,
};

#if defined(__SANITIZE_THREAD__)
#define PEEKS __attribute__((no_sanitize("thread"))) /* reads what other threads write */
#else
#define PEEKS
#endif

/* ---- text ---- */

typedef struct text {
    char *s;
    size_t n, cap;
} text;

/* Text that does not fit, or finds no memory, is left out. */
__attribute__((format(printf, 2, 3))) static void put(text *t, const char *fmt, ...) {
    for (int i = 0; i < 2; i++) {
        va_list ap;
        va_start(ap, fmt);
        size_t room = t->cap - t->n;
        int n = vsnprintf(t->s ? t->s + t->n : NULL, room, fmt, ap);
        va_end(ap);
        if (n < 0) return;
        if ((size_t)n < room) {
            t->n += (size_t)n;
            return;
        }
        size_t cap = (t->n + (size_t)n + 1) * 2;
        char *s = cap <= TEXT_MAX ? realloc(t->s, cap) : NULL;
        if (!s) return;
        t->s = s;
        t->cap = cap;
    }
}

static void emit(text *t) {
    if (t->n) rt_dump_text(t->s, t->n);
    free(t->s);
    *t = (text){0};
}

/* Adds to a text in an array. */
__attribute__((format(printf, 4, 5))) static size_t add(char *buf, size_t at, size_t size,
                                                        const char *fmt, ...) {
    if (at + 1 >= size) return at;
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(buf + at, size - at, fmt, ap);
    va_end(ap);
    if (n < 0) return at;
    return at + (size_t)n < size ? at + (size_t)n : size - 1;
}

/* ---- where a G is in Lua; by the thread that runs the VM ---- */

static size_t add_level(char *buf, size_t at, size_t size, const lua_Debug *ar) {
    at = add(buf, at, size, "      %s:", ar->short_src);
    if (ar->currentline > 0) at = add(buf, at, size, "%d:", ar->currentline);
    if (ar->name) return add(buf, at, size, " in function '%s'\n", ar->name);
    if (ar->what[0] == 'm') return add(buf, at, size, " in main chunk\n");
    if (ar->what[0] == 'C') return add(buf, at, size, " in a function\n");
    return add(buf, at, size, " in function <%s:%d>\n", ar->short_src, ar->linedefined);
}

/* Adds a traceback, up to the function of the source `end`; NULL: all of it. */
static size_t add_traceback(char *buf, size_t at, size_t size, lua_State *L, const char *end) {
    lua_Debug ar;
    for (int level = 0; lua_getstack(L, level, &ar); level++) {
        if (level == MAX_LEVELS) return add(buf, at, size, "      ...\n");
        lua_getinfo(L, "Snl", &ar);
        if (end && strcmp(ar.source, end) == 0) return at;
        at = add_level(buf, at, size, &ar);
    }
    return at;
}

/* A field of the handle that lunapark (init.lua) keeps for lg: a copy, or "". L has room for three. */
static void handle_field(lua_State *L, host_luag *lg, const char *field, char *buf, size_t size) {
    int top = lua_gettop(L);
    buf[0] = 0;
    lua_getfield(L, LUA_REGISTRYINDEX, "lunapark.gs");
    if (lua_istable(L, -1)) lua_rawgeti(L, -1, lg->slot);
    if (lua_istable(L, -1)) { /* lua_getfield runs no collector, lua_pushstring does */
        lua_getfield(L, -1, field);
        if (lua_type(L, -1) == LUA_TSTRING) snprintf(buf, size, "%s", lua_tostring(L, -1));
    }
    lua_settop(L, top);
}

/* ---- groups ---- */

typedef struct group {
    uint64_t hash;
    int n;
    int64_t least_ns, most_ns;
    bool waits;
    char *what; /* the state, a NUL, the rest of the line and the traceback */
    char names[MAX_NAMES * NAME_SIZE];
    size_t names_n;
} group;

typedef struct groups {
    group *v[MAX_GROUPS];
    int n, left_out;
    bool timeless; /* of a bubble: how long its Gs wait in real time tells nothing */
} groups;

static uint64_t hash_of(const char *s, size_t n) {
    uint64_t h = UINT64_C(14695981039346656037);
    for (size_t i = 0; i < n; i++)
        h = (h ^ (uint8_t)s[i]) * UINT64_C(1099511628211);
    return h;
}

/* The group of a G that does `what` (n bytes), new if need be; NULL: there are too many. */
static group *group_of(groups *gs, const char *what, size_t n) {
    uint64_t hash = hash_of(what, n);
    for (int i = 0; i < gs->n; i++)
        if (gs->v[i]->hash == hash) return gs->v[i];
    group *g = gs->n < MAX_GROUPS ? calloc(1, sizeof *g) : NULL;
    if (!g || !(g->what = malloc(n))) {
        free(g);
        gs->left_out++;
        return NULL;
    }
    memcpy(g->what, what, n);
    g->hash = hash;
    g->least_ns = INT64_MAX;
    return gs->v[gs->n++] = g;
}

/* name may be NULL. */
static void add_to_group(groups *gs, const rt_g_state *s, const char *what, size_t n,
                         const char *name) {
    group *g = group_of(gs, what, n);
    if (!g) return;
    g->waits = s->reason != NULL && !gs->timeless;
    if (s->waits_ns < g->least_ns) g->least_ns = s->waits_ns;
    if (s->waits_ns > g->most_ns) g->most_ns = s->waits_ns;
    if (g->n < MAX_NAMES && name)
        g->names_n = add(g->names, g->names_n, sizeof g->names, g->n ? ", %s" : "%s", name);
    else if (g->n == MAX_NAMES && name)
        g->names_n = add(g->names, g->names_n, sizeof g->names, " ...");
    g->n++;
}

static void put_group(text *t, const group *g) {
    const char *rest = g->what + strlen(g->what) + 1;
    if (g->n == 1 && g->names_n)
        put(t, "  %s: %s", g->names, g->what);
    else
        put(t, "  %d %s: %s", g->n, g->n == 1 ? "G" : "Gs", g->what);
    if (g->waits && g->n == 1)
        put(t, ", %.3f s", (double)g->most_ns / 1e9);
    else if (g->waits)
        put(t, ", %.3f to %.3f s", (double)g->least_ns / 1e9, (double)g->most_ns / 1e9);
    const char *line = strchr(rest, '\n');
    put(t, "%.*s\n", (int)(line - rest), rest);
    if (g->n > 1 && g->names_n) put(t, "      %s\n", g->names);
    put(t, "%s", line + 1);
}

static int by_number(const void *a, const void *b) {
    return (*(group *const *)b)->n - (*(group *const *)a)->n;
}

/* Groups of many Gs first. Ends gs. */
static void put_groups(text *t, groups *gs) {
    if (gs->n > 1) qsort(gs->v, (size_t)gs->n, sizeof(group *), by_number);
    for (int i = 0; i < gs->n; i++) {
        put_group(t, gs->v[i]);
        free(gs->v[i]->what);
        free(gs->v[i]);
    }
    if (gs->left_out) put(t, "  %d more Gs, each somewhere else\n", gs->left_out);
    gs->n = 0;
}

static size_t add_state(char *buf, size_t size, const rt_g_state *s) {
    size_t at =
        add(buf, 0, size, "%s%s%s", s->status, s->reason ? ", " : "", s->reason ? s->reason : "");
    return at + 1; /* behind the NUL, too */
}

/* ---- a VM that can be read; by the thread that runs it ---- */

static void name_of(const host_luag *lg, char *buf, size_t size) {
    size_t at = add(buf, 0, size, "G %d.%.0f", lg->slot, lg->serial);
    if (lg->x) {
        at = add(buf, at, size, " handler ");
        luag_requests->print_name(lg->x, buf + at, size - at);
    } else if (lg->is_main) {
        add(buf, at, size, " main");
    }
}

static void add_luag(groups *gs, host_luag *lg, lua_State *L) {
    const char *end = gs->timeless ? "@lunapark/testing/virtual.lua" : NULL;
    char what[TRACE_SIZE], name[NAME_SIZE], field[256];
    rt_g_state s;
    rt_read_g(lg->g, &s);
    size_t at = add_state(what, sizeof what, &s);
    handle_field(L, lg, "parked", field, sizeof field);
    if (field[0] && s.reason) at = add(what, at, sizeof what, " (%s)", field);
    handle_field(L, lg, "where", field, sizeof field);
    if (field[0]) at = add(what, at, sizeof what, ", created at %s", field);
    at = add(what, at, sizeof what, "\n");
    lua_State *held = lg->held;
    if (held && held != lg->L) {
        at = add_traceback(what, at, sizeof what, held, end);
        at = add(what, at, sizeof what, "      in a coroutine of the G, which stands at:\n");
    }
    size_t before = at;
    at = add_traceback(what, at, sizeof what, lg->L, end);
    if (at == before) at = add(what, at, sizeof what, "      not begun yet\n");
    name_of(lg, name, sizeof name);
    add_to_group(gs, &s, what, at + 1, name);
}

typedef struct reading {
    host_vm *vm;
    groups *gs;
    const struct bubble *of; /* NULL: all Gs, in a bubble or not */
    const host_luag *but;
} reading;

static bool wanted(const reading *r, const host_luag *lg) {
    if (!lg->g || !lg->L || lg == r->but) return false;
    return !r->of || (lg->seat && lg->seat->of == r->of);
}

static int read_luags(lua_State *L) {
    reading *r = lua_touserdata(L, 1);
    for (int i = 0; i < r->vm->slots.n; i++) {
        host_luag *lg = r->vm->slots.v[i];
        if (wanted(r, lg)) add_luag(r->gs, lg, L);
    }
    return 0;
}

static void put_vm_line(text *t, host_vm *vm) {
    int n = __atomic_load_n(&vm->view.n_live, __ATOMIC_RELAXED);
    int64_t mapped = __atomic_load_n(&vm->view.mapped, __ATOMIC_RELAXED);
    put(t, "VM %d: %d %s, %.1f MB mapped\n", vm->view.vm_id, n, n == 1 ? "G" : "Gs",
        (double)mapped / 1e6);
}

/* L: one of the VM's states on which a function may be called. */
static void put_luags(text *t, lua_State *L, reading r) {
    groups *gs = r.gs = calloc(1, sizeof *gs);
    if (!gs) return;
    gs->timeless = r.of != NULL;
    if (lua_cpcall(L, read_luags, &r) != 0) {
        put(t, "  %s\n", lua_tostring(L, -1));
        lua_pop(L, 1);
    }
    put_groups(t, gs);
    free(gs);
}

static void put_vm(text *t, host_vm *vm, lua_State *L) {
    put_vm_line(t, vm);
    put_luags(t, L, (reading){.vm = vm});
}

char *dump_bubble(host_vm *vm, const struct bubble *b, const host_luag *but) {
    text t = {0};
    put_luags(&t, vm->L, (reading){.vm = vm, .of = b, .but = but});
    return t.s;
}

void dump_where(lua_State *L, host_luag *lg, char *buf, size_t size) {
    handle_field(L, lg, "where", buf, size);
}

char *dump_vm(host_vm *vm, lua_State *L) {
    text t = {0};
    put_vm(&t, vm, L);
    return t.s;
}

/* ---- a VM that cannot answer ---- */

typedef struct look {
    host_vm *vm;
    int n, left_out;
    host_luag *lgs[MAX_HELD];
    char names[MAX_HELD][NAME_SIZE];
    char holder[RUNAWAY_NAME];
} look;

/* slots only grow, and the old arrays are kept: vm.c. */
PEEKS static host_luag *slot_of(host_vm *vm, int i) {
    int n = __atomic_load_n(&vm->slots.n, __ATOMIC_ACQUIRE);
    return i < n ? __atomic_load_n(&vm->slots.v, __ATOMIC_ACQUIRE)[i] : NULL;
}

/* Called while vm cannot come back, so that no request ends. */
PEEKS static bool look_at_names(void *arg) {
    look *l = arg;
    host_luag *lg, *holder = atomic_load(&l->vm->running);
    if (holder) luag_name(holder, l->holder, sizeof l->holder);
    for (int i = 0; l->n < MAX_HELD && (lg = slot_of(l->vm, i)); i++) {
        if (lg == holder || !lg->g || !lg->x) continue;
        l->lgs[l->n] = lg;
        name_of(lg, l->names[l->n++], NAME_SIZE);
    }
    return false;
}

PEEKS static void add_closed_luag(groups *gs, host_luag *lg, const look *l) {
    rt_g *g = lg->g;
    if (!g || lg == atomic_load(&l->vm->running)) return;
    char what[256], name[NAME_SIZE];
    rt_g_state s;
    rt_read_g(g, &s);
    size_t at = add_state(what, sizeof what, &s);
    at = add(what, at, sizeof what, "\n");
    snprintf(name, sizeof name, "G %d.%.0f", lg->slot, lg->serial);
    for (int i = 0; i < l->n; i++)
        if (l->lgs[i] == lg) snprintf(name, sizeof name, "%s", l->names[i]);
    add_to_group(gs, &s, what, at + 1, name);
}

PEEKS static void put_closed_vm(text *t, host_vm *vm, bool may_wait) {
    look *l = calloc(1, sizeof *l);
    groups *gs = calloc(1, sizeof *gs);
    if (!l || !gs) goto out;
    l->vm = vm;
    char place[160] = "";
    bool away = rt_cell_inspect(vm->cell, look_at_names, l);
    if (away && may_wait) runaway_place(vm, place, sizeof place);
    put_vm_line(t, vm);
    if (away) {
        int64_t since = vm->stuck_ns;
        put(t, "  stuck for %.3f s: %s runs without waiting%s%s\n",
            (double)(rt_nanotime() - since) / 1e9, l->holder, place[0] ? ", in " : "", place);
    } else if (may_wait) {
        put(t, "  it has not answered in %d ms\n", ANSWER_MS);
    }
    host_luag *lg;
    for (int i = 0; (lg = slot_of(vm, i)); i++)
        add_closed_luag(gs, lg, l);
    put_groups(t, gs);
out:
    free(l);
    free(gs);
}

/* ---- asking ---- */

typedef struct ask {
    host_vm *vm;
    bool posted;
    bell answered;
    refs refs; /* the asker, and the VM's step */
    text t;    /* the step's; after the answer the asker's */
} ask;

static void let_go(ask *a) {
    if (!refs_drop(&a->refs)) return;
    free(a->t.s);
    free(a);
}

static rt_step answer_step(rt_g *g) {
    ask *a = *RT_LOCAL(g, ask *);
    host_vm *vm = a->vm;
    if (!atomic_load_explicit(&vm->dropped, memory_order_relaxed)) put_vm(&a->t, vm, vm->L);
    bell_ring(&a->answered);
    let_go(a);
    atomic_store(&vm->asked, false);
    vm_leave(vm);
    return RT_EXIT;
}

/* The caller visits vm, and so will the step. */
static ask *post(host_vm *vm) {
    ask *a = calloc(1, sizeof *a);
    if (!a) return NULL;
    a->vm = vm;
    refs_init(&a->refs, 1);
    /* A VM that was asked and has not answered yet is not asked again. */
    if (rt_cell_is_away(vm->cell) || atomic_exchange(&vm->asked, true)) return a;
    if (!vm_visit(vm)) {
        atomic_store(&vm->asked, false);
        return a;
    }
    rt_g *g = rt_new_step(answer_step, vm->cell);
    if (!g) {
        vm_leave(vm);
        atomic_store(&vm->asked, false);
        return a;
    }
    a->posted = true;
    refs_hold(&a->refs);
    *RT_LOCAL(g, ask *) = a;
    rt_ready(g);
    return a;
}

/* a's VM may still be busy with it. */
static void end_ask(ask *a, int64_t until_ns) {
    if (a->posted && bell_wait(&a->answered, until_ns)) {
        emit(&a->t);
    } else {
        text t = {0};
        put_closed_vm(&t, a->vm, true);
        emit(&t);
    }
    let_go(a);
}

static int by_id(const void *a, const void *b) {
    return (*(host_vm *const *)a)->view.vm_id - (*(host_vm *const *)b)->view.vm_id;
}

/* All VMs, each visited. The caller frees the array of *n. */
static host_vm **visit_all(int *n) {
    int all = 0;
    *n = 0;
    for (host_vm *vm = vm_next(NULL); vm; vm = vm_next(vm))
        all++;
    host_vm **vms = calloc((size_t)all + 1, sizeof *vms);
    for (host_vm *vm = vm_next(NULL); vms && vm && *n < all; vm = vm_next(vm))
        if (vm_visit(vm)) vms[(*n)++] = vm;
    if (*n > 1) qsort(vms, (size_t)*n, sizeof *vms, by_id);
    return vms;
}

static void ask_all(host_vm **vms, int n) {
    ask **asks = calloc((size_t)n + 1, sizeof *asks);
    if (!asks) return;
    int64_t until = rt_nanotime() + ANSWER_MS * NS_PER_MS;
    for (int i = 0; i < n; i++)
        asks[i] = post(vms[i]);
    for (int i = 0; i < n; i++)
        if (asks[i]) end_ask(asks[i], until);
    free(asks);
}

static void dump(rt_dump_how how) {
    if (how == RT_DUMP_DEAD) {
        text t = {0};
        for (host_vm *vm = vm_next(NULL); vm; vm = vm_next(vm))
            if (vm->visits.open) put_vm(&t, vm, vm->L);
        emit(&t);
        return;
    }
    int n;
    host_vm **vms = visit_all(&n);
    if (how == RT_DUMP_WAITS) ask_all(vms, n);
    for (int i = 0; i < n; i++) {
        text t = {0};
        if (how == RT_DUMP_NOW) put_closed_vm(&t, vms[i], false);
        emit(&t);
        vm_leave(vms[i]);
    }
    free(vms);
}

void dump_init(void) {
    rt_on_dump(dump);
}
