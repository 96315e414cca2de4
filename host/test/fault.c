/* A library that makes the Nth allocation, mapping, thread or descriptor of a process fail: faults.lua preloads it
 * into the servers that it tries.
 *
 *     LD_PRELOAD=build/host/test/fault.so FAULT_FILE=plan build/lunapark serve app.lua
 *
 * The plan is a file that both sides share: who writes it (faults.lua, by write(2)) arms and disarms the faults while
 * the process runs, and reads what came of them. It lies in the page cache, so a mapping of it sees what is written.
 * Every call of an armed kind counts; those numbered first .. last fail, as they do for lack of what they ask for.
 *
 * glibc's own calls of its allocator come here as well (strdup, fopen, opendir), LuaJIT's mappings too. What glibc does
 * beneath itself (the mappings of malloc, the file behind fopen) does not.
 *
 * Nothing here may allocate. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Bits of plan.kinds. */
enum { MEMORY = 1, MAPPING = 2, THREAD = 4, DESCRIPTOR = 8 };

/* faults.lua knows this layout. */
typedef struct plan {
    _Atomic uint32_t kinds;  /* the driver writes: what is armed; 0: nothing */
    _Atomic uint32_t first;  /* the driver writes */
    _Atomic uint32_t last;   /* the driver writes */
    _Atomic uint32_t seen;   /* calls of armed kinds */
    _Atomic uint32_t failed; /* of these */
    char at[108];            /* who made the last that failed: "lunapark+0x1234" */
} plan;

static _Atomic(plan *) the_plan;

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

__attribute__((constructor)) static void open_plan(void) {
    const char *path = getenv("FAULT_FILE");
    if (!path) return;
    long fd = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
    if (fd < 0) return;
    void *p = (void *)syscall(SYS_mmap, NULL, sizeof(plan), PROT_READ | PROT_WRITE, MAP_SHARED, fd,
                              0); /* NOLINT */
    syscall(SYS_close, fd);
    if (p != MAP_FAILED) atomic_store(&the_plan, p);
    unsetenv("LD_PRELOAD"); /* not in what the process starts */
}

/* Is this call, which `from` made, to fail? */
static int fails(uint32_t kind, void *from) {
    plan *p = atomic_load_explicit(&the_plan, memory_order_relaxed);
    if (!p || !(atomic_load(&p->kinds) & kind)) return 0;
    uint32_t n = atomic_fetch_add(&p->seen, 1) + 1;
    if (n < atomic_load(&p->first) || n > atomic_load(&p->last)) return 0;
    Dl_info where = {0};
    dladdr(from, &where);
    const char *name = where.dli_fname ? strrchr(where.dli_fname, '/') : NULL;
    snprintf(p->at, sizeof p->at, "%s+%#zx", name ? name + 1 : "?",
             (size_t)((char *)from - (char *)where.dli_fbase));
    atomic_fetch_add(&p->failed, 1);
    return 1;
}

#define FAILS(kind) fails(kind, __builtin_return_address(0))

static void *no_memory(void) {
    errno = ENOMEM;
    return NULL;
}

void *malloc(size_t size) {
    return FAILS(MEMORY) ? no_memory() : __libc_malloc(size);
}

void *calloc(size_t n, size_t size) {
    return FAILS(MEMORY) ? no_memory() : __libc_calloc(n, size);
}

void *realloc(void *p, size_t size) {
    return FAILS(MEMORY) ? no_memory() : __libc_realloc(p, size);
}

void *aligned_alloc(size_t alignment, size_t size) {
    return FAILS(MEMORY) ? no_memory() : __libc_memalign(alignment, size);
}

int posix_memalign(void **p, size_t alignment, size_t size) {
    if (FAILS(MEMORY)) return ENOMEM;
    *p = __libc_memalign(alignment, size);
    return *p ? 0 : ENOMEM;
}

static void *map(void *from, void *addr, size_t len, int prot, int flags, int fd, off_t off) {
    if (fails(MAPPING, from)) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    return (void *)syscall(SYS_mmap, addr, len, prot, flags, fd,
                           off); /* NOLINT: a pointer as a number */
}

void *mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off) {
    return map(__builtin_return_address(0), addr, len, prot, flags, fd, off);
}

void *mmap64(void *addr, size_t len, int prot, int flags, int fd, off_t off) {
    return map(__builtin_return_address(0), addr, len, prot, flags, fd, off);
}

int pthread_create(pthread_t *t, const pthread_attr_t *attr, void *(*fn)(void *), void *arg) {
    static int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    if (FAILS(THREAD)) return EAGAIN;
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
    return real(t, attr, fn, arg);
}

#define NO_DESCRIPTOR()                                                                            \
    if (FAILS(DESCRIPTOR)) {                                                                       \
        errno = EMFILE;                                                                            \
        return -1;                                                                                 \
    }

int socket(int family, int type, int protocol) {
    NO_DESCRIPTOR()
    return (int)syscall(SYS_socket, family, type, protocol);
}

int socketpair(int family, int type, int protocol, int fds[2]) {
    NO_DESCRIPTOR()
    return (int)syscall(SYS_socketpair, family, type, protocol, fds);
}

int accept4(int fd, struct sockaddr *sa, socklen_t *len, int flags) {
    NO_DESCRIPTOR()
    return (int)syscall(SYS_accept4, fd, sa, len, flags);
}

int pipe2(int fds[2], int flags) {
    NO_DESCRIPTOR()
    return (int)syscall(SYS_pipe2, fds, flags);
}

int eventfd(unsigned n, int flags) {
    NO_DESCRIPTOR()
    return (int)syscall(SYS_eventfd2, n, flags);
}

int memfd_create(const char *name, unsigned flags) {
    NO_DESCRIPTOR()
    return (int)syscall(SYS_memfd_create, name, flags);
}

int epoll_create1(int flags) {
    NO_DESCRIPTOR()
    return (int)syscall(SYS_epoll_create1, flags);
}

int inotify_init1(int flags) {
    NO_DESCRIPTOR()
    return (int)syscall(SYS_inotify_init1, flags);
}

int dup(int fd) {
    NO_DESCRIPTOR()
    return (int)syscall(SYS_dup, fd);
}

#define MODE()                                                                                     \
    int mode = 0;                                                                                  \
    if (flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE) {                                     \
        va_list args;                                                                              \
        va_start(args, flags);                                                                     \
        mode = va_arg(args, int);                                                                  \
        va_end(args);                                                                              \
    }

int open(const char *path, int flags, ...) {
    MODE()
    NO_DESCRIPTOR()
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...) __attribute__((alias("open")));

int openat(int dir, const char *path, int flags, ...) {
    MODE()
    NO_DESCRIPTOR()
    return (int)syscall(SYS_openat, dir, path, flags, mode);
}

int openat64(int dir, const char *path, int flags, ...) __attribute__((alias("openat")));
