/* The buffers of lua-cjson, whose library this is linked into.
 *
 * cjson writes into buffers of its own outside of LuaJIT's heap, through five functions (strbuf_*). The package's end the
 * process when there is no memory, and nobody counts what they hold: a VM could grow by them without a limit, and a VM
 * that is dropped leaves them behind. These here take the package's place at link time. They raise "not enough memory" in
 * the Lua that has called cjson, count what they hold for --vm-memory (charge.c), and keep it in a list of the VM's.
 *
 * strbuf_t is the package's, as its inlined functions see it. What raises needs the lua_State that has called: cjson asks
 * for its arguments first, and a module makes its settings; the lua_gettop and lua_newuserdata of cjson are ours (Makefile). Whoever raises leaves the buffer as it was.
 */
#include "strbuf.h"

#include "vm.h"

#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>

typedef struct strbuf {
    char *bytes;
    int size, len;
    int increment; /* not looked at: a buffer doubles */
    int dynamic;   /* strbuf_free frees the struct, too */
    int n_resizes, debug;
} strbuf;

enum {
    FIRST_SIZE = 1023,
    SIZE_MAX_BYTES = 1 << 30,
    CHARGE_STEP = 64 << 10,
    KEEP_BYTES = 1 << 20, /* of a buffer that a module keeps from call to call */
};

typedef struct json_block {
    list_link link; /* of vm->json.blocks */
    size_t size;    /* with this head */
    bool passing;   /* of a call, and not of a module's settings */
    strbuf *owner;  /* whose bytes these are; NULL: a strbuf */
} json_block;

int cjson_gettop(lua_State *L);
void *cjson_newuserdata(lua_State *L, size_t size);
strbuf *strbuf_new(int len);
void strbuf_init(strbuf *s, int len); /* but for its memory, s is as it was if it raises */
void strbuf_resize(strbuf *s, int len);
void strbuf_free(strbuf *s);
void strbuf_append_string(strbuf *s, const char *text);

/* ---- memory ---- */

/* A block of `had` bytes has `has` from now on. In steps: most calls change nothing. */
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
    abort(); /* it does not return */
}

/* p as realloc takes it. Raises. */
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

/* cjson keeps the buffer of its last text, whatever its size, for the next one. */
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

/* An error that was raised in the midst of a call, for want of memory, has left what the call had. */
static void give_passing(host_vm *vm) {
    for (list_link *next, *l = vm->json.blocks.first; l; l = next) {
        next = l->next;
        json_block *b = list_of(l, json_block, link);
        if (b->passing) give_block(vm, b);
    }
}

/* ---- what cjson calls ---- */

/* A call begins. Beneath a finalizer or a callback there may be another, which has not ended. */
int cjson_gettop(lua_State *L) {
    host_vm *vm = vm_current();
    vm->json.L = L;
    if (vm->barriers.n > 0) return lua_gettop(L);
    if (vm->json.n_passing) give_passing(vm);
    if (vm->json.bytes > KEEP_BYTES) shrink_kept(vm);
    return lua_gettop(L);
}

/* The settings of a module, which begin with nothing: its finalizer comes also when their buffer has found no memory. */
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

/* Room for len bytes and a NUL. */
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
