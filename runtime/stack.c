/* Stacks: mmap'd, with a guard page below, of sizes that are powers of two.
 *
 * The kernel commits pages as they are touched, so a stack costs what it has used, whatever its
 * size; that is our growth. An overflow hits the guard page and is reported by the SIGSEGV handler
 * (signal.c), which runs on the M's alternate stack.
 *
 * Stacks of the usual size stay with their dead G (proc.c); others, and those whose G's list is
 * full, come here. One free list per size up to a limit; beyond it they are unmapped. A stack on
 * the list has given its pages back, but for the one at the top, which the next owner needs.
 *
 * Rejected: growing by copying, as Go does (C keeps pointers into its stack); segmented stacks (hot
 * splits).
 */
#include "impl.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

enum { CLASS_MIN_BITS = 14, CLASSES = 12, KEEP = 16 };

typedef struct free_stack {
    struct free_stack *link;
} free_stack; /* lies at the top of the free stack */

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

enum { GUARD = 4096 * 4 }; /* 16 KiB: a page on every architecture we build for */

static unsigned class_of(size_t size) {
    unsigned c = 0;
    while ((size_t)1 << (CLASS_MIN_BITS + c) < size) c++;
    if (c >= CLASSES) rt_throw("stack of %zu bytes", size);
    return c;
}

static free_stack *link_of(rt_stack s) {
    return (free_stack *)(s.hi - sizeof(free_stack));
}

/* At least size bytes, rounded up to a power of two. Never fails: throws without memory. */
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
    if (f) {
        char *hi = (char *)f + sizeof *f;
        return (rt_stack){hi - size, hi};
    }
    char *base = mmap(NULL, size + GUARD, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (base == MAP_FAILED || mprotect(base, GUARD, PROT_NONE) < 0)
        rt_throw("no memory for a stack of %zu bytes: %s", size, strerror(errno));
    atomic_fetch_add(&pool.bytes, (int64_t)size);
    return (rt_stack){base + GUARD, base + GUARD + size};
}

void stack_free(rt_stack s) {
    if (!s.lo) return;
    size_t size = (size_t)(s.hi - s.lo);
    unsigned c = class_of(size);
    rt_lock_acquire(&pool.lock);
    bool keep = pool.classes[c].n < KEEP;
    if (keep) {
        pool.classes[c].n++;
        /* The top page stays; what was below it goes back to the kernel. */
        madvise(s.lo, size - GUARD, MADV_DONTNEED);
        free_stack *f = link_of(s);
        f->link = pool.classes[c].free;
        pool.classes[c].free = f;
    }
    rt_lock_release(&pool.lock);
    if (keep) return;
    atomic_fetch_sub(&pool.bytes, (int64_t)size);
    munmap(s.lo - GUARD, size + GUARD);
}
