/* Signals: handlers that only leave a note, and a G that does what was asked for.
 *
 * A handler may do next to nothing, so ours sets a bit and writes an eventfd. A step G of the runtime waits for the
 * eventfd as for any descriptor, wakes the Gs that wait for signals, and starts the dumps. The order: the handler sets
 * the bit, then writes; the G reads, then looks at the bits. So a signal between the two is seen by this look or causes
 * the next. Several signals of one kind are one bit: they coalesce, as pending signals do in the kernel. A dump asks
 * VMs, which may take a while, so a dump has a native G of its own.
 *
 *     SIGURG              interrupts one M (m_interrupt): sets a flag of the M
 *     SIGPROF             prof.c
 *     SIGUSR1, SIGQUIT    dump, dump and exit 2, unless the program asked otherwise
 *     SIGSEGV, SIGBUS,    name the G. A fault in a guard is a stack overflow; any other keeps
 *     SIGFPE, SIGILL      its default action
 *     SIGPIPE             see below
 *     SIGXFSZ             nothing: a write beyond the limit of file sizes answers EFBIG, and the process lives on
 *     the rest            keep their action until rt_signal_notify or rt_signal_ignore
 *
 * A dump is wanted most when nothing moves. If every P runs a G that does not stop, the dump's G never runs. Sysmon
 * needs no P: it sees the request lie for a second and dumps itself (signal_watch). A SIGQUIT whose dump began but does
 * not end, say since another thread keeps stdout's lock, has 10 s. Sysmon's own progress is the only bound on this: if
 * stderr is a pipe without a reader, SIGKILL is left.
 *
 * Masks. Threads are made with all signals blocked (m.c). An M opens its mask when it has its alternate stack, so no
 * handler ever runs without one. The Ms' masks are empty: a signal for the process may hit any M, and a mask that the
 * program inherited does not make the process deaf. Sysmon keeps all signals blocked, so that none interrupts it.
 *
 * Every handler has SA_RESTART. A call that returns EINTR all the same (epoll_wait, futexes, connect) is called again
 * by its caller.
 *
 * Rejected: signalfd (signals must be blocked in every thread, also in the threads of C libraries, and children inherit
 * the mask); a thread that sits in sigwait (needs the same masks, and a thread); pthread_kill for SIGURG (the maker of
 * an M writes its pthread_t, and the M may run before the write).
 *
 * SIGPIPE, as in Go: a program that writes to a broken stdout or stderr ends, which is what a user of a pipeline
 * expects. Any other write answers EPIPE. Sockets are written with MSG_NOSIGNAL. splice, sendfile and pipes have no
 * such flag, so the signal has a handler (which a child does not inherit, unlike SIG_IGN). The runtime's own writes
 * announce themselves (rt_own_write) and look at the descriptor afterwards (fd.c). Other writes, libc's stdio above
 * all, do not say which descriptor broke, so the handler asks whether stdout or stderr is broken. A program that has
 * set another action, by rt_signal_notify or by itself, gets its action.
 */
#include "fd.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#ifdef RT_ASAN
#include <sanitizer/asan_interface.h>
#endif

enum { ASKED_DUMP = 1, ASKED_QUIT = 2 };
enum { QUIT_NOT, QUIT_BEGAN };

#define ANSWER_NS (1 * NS_PER_SEC)  /* how long a G has to begin a dump */
#define QUIT_NS   (10 * NS_PER_SEC) /* how long a SIGQUIT has to end the process */

typedef struct waiter {
    rt_g *g;
    uint64_t ticket;
    struct waiter *next;
} waiter; /* on the stack of the G that waits */

static struct {
    _Atomic uint64_t pending;  /* atomic: bit signo: signo came and was not reported yet */
    _Atomic uint64_t notified; /* atomic: bit signo: rt_signal_notify asked for signo */
    _Atomic int32_t n_waiters; /* lock writes, check_dead reads */
    _Atomic uint32_t asked;    /* atomic: ASKED_ bits, for the G that answers, or sysmon */
    _Atomic uint32_t quit;     /* atomic: QUIT_ */
    _Atomic bool answering;    /* atomic: a G that answers exists */
    _Atomic int event_fd;      /* -1: the signal G does not exist yet */
    rt_pd *pd;
    bool dumps;             /* SIGUSR1 and SIGQUIT dump, unless the program takes them */
    int64_t asked_since_ns; /* sysmon: when sysmon first saw `asked`; 0: nothing is asked for */
    rt_lock lock;
    waiter *first, **last; /* lock */
} sig = {.event_fd = -1, .last = &sig.first};

/* ---- handlers ---- */

static void ring(void) {
    uint64_t one = 1;
    /* Fails if the signal G does not exist yet: it looks at the bits before its first wait. Fails if the counter is
     * full, which wakes the G as well. */
    ssize_t r = write(atomic_load(&sig.event_fd), &one, sizeof one);
    (void)r;
}

static void on_notified(int signo) {
    int saved = errno;
    atomic_fetch_or(&sig.pending, UINT64_C(1) << signo);
    ring();
    errno = saved;
}

static void on_asked(int signo) {
    int saved = errno;
    atomic_fetch_or(&sig.asked, signo == SIGQUIT ? ASKED_QUIT : ASKED_DUMP);
    ring();
    errno = saved;
}

static void (*interrupt_hook)(void *context);

void rt_on_interrupt(void (*fn)(void *context)) {
    interrupt_hook = fn;
}

/* True between rt_enterforeign and the first action of come_back. */
static bool in_foreign_code(const rt_m *m) {
    return !m->p && m->cell && m->curg && m->curg->step;
}

static void on_interrupt(int signo, siginfo_t *info, void *context) {
    (void)signo;
    (void)info;
    rt_m *m = rt_getm();
    if (!m) return; /* no M: the program asked for this signal, to hear of urgent data */
    if (interrupt_hook && in_foreign_code(m)) interrupt_hook(context);
    atomic_store(&m->interrupted, true);
    count_add(&m->n_interrupts, 1);
    atomic_store(&m->urged, false);
}

void m_interrupt(rt_m *m) {
    int32_t tid = atomic_load(&m->tid);
    if (tid == 0 || atomic_exchange(&m->urged, true)) return;
    /* If the thread ends meanwhile, the signal finds no thread, or a new thread that got the same number: see
     * on_interrupt. */
    syscall(SYS_tgkill, getpid(), tid, SIGURG);
}

/* ---- faults ---- */

static bool (*fault_hook)(void *context, char *overflowed);

static bool hook_takes(int signo, const siginfo_t *info, void *context) {
    const rt_m *m = rt_getm();
    if (signo != SIGSEGV || !fault_hook || !m || !in_foreign_code(m)) return false;
    rt_stack s = cell_driver(m->cell)->ctx.stack;
    bool full = info->si_code > 0 && stack_guards(s, info->si_addr);
#ifdef RT_ASAN
    if (full) __asan_unpoison_memory_region(s.lo, (size_t)(s.hi - s.lo));
#endif
    return fault_hook(context, full ? s.lo : NULL);
}

#ifdef RT_ASAN
static struct sigaction asan_segv; /* reports more than ours */

static void on_asan_fault(int signo, siginfo_t *info, void *uc) {
    if (!hook_takes(signo, info, uc)) asan_segv.sa_sigaction(signo, info, uc);
}

void rt_on_fault(bool (*fn)(void *context, char *overflowed)) {
    fault_hook = fn;
    struct sigaction sa = {.sa_sigaction = on_asan_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigaddset(&sa.sa_mask, SIGURG);
    if (sigaction(SIGSEGV, &sa, &asan_segv) < 0) rt_throw("SIGSEGV: %s", strerror(errno));
}
#else
void rt_on_fault(bool (*fn)(void *context, char *overflowed)) {
    fault_hook = fn;
}

static void say_fault(int signo, const siginfo_t *info) {
    rt_m *m = rt_getm();
    if (!m) return;
    rt_g *g = m->curg;
    rt_g *loop = m->cell ? cell_driver(m->cell) : NULL;
    const char *at = info->si_addr;
    char site[128] = "nobody";
    if (g && g->site) rt_symbol_print((const char *)g->site - 1, site, sizeof site);
    bool memory = signo == SIGSEGV || signo == SIGBUS;
    if (memory && loop && stack_guards(loop->ctx.stack, at))
        rt_throw("stack overflow: G %lld of VM G %lld, stack of %zu bytes, created by %s",
                 (long long)g->id, (long long)loop->id,
                 (size_t)(loop->ctx.stack.hi - loop->ctx.stack.lo), site);
    if (memory && g && !g->step && stack_guards(g->ctx.stack, at))
        rt_throw("stack overflow: G %lld, stack of %zu bytes, created by %s", (long long)g->id,
                 (size_t)(g->ctx.stack.hi - g->ctx.stack.lo), site);
    if (memory && stack_guards(m->ctx.stack, at))
        rt_throw("stack overflow: M %d's loop, stack of %zu bytes, in G %lld, created by %s", m->id,
                 (size_t)(m->ctx.stack.hi - m->ctx.stack.lo), g ? (long long)g->id : 0LL, site);
    if (g)
        debug_printf("lunapark: signal %d at %p in G %lld, created by %s\n", signo, info->si_addr,
                     (long long)g->id, site);
}

/* Runs on the M's alternate stack. */
static void on_fault(int signo, siginfo_t *info, void *uc) {
    if (hook_takes(signo, info, uc)) return;
    say_fault(signo, info);
    debug_before_end();
    signal(signo, SIG_DFL);
    /* The instruction faults again when the handler returns, now with the default action and the right registers for a
     * core dump. A signal that was sent by kill has no such instruction, so it is raised again. */
    if (info->si_code <= 0) raise(signo);
}
#endif

/* ---- SIGPIPE ---- */

static __thread volatile sig_atomic_t own_write;

SYS void rt_own_write(bool on) {
    own_write = on;
}

/* In the handler of SIGPIPE the process dies when the handler ends, since SIGPIPE is blocked until then. */
static void die_of_sigpipe(void) {
    signal(SIGPIPE, SIG_DFL);
    raise(SIGPIPE);
}

static void on_sigpipe(int signo) {
    (void)signo;
    if (own_write) return;
    int saved = errno;
    struct pollfd std[2] = {{.fd = STDOUT_FILENO}, {.fd = STDERR_FILENO}};
    if (poll(std, 2, 0) > 0 && ((std[0].revents | std[1].revents) & (POLLERR | POLLHUP)))
        die_of_sigpipe();
    errno = saved;
}

void signal_broken_pipe(void) {
    struct sigaction sa;
    if (sigaction(SIGPIPE, NULL, &sa) < 0 || sa.sa_handler != on_sigpipe) return;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGPIPE);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    die_of_sigpipe();
}

/* A handler that does nothing. A child does not inherit it, as it would inherit SIG_IGN. */
static void on_nothing(int signo) {
    (void)signo;
}

/* ---- what the program asks for ---- */

static int set_handler(int signo, void (*handler)(int)) {
    struct sigaction sa = {.sa_handler = handler, .sa_flags = SA_RESTART | SA_ONSTACK};
    sigfillset(&sa.sa_mask);
    return sigaction(signo, &sa, NULL) < 0 ? -errno : 0;
}

static bool reserved(int signo) {
    static const uint64_t ours = 1ull << SIGSEGV | 1ull << SIGBUS | 1ull << SIGFPE |
                                 1ull << SIGILL | 1ull << SIGURG | 1ull << SIGPROF;
    return signo <= 0 || signo >= 64 || (ours >> signo & 1);
}

int rt_signal_notify(int signo) {
    int err = reserved(signo) ? -EINVAL : set_handler(signo, on_notified);
    if (!err) atomic_fetch_or(&sig.notified, UINT64_C(1) << signo);
    return err;
}

static int stop_notifying(int signo, void (*handler)(int)) {
    int err = reserved(signo) ? -EINVAL : set_handler(signo, handler);
    if (!err) {
        atomic_fetch_and(&sig.notified, ~(UINT64_C(1) << signo));
        atomic_fetch_and(&sig.pending, ~(UINT64_C(1) << signo));
    }
    return err;
}

int rt_signal_ignore(int signo) {
    return stop_notifying(signo, SIG_IGN);
}

int rt_signal_reset(int signo) {
    void (*handler)(int) = SIG_DFL;
    if (sig.dumps && (signo == SIGUSR1 || signo == SIGQUIT)) handler = on_asked;
    if (signo == SIGPIPE) handler = on_sigpipe;
    if (signo == SIGXFSZ) handler = on_nothing;
    return stop_notifying(signo, handler);
}

/* ---- waiting for one ---- */

/* Takes the lowest pending signal and returns its number; 0: none is pending. */
static int take_pending(void) {
    uint64_t pending = atomic_load(&sig.pending);
    while (pending) {
        int signo = __builtin_ctzll(pending);
        uint64_t bit = UINT64_C(1) << signo;
        pending = atomic_fetch_and(&sig.pending, ~bit);
        if (pending & bit) return signo;
    }
    return 0;
}

/* Takes a pending signal and returns its number, or puts w in the list and returns 0. Under the lock: a signal that
 * comes after the look makes the signal G look at the list. */
static int take_or_stand(waiter *w) {
    rt_lock_acquire(&sig.lock);
    int signo = take_pending();
    if (!signo) {
        w->next = NULL;
        *sig.last = w;
        sig.last = &w->next;
        atomic_fetch_add(&sig.n_waiters, 1);
    }
    rt_lock_release(&sig.lock);
    return signo;
}

static void leave_list(waiter *w) {
    rt_lock_acquire(&sig.lock);
    for (waiter **at = &sig.first; *at; at = &(*at)->next)
        if (*at == w) {
            *at = w->next;
            if (!*at) sig.last = at;
            atomic_fetch_sub(&sig.n_waiters, 1);
            break;
        }
    rt_lock_release(&sig.lock);
}

int rt_signal_wait_until(int64_t deadline_ns) {
    rt_g *g = rt_self();
    for (;;) {
        waiter w = {.g = g, .ticket = rt_wait_open(g)};
        int signo = take_or_stand(&w);
        if (signo) rt_wake(g, w.ticket, RT_WOKEN); /* ends the open wait of the G itself */
        rt_wake_code code = rt_wait(RT_WAIT_SIGNAL, signo ? 0 : deadline_ns);
        if (signo) return signo;
        if (code == RT_WOKEN) continue;
        leave_list(&w);
        return code == RT_TIMEOUT ? RT_ETIMEOUT : RT_ECANCELED;
    }
}

/* A thread that changes the list of waiters has a P. check_dead asks while all Ps are idle, so it sees the list as it
 * is. check_dead may not take sig.lock, since waking a G takes sched.lock while sig.lock is held. */
bool signal_may_come(void) {
    return atomic_load(&sig.n_waiters) > 0 && atomic_load(&sig.notified) != 0;
}

int rt_signal_wait(void) {
    return rt_signal_wait_until(0);
}

/* Wakes as many waiters as signals are pending. A woken G that finds its signal taken by another G waits again. A
 * waiter that timed out just now does not count. */
static void wake_waiters(void) {
    rt_lock_acquire(&sig.lock);
    for (int n = __builtin_popcountll(atomic_load(&sig.pending)); n > 0 && sig.first;) {
        waiter *w = sig.first;
        sig.first = w->next;
        if (!sig.first) sig.last = &sig.first;
        atomic_fetch_sub(&sig.n_waiters, 1);
        if (rt_wake(w->g, w->ticket, RT_WOKEN)) n--;
    }
    rt_lock_release(&sig.lock);
}

/* ---- dumps ---- */

static _Noreturn void quit(void) {
    debug_before_end();
    debug_printf("lunapark: SIGQUIT\n");
    rt_dump();
    _exit(2);
}

static void do_asked(void) {
    if (atomic_fetch_and(&sig.asked, ~(uint32_t)ASKED_DUMP) & ASKED_DUMP) rt_dump();
    if (!(atomic_load(&sig.asked) & ASKED_QUIT)) return; /* it stays set, for sysmon to see */
    atomic_store(&sig.quit, QUIT_BEGAN);
    debug_before_end();
    debug_printf("lunapark: SIGQUIT\n");
    rt_dump();
    fflush(NULL);
    _exit(2);
}

static void answer(void *arg) {
    (void)arg;
    do {
        do_asked();
        atomic_store(&sig.answering, false);
    } while (atomic_load(&sig.asked) && !atomic_exchange(&sig.answering, true));
}

/* Makes the G that answers, unless one exists: a dump that is asked for meanwhile comes after its present one. */
static void start_answer(void) {
    if (!atomic_load(&sig.asked) || atomic_exchange(&sig.answering, true)) return;
    rt_g *g = new_native(answer, NULL, STACK_NATIVE);
    if (!g) { /* sysmon answers instead: signal_watch */
        atomic_store(&sig.answering, false);
        return;
    }
    g->system = true;
    g_set_status(g, G_IDLE, G_RUNNABLE);
    g_enqueue(g);
}

void signal_watch(int64_t now) {
    if (!atomic_load_explicit(&sig.asked, memory_order_relaxed)) {
        sig.asked_since_ns = 0;
        return;
    }
    if (sig.asked_since_ns == 0) sig.asked_since_ns = now;
    bool began = atomic_load(&sig.quit) == QUIT_BEGAN;
    if (now - sig.asked_since_ns < (began ? QUIT_NS : ANSWER_NS)) return;
    sig.asked_since_ns = 0;
    if (began) _exit(2);
    debug_printf("lunapark: no P got round to the dump for %d s, so sysmon does it\n",
                 (int)(ANSWER_NS / NS_PER_SEC));
    if (atomic_fetch_and(&sig.asked, ~(uint32_t)ASKED_DUMP) & ASKED_DUMP) rt_dump();
    if (atomic_load(&sig.asked) & ASKED_QUIT) quit();
}

/* ---- the G ---- */

static rt_step signal_step(rt_g *g) {
    for (;;) {
        uint64_t n;
        ssize_t r = read(atomic_load(&sig.event_fd), &n, sizeof n);
        (void)r; /* EAGAIN: nothing new, or the first time */
        start_answer();
        wake_waiters();
        if (rt_pd_prepare(sig.pd, RT_R, RT_WAIT_SIGNAL, g) == RT_PARKED) return RT_PARK;
    }
}

void signal_start(void) {
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (fd < 0) debug_no_start("no descriptor for signals: %s", strerror(errno));
    int err;
    sig.pd = pd_open_system(fd, &err);
    if (!sig.pd) debug_no_start("cannot poll for signals: %s", strerror(-err));
    atomic_store(&sig.event_fd, fd);
    rt_g *g = rt_new_step(signal_step, NULL);
    if (!g) debug_no_start("no memory for a G");
    g->system = true;
    rt_ready(g);
}

void signal_init(bool keep_default) {
#ifndef RT_ASAN /* ASan has a handler of its own, which reports more */
    struct sigaction sa = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigaddset(&sa.sa_mask, SIGURG);
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        sigaction(faults[i], &sa, NULL);
#endif
    struct sigaction urg = {.sa_sigaction = on_interrupt,
                            .sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK};
    sigfillset(&urg.sa_mask);
    int err = sigaction(SIGURG, &urg, NULL) < 0 ? -errno : 0;
    if (!err) err = set_handler(SIGPIPE, on_sigpipe);
    if (!err) err = set_handler(SIGXFSZ, on_nothing);
    sig.dumps = !keep_default;
    if (!err && sig.dumps) err = set_handler(SIGUSR1, on_asked);
    if (!err && sig.dumps) err = set_handler(SIGQUIT, on_asked);
    if (err) rt_throw("cannot handle signals: %s", strerror(-err));
}

enum { SIGNAL_GUARD = 16 << 10 };

bool signal_stack_new(rt_m *m) {
    char *base = mmap(NULL, STACK_SIGNAL + SIGNAL_GUARD, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) return false;
    m->sigstack = base + SIGNAL_GUARD;
    if (mprotect(base, SIGNAL_GUARD, PROT_NONE) == 0) return true;
    signal_stack_free(m);
    return false;
}

void signal_stack_free(rt_m *m) {
    munmap(m->sigstack - SIGNAL_GUARD, STACK_SIGNAL + SIGNAL_GUARD);
    m->sigstack = NULL;
}

/* The thread was made with all signals blocked. Signals may come once the thread has a stack for them. */
void signal_init_m(rt_m *m) {
    stack_t ss = {.ss_sp = m->sigstack, .ss_size = STACK_SIGNAL};
    if (sigaltstack(&ss, NULL) < 0) rt_throw("sigaltstack: %s", strerror(errno));
    atomic_store(&m->tid, (int32_t)syscall(SYS_gettid));
    prof_init_m(m);
    sigset_t none;
    sigemptyset(&none);
    pthread_sigmask(SIG_SETMASK, &none, NULL);
}

/* A signal that is on its way to m's thread alone ends with the thread. A signal for the process goes to another
 * thread. */
void signal_end_m(rt_m *m) {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    prof_end_m(m);
    stack_t none = {.ss_flags = SS_DISABLE};
    if (sigaltstack(&none, NULL) < 0) rt_throw("sigaltstack: %s", strerror(errno));
}
