/* One-shot wake-ups between threads.
 *
 * An M without work sleeps on its note; a thread that finds work for it wakes the note. The two may come
 * in either order and the wake-up must not be lost. A condition variable would do, at the price of
 * a mutex that both sides take; the word that the kernel already compares under FUTEX_WAIT is
 * enough.
 *
 *     CLEAR ----sleep----> SLEEPING
 *       |                     |
 *       +-------wake----------+---> WOKEN ----clear----> CLEAR
 *
 * Only the sleeper moves CLEAR to SLEEPING, only the waker moves to WOKEN, each by one atomic
 * step. So the waker learns from the value it replaced whether a system call is owed (SLEEPING)
 * or not (CLEAR), and the sleeper never sleeps on WOKEN, since FUTEX_WAIT compares under the
 * kernel's lock. The waker's release pairs with the sleeper's acquire: what was written before
 * note_wake is visible after note_sleep.
 *
 * Rejected: an eventfd per M (two system calls where none is needed when the wake-up comes first),
 * a semaphore (it counts, and a second wake-up is a bug here that should be found, not remembered).
 */
#include "context.h"
#include "note.h"
#include "runtime.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { NOTE_CLEAR, NOTE_SLEEPING, NOTE_WOKEN };

/* Sleeps while *key == SLEEPING, until the absolute CLOCK_MONOTONIC deadline if there is one. 0 or
 * ETIMEDOUT; every other end (EINTR, EAGAIN) is a reason for the caller to look at the key again.
 */
static int futex_wait_until(_Atomic uint32_t *key, const struct timespec *deadline) {
#ifdef RT_TSAN
    /* TSan keeps a signal that hits a thread in a bare system call until the next call that it knows,
     * so there must be one before long. */
    struct timespec slice, none = {0, 0};
    clock_gettime(CLOCK_MONOTONIC, &slice);
    slice.tv_nsec += 20000000;
    if (slice.tv_nsec >= 1000000000) {
        slice.tv_sec++;
        slice.tv_nsec -= 1000000000;
    }
    bool last =
        deadline && (deadline->tv_sec < slice.tv_sec ||
                     (deadline->tv_sec == slice.tv_sec && deadline->tv_nsec <= slice.tv_nsec));
    long rs = syscall(SYS_futex, key, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, NOTE_SLEEPING,
                      last ? deadline : &slice, NULL, FUTEX_BITSET_MATCH_ANY);
    int err = errno;
    nanosleep(&none, NULL);
    return rs < 0 && err == ETIMEDOUT && last ? ETIMEDOUT : 0;
#else
    /* FUTEX_WAIT_BITSET takes an absolute time, so a signal does not stretch the wait. */
    long r = syscall(SYS_futex, key, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, NOTE_SLEEPING,
                     deadline, NULL, FUTEX_BITSET_MATCH_ANY);
    return r < 0 && errno == ETIMEDOUT ? ETIMEDOUT : 0;
#endif
}

void note_clear(note *n) {
    atomic_store_explicit(&n->key, NOTE_CLEAR, memory_order_relaxed);
}

static bool sleep_until(note *n, const struct timespec *deadline) {
    uint32_t key = NOTE_CLEAR;
    if (!atomic_compare_exchange_strong(&n->key, &key, NOTE_SLEEPING)) {
        if (key == NOTE_WOKEN) return true;
        rt_throw("note: two sleepers: key=%u", key);
    }
    while (atomic_load_explicit(&n->key, memory_order_acquire) == NOTE_SLEEPING) {
        if (futex_wait_until(&n->key, deadline) != ETIMEDOUT) continue;
        /* Time ran out. Take the sleep back, unless the wake-up came in between. */
        key = NOTE_SLEEPING;
        return !atomic_compare_exchange_strong(&n->key, &key, NOTE_CLEAR);
    }
    return true;
}

void note_sleep(note *n) {
    sleep_until(n, NULL);
}

bool note_sleep_for(note *n, int64_t timeout_ns) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += timeout_ns / 1000000000;
    t.tv_nsec += timeout_ns % 1000000000;
    if (t.tv_nsec >= 1000000000) {
        t.tv_sec++;
        t.tv_nsec -= 1000000000;
    }
    return sleep_until(n, &t);
}

void note_wake(note *n) {
    uint32_t old = atomic_exchange_explicit(&n->key, NOTE_WOKEN, memory_order_acq_rel);
    if (old == NOTE_SLEEPING)
        syscall(SYS_futex, &n->key, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1, NULL, NULL, 0);
    else if (old != NOTE_CLEAR)
        rt_throw("note: woken twice: key=%u", old);
}
