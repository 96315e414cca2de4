/* host_dict_incr from two VMs at a time, beside the same calls from two threads in C; ns per call.
 *
 *     shared [ROUNDS] */
#include "../host.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TWO = 2 };

static int rounds = 3000000;
static _Atomic int left;

static int64_t cpu_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return t.tv_sec * NS_PER_SEC + t.tv_nsec;
}

static void *count(void *arg) {
    double sum;
    for (int i = 0; i < rounds; i++)
        host_dict_incr(arg, "hits", 4, 1, 1, 0, 0, &sum);
    return NULL;
}

static double in_c(host_dict *d) {
    int64_t began = cpu_ns();
    pthread_t t[TWO];
    rt_entersyscall();
    for (int i = 0; i < TWO; i++)
        if (pthread_create(&t[i], NULL, count, d) != 0) abort();
    for (int i = 0; i < TWO; i++)
        pthread_join(t[i], NULL);
    rt_exitsyscall();
    return (double)(cpu_ns() - began) / TWO / rounds;
}

static int push(host_vm *vm, lua_State *L, void *arg) {
    (void)vm;
    (void)arg;
    static const char text[] = "local n = ...\n"
                               "local d = require('lunapark.shared').dict 'bench'\n"
                               "for i = 1, n do d:incr('hits', 1, 0) end";
    if (luaL_loadstring(L, text) != 0) abort();
    lua_pushinteger(L, rounds);
    return 1;
}

static void ended(host_luag *lg, int status) {
    if (status != 0) fprintf(stderr, "%s\n", lua_tostring(lg->L, -1));
    luag_give(lg, status);
    atomic_fetch_sub(&left, 1);
}

static double in_vms(host_vm **vms) {
    int64_t began = cpu_ns();
    left = TWO;
    for (int i = 0; i < TWO; i++)
        luag_spawn(vms[i], push, NULL, ended, NULL, NULL);
    while (left > 0)
        rt_sleep(NS_PER_SEC / 1000);
    return (double)(cpu_ns() - began) / TWO / rounds;
}

static void bench(void *arg) {
    (void)arg;
    host_dict *d = host_dict_open("bench", 5, 0);
    host_vm *vms[TWO] = {vm_new(0), vm_new(1)};
    for (int i = 0; i < 5; i++) {
        double c = in_c(d), lua = in_vms(vms);
        printf("incr of one key, CPU ns per call: C %.1f, Lua %.1f: %.2f x\n", c, lua, lua / c);
    }
    host_dict_value v;
    host_dict_get(d, "hits", 4, NULL, 0, &v);
    if (v.number != 5.0 * 2 * TWO * rounds) fprintf(stderr, "counted %.0f\n", v.number);
}

int main(int argc, char **argv) {
    if (argc > 1) rounds = (int)strtol(argv[1], NULL, 10);
    rt_main(&(rt_options){.procs = TWO}, bench, NULL);
}
