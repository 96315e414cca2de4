/* From a signal's registers to the return addresses below, for the profiler.
 *
 * The compiler leaves out frame pointers, so the chain of callers can be followed only with the
 * tables that it writes for exceptions: .eh_frame says for each instruction where its frame begins
 * (the CFA) and where the caller's registers were saved, .eh_frame_hdr finds the entry by binary
 * search. Both are mapped and read-only. We read them ourselves and follow the few instructions
 * that compilers use for C.
 *
 * The unwinder runs in a signal handler, so it takes no lock, allocates nothing, calls nothing, and
 * cannot fault. It reads the tables of the modules that were there when the process began; these are
 * never unmapped. It reads the stack only between the interrupted stack pointer and the stack's end,
 * which the scheduler knows. Frames that it does not understand (code made at run time, libraries
 * loaded later, a CFA that is an expression) end the walk: a stack may be cut short at its outer
 * end, but is never invented.
 *
 * Rejected: libgcc's _Unwind_Backtrace (takes a lock as soon as any code has registered frames, as
 * LuaJIT does for its traces: a signal in between would lock for ever); frame pointers (two
 * instructions per function and a register in all that we compile, and libc has none); copying the
 * stack and doing this later (kilobytes per sample).
 *
 * Sources: DWARF 5, 6.4; the Linux Standard Base's ".eh_frame_hdr".
 */
#include "impl.h"

#include <link.h>
#include <string.h>
#include <ucontext.h>

#if defined(__x86_64__)
enum { REGS = 17, SP = 7, RA = 16 };
#elif defined(__aarch64__)
enum { REGS = 32, SP = 31, RA = 30 };
#endif

enum { MAX_MODULES = 32 };

static struct {
    int n;
    struct {
        uintptr_t lo, hi;   /* code */
        const uint8_t *hdr; /* .eh_frame_hdr */
    } at[MAX_MODULES];
} modules; /* written once, before there are handlers */

enum { PCREL_SDATA4 = 0x1b, DATAREL_SDATA4 = 0x3b, UDATA4 = 0x03 };

static int add_module(struct dl_phdr_info *info, size_t size, void *arg) {
    (void)size;
    (void)arg;
    const uint8_t *hdr = NULL;
    for (int i = 0; i < info->dlpi_phnum; i++)
        if (info->dlpi_phdr[i].p_type == PT_GNU_EH_FRAME)
            hdr = (const uint8_t *)(info->dlpi_addr + info->dlpi_phdr[i].p_vaddr); /* NOLINT */
    /* The one form that linkers write: a sorted table of pairs, relative to the header. */
    if (!hdr || hdr[0] != 1 || hdr[2] != UDATA4 || hdr[3] != DATAREL_SDATA4 ||
        (hdr[1] & 0xf) != 0xb)
        return 0;
    for (int i = 0; i < info->dlpi_phnum && modules.n < MAX_MODULES; i++) {
        const ElfW(Phdr) *ph = &info->dlpi_phdr[i];
        if (ph->p_type != PT_LOAD || !(ph->p_flags & PF_X)) continue;
        uintptr_t lo = info->dlpi_addr + ph->p_vaddr;
        modules.at[modules.n].lo = lo;
        modules.at[modules.n].hi = lo + ph->p_memsz;
        modules.at[modules.n++].hdr = hdr;
    }
    return 0;
}

void unwind_init(void) {
    dl_iterate_phdr(add_module, NULL);
}

/* ---- reading the tables ---- */

static int32_t get_s32(const uint8_t *p) {
    int32_t x;
    memcpy(&x, p, sizeof x);
    return x;
}

/* The bits of a LEB128 number, and how many. */
static uint64_t leb(const uint8_t **p, unsigned *n) {
    uint64_t x = 0;
    uint8_t b;
    *n = 0;
    do {
        b = *(*p)++;
        if (*n < 64) x |= (uint64_t)(b & 0x7f) << *n;
        *n += 7;
    } while (b & 0x80);
    return x;
}

static uint64_t uleb(const uint8_t **p) {
    unsigned n;
    return leb(p, &n);
}

static int64_t sleb(const uint8_t **p) {
    unsigned n;
    uint64_t x = leb(p, &n);
    if (n < 64 && x >> (n - 1) & 1) x |= ~UINT64_C(0) << n;
    return (int64_t)x;
}

/* How the frames of a function are laid out. */
typedef struct entry {
    uintptr_t start;
    const uint8_t *cie_code, *cie_end, *code, *end;
    uint64_t code_align;
    int64_t data_align;
    bool is_signal; /* the caller was interrupted: its pc is no return address */
} entry;

/* The parts of a CIE that matter. False: a form that is not ours. */
static bool read_cie(const uint8_t *cie, entry *e) {
    uint32_t length = (uint32_t)get_s32(cie);
    if (length == 0xffffffff || get_s32(cie + 4) != 0) return false;
    e->cie_end = cie + 4 + length;
    uint8_t version = cie[8];
    const uint8_t *aug = cie + 9, *p = aug;
    while (*p++)
        ;
    e->code_align = uleb(&p);
    e->data_align = sleb(&p);
    uint64_t ra = version == 1 ? *p++ : uleb(&p);
    if (ra != RA || aug[0] != 'z') return false;
    uint64_t n = uleb(&p);
    e->cie_code = p + n;
    for (aug++; *aug; aug++) {
        if (*aug == 'R') {
            if (*p++ != PCREL_SDATA4) return false;
        } else if (*aug == 'P') {
            uint8_t size = *p++ & 0xf;
            if (size != 0xb && size != 0x3) return false;
            p += 4;
        } else if (*aug == 'L') {
            p++;
        } else if (*aug == 'S') {
            e->is_signal = true;
        } else if (*aug != 'B') {
            return false;
        }
    }
    return true;
}

static bool find_entry(uintptr_t pc, entry *e) {
    const uint8_t *hdr = NULL;
    for (int i = 0; !hdr && i < modules.n; i++)
        if (pc >= modules.at[i].lo && pc < modules.at[i].hi) hdr = modules.at[i].hdr;
    if (!hdr) return false;
    /* The last pair that does not begin after pc. */
    const uint8_t *table = hdr + 12;
    uint32_t lo = 0, hi = (uint32_t)get_s32(hdr + 8);
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if ((uintptr_t)hdr + (uintptr_t)(intptr_t)get_s32(table + (size_t)mid * 8) <= pc)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (lo == 0) return false;
    const uint8_t *fde = hdr + get_s32(table + (size_t)(lo - 1) * 8 + 4);
    uint32_t length = (uint32_t)get_s32(fde);
    if (length == 0xffffffff) return false;
    memset(e, 0, sizeof *e);
    if (!read_cie(fde + 4 - get_s32(fde + 4), e)) return false;
    const uint8_t *p = fde + 8;
    e->start = (uintptr_t)p + (uintptr_t)(intptr_t)get_s32(p);
    if (pc - e->start >= (uint32_t)get_s32(p + 4)) return false; /* between two functions */
    p += 8;
    uint64_t n = uleb(&p);
    e->code = p + n;
    e->end = fde + 4 + length;
    return true;
}

/* ---- following them ---- */

enum rule_kind { SAME, AT_CFA, UNDEFINED, BEYOND_US };

typedef struct rules {
    uint64_t cfa_reg;
    int64_t cfa_off;
    bool cfa_expr;
    uint8_t kind[REGS];
    int64_t off[REGS];
} rules;

static void set_rule(rules *r, uint64_t reg, enum rule_kind kind, int64_t off) {
    if (reg >= REGS) return; /* vector registers: no frame depends on them */
    r->kind[reg] = (uint8_t)kind;
    r->off[reg] = off;
}

enum { REMEMBERED = 4 };

/* A run of CFA instructions. */
typedef struct cfa_run {
    const entry *e;
    const rules *initial; /* the CIE's outcome, NULL while it is made */
    rules *r;             /* the row so far */
    const uint8_t *p;     /* the next operand or instruction */
    rules saved[REMEMBERED];
    int n_saved;
} cfa_run;

/* How far op moves the location, times code_align. -1: not at all. */
static int64_t advance_by(cfa_run *c, uint8_t op) {
    if ((op & 0xc0) == 0x40) return op & 0x3f;
    const uint8_t *p = c->p;
    switch (op) {
    case 0x02:
        c->p += 1;
        return p[0];
    case 0x03:
        c->p += 2;
        return p[0] | p[1] << 8;
    case 0x04:
        c->p += 4;
        return (uint32_t)get_s32(p);
    default:
        return -1;
    }
}

static void restore_rule(cfa_run *c, uint64_t reg) {
    if (c->initial && reg < REGS) set_rule(c->r, reg, c->initial->kind[reg], c->initial->off[reg]);
}

/* Expressions are not evaluated. */
static void skip_expression(cfa_run *c) {
    uint64_t n = uleb(&c->p);
    c->p += n;
}

/* Instructions about the canonical frame address. False: op is none. */
static bool set_cfa(cfa_run *c, uint8_t op) {
    rules *r = c->r;
    switch (op) {
    case 0x0c: /* def_cfa */
        r->cfa_reg = uleb(&c->p);
        r->cfa_off = (int64_t)uleb(&c->p);
        r->cfa_expr = false;
        return true;
    case 0x0d: /* def_cfa_register */
        r->cfa_reg = uleb(&c->p);
        return true;
    case 0x0e: /* def_cfa_offset */
        r->cfa_off = (int64_t)uleb(&c->p);
        return true;
    case 0x0f: /* def_cfa_expression */
        skip_expression(c);
        r->cfa_expr = true;
        return true;
    case 0x12: /* def_cfa_sf */
        r->cfa_reg = uleb(&c->p);
        r->cfa_off = sleb(&c->p) * c->e->data_align;
        r->cfa_expr = false;
        return true;
    case 0x13: /* def_cfa_offset_sf */
        r->cfa_off = sleb(&c->p) * c->e->data_align;
        return true;
    default:
        return false;
    }
}

/* Instructions about one register. False: op is none. */
static bool set_register(cfa_run *c, uint8_t op) {
    uint64_t reg;
    if ((op & 0xc0) == 0x80) {
        set_rule(c->r, op & 0x3f, AT_CFA, (int64_t)uleb(&c->p) * c->e->data_align);
        return true;
    }
    if ((op & 0xc0) == 0xc0) {
        restore_rule(c, op & 0x3f);
        return true;
    }
    switch (op) {
    case 0x05: /* offset_extended */
        reg = uleb(&c->p);
        set_rule(c->r, reg, AT_CFA, (int64_t)uleb(&c->p) * c->e->data_align);
        return true;
    case 0x06: /* restore_extended */
        restore_rule(c, uleb(&c->p));
        return true;
    case 0x07:
        set_rule(c->r, uleb(&c->p), UNDEFINED, 0);
        return true;
    case 0x08:
        set_rule(c->r, uleb(&c->p), SAME, 0);
        return true;
    case 0x09: /* register */
        reg = uleb(&c->p);
        uleb(&c->p);
        set_rule(c->r, reg, BEYOND_US, 0);
        return true;
    case 0x10: /* expression, val_expression */
    case 0x16:
        reg = uleb(&c->p);
        skip_expression(c);
        set_rule(c->r, reg, BEYOND_US, 0);
        return true;
    case 0x11: /* offset_extended_sf */
        reg = uleb(&c->p);
        set_rule(c->r, reg, AT_CFA, sleb(&c->p) * c->e->data_align);
        return true;
    default:
        return false;
    }
}

/* Instructions about whole rows, and those without effect here. False: op is none, or too many rows are remembered. */
static bool set_row(cfa_run *c, uint8_t op) {
    switch (op) {
    case 0x00: /* nop */
    case 0x2d: /* aarch64: the return address is signed from here on */
        return true;
    case 0x0a: /* remember_state */
        if (c->n_saved == REMEMBERED) return false;
        c->saved[c->n_saved++] = *c->r;
        return true;
    case 0x0b: /* restore_state */
        if (c->n_saved == 0) return false;
        *c->r = c->saved[--c->n_saved];
        return true;
    case 0x2e: /* GNU_args_size */
        uleb(&c->p);
        return true;
    default:
        return false;
    }
}

/* Runs CFA instructions until the row of pc. `initial` is the CIE's outcome, NULL while it is made.
 * False: something we do not know. */
static bool run_cfa(const entry *e, const uint8_t *p, const uint8_t *end, uintptr_t pc, rules *r,
                    const rules *initial) {
    cfa_run c;
    c.e = e;
    c.initial = initial;
    c.r = r;
    c.p = p;
    c.n_saved = 0;
    uintptr_t loc = e->start;
    while (c.p < end) {
        uint8_t op = *c.p++;
        int64_t delta = advance_by(&c, op);
        if (delta >= 0) {
            loc += (uint64_t)delta * e->code_align;
            if (loc > pc) return true;
        } else if (!set_register(&c, op) && !set_cfa(&c, op) && !set_row(&c, op)) {
            return false;
        }
    }
    return true;
}

/* Loads a word of the stack, whose bytes the sanitizers may have marked as unusable. */
__attribute__((no_sanitize("address"))) RT_PEEKS static bool load(rt_stack s, uintptr_t at,
                                                                  uintptr_t *x) {
    if (at < (uintptr_t)s.lo || at + sizeof *x > (uintptr_t)s.hi || at % sizeof *x) return false;
    *x = *(volatile uintptr_t *)at; /* NOLINT: an address it is */
    return true;
}

/* Goes from a frame's registers to its caller's. Reads only inside s. */
static bool step(uintptr_t *regs, uintptr_t *pc, bool *is_return, rt_stack s) {
    entry e;
    rules initial = {0}, r;
    /* A call may be the last instruction of its function: then the return address belongs to another function. */
    uintptr_t at = *pc - (*is_return ? 1 : 0);
    if (!find_entry(at, &e) || !run_cfa(&e, e.cie_code, e.cie_end, ~(uintptr_t)0, &initial, NULL))
        return false;
    r = initial;
    if (!run_cfa(&e, e.code, e.end, at, &r, &initial)) return false;
    if (r.cfa_expr || r.cfa_reg >= REGS) return false;
    uintptr_t cfa = regs[r.cfa_reg] + (uintptr_t)r.cfa_off;
    /* Frames only go up; the outermost ends where its stack does. */
    if (cfa < regs[SP] || cfa > (uintptr_t)s.hi) return false;
    uintptr_t next[REGS];
    for (int i = 0; i < REGS; i++) {
        next[i] = regs[i];
        if (r.kind[i] == AT_CFA && !load(s, cfa + (uintptr_t)r.off[i], &next[i])) return false;
        if (r.kind[i] == UNDEFINED || r.kind[i] == BEYOND_US) next[i] = 0;
    }
    if (cfa == regs[SP] && next[RA] == *pc) return false;
    memcpy(regs, next, sizeof next);
    regs[SP] = cfa;
    *pc = regs[RA];
    *is_return = !e.is_signal;
    return *pc != 0;
}

int unwind(const void *context, rt_stack stack, uintptr_t *pcs, int max) {
    const mcontext_t *mc = &((const ucontext_t *)context)->uc_mcontext;
    uintptr_t regs[REGS] = {0};
#if defined(__x86_64__)
    static const int order[RA] = {REG_RAX, REG_RDX, REG_RCX, REG_RBX, REG_RSI, REG_RDI,
                                  REG_RBP, REG_RSP, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                  REG_R12, REG_R13, REG_R14, REG_R15};
    for (int i = 0; i < RA; i++)
        regs[i] = (uintptr_t)mc->gregs[order[i]];
    uintptr_t pc = (uintptr_t)mc->gregs[REG_RIP];
#else
    for (int i = 0; i < 31; i++)
        regs[i] = mc->regs[i];
    regs[SP] = mc->sp;
    uintptr_t pc = mc->pc;
#endif
    int n = 0;
    bool is_return = false;
    if (max > 0) pcs[n++] = pc;
    if (regs[SP] < (uintptr_t)stack.lo || regs[SP] > (uintptr_t)stack.hi) return n;
    stack.lo = (char *)regs[SP]; /* NOLINT: nothing below is in use */
#if defined(__x86_64__)
    stack.lo -= 128; /* except the red zone */
#endif
    while (n < max && step(regs, &pc, &is_return, stack))
        pcs[n++] = pc;
    return n;
}
