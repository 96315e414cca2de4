/* Threads end (runtime/m.c), and malloc does not know what their thread-local variables point to. Code that keeps
 * memory there frees it in a function that runs at the end of the thread, called by the destructor of a pthreads key.
 */
#include "threadend.h"

#include "../../runtime/runtime.h"

#include <pthread.h>

enum { CALLS_MAX = 4 };

static __thread struct {
    void (*fn[CALLS_MAX])(void);
    int n;
} calls;

static pthread_key_t key;
static bool has_key;

static void call_all(void *arg) {
    (void)arg;
    while (calls.n > 0)
        calls.fn[--calls.n]();
}

static void make_key(void) {
    has_key = pthread_key_create(&key, call_all) == 0;
}

void threadend_call(void (*fn)(void)) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_key);
    if (calls.n == CALLS_MAX) rt_throw("a thread's end has more than %d calls", CALLS_MAX);
    calls.fn[calls.n++] = fn;
    /* Without a key, of which a process has 1,024, or without memory for its value, the functions are not called. */
    if (has_key) (void)pthread_setspecific(key, &calls);
}
