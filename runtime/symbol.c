/* From an address to the name of its function, for dumps and profiles.
 *
 * dladdr knows exported functions. Most functions here are static, and their names stand in the executable's .symtab,
 * which is not loaded. So the first question maps the executable, and each question searches the table from one end to
 * the other. This takes 10 us, so a caller with many addresses asks once for each. Libraries are dladdr's.
 *
 * A stripped executable has no .symtab; then addr2line takes "lunapark+0x1234".
 *
 * Nothing is allocated, so the functions may be called where a program is dying. (dladdr takes the loader's recursive
 * lock: it may wait for a dlopen of another thread.)
 */
#include "impl.h"

#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static struct {
    rt_lock lock;
    _Atomic bool ready;
    const ElfW(Sym) * syms; /* NULL: none */
    size_t n_syms;
    const char *names;
    size_t names_size;
    uintptr_t bias, lo, hi; /* the executable: address = bias + value; its code's bounds */
} exe;

/* Finds the bounds of the executable's code, from the program headers that the kernel passed. */
static void find_bounds(void) {
    const ElfW(Phdr) *ph = (const ElfW(Phdr) *)getauxval(AT_PHDR); /* NOLINT: so it is passed */
    size_t n = getauxval(AT_PHNUM);
    for (size_t i = 0; ph && i < n; i++)
        if (ph[i].p_type == PT_PHDR) exe.bias = (uintptr_t)ph - ph[i].p_vaddr;
    for (size_t i = 0; ph && i < n; i++)
        if (ph[i].p_type == PT_LOAD && ph[i].p_flags & PF_X) {
            exe.lo = exe.bias + ph[i].p_vaddr;
            exe.hi = exe.lo + ph[i].p_memsz;
        }
}

static void find_symtab(const char *file, size_t size) {
    const ElfW(Ehdr) *eh = (const ElfW(Ehdr) *)file;
    if (size < sizeof *eh || memcmp(eh->e_ident, ELFMAG, SELFMAG) != 0 ||
        eh->e_shentsize != sizeof(ElfW(Shdr)) || eh->e_shoff > size ||
        eh->e_shnum > (size - eh->e_shoff) / sizeof(ElfW(Shdr)))
        return;
    const ElfW(Shdr) *sh = (const ElfW(Shdr) *)(file + eh->e_shoff);
    for (int i = 0; i < eh->e_shnum; i++) {
        if (sh[i].sh_type != SHT_SYMTAB || sh[i].sh_link >= eh->e_shnum) continue;
        const ElfW(Shdr) *names = &sh[sh[i].sh_link];
        if (sh[i].sh_offset > size || sh[i].sh_size > size - sh[i].sh_offset ||
            names->sh_offset > size || names->sh_size > size - names->sh_offset)
            return;
        exe.syms = (const ElfW(Sym) *)(file + sh[i].sh_offset);
        exe.n_syms = sh[i].sh_size / sizeof(ElfW(Sym));
        exe.names = file + names->sh_offset;
        exe.names_size = names->sh_size;
    }
}

/* Maps the executable. Without it only names of static functions are missing. The next question tries again: there may
 * have been just no descriptor or no memory. */
static void open_exe(void) {
    rt_lock_acquire(&exe.lock);
    if (!atomic_load(&exe.ready)) {
        find_bounds();
        int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
        struct stat st;
        if (fd >= 0 && fstat(fd, &st) == 0 && st.st_size > 0) {
            void *file = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
            bool mapped = file != MAP_FAILED;
            if (mapped) find_symtab(file, (size_t)st.st_size);
            atomic_store(&exe.ready, mapped);
        }
        if (fd >= 0) close(fd);
    }
    rt_lock_release(&exe.lock);
}

static bool in_symtab(uintptr_t pc, rt_symbol *s) {
    for (size_t i = 0; i < exe.n_syms; i++) {
        const ElfW(Sym) *y = &exe.syms[i];
        uintptr_t start = exe.bias + y->st_value;
        uintptr_t size = y->st_size ? y->st_size : 1;
        if ((y->st_info & 0xf) != STT_FUNC || !y->st_value || pc < start || pc - start >= size ||
            y->st_name >= exe.names_size)
            continue;
        s->name = exe.names + y->st_name;
        s->start = start;
        return true;
    }
    return false;
}

void symbol_find(const void *pc, rt_symbol *s) {
    *s = (rt_symbol){0};
    if (!atomic_load(&exe.ready)) open_exe();
    uintptr_t at = (uintptr_t)pc;
    Dl_info info;
    if (dladdr(pc, &info) && info.dli_fname) {
        const char *slash = strrchr(info.dli_fname, '/');
        s->module = slash ? slash + 1 : info.dli_fname;
        s->start = (uintptr_t)info.dli_fbase;
        if (info.dli_sname && at >= exe.hi) { /* a library's */
            s->name = info.dli_sname;
            s->start = (uintptr_t)info.dli_saddr;
        } else if (info.dli_sname && !exe.syms) {
            s->name = info.dli_sname;
            s->start = (uintptr_t)info.dli_saddr;
        }
    }
    if (at >= exe.lo && at < exe.hi) in_symtab(at, s);
}

size_t rt_symbol_print(const void *pc, char *buf, size_t size) {
    rt_symbol s;
    symbol_find(pc, &s);
    uintptr_t off = (uintptr_t)pc - s.start;
    const char *name = s.name ? s.name : s.module ? s.module : "";
    int n = snprintf(buf, size, *name ? "%s+0x%lx" : "%s0x%lx", name, (unsigned long)off);
    return n < 0 ? 0 : (size_t)n < size ? (size_t)n : size - 1;
}
