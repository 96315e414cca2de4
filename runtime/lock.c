/* A mutex of one word.
 *
 * The scheduler's sections are a few dozen instructions long, so a thread that finds the lock held
 * spins a moment, then sleeps in the kernel. The word is one of three:
 *
 *     FREE --acquire--> HELD --another must sleep--> CONTENDED --release--> FREE, wake one
 *
 * A sleeper moves the word to CONTENDED before it sleeps and takes the lock as CONTENDED when it
 * wakes, since it cannot know whether others still sleep. One wake-up too many is the price of not
 * counting sleepers. Drepper, "Futexes are tricky", third mutex.
 *
 * Acquire and release orders make what the holder wrote visible to the next one; nothing else is
 * promised.
 *
 * Rejected: pthread_mutex_t (40 bytes where P's heap lock and every pollDesc want 4).
 */
#include "lock.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { LOCK_FREE, LOCK_HELD, LOCK_CONTENDED };

enum { SPINS = 40 };

static inline void cpu_relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

bool rt_lock_try(rt_lock *l) {
    uint32_t key = LOCK_FREE;
    return atomic_compare_exchange_strong_explicit(&l->key, &key, LOCK_HELD, memory_order_acquire,
                                                   memory_order_relaxed);
}

void rt_lock_acquire(rt_lock *l) {
    for (int i = 0; i < SPINS; i++) {
        if (rt_lock_try(l)) return;
        cpu_relax();
    }
    while (atomic_exchange_explicit(&l->key, LOCK_CONTENDED, memory_order_acquire) != LOCK_FREE)
        syscall(SYS_futex, &l->key, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, LOCK_CONTENDED, NULL, NULL, 0);
}

void rt_lock_release(rt_lock *l) {
    if (atomic_exchange_explicit(&l->key, LOCK_FREE, memory_order_release) == LOCK_CONTENDED)
        syscall(SYS_futex, &l->key, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1, NULL, NULL, 0);
}
