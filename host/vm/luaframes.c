/* The Lua stack, read in a signal handler, wherever the signal has interrupted LuaJIT.
 *
 * The handler may not call lua_getstack, which believes what it reads: the interpreter may be between two machine
 * instructions that make one frame. So the stack is read here, by the layout in LuaJIT's own headers, and nothing that
 * was read is believed:
 *
 *   - An address is followed only if all that is read there lies in memory that LuaJIT has mapped for this VM
 *     (vmmem_holds). The handler is on the thread that runs the VM, so the memory is not unmapped meanwhile.
 *   - Each object says its type, and must be of the expected type. A return address must lie in the bytecode of the
 *     function below it.
 *   - Frames must lead, step by step downward, to the very bottom of the coroutine's stack, or on for LEVELS_MAX
 *     frames.
 *
 * A stack that passes was a stack at least a moment ago. Any other is no stack, and the sample names no function.
 *
 * Where does the innermost frame begin (base)? In compiled code LuaJIT keeps it in jit_base, where the trace was
 * entered: functions that the trace has inlined have no frames, and the trace is named by the place where it begins. In
 * C that the interpreter has called, L->base is it. In the interpreter the base is in a register, and L->base may be of
 * a call that is over. Where the register leads nowhere, as in the midst of a call, L->base is the second choice.
 *
 * The frames are those of the running coroutine. The coroutine that resumed it is on another stack, and left out.
 *
 * Rejected: a hook that is set in the handler and looks at the stack at the next instruction, as LuaJIT's own profiler
 * does (a signal that comes while LuaJIT changes its dispatch tables leaves them half of each; compiled code calls no
 * hook).
 */
#include "luaframes.h"

#include "vm.h"
#include "vmmem.h"

#include <luajit_config.h>
#include <string.h>
#include <ucontext.h>

/* LuaJIT's own names. The interpreter lies between the first and the end of the last, which is shorter than LAST_SIZE.
 * The instructions come first. */
extern const char lj_vm_asm_begin[], lj_vm_returnp[], lj_vm_ffi_call[];
enum { LAST_SIZE = 160 };

bool luaframes_is_interpreter(uintptr_t pc) {
    return pc >= (uintptr_t)lj_vm_asm_begin && pc < (uintptr_t)lj_vm_ffi_call + LAST_SIZE;
}

bool luaframes_is_instruction(uintptr_t pc) {
    return pc >= (uintptr_t)lj_vm_asm_begin && pc < (uintptr_t)lj_vm_returnp;
}

#if LUAJIT_HEADERS

#include <lj/lj_obj.h>
#include <lj/lj_dispatch.h>
#include <lj/lj_frame.h>
#include <lj/lj_jit.h>

enum { LEVELS_MAX = 200 };

typedef struct walk {
    const host_vm *vm;
    const global_State *g;
    const lua_State *L;
    uintptr_t bottom, end; /* of its stack: the frame that is none; the first byte behind */
    lua_frame *to;
    int n, max;
    bool more;
} walk;

/* True: an object of this size and alignment can be read at p. */
static bool holds(const walk *w, const void *p, size_t size, size_t align) {
    return (uintptr_t)p % align == 0 && vmmem_holds(w->vm, p, size);
}
#define HOLDS(w, p) holds(w, p, sizeof *(p), _Alignof(__typeof__(*(p))))

/* True: p is a collectable object of this type. */
#define IS(w, p, type) (HOLDS(w, p) && (p)->gct == (uint8_t) ~(type))

static bool add(walk *w, const GCproto *pt, int line, bool compiled) {
    if (w->n == w->max) {
        w->more = true;
        return true;
    }
    const GCstr *s = (const GCstr *)gcref(pt->chunkname);
    if (!IS(w, s, LJ_TSTR) || !vmmem_holds(w->vm, s, sizeof *s + s->len)) return false;
    w->to[w->n++] = (lua_frame){strdata(s), s->len, line, compiled};
    return true;
}

static const GCproto *proto_at(const walk *w, uintptr_t at) {
    const GCproto *pt = (const GCproto *)at; /* NOLINT: an address as a number */
    return IS(w, pt, LJ_TPROTO) ? pt : NULL;
}

/* True: pc, which may be any number, lies in pt's bytecode. */
static bool has_pc(const GCproto *pt, uintptr_t pc) {
    uintptr_t first = (uintptr_t)proto_bc(pt);
    return pc >= first && pc < first + pt->sizebc * sizeof(BCIns) && pc % sizeof(BCIns) == 0;
}

/* ---- frames ---- */

static uint64_t word_at(uintptr_t slot) {
    return ((const TValue *)slot)->u64; /* NOLINT: an address as a number, of our stack */
}

/* Finds the function of a frame. False: there is none. *pt: NULL: a C function, or the frame has none. */
static bool function_of(const walk *w, uintptr_t frame, const GCproto **pt) {
    uint64_t word = word_at(frame - sizeof(TValue));
    const void *p =
        (const void *)(uintptr_t)(word & LJ_GCVMASK); /* NOLINT: an address as a number */
    *pt = NULL;
    if (p == w->L) return true; /* a dummy frame */
    const GCfuncL *fn = p;
    if ((int32_t)((int64_t)word >> 47) != (int32_t)LJ_TFUNC || !IS(w, fn, LJ_TFUNC)) return false;
    if (fn->ffid != FF_LUA) return true;
    *pt = proto_at(w, (uintptr_t)mref(fn->pc, void) - sizeof(GCproto));
    return *pt != NULL;
}

/* The frame below the frame of a Lua function that bytecode called before pc; 0: there is none. */
static uintptr_t below_call(const walk *w, uintptr_t frame, uintptr_t pc) {
    const BCIns *call = (const BCIns *)(pc - sizeof(BCIns)); /* NOLINT: an address as a number */
    if (!HOLDS(w, call)) return 0;
    return frame - (1 + LJ_FR2 + bc_a(*call)) * sizeof(TValue);
}

/* True: frames lead from base to the bottom. */
static bool walk_from(walk *w, uintptr_t base) {
    uintptr_t frame = base - sizeof(TValue), return_pc = 0;
    bool is_copy = false; /* a vararg function's copy of its frame; the arguments are there */
    w->n = 0;
    w->more = false;
    for (int i = 0; i < LEVELS_MAX; i++) {
        const GCproto *pt;
        if (frame == w->bottom) return return_pc == 0;
        if (frame < w->bottom || frame >= w->end || frame % sizeof(TValue)) return false;
        if (!function_of(w, frame, &pt)) return false;
        if (return_pc && (!pt || !has_pc(pt, return_pc - sizeof(BCIns)))) return false;
        if (pt && !is_copy && !add(w, pt, pt->firstline, false)) return false;
        uint64_t link = word_at(frame);
        uintptr_t size = link & ~(uint64_t)FRAME_TYPEP;
        bool by_lua = (link & FRAME_TYPE) == FRAME_LUA;
        is_copy = (link & FRAME_TYPEP) == FRAME_VARG;
        return_pc = by_lua ? (uintptr_t)link : 0;
        if (!by_lua && size > frame - w->bottom) return false;
        uintptr_t next = by_lua ? below_call(w, frame, link) : frame - size;
        if (next >= frame) return false;
        frame = next;
    }
    w->more = true;
    return true;
}

/* ---- traces ---- */

/* The line of a trace that begins at pc. */
static int line_of(const walk *w, const GCproto *pt, uintptr_t pc) {
    if (!has_pc(pt, pc)) return pt->firstline;
    size_t at = (pc - (uintptr_t)proto_bc(pt)) / sizeof(BCIns);
    const char *lines = proto_lineinfo(pt);
    size_t size = pt->numline < 256 ? 1 : pt->numline < 65536 ? 2 : 4;
    uint8_t bytes[4] = {0};
    if (at == 0 || !lines || !vmmem_holds(w->vm, lines, at * size)) return pt->firstline;
    memcpy(bytes, lines + (at - 1) * size, size);
    return pt->firstline + (int)((uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 |
                                 (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24);
}

static const GCtrace *trace_at(const walk *w, const jit_State *J, MSize number) {
    const GCtrace *t = (const GCtrace *)gcref(J->trace[number]);
    return IS(w, t, LJ_TTRACE) ? t : NULL;
}

static bool runs_at(const GCtrace *t, uintptr_t pc) {
    return t && pc >= (uintptr_t)t->mcode && pc - (uintptr_t)t->mcode < t->szmcode;
}

/* The trace that contains pc. For C code called by a trace: the trace that LuaJIT names, which AArch64's LuaJIT does
 * not. */
static const GCtrace *find_trace(const walk *w, uintptr_t pc, bool in_code) {
    const jit_State *J = G2J(w->g);
    int32_t said = w->g->vmstate;
    if (!HOLDS(w, J) || !holds(w, J->trace, J->sizetrace * sizeof *J->trace, sizeof *J->trace))
        return NULL;
    const GCtrace *t = said > 0 && (MSize)said < J->sizetrace ? trace_at(w, J, (MSize)said) : NULL;
    if (!in_code || runs_at(t, pc)) return t;
    for (MSize i = 1; i < J->sizetrace; i++) {
        t = trace_at(w, J, i);
        if (runs_at(t, pc)) return t;
    }
    return NULL;
}

static void put_trace(walk *w, uintptr_t pc, bool in_code) {
    const GCtrace *t = find_trace(w, pc, in_code);
    const GCproto *pt = t ? proto_at(w, (uintptr_t)gcref(t->startpt)) : NULL;
    if (pt) add(w, pt, line_of(w, pt, (uintptr_t)mref(t->startpc, void)), true);
}

/* ---- where the thread stands ---- */

static uintptr_t pc_of(const mcontext_t *mc) {
#ifdef __x86_64__
    return (uintptr_t)mc->gregs[REG_RIP];
#else
    return (uintptr_t)mc->pc;
#endif
}

/* BASE in vm_x64.dasc, vm_arm64.dasc. */
static uintptr_t base_register(const mcontext_t *mc) {
#ifdef __x86_64__
    return (uintptr_t)mc->gregs[REG_RDX];
#else
    return (uintptr_t)mc->regs[19];
#endif
}

static bool begin(walk *w) {
    const lua_State *main_L = w->vm->L;
    if (!main_L || !IS(w, main_L, LJ_TTHREAD)) return false;
    w->g = G(main_L);
    if (!HOLDS(w, w->g)) return false;
    w->L = (const lua_State *)gcref(w->g->cur_L);
    if (!IS(w, w->L, LJ_TTHREAD) || G(w->L) != w->g) return false;
    const TValue *stack = tvref(w->L->stack);
    size_t size = w->L->stacksize * sizeof *stack;
    if (!holds(w, stack, size, sizeof *stack) || size < 2 * sizeof *stack) return false;
    w->bottom = (uintptr_t)(stack + LJ_FR2);
    w->end = (uintptr_t)stack + size;
    return true;
}

int luaframes_read(const host_vm *vm, const void *context, lua_frame *to, int max, bool *more) {
    const mcontext_t *mc = &((const ucontext_t *)context)->uc_mcontext;
    walk w = {.vm = vm, .to = to, .max = max};
    uintptr_t pc = pc_of(mc);
    if (!begin(&w)) return -1;
    bool in_code = vmmem_has_code((host_vm *)vm, pc);
    bool found = false;
    if (in_code || w.g->vmstate >= 0) {
        put_trace(&w, pc, in_code);
        w.to += w.n;
        w.max -= w.n;
        found = walk_from(&w, (uintptr_t)tvref(w.g->jit_base));
        w.n = found ? w.n : 0;
        w.n += max - w.max;
    } else {
        if (luaframes_is_interpreter(pc)) found = walk_from(&w, base_register(mc));
        if (!found) found = walk_from(&w, (uintptr_t)w.L->base);
        if (!found) w.n = 0;
    }
    *more = w.more;
    return found || w.n > 0 ? w.n : -1;
}

#else

int luaframes_read(const host_vm *vm, const void *context, lua_frame *to, int max, bool *more) {
    (void)vm;
    (void)context;
    (void)to;
    (void)max;
    *more = false;
    return -1;
}

#endif
