/* Stacks: mmap'd, with a guard below, of sizes that are powers of two.
 *
 * The kernel commits pages as they are touched, so a stack costs what it has used, whatever its size: this is how
 * stacks grow here. Huge pages would commit 2 MiB at the first touch, so there are none. An overflow hits the guard.
 * The SIGSEGV handler (signal.c), which runs on the M's alternate stack, reports it.
 *
 * Our code and LuaJIT's touches each page on its way down (-fstack-clash-protection). Other libraries' code need not: a
 * frame that is larger than the guard would step over it, into what lies below. So the guard is as large as the stack,
 * up to 1 MiB, which is the kernel's own measure for thread stacks.
 *
 * Stacks of the usual size stay with their dead Gs: 64 of these Gs per P, with warm stacks, and the others in the
 * global list (g.c). Stacks of other sizes come here, to a free list per power of two, KEEP of each; further ones are
 * unmapped. Every second the scavenger, which sysmon calls, gives the pages of the stacks in these lists back, except
 * for those at the top, which the next owner needs at once. stack_free does not: a stack that is taken and freed a
 * million times, as an offloaded call's is, would cost a system call each time.
 *
 * Rejected: growing by copying, as Go does (C keeps pointers into its stack); segmented stacks (hot splits).
 */
#include "impl.h"

#include <sys/auxv.h>
#include <sys/mman.h>

enum { CLASS_MIN_BITS = 14, CLASSES = 12, KEEP = 16 };

typedef struct free_stack {
    struct free_stack *link;
    bool trimmed; /* it has given its pages back */
} free_stack;     /* lies at the top of the free stack */

static struct {
    rt_lock lock;
    struct {
        free_stack *free;
        int n;
    } classes[CLASSES]; /* lock */
    _Atomic int64_t bytes;
} pool;

int64_t stack_bytes(void) {
    return count_get(&pool.bytes);
}

enum {
    SCAVENGE_BATCH = 256, /* stacks per call, which holds a lock */
    GUARD_MAX = 1 << 20,
};

/* 4 KiB on x86-64, up to 64 KiB on AArch64. */
static size_t page_size(void) {
    static _Atomic size_t size;
    size_t s = atomic_load_explicit(&size, memory_order_relaxed);
    if (s == 0) atomic_store_explicit(&size, s = getauxval(AT_PAGESZ), memory_order_relaxed);
    return s;
}

static size_t guard_of(size_t size) {
    size_t page = page_size();
    return size > GUARD_MAX ? GUARD_MAX : size < page ? page : size;
}

bool stack_guards(rt_stack s, const char *at) {
    return s.lo && at < s.lo && at >= s.lo - guard_of((size_t)(s.hi - s.lo));
}

static unsigned class_of(size_t size) {
    unsigned c = 0;
    while ((size_t)1 << (CLASS_MIN_BITS + c) < size)
        c++;
    if (c >= CLASSES) rt_throw("stack of %zu bytes", size);
    return c;
}

static free_stack *link_of(rt_stack s) {
    return (free_stack *)(s.hi - sizeof(free_stack));
}

static rt_stack stack_of(free_stack *f, size_t size) {
    char *hi = (char *)f + sizeof *f;
    return (rt_stack){hi - size, hi};
}

/* MADV_GUARD_INSTALL (Linux 6.13) leaves one mapping, where mprotect makes two of it: a process has
 * 65,530 by default, hence some 32,000 stacks on older kernels and as many as memory holds on newer. */
static int install_guard(char *base, size_t size) {
    enum { GUARD_INSTALL = 102 };
    if (madvise(base, size, GUARD_INSTALL) == 0) return 0;
    return mprotect(base, size, PROT_NONE);
}

/* At least size bytes, rounded up to a power of two; lo is NULL without memory. */
rt_stack stack_alloc(size_t size) {
    unsigned c = class_of(size);
    size = (size_t)1 << (CLASS_MIN_BITS + c);
    rt_lock_acquire(&pool.lock);
    free_stack *f = pool.classes[c].free;
    if (f) {
        pool.classes[c].free = f->link;
        pool.classes[c].n--;
    }
    rt_lock_release(&pool.lock);
    if (f) return stack_of(f, size);
    size_t guard = guard_of(size);
    char *base = mmap(NULL, size + guard, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (base == MAP_FAILED) return (rt_stack){0};
    if (install_guard(base, guard) < 0) { /* vm.max_map_count may be too low for so many stacks */
        munmap(base, size + guard);
        return (rt_stack){0};
    }
    (void)madvise(base, size + guard,
                  MADV_NOHUGEPAGE); /* a kernel without huge pages knows no such word */
    atomic_fetch_add(&pool.bytes, (int64_t)size);
    return (rt_stack){base + guard, base + guard + size};
}

void stack_trim(rt_stack s, const void *below) {
    size_t n = (size_t)((const char *)below - s.lo) & -page_size();
    if (n > 0) madvise(s.lo, n, MADV_DONTNEED);
}

/* The page at the top stays. */
static void trim(rt_stack s) {
    stack_trim(s, s.hi - page_size());
}

/* Trims free stacks of the pool, `most` of them. Returns how many. */
static int scavenge_pool(int most) {
    int n = 0;
    rt_lock_acquire(&pool.lock);
    for (int c = 0; c < CLASSES; c++)
        for (free_stack *f = pool.classes[c].free; f && n < most; f = f->link) {
            if (f->trimmed) continue;
            trim(stack_of(f, (size_t)1 << (CLASS_MIN_BITS + c)));
            f->trimmed = true;
            n++;
        }
    rt_lock_release(&pool.lock);
    return n;
}

int stack_scavenge(void) {
    int n = scavenge_pool(SCAVENGE_BATCH);
    rt_lock_acquire(&sched.gfree_lock);
    for (rt_g *g = sched.stack_gfree.head; g && n < SCAVENGE_BATCH; g = g->schedlink) {
        if (g->trimmed) continue;
        trim(g->ctx.stack);
        g->trimmed = true;
        n++;
    }
    rt_lock_release(&sched.gfree_lock);
    return n;
}

void stack_free(rt_stack s) {
    if (!s.lo) return;
    size_t size = (size_t)(s.hi - s.lo);
    unsigned c = class_of(size);
    rt_lock_acquire(&pool.lock);
    bool keep = pool.classes[c].n < KEEP;
    if (keep) {
        pool.classes[c].n++;
        free_stack *f = link_of(s);
        f->trimmed = false;
        f->link = pool.classes[c].free;
        pool.classes[c].free = f;
    }
    rt_lock_release(&pool.lock);
    if (keep) return;
    atomic_fetch_sub(&pool.bytes, (int64_t)size);
    munmap(s.lo - guard_of(size), size + guard_of(size));
}
