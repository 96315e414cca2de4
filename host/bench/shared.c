/* host_dict_incr from two VMs at a time, beside the same calls from two threads in C; ns per call. Then shared
 * channels, from one VM to the other; ns per value.
 *
 *     shared [ROUNDS] */
#include "../base/base.h"
#include "../vm/luag.h"
#include "../command/rooms.h"
#include "../shared/shared_ffi.h"
#include "../vm/vm.h"

#include <lauxlib.h>
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

static const char count_text[] = "local n = ...\n"
                                 "local d = require('lunapark.shared').dict 'bench'\n"
                                 "for i = 1, n do d:incr('hits', 1, 0) end";
static const char send_text[] = "local n, cap = ...\n"
                                "local ch = require('lunapark.shared').chan('bench ' .. cap, cap)\n"
                                "for i = 1, n do ch:send(i) end";
static const char recv_text[] = "local n, cap = ...\n"
                                "local ch = require('lunapark.shared').chan('bench ' .. cap, cap)\n"
                                "for i = 1, n do assert(ch:recv() == i) end";

typedef struct work {
    const char *text;
    int n, cap;
} work;

static int push(host_vm *vm, lua_State *L, void *arg) {
    (void)vm;
    work *w = arg;
    if (luaL_loadstring(L, w->text) != 0) abort();
    lua_pushinteger(L, w->n);
    lua_pushinteger(L, w->cap);
    return 2;
}

static void ended(host_luag *lg, int status) {
    if (status == HOST_LOST) abort();
    if (status != 0) fprintf(stderr, "%s\n", lua_tostring(lg->L, -1));
    luag_give(lg, status);
    atomic_fetch_sub(&left, 1);
}

static void in_vms(host_vm **vms, work *first, work *second) {
    left = TWO;
    luag_spawn(vms[0], push, first, ended, NULL, NULL);
    luag_spawn(vms[1], push, second, ended, NULL, NULL);
    while (left > 0)
        rt_sleep(NS_PER_SEC / 1000);
}

static double in_lua(host_vm **vms) {
    int64_t began = cpu_ns();
    work w = {count_text, rounds, 0};
    in_vms(vms, &w, &w);
    return (double)(cpu_ns() - began) / TWO / rounds;
}

static void through(host_vm **vms, int cap) {
    work from = {send_text, rounds / 10, cap}, to = {recv_text, rounds / 10, cap};
    int64_t cpu = cpu_ns(), began = rt_nanotime();
    in_vms(vms, &from, &to);
    printf("a number to the other VM, buffer of %d: CPU %.0f ns, time %.0f ns\n", cap,
           (double)(cpu_ns() - cpu) / from.n, (double)(rt_nanotime() - began) / from.n);
}

static void bench(void *arg) {
    (void)arg;
    host_dict *d = host_dict_open("bench", 5, 0);
    host_vm *vms[TWO] = {vm_new(0), vm_new(1)};
    for (int i = 0; i < 5; i++) {
        double c = in_c(d), lua = in_lua(vms);
        printf("incr of one key, CPU ns per call: C %.1f, Lua %.1f: %.2f x\n", c, lua, lua / c);
    }
    host_dict_value v;
    host_dict_get(d, "hits", 4, NULL, 0, &v);
    if (v.number != 5.0 * 2 * TWO * rounds) fprintf(stderr, "counted %.0f\n", v.number);
    for (int i = 0; i < 3; i++) {
        through(vms, 0);
        through(vms, 1000);
    }
}

int main(int argc, char **argv) {
    rooms_open();
    if (argc > 1) rounds = (int)strtol(argv[1], NULL, 10);
    rt_main(&(rt_options){.procs = TWO}, bench, NULL);
}
