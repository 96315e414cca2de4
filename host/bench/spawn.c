/* How late a bare thread wakes beside another one that starts programs: the yardstick for the exec.run line of
 * blocking.lua. The rest is the kernel's doing: a program that starts takes turns with the thread that wakes.
 *
 *     spawn [SECONDS]
 */
#include <pthread.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

#define NAP_NS 1000000

static _Atomic bool stop;
static long spawned;

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void *spawn(void *arg) {
    char *argv[] = {"true", NULL};
    pid_t pid;
    while (!atomic_load(&stop)) {
        int err = posix_spawnp(&pid, "true", NULL, NULL, argv, environ);
        if (err) {
            fprintf(stderr, "spawn: %s\n", strerror(err));
            exit(1);
        }
        waitpid(pid, NULL, 0);
        spawned++;
    }
    return arg;
}

static int compare(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    double seconds = argc > 1 ? strtod(argv[1], NULL) : 4;
    size_t max = (size_t)(seconds * 1e9 / NAP_NS) + 1, n = 0;
    int64_t *late = calloc(max, sizeof *late), end = now_ns() + (int64_t)(seconds * 1e9);
    pthread_t t;
    if (!late || pthread_create(&t, NULL, spawn, NULL) != 0) return 1;
    while (n < max && now_ns() < end) {
        int64_t begin = now_ns();
        nanosleep(&(struct timespec){.tv_nsec = NAP_NS}, NULL);
        late[n++] = now_ns() - begin - NAP_NS;
    }
    atomic_store(&stop, true);
    pthread_join(t, NULL);
    qsort(late, n, sizeof *late, compare);
    printf("  %-30s p50 %6.3f ms, p99 %6.3f ms  (%4.0f calls a second)\n",
           "bare thread, posix_spawn", (double)late[n / 2] / 1e6, (double)late[n * 99 / 100] / 1e6,
           (double)spawned / seconds);
    free(late);
    return 0;
}
