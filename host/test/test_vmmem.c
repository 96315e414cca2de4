/* vmmem: everything that a VM has taken goes back when it is dropped, finalized or not; the record is exact; the
 * limit holds and is no VM's end. */
#include "../base/base.h"
#include "../vm/luag.h"
#include "../base/options.h"
#include "../vm/vm.h"

#include <lauxlib.h>
#include <malloc.h>
#include <sys/mman.h>

#include "../../runtime/test/harness.h"
#include "script.h"

#if defined(RT_ASAN) || defined(RT_TSAN)
enum { VMS = 40, SLACK_KB = 64 << 10 }; /* their own bookkeeping grows, too */
#else
enum { VMS = 200, SLACK_KB = 4 << 10 };
#endif

/* ---- running Lua in a VM ---- */

typedef int (*in_vm)(host_vm *vm, lua_State *L);

static int call_in_vm(lua_State *L) {
    in_vm *fn = lua_touserdata(L, 1);
    return (*fn)(vm_current(), L);
}

static int push_call(host_vm *vm, lua_State *L, void *fn) {
    (void)vm;
    lua_pushcfunction(L, call_in_vm);
    lua_pushlightuserdata(L, fn);
    return 1;
}

/* Calls fn in vm. */
static script run_call(host_vm *vm, in_vm fn) {
    script s = {0};
    run_boot(vm, push_call, &fn, &s);
    return s;
}

/* Runs it to its end; false if it raised. */
static bool run_script(host_vm *vm, const char *text, char *said, size_t size) {
    script s = {.text = text};
    run_boot(vm, push_script, &s, &s);
    if (said) snprintf(said, size, "%s", s.said);
    return s.status == 0;
}

/* ---- what the process has ---- */

static long status_kb(const char *name) {
    char line[128];
    long kb = -1;
    FILE *f = fopen("/proc/self/status", "re");
    if (!f) return -1;
    while (fgets(line, sizeof line, f))
        if (strncmp(line, name, strlen(name)) == 0) kb = strtol(line + strlen(name) + 1, NULL, 10);
    fclose(f);
    return kb;
}

static int open_fds(void) {
    int n = 0;
    for (int fd = 0; fd < 1024; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

/* ---- tests ---- */

/* 25 MB of tables and strings, traces, errors across them, a callback, open files, a huge block. */
static const char heavy[] =
    "local ffi = require 'ffi'\n"
    "ffi.cdef 'void qsort(void *, size_t, size_t, int (*)(const int *, const int *));'\n"
    "keep = { file = assert(io.open('/proc/self/maps')), tmp = assert(io.tmpfile()) }\n"
    "keep.pipe = assert(io.popen('exec sleep 0.01'))\n"
    "keep.block = ffi.new('uint8_t[?]', 3000000)\n"
    "local list = ffi.new('int[3]', 3, 1, 2)\n"
    "keep.callback = ffi.cast('int (*)(const int *, const int *)', function(a, b) return a[0] - "
    "b[0] end)\n"
    "jit.off()\n"
    "ffi.C.qsort(list, 3, 4, keep.callback)\n"
    "jit.on()\n"
    "assert(list[0] == 1 and list[2] == 3)\n"
    "local n = 0\n"
    "while collectgarbage 'count' < 25600 do\n"
    "  n = n + 1; keep[n] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6, 7, 'number ' .. n }\n"
    "end\n"
    "for i = 1, 200 do assert(not pcall(function() if i > 0 then error(i) end end)) end\n"
    "local sum = 0\n"
    "for i = 1, n do sum = sum + #keep[i][18] end\n"
    "finalizer = newproxy(true)\n"
    "getmetatable(finalizer).__gc = function() keep.file:close() end\n";

static void make_and_end(void (*end)(host_vm *)) {
    host_vm *vm = vm_new(7);
    CHECK(vm->view.mapped > 0);
    char said[256];
    if (!run_script(vm, heavy, said, sizeof said)) expect_at(false, __FILE__, __LINE__, "%s", said);
    CHECK(vm->view.mapped > 25 << 20);
    CHECK(vm->view.mapped < 80 << 20);
    end(vm);
    CHECK_EQ(vm->view.mapped, 0);
}

static void ends_leave_nothing(void (*end)(host_vm *), int rounds) {
    mallopt(
        M_ARENA_MAX,
        1); /* one more is 64 MiB of VSZ, and comes with threads that have nothing to do with it */
    for (int i = 0; i < 5; i++)
        make_and_end(end);
    long rss = status_kb("VmRSS"), size = status_kb("VmSize");
    int fds = open_fds();
    for (int i = 0; i < rounds; i++)
        make_and_end(end);
    EXPECT_SOON(open_fds() <= fds); /* pipes are closed by Gs of their own */
    long more_rss = status_kb("VmRSS") - rss, more_size = status_kb("VmSize") - size;
    expect_at(more_rss < SLACK_KB, __FILE__, __LINE__, "RSS grew by %ld KiB", more_rss);
    /* Threads and stacks of Gs that wait for processes may have come. */
    expect_at(more_size < 2L * SLACK_KB + (64 << 10), __FILE__, __LINE__, "VSZ grew by %ld KiB",
              more_size);
}

static void drop_many(void *arg) {
    (void)arg;
    ends_leave_nothing(vm_drop, test_procs() == 2 ? VMS : VMS / 5);
}

static void dropped_vms_leave_nothing(void **state) {
    (void)state;
    in_g_for(drop_many, NULL, 3 * LIMIT_NS);
}

typedef struct ending {
    host_vm *vm;
    crowd ended;
} ending;

static rt_step finalize_step(rt_g *g) {
    ending *e = *(ending **)rt_local(g);
    vm_finalize(e->vm);
    crowd_leave(&e->ended);
    return RT_EXIT;
}

static void finalize_and_drop(host_vm *vm) {
    ending e = {.vm = vm};
    crowd_enter(&e.ended);
    rt_g *g = rt_new_step_sure(finalize_step, vm->cell);
    *(ending **)rt_local(g) = &e;
    rt_ready(g);
    crowd_wait(&e.ended);
    vm_drop(vm);
}

static void finalized_vms_leave_nothing(void *arg) {
    (void)arg;
    ends_leave_nothing(finalize_and_drop, VMS / 8);
}

/* Of this thread: others use the machine as well. */
static int64_t cpu_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return t.tv_sec * NS_PER_SEC + t.tv_nsec;
}

static void a_drop_takes_milliseconds(void *arg) {
    (void)arg;
    int64_t best = INT64_MAX;
    for (int i = 0; i < 5; i++) {
        host_vm *vm = vm_new(7);
        CHECK(run_script(vm, heavy, NULL, 0));
        int64_t start = cpu_ns();
        vm_drop(vm);
        int64_t took = cpu_ns() - start;
        if (took < best) best = took;
    }
    print_message("a drop of 25 MB takes %.2f ms\n", (double)best / 1e6);
    EXPECT(best < 200 * MS);
}

static void errors_are_caught_after_a_drop(void *arg) {
    (void)arg;
    host_vm *other = vm_new(8);
    for (int i = 0; i < 20; i++) {
        host_vm *vm = vm_new(7);
        CHECK(run_script(vm, "for i = 1, 1000 do pcall(error, i) end", NULL, 0));
        vm_drop(vm);
        CHECK(run_script(other, "for i = 1, 1000 do assert(not pcall(error, i)) end", NULL, 0));
    }
    vm_drop(other);
}

/* Maps, unmaps and moves pieces of an area in the name of a VM, beside a picture of each page. */
enum { AREA_PAGES = 64, PAGE_SIZE = 4096, MOVES = 20000 };

/* Where the kernel puts nothing by itself, so that no other thread's mapping comes into a hole there. */
#define FAR_AWAY ((void *)0x7e9000000000)
static char *area;

static int64_t pages_of(const bool *mapped) {
    int64_t n = 0;
    for (int i = 0; i < AREA_PAGES; i++)
        n += mapped[i];
    return n;
}

static int map_at_random(host_vm *vm, lua_State *L) {
    (void)L;
    uint64_t seed = 4;
    bool mapped[AREA_PAGES] = {false};
    int64_t before = vm->view.mapped;
    for (int i = 0; i < MOVES; i++) {
        int at = (int)random_below(&seed, AREA_PAGES);
        int n = 1 + (int)random_below(&seed, 12);
        if (at + n > AREA_PAGES) n = AREA_PAGES - at;
        char *p = area + (size_t)at * PAGE_SIZE;
        size_t len = (size_t)n * PAGE_SIZE;
        switch (random_below(&seed, 3)) {
        case 0: /* only what is free, as the kernel does */
            if (pages_of(mapped) > 0) {
                int64_t taken = 0;
                for (int k = at; k < at + n; k++)
                    taken += mapped[k];
                if (taken) continue;
            }
            if (mmap64(p, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != p)
                rt_throw("mmap64");
            memset(mapped + at, true, (size_t)n);
            break;
        case 1:
            if (munmap(p, len) != 0) rt_throw("munmap");
            memset(mapped + at, false, (size_t)n);
            break;
        default: { /* shrinks */
            int64_t whole = 0;
            for (int k = at; k < at + n; k++)
                whole += mapped[k];
            if (whole != n || n < 2) continue;
            if (mremap(p, len, PAGE_SIZE, 0) != p) rt_throw("mremap");
            memset(mapped + at + 1, false, (size_t)n - 1);
        }
        }
        if (vm->view.mapped - before != pages_of(mapped) * PAGE_SIZE) {
            expect_at(false, __FILE__, __LINE__, "move %d: %lld bytes recorded, %lld pages are", i,
                      (long long)(vm->view.mapped - before), (long long)pages_of(mapped));
            return 0;
        }
    }
    return 0;
}

static void the_record_is_exact(void *arg) {
    (void)arg;
    area = mmap(FAR_AWAY, (size_t)AREA_PAGES * PAGE_SIZE, PROT_NONE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    CHECK(area != MAP_FAILED);
    host_vm *vm = vm_new(7);
    CHECK_EQ(run_call(vm, map_at_random).status, 0);
    vm_drop(vm);
    /* Nothing that was recorded is left, and what was never touched still is. */
    unsigned char seen[1];
    int64_t left = 0;
    for (int i = 0; i < AREA_PAGES; i++) {
        int r = mincore(area + (size_t)i * PAGE_SIZE, PAGE_SIZE, seen);
        CHECK(r == 0 || errno == ENOMEM);
        left += r == 0;
    }
    CHECK_EQ(left, 0);
}

static void be_greedy(void *arg) {
    (void)arg;
    int64_t usual = options.vm_memory;
    options.vm_memory = 32 << 20;
    host_vm *vm = vm_new(7);
    static const char *const greedy[] = {
        "local t = {} while true do t[#t + 1] = { #t } end",
        "local t = {} for i = 1, 1e9 do t[i] = 'string ' .. i end",
        "local s = 'x' while true do s = s .. s end",
        "local f = 'x' f = f:rep(1e9)",
        "local function f(...) return f(1, ...) end f()",
        "local t = {} while true do t[#t + 1] = coroutine.create(print) end",
        "local ffi = require 'ffi' local t = {} while true do t[#t + 1] = ffi.new('int[1000]') end",
        "local t = {} for i = 1, 1e9 do t[i] = assert(loadstring('return ' .. i .. ' + ...')) "
        "t[i](1) end",
        "local t = {} while true do pcall(function() while true do t[#t + 1] = {} end end) t[#t + "
        "1] = {} end",
    };
    int n = sizeof greedy / sizeof *greedy;
    for (int i = 0; i < 2 * n; i++) {
        char said[256] = "";
        bool ok = run_script(vm, greedy[i % n], said, sizeof said);
        expect_at(!ok, __FILE__, __LINE__, "%s ended", greedy[i % n]);
        expect_at(strstr(said, "not enough memory") || strstr(said, "overflow") ||
                      strstr(said, "too many"),
                  __FILE__, __LINE__, "%s: %s", greedy[i % n], said);
        CHECK(vm->view.mapped <= options.vm_memory + (2 << 20));
        bool well =
            run_script(vm, "local t = {} for i = 1, 1000 do t[i] = { i } end", said, sizeof said);
        expect_at(well, __FILE__, __LINE__, "after %s: %s", greedy[i % n], said);
    }
    vm_drop(vm);
    options.vm_memory = usual;
}

static void the_limit_holds_and_ends_no_vm(void **state) {
    (void)state;
    in_g_for(be_greedy, NULL, 3 * LIMIT_NS);
}

static void garbage_does_not_count(void *arg) {
    (void)arg;
    int64_t usual = options.vm_memory;
    options.vm_memory = 32 << 20;
    host_vm *vm = vm_new(7);
    char said[256] = "";
    bool ok = run_script(vm,
                         "keep = {}\n"
                         "while collectgarbage 'count' < 22000 do keep[#keep + 1] = { #keep } end\n"
                         "for i = 1, 1e6 do garbage = { i, 'string ' .. i } end\n",
                         said, sizeof said);
    expect_at(ok, __FILE__, __LINE__, "%s", said);
    vm_drop(vm);
    options.vm_memory = usual;
}

/* ---- collecting when idle ---- */

static int64_t longest_ns, steps;

static int collect_in_steps(host_vm *vm, lua_State *L) {
    (void)L;
    bool more = true;
    while (more) {
        int64_t start = cpu_ns();
        more = vm_gc_step(vm);
        int64_t took = cpu_ns() - start;
        if (took > longest_ns) longest_ns = took;
        steps++;
    }
    return 0;
}

static void idle_steps_collect_everything(void *arg) {
    (void)arg;
    host_vm *vm = vm_new(7);
    CHECK(run_script(vm,
                     "keep = {}\n"
                     "local function fill(c)\n"
                     "  local t = {}\n"
                     "  for i = 1, 1000 do t[i] = { i, c .. i .. ' ' .. #keep } end\n"
                     "  return t\n"
                     "end\n"
                     "while collectgarbage 'count' < 51200 do keep[#keep + 1] = fill 'x' end\n"
                     "collectgarbage() collectgarbage()\n"
                     "for i = 1, 200 do keep[i] = fill 'y' end\n",
                     NULL, 0));
    int64_t start = rt_nanotime();
    run_call(vm, collect_in_steps);
    int64_t took = rt_nanotime() - start;
    int kb = lua_gc(vm->L, LUA_GCCOUNT, 0);
    print_message("%lld steps of a %d KiB heap: %.2f ms together, the longest %.3f ms\n",
                  (long long)steps, kb, (double)took / 1e6, (double)longest_ns / 1e6);
    CHECK(steps > 10);
    steps = 0;
    run_call(vm, collect_in_steps);
    CHECK_EQ(steps, 1); /* nothing has grown */
    vm_drop(vm);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        in_g_test(the_record_is_exact),         in_g_test(errors_are_caught_after_a_drop),
        in_g_test(a_drop_takes_milliseconds),   cmocka_unit_test(the_limit_holds_and_ends_no_vm),
        in_g_test(garbage_does_not_count),      in_g_test(idle_steps_collect_everything),
        in_g_test(finalized_vms_leave_nothing), cmocka_unit_test(dropped_vms_leave_nothing),
    };
    RUN_TESTS("vmmem", tests);
}
