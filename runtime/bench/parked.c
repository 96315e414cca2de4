/* What a native G costs that waits: resident memory, its stack and everything else included.
 *
 *     parked [N]       prints "parked BYTES" (each) and "sizeof-g BYTES" */
#include "bench.h"

#include "../impl.h"

#include <unistd.h>

enum { AT_ONCE = 100 };

static int64_t n, parked;

static int64_t resident_bytes(void) {
    long long total, resident;
    FILE *f = fopen("/proc/self/statm", "r");
    if (!f || fscanf(f, "%lld %lld", &total, &resident) != 2) die("/proc/self/statm");
    fclose(f);
    return resident * sysconf(_SC_PAGESIZE);
}

static bool count_parked(rt_g *g, void *arg) {
    (void)g;
    (void)arg;
    parked++;
    return true;
}

static void sleeper(void *arg) {
    (void)arg;
    rt_park(count_parked, NULL, RT_WAIT_PARK);
}

static void run(void *arg) {
    (void)arg;
    printf("sizeof-g %zu\n", sizeof(struct rt_g));
    fflush(stdout); /* whatever becomes of the rest */
    int64_t before = resident_bytes();
    for (int64_t i = 0; i < n; i += AT_ONCE) {
        for (int k = 0; k < AT_ONCE; k++)
            rt_go(sleeper, NULL);
        while (parked < i + AT_ONCE)
            rt_yield();
    }
    printf("parked %.0f\n", (double)(resident_bytes() - before) / (double)parked);
}

int main(int argc, char **argv) {
    n = arg_or(argc, argv, 1, 100000);
    rt_main(&(rt_options){.procs = 1}, run, NULL);
}
