/* Signals: an alternate stack for every M, and a G that gets what the program asked for.
 *
 * A handler may do next to nothing, so ours sets a bit and writes an eventfd; a G reads that like
 * any other descriptor. SIGSEGV on a guard page is a stack overflow: the handler, on the alternate
 * stack, says whose.
 *
 * SIGPIPE keeps its default: sockets are written with MSG_NOSIGNAL, so it comes only from a closed
 * stdout, stderr or pipe, where ending is what a user of a pipeline expects.
 */
#include "impl.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

static struct {
    _Atomic uint64_t pending; /* bit signo: it came and was not reported yet */
    _Atomic int event_fd;     /* -1: nobody asked yet */
    _Atomic(rt_pd *) pd;
} notify = {.event_fd = -1};

static void on_notified(int signo) {
    int saved = errno;
    atomic_fetch_or(&notify.pending, UINT64_C(1) << signo);
    uint64_t one = 1;
    /* EAGAIN: the counter is full, then the G has not run yet and will see the bit. */
    ssize_t r = write(atomic_load(&notify.event_fd), &one, sizeof one);
    (void)r;
    errno = saved;
}

int rt_signal_notify(int signo) {
    if (signo <= 0 || signo >= 64) return -EINVAL;
    if (atomic_load(&notify.event_fd) < 0) {
        int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        if (fd < 0) return -errno;
        atomic_store(&notify.pd, pd_open_system(fd));
        atomic_store(&notify.event_fd, fd);
    }
    struct sigaction sa = {.sa_handler = on_notified, .sa_flags = SA_RESTART | SA_ONSTACK};
    sigfillset(&sa.sa_mask);
    return sigaction(signo, &sa, NULL) < 0 ? -errno : 0;
}

int rt_signal_wait(void) {
    for (;;) {
        uint64_t pending = atomic_load(&notify.pending);
        if (pending) {
            int signo = __builtin_ctzll(pending);
            atomic_fetch_and(&notify.pending, ~(UINT64_C(1) << signo));
            return signo;
        }
        uint64_t n;
        if (read(atomic_load(&notify.event_fd), &n, sizeof n) > 0) continue;
        rt_pd_wait(atomic_load(&notify.pd), RT_R, RT_WAIT_OTHER);
    }
}

#ifndef RT_ASAN
/* A fault just below the running stack is an overflow; anything else is the default's business. */
static void on_segv(int signo, siginfo_t *info, void *uc) {
    (void)uc;
    rt_m *m = rt_getm();
    rt_g *g = m ? m->curg : NULL;
    if (g) {
        rt_stack s = m->cell ? (rt_stack){0} : g->ctx.stack;
        const char *at = info->si_addr;
        if (s.lo && at < s.lo && at >= s.lo - (64 << 10))
            rt_throw("stack overflow: G %lld, stack of %zu bytes", (long long)g->id,
                     (size_t)(s.hi - s.lo));
        fprintf(stderr, "lunapark: fault at %p in G %lld\n", info->si_addr, (long long)g->id);
    }
    signal(signo, SIG_DFL);
    raise(signo);
}
#endif

void signal_init(void) {
#ifndef RT_ASAN /* it has a handler of its own, which says more */
    struct sigaction sa = {.sa_sigaction = on_segv, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigaction(SIGSEGV, &sa, NULL);
    sigaction(SIGBUS, &sa, NULL);
#endif
}

/* The thread was made with all signals blocked: they may come once it has a stack for them. */
void signal_init_m(rt_m *m) {
    m->sigstack = mmap(NULL, STACK_SIGNAL, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (m->sigstack == MAP_FAILED) rt_throw("no memory for a signal stack: %s", strerror(errno));
    stack_t ss = {.ss_sp = m->sigstack, .ss_size = STACK_SIGNAL};
    sigaltstack(&ss, NULL);
    sigset_t none;
    sigemptyset(&none);
    pthread_sigmask(SIG_SETMASK, &none, NULL);
}
