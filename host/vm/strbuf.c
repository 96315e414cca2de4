/* The buffers of lua-cjson; this file is linked into cjson's library.
 *
 * cjson writes into buffers of its own, outside of LuaJIT's heap, through five functions (strbuf_*). The package's
 * functions end the process when there is no memory. Their buffers are not counted, so a VM could grow by them without
 * a limit, and a dropped VM would leave them behind. The functions here take their place at link time. They raise "not
 * enough memory" in the Lua that has called cjson, count the buffers for --vm-memory (charge.c), and keep them in a
 * list of the VM's.
 *
 * strbuf_t has the package's layout, since the package's inlined functions read it. An error needs the lua_State that
 * has called. cjson begins each call by asking for its arguments (lua_gettop), and each module by making its settings
 * (lua_newuserdata). Both functions are ours in cjson (Makefile), and note the lua_State. A function that raises leaves
 * the buffer as it was.
 */
#include "strbuf.h"

#include "vm.h"

#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>

typedef struct strbuf {
    char *bytes;
    int size, len;
    int increment; /* unused: a buffer doubles */
    int dynamic;   /* strbuf_free frees the struct, too */
    int n_resizes, debug;
} strbuf;

enum {
    FIRST_SIZE = 1023,
    SIZE_MAX_BYTES = 1 << 30,
    CHARGE_STEP = 64 << 10,
    KEEP_BYTES = 1 << 20, /* kept of a buffer from one call of a module to the next */
};

typedef struct json_block {
    list_link link; /* of vm->json.blocks */
    size_t size;    /* including this head */
    bool passing;   /* belongs to a call, not to a module's settings */
    strbuf *owner;  /* the strbuf whose bytes these are; NULL: the block is a strbuf */
} json_block;

int cjson_gettop(lua_State *L);
void *cjson_newuserdata(lua_State *L, size_t size);
strbuf *strbuf_new(int len);
void strbuf_init(strbuf *s, int len); /* if it raises, s is as it was */
void strbuf_resize(strbuf *s, int len);
void strbuf_free(strbuf *s);
void strbuf_append_string(strbuf *s, const char *text);

/* ---- memory ---- */

/* Counts a block of `had` bytes as `has` bytes. The charge moves in steps: most calls change nothing. False:
 * --vm-memory is used up. */
static bool hold(host_vm *vm, size_t had, size_t has) {
    size_t all = vm->json.bytes - had + has, steps = (all + CHARGE_STEP - 1) & -(size_t)CHARGE_STEP;
    if (steps != vm->json.charge.bytes && !charge_set(&vm->json.charge, steps)) return false;
    vm->json.bytes = all;
    return true;
}

static void free_all(host_owned *o) {
    for (list_link *l; (l = list_take_first(&o->vm->json.blocks));)
        free(list_of(l, json_block, link));
}

static const owned_kind json_kind = {OWNED_REMAINS, free_all};

static void link_block(host_vm *vm, json_block *b) {
    owned_once(vm, &vm->json.owned, &json_kind);
    list_prepend(&vm->json.blocks, &b->link);
}

static void unlink_block(host_vm *vm, json_block *b) {
    list_remove(&vm->json.blocks, &b->link);
}

static _Noreturn void raise(host_vm *vm) {
    luaL_error(vm->json.L, "not enough memory");
    abort(); /* luaL_error does not return */
}

/* realloc for cjson: p NULL: a new block. May raise. */
static void *resize(void *p, size_t size) {
    host_vm *vm = vm_current();
    json_block *old = p ? (json_block *)p - 1 : NULL;
    size_t had = old ? old->size : 0, all = size + sizeof *old;
    if (!hold(vm, had, all)) raise(vm);
    if (old) unlink_block(vm, old);
    json_block *b = realloc(old, all);
    if (!b) {
        if (old) link_block(vm, old);
        hold(vm, all, had);
        raise(vm);
    }
    if (!old) b->passing = false;
    if (!old) b->owner = NULL;
    b->size = all;
    link_block(vm, b);
    return b + 1;
}

static void give_block(host_vm *vm, json_block *b) {
    unlink_block(vm, b);
    hold(vm, b->size, 0);
    vm->json.n_passing -= b->passing;
    free(b);
}

static void give(void *p) {
    if (p) give_block(vm_current(), (json_block *)p - 1);
}

static void *mark_passing(void *p) {
    ((json_block *)p - 1)->passing = true;
    vm_current()->json.n_passing++;
    return p;
}

/* Gives large kept buffers back: cjson keeps the buffer of its last text for the next one, whatever its size. */
static void shrink_kept(host_vm *vm) {
    for (list_link *next, *l = vm->json.blocks.first; l; l = next) {
        next = l->next;
        json_block *b = list_of(l, json_block, link);
        if (!b->owner || b->size <= KEEP_BYTES) continue;
        strbuf *s = b->owner;
        give_block(vm, b);
        *s = (strbuf){0};
    }
}

/* Gives back what a call left that an error has ended. */
static void give_passing(host_vm *vm) {
    for (list_link *next, *l = vm->json.blocks.first; l; l = next) {
        next = l->next;
        json_block *b = list_of(l, json_block, link);
        if (b->passing) give_block(vm, b);
    }
}

/* ---- what cjson calls ---- */

/* lua_gettop of cjson: a call begins. Beneath a finalizer or a callback (a barrier), another call may not have
 * ended. */
int cjson_gettop(lua_State *L) {
    host_vm *vm = vm_current();
    vm->json.L = L;
    if (vm->barriers.n > 0) return lua_gettop(L);
    if (vm->json.n_passing) give_passing(vm);
    if (vm->json.bytes > KEEP_BYTES) shrink_kept(vm);
    return lua_gettop(L);
}

/* lua_newuserdata of cjson: a module's settings. Zeroed, since their finalizer runs also when there was no memory for
 * their buffer. */
void *cjson_newuserdata(lua_State *L, size_t size) {
    vm_current()->json.L = L;
    void *p = lua_newuserdata(L, size);
    memset(p, 0, size);
    return p;
}

void strbuf_init(strbuf *s, int len) {
    int size = (len > 0 ? len : FIRST_SIZE) + 1;
    char *bytes = resize(NULL, (size_t)size);
    ((json_block *)bytes - 1)->owner = s;
    *s = (strbuf){.bytes = bytes, .size = size};
    s->bytes[0] = 0;
}

strbuf *strbuf_new(int len) {
    strbuf *s = mark_passing(resize(NULL, sizeof *s));
    strbuf_init(s, len);
    mark_passing(s->bytes);
    s->dynamic = 1;
    return s;
}

/* Makes room for len bytes and a NUL. */
void strbuf_resize(strbuf *s, int len) {
    if (len < 0 || len >= SIZE_MAX_BYTES)
        luaL_error(vm_current()->json.L, "JSON of more than 1 GiB");
    int size = s->size > 0 ? s->size : 1;
    while (size <= len)
        size *= 2;
    s->bytes = resize(s->bytes, (size_t)size);
    ((json_block *)s->bytes - 1)->owner = s;
    s->size = size;
    s->n_resizes++;
}

void strbuf_free(strbuf *s) {
    give(s->bytes);
    s->bytes = NULL;
    if (s->dynamic) give(s);
}

void strbuf_append_string(strbuf *s, const char *text) {
    size_t n = strlen(text);
    if (n > (size_t)(s->size - s->len - 1)) strbuf_resize(s, s->len + (int)n);
    memcpy(s->bytes + s->len, text, n);
    s->len += (int)n;
}
