/* The memory of a VM: LuaJIT's mappings for it, their limit, and giving them back at once.
 *
 * LuaJIT's allocator takes everything from mmap, for its heap and for machine code. The linker's --wrap brings its
 * mmap64, munmap and mremap here. Each mapping is recorded with the VM that runs on the calling thread (vm_here). This
 * gives three things:
 *
 *   - A count, view.mapped.
 *   - A limit, --vm-memory. Beyond it mmap64 and mremap say ENOMEM, and LuaJIT raises "not enough memory" in the
 *     handler that allocates. The handler ends, its garbage is collected before the next one begins (luag_give), and
 *     the VM lives on. Near the limit the collector is made to hurry, so that only live data counts (vmgc.c).
 *   - vmmem_drop: the VM can go without a walk over its heap, in 2 ms whatever its size. The heap may be half written
 *     when compiled code was ended in the middle.
 *
 * The limit is for Lua. The host's own work in a VM between two Gs (a coroutine for a request, the words that a wait
 * answers) cannot be undone by an error, so it may use a reserve of 1/16 more, 1 MiB at least. Finalizers are the
 * user's, in whatever Lua they are called, and stand beneath a barrier.
 *
 * Records are an array of disjoint ranges in the order of addresses, neighbours joined: LuaJIT joins and splits
 * mappings as it likes. The array lies in malloc's memory, and only the thread that runs the VM touches it. It has room
 * for two more before anything is mapped or unmapped, so recording cannot fail. A range that this VM did not map (the
 * runtime's stacks go through munmap as well) is passed on untouched.
 *
 * mprotect tells which of the memory is machine code: LuaJIT has each of its areas either executable or writable.
 * Unlike mmap's records, these may be missing where there is no memory.
 *
 * Two other things of a VM are not in its heap, so they are recorded as well:
 *
 *   - the FILEs of its io library, opened with close-on-exec: no child of the process inherits the files that a handler
 *     has open;
 *   - the unwind tables that LuaJIT registers with libgcc for its machine code, and which libgcc would read at the next
 *     error of any other VM.
 */
#include "vmmem.h"

#include "../../runtime/sanitizers.h"
#include "../base/log.h"
#include "../base/options.h"
#include "vm.h"

#include <errno.h>
#include <fcntl.h>
#include <luajit.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#ifdef RT_ASAN
#include <sanitizer/asan_interface.h>
#endif

enum { PAGE = 4096, RESERVE_PART = 16, RESERVE_MIN = 1 << 20 };

struct mem_range {
    uintptr_t lo, hi;
};

struct mem_code {
    uintptr_t lo, hi;
    bool exec; /* LuaJIT wants it executable; else LuaJIT writes there */
};

struct mem_table {
    void *table;
    void *object;
};

struct mem_file {
    FILE *f;
    bool is_pipe; /* popen's */
};

/* ---- arrays that grow ---- */

/* Makes room for n elements of `size` bytes in *array. False: no memory. */
static bool reserve(void **array, int *cap, int n, size_t size) {
    if (n <= *cap) return true;
    int more = *cap ? *cap * 2 : 16;
    void *grown = realloc(*array, (size_t)more * size);
    if (!grown) return false;
    *array = grown;
    *cap = more;
    return true;
}

#define RESERVE(a, more) reserve((void **)&(a).v, &(a).cap, (a).n + (more), sizeof *(a).v)

/* ---- ranges ---- */

/* Index of the first range that ends at `at` or later. */
static int find_range(const vm_mem *m, uintptr_t at) {
    int lo = 0, hi = m->ranges.n;
    while (lo < hi) {
        int mid = (lo + hi) / 2;
        if (m->ranges.v[mid].hi < at)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* Replaces the ranges [i, j) by the n of `by`. */
static void splice_ranges(vm_mem *m, int i, int j, const mem_range *by, int n) {
    mem_range *v = m->ranges.v;
    memmove(v + i + n, v + j, (size_t)(m->ranges.n - j) * sizeof *v);
    for (int k = 0; k < n; k++)
        v[i + k] = by[k];
    m->ranges.n += n - (j - i);
}

/* Adds a range. There is room for one more. */
static void add_range(vm_mem *m, uintptr_t lo, uintptr_t hi) {
    int i = find_range(m, lo), j = i;
    mem_range all = {lo, hi};
    for (; j < m->ranges.n && m->ranges.v[j].lo <= hi; j++) {
        if (m->ranges.v[j].lo < all.lo) all.lo = m->ranges.v[j].lo;
        if (m->ranges.v[j].hi > all.hi) all.hi = m->ranges.v[j].hi;
    }
    splice_ranges(m, i, j, &all, 1);
}

/* Cuts [lo, hi) out. There is room for one more. Returns how many of its bytes were recorded. */
static int64_t cut_range(vm_mem *m, uintptr_t lo, uintptr_t hi) {
    int i = find_range(m, lo + 1), j = i, n = 0;
    int64_t bytes = 0;
    mem_range left[2];
    for (; j < m->ranges.n && m->ranges.v[j].lo < hi; j++) {
        mem_range r = m->ranges.v[j];
        if (r.lo < lo) left[n++] = (mem_range){r.lo, lo};
        if (r.hi > hi) left[n++] = (mem_range){hi, r.hi};
        bytes += (int64_t)((r.hi < hi ? r.hi : hi) - (r.lo > lo ? r.lo : lo));
    }
    if (j > i) splice_ranges(m, i, j, left, n);
    return bytes;
}

static uintptr_t end_of(const void *p, size_t len) {
    return ((uintptr_t)p + len + PAGE - 1) & ~(uintptr_t)(PAGE - 1);
}

static void record(host_vm *vm, void *p, size_t len) {
    uintptr_t lo = (uintptr_t)p, hi = end_of(p, len);
#ifdef RT_ASAN
    /* A stack that was unmapped there has left its redzones poisoned. */
    __asan_unpoison_memory_region(p, hi - lo);
#endif
    add_range(&vm->mem, lo, hi);
    VIEW_ADD(vm->view.mapped, (int64_t)(hi - lo));
    vm_gc_grown(vm);
}

static int64_t forget(host_vm *vm, const void *p, size_t len) {
    int64_t bytes = cut_range(&vm->mem, (uintptr_t)p, end_of(p, len));
    VIEW_ADD(vm->view.mapped, -bytes);
    return bytes;
}

bool vmmem_has_code(host_vm *vm, uintptr_t pc) {
    const vm_mem *m = &vm->mem;
    if (m->busy) return false;
    int i = find_range(m, pc + 1);
    bool ours = i < m->ranges.n && m->ranges.v[i].lo <= pc;
    return ours && (pc < m->callbacks || pc >= m->callbacks + PAGE);
}

bool vmmem_holds(const host_vm *vm, const void *p, size_t n) {
    const vm_mem *m = &vm->mem;
    if (m->busy) return false;
    int i = find_range(m, (uintptr_t)p + 1);
    return i < m->ranges.n && m->ranges.v[i].lo <= (uintptr_t)p &&
           n <= m->ranges.v[i].hi - (uintptr_t)p;
}

/* ---- machine code ---- */

int __real_mprotect(void *addr, size_t len, int prot);

static void record_code(host_vm *vm, uintptr_t lo, uintptr_t hi, bool exec) {
    vm_mem *m = &vm->mem;
    for (int i = 0; i < m->code.n; i++)
        if (m->code.v[i].lo == lo && m->code.v[i].hi == hi) {
            m->code.v[i].exec = exec;
            return;
        }
    if (!exec || lo == m->callbacks || !RESERVE(m->code, 1)) return;
    m->code.v[m->code.n++] = (mem_code){lo, hi, true};
}

static void forget_code(host_vm *vm, uintptr_t lo, uintptr_t hi) {
    vm_mem *m = &vm->mem;
    for (int i = m->code.n - 1; i >= 0; i--)
        if (m->code.v[i].lo < hi && m->code.v[i].hi > lo) m->code.v[i] = m->code.v[--m->code.n];
}

/* The runtime's stacks get their guards by this function as well. */
int __wrap_mprotect(void *addr, size_t len, int prot) {
    host_vm *vm = vm_here();
    uintptr_t lo = (uintptr_t)addr;
    if (!vm || !vm->L) return __real_mprotect(addr, len, prot);
    vm->mem.busy = true;
    int r = __real_mprotect(addr, len, prot);
    if (r == 0) record_code(vm, lo, end_of(addr, len), prot & PROT_EXEC);
    vm->mem.busy = false;
    return r;
}

void vmmem_stop_code(host_vm *vm, bool stop) {
    vm_mem *m = &vm->mem;
    if (m->busy || (!stop && !m->stopped)) return;
    int saved = errno;
    for (int i = 0; i < m->code.n; i++) {
        mem_code c = m->code.v[i];
        if (!c.exec) continue;
        if (__real_mprotect((void *)c.lo, c.hi - c.lo, /* NOLINT: an address as a number */
                            stop ? PROT_READ : PROT_READ | PROT_EXEC) != 0)
            if (!stop) rt_throw("VM %d: mprotect: %s", vm->view.vm_id, strerror(errno));
    }
    m->stopped = stop;
    errno = saved;
}

/* ---- the limit ---- */

static bool too_much(host_vm *vm, size_t more) {
    int64_t limit = options.vm_memory;
    if (limit == 0) return false;
    if (!vm->in_lua && vm->barriers.n == 0) {
        int64_t part = limit / RESERVE_PART;
        limit += part > RESERVE_MIN ? part : RESERVE_MIN;
    }
    if (more <= (size_t)INT64_MAX / 2 && vm->view.mapped + charged(vm) + (int64_t)more <= limit)
        return false;
    vm->mem.refused = true;
    return true;
}

/* ---- unwind tables ---- */

/* libgcc's own function. The caller gives the object that libgcc keeps for a table, of eight pointers. Its
 * __register_frame, which LuaJIT calls, takes the object from malloc and does not check for memory. */
void __register_frame_info(const void *table, void *object);
void *__deregister_frame_info(const void *table);
void __real___register_frame(void *table);
void __real___deregister_frame(void *table);

/* LuaJIT maps machine code, then registers a table for it: makes room for the table before. */
static bool table_room(host_vm *vm) {
    vm_mem *m = &vm->mem;
    if (!m->table_object) m->table_object = malloc(8 * sizeof(void *));
    return m->table_object && RESERVE(m->tables, 1);
}

void __wrap___register_frame(void *table) {
    host_vm *vm = vm_here();
    if (!vm) {
        __real___register_frame(table);
        return;
    }
    if (!table_room(vm)) return; /* two for one mapping: an error that passes through is a panic */
    vm->mem.tables.v[vm->mem.tables.n++] = (mem_table){table, vm->mem.table_object};
    __register_frame_info(table, vm->mem.table_object);
    vm->mem.table_object = NULL;
}

static void forget_table(vm_mem *m, int i) {
    free(__deregister_frame_info(m->tables.v[i].table));
    m->tables.v[i] = m->tables.v[--m->tables.n];
}

void __wrap___deregister_frame(void *table) {
    host_vm *vm = vm_here();
    if (!vm) {
        __real___deregister_frame(table);
        return;
    }
    for (int i = vm->mem.tables.n - 1; i >= 0; i--)
        if (vm->mem.tables.v[i].table == table) {
            forget_table(&vm->mem, i);
            return;
        }
}

/* ---- what LuaJIT calls ---- */

void *__real_mmap64(void *addr, size_t len, int prot, int flags, int fd, off64_t off);
int __real_munmap(void *addr, size_t len);
void *__real_mremap(void *old, size_t old_len, size_t len, int flags, ...);

static void *map(host_vm *vm, void *addr, size_t len, int prot, int flags, int fd, off64_t off) {
    if (too_much(vm, len) || !RESERVE(vm->mem.ranges, 2) || !table_room(vm)) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    void *p = __real_mmap64(addr, len, prot, flags, fd, off);
    if (p != MAP_FAILED && len <= PAGE) vm->mem.callbacks = (uintptr_t)p; /* of FFI: the only one */
    if (p != MAP_FAILED) record(vm, p, len);
    return p;
}

void *__wrap_mmap64(void *addr, size_t len, int prot, int flags, int fd, off64_t off) {
    host_vm *vm = vm_here();
    if (!vm) return __real_mmap64(addr, len, prot, flags, fd, off);
    vm->mem.busy = true;
    void *p = map(vm, addr, len, prot, flags, fd, off);
    vm->mem.busy = false;
    return p;
}

static int unmap(host_vm *vm, void *addr, size_t len) {
    if (!RESERVE(vm->mem.ranges, 2)) {
        errno = ENOMEM;
        return -1;
    }
    int r = __real_munmap(addr, len);
    if (r != 0) return r;
    forget(vm, addr, len);
    forget_code(vm, (uintptr_t)addr, end_of(addr, len));
    return 0;
}

int __wrap_munmap(void *addr, size_t len) {
    host_vm *vm = vm_here();
    if (!vm) return __real_munmap(addr, len);
    vm->mem.busy = true;
    int r = unmap(vm, addr, len);
    vm->mem.busy = false;
    return r;
}

static void *remap(host_vm *vm, void *old, size_t old_len, size_t len, int flags, void *at) {
#ifdef RT_TSAN
    if (len > old_len) { /* TSan does not see pages move; LuaJIT copies then */
        errno = ENOMEM;
        return MAP_FAILED;
    }
#endif
    if ((len > old_len && too_much(vm, len - old_len)) || !RESERVE(vm->mem.ranges, 2)) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    void *p = __real_mremap(old, old_len, len, flags, at);
    if (p != MAP_FAILED && forget(vm, old, old_len) > 0) record(vm, p, len);
    return p;
}

void *__wrap_mremap(void *old, size_t old_len, size_t len, int flags, ...) {
    va_list args;
    va_start(args, flags);
    void *at = flags & MREMAP_FIXED ? va_arg(args, void *) : NULL;
    va_end(args);
    host_vm *vm = vm_here();
    if (!vm) return __real_mremap(old, old_len, len, flags, at);
    vm->mem.busy = true;
    void *p = remap(vm, old, old_len, len, flags, at);
    vm->mem.busy = false;
    return p;
}

/* ---- files ---- */

FILE *__real_fopen64(const char *path, const char *mode);
FILE *__real_popen(const char *command, const char *mode);
int __real_fclose(FILE *f);
int __real_pclose(FILE *f);

/* mode with close-on-exec, in buf. A mode that does not fit is invalid anyway. */
static const char *closing_mode(const char *mode, char *buf, size_t cap) {
    if (strchr(mode, 'e') || strlen(mode) + 2 > cap) return mode;
    snprintf(buf, cap, "%se", mode);
    return buf;
}

/* Makes room to record a file, before it is opened. False: no memory. */
static bool room_for_file(host_vm *vm) {
    if (!vm || RESERVE(vm->mem.files, 1)) return true;
    errno = ENOMEM;
    return false;
}

static FILE *record_file(host_vm *vm, FILE *f, bool is_pipe) {
    if (vm && f) vm->mem.files.v[vm->mem.files.n++] = (mem_file){f, is_pipe};
    return f;
}

static void forget_file(const FILE *f) {
    host_vm *vm = vm_here();
    if (!vm) return;
    for (int i = vm->mem.files.n - 1; i >= 0; i--)
        if (vm->mem.files.v[i].f == f) {
            vm->mem.files.v[i] = vm->mem.files.v[--vm->mem.files.n];
            return;
        }
}

FILE *__wrap_fopen64(const char *path, const char *mode) {
    char buf[16];
    host_vm *vm = vm_here();
    if (!room_for_file(vm)) return NULL;
    return record_file(vm, __real_fopen64(path, closing_mode(mode, buf, sizeof buf)), false);
}

FILE *__wrap_popen(const char *command, const char *mode) {
    char buf[16];
    host_vm *vm = vm_here();
    if (!room_for_file(vm)) return NULL;
    return record_file(vm, __real_popen(command, closing_mode(mode, buf, sizeof buf)), true);
}

/* libc's tmpfile has no close-on-exec. */
FILE *__wrap_tmpfile64(void) {
    host_vm *vm = vm_here();
    if (!room_for_file(vm)) return NULL;
    char path[] = "/tmp/lunapark_XXXXXX";
    int fd = mkostemp(path, O_CLOEXEC);
    if (fd < 0) return NULL;
    unlink(path);
    FILE *f = fdopen(fd, "w+");
    if (!f) close(fd);
    return record_file(vm, f, false);
}

int __wrap_fclose(FILE *f) {
    forget_file(f);
    return __real_fclose(f);
}

int __wrap_pclose(FILE *f) {
    forget_file(f);
    return __real_pclose(f);
}

/* pclose waits for the process at the other end. */
static void pclose_main(void *f) {
    rt_entersyscallblock();
    __real_pclose(f);
    rt_exitsyscall();
}

/* ---- the end ---- */

/* Keeps a range that cannot be unmapped, in the midst of a mapping of the kernel's, which allows no more mappings. */
static void lose_range(host_vm *vm, mem_range r) {
    log_line(LOG_ERROR, "VM %d: munmap of %zu bytes: %s", vm->view.vm_id, (size_t)(r.hi - r.lo),
             strerror(errno));
    (void)madvise((void *)r.lo, r.hi - r.lo, MADV_DONTNEED); /* NOLINT: an address as a number */
}

void vmmem_drop(host_vm *vm) {
    vm_mem *m = &vm->mem;
    if (vm->L) luaJIT_profile_stop(vm->L); /* its timer's signal looks into the VM */
    vm->L = NULL;
    for (int i = 0; i < m->files.n; i++)
        if (!m->files.v[i].is_pipe)
            __real_fclose(m->files.v[i].f);
        else if (!rt_go(pclose_main, m->files.v[i].f))
            pclose_main(m->files.v[i].f);
    while (m->tables.n > 0)
        forget_table(m, m->tables.n - 1);
    rt_entersyscallblock(); /* the kernel frees a gigabyte in a second */
    for (int i = 0; i < m->ranges.n; i++) {
        mem_range r = m->ranges.v[i];
        if (__real_munmap((void *)r.lo, r.hi - r.lo) != 0) /* NOLINT: an address as a number */
            lose_range(vm, r);
    }
    rt_exitsyscall();
    free(m->files.v);
    free(m->code.v);
    free(m->tables.v);
    free(m->table_object);
    free(m->ranges.v);
    *m = (vm_mem){0};
    vm->view.mapped = 0;
}
