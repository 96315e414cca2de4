/* luaframes: in a signal handler at every single machine instruction of Lua that does a bit of everything, no frame is
 * told that is none, hardly an instruction has none, and compiled code is told by its trace; in a C function the
 * frames are those that lua_getstack knows. */
#include "../vm/luaframes.h"

#include "../vm/luag.h"
#include "../vm/vm.h"

#include <lauxlib.h>
#include <luajit_config.h>
#include <signal.h>
#include <ucontext.h>

#include "../../runtime/test/harness.h"
#include "script.h"

/* One function a line, and what it calls above it. */
static const char everything[] =
    "local step, same, fast = ...\n"
    "local function leaf(x) return x + 1 end\n"
    "local function vary(...) local n = select('#', ...) return leaf(n), ... end\n"
    "local t = setmetatable({}, { __index = function(_, k) return leaf(k) end,\n"
    "  __add = function(a, b) return leaf(1) end,\n"
    "  __call = function(self, x) return leaf(x) end })\n"
    "local function deep(n) if n == 0 then same() return 0 end return 1 + deep(n - 1) end\n"
    "local function tail(n) if n == 0 then return leaf(0) end return tail(n - 1) end\n"
    "local function fail() local x = nil; return x.y end\n"
    "local function each(c) same() return c .. leaf(1) end\n"
    "local function yields(a) for k = 1, 3 do a = coroutine.yield(leaf(a)) end return a end\n"
    "local function less(a, b) return leaf(a) < leaf(b) end\n"
    "local function all(i)\n"
    "  local s = vary(i, i, i) + t[i] + deep(30) + tail(3) + t(2) + (t + 1)\n"
    "  s = s + #(('ab'):gsub('a', each)) + (pcall(fail) and 1 or 0) + select(2, pcall(leaf, 1))\n"
    "  local co = coroutine.wrap(yields)\n"
    "  s = s + co(1) + co(2) + co(3)\n"
    "  local list = { 3, 1, 2, i }\n"
    "  table.sort(list, less)\n"
    "  for k, v in pairs(list) do s = s + k * v end\n"
    "  xpcall(fail, each)\n"
    "  return s .. table.concat(list, ',')\n"
    "end\n"
    "local function loop(n) local x = 0\n"
    "  for k = 1, n do x = leaf(x) end\n"
    "  return x end\n"
    "if fast then loop(300) else jit.off() end\n"
    "step(1)\n"
    "if fast then loop(2000) else for i = 1, 3 do all(i) end end\n"
    "step(0)\n";
enum { FIRST_FN = 2, YIELDS = 11, LAST_FN = 24, LOOP = 25 };

/* What the handler has seen. One thread runs it all. */
static struct {
    host_vm *vm;
    volatile bool on;
    int64_t instructions, unknown, compiled, wrong;
    lua_frame first_wrong; /* its chunk may be anything */
} seen;

static bool is_known(const lua_frame *f) {
    bool is_line =
        f->compiled ? f->line == LOOP : f->line == 0 || (f->line >= FIRST_FN && f->line <= LAST_FN);
    return is_line && f->len == 7 && memcmp(f->chunk, "=script", 7) == 0;
}

static void look(const void *context) {
    lua_frame frames[64];
    bool more = false;
    int n = luaframes_read(seen.vm, context, frames, 64, &more);
    seen.instructions++;
    if (n < 0) seen.unknown++;
    for (int i = 0; i < n; i++)
        if (!is_known(&frames[i]) || (frames[i].compiled && i > 0)) {
            if (seen.wrong++ == 0) seen.first_wrong = frames[i];
            return;
        }
    if (n > 0 && frames[0].compiled) seen.compiled++;
    /* The outermost is the script, or what a coroutine runs. */
    if (n > 0 && !more && frames[n - 1].line != 0 && frames[n - 1].line != YIELDS) {
        if (seen.wrong++ == 0) seen.first_wrong = frames[n - 1];
    }
}

#if defined(__x86_64__) && !defined(RT_TSAN)
#define STEPS
enum { TRAP_FLAG = 0x100 };

static void on_trap(int signo, siginfo_t *info, void *context) {
    (void)signo;
    (void)info;
    ucontext_t *uc = context;
    if (seen.on)
        look(uc);
    else
        uc->uc_mcontext.gregs[REG_EFL] &= ~TRAP_FLAG;
}

static void set_steps(bool on) {
    seen.on = on;
    if (on) __asm__ volatile("pushfq; orq %0, (%%rsp); popfq" ::"i"(TRAP_FLAG) : "memory", "cc");
}
#else
static void set_steps(bool on) {
    (void)on;
}
#endif

static int step(lua_State *L) {
    set_steps(lua_tointeger(L, 1) != 0);
    return 0;
}

/* ---- the same as lua_getstack ---- */

static _Atomic int n_compared;

static int read_here(lua_frame *frames, int max) {
    ucontext_t uc;
    bool more;
    getcontext(&uc);
    return luaframes_read(seen.vm, &uc, frames, max, &more);
}

static int same(lua_State *L) {
    lua_frame frames[64];
    lua_Debug ar;
    bool was_on = seen.on;
    set_steps(false);
    int at = 0, n = read_here(frames, 64);
    for (int level = 0; lua_getstack(L, level, &ar); level++) {
        lua_getinfo(L, "S", &ar);
        if (ar.what[0] == 'C') continue;
        if (at < n) EXPECT_EQ(frames[at].line, ar.linedefined);
        at++;
    }
    EXPECT_EQ(at, n);
    atomic_fetch_add(&n_compared, 1);
    set_steps(was_on);
    return 0;
}

/* ---- running it ---- */

static int push_everything(host_vm *vm, lua_State *L, void *fast) {
    seen.vm = vm;
    load_script(L, everything);
    lua_pushcfunction(L, step);
    lua_pushcfunction(L, same);
    lua_pushboolean(L, *(bool *)fast);
    return 3;
}

static void everything_done(host_luag *lg, int status) {
    set_steps(false);
    script_done(lg, status);
}

static void run(bool fast) {
    script s = {0};
    memset(&seen, 0, sizeof seen);
    host_vm *vm = vm_new(1);
    crowd_enter(&s.ended);
    CHECK(luag_spawn(vm, push_everything, &fast, everything_done, NULL, &s));
    crowd_wait(&s.ended);
    if (s.status) expect_at(false, __FILE__, __LINE__, "%s", s.said);
    if (seen.wrong)
        expect_at(false, __FILE__, __LINE__, "%lld of %lld instructions: line %d%s",
                  (long long)seen.wrong, (long long)seen.instructions, seen.first_wrong.line,
                  seen.first_wrong.compiled ? ", compiled" : "");
    print_message("%lld instructions: %lld without frames, %lld compiled\n",
                  (long long)seen.instructions, (long long)seen.unknown, (long long)seen.compiled);
    vm_drop(vm);
}

static void each_instruction_of_the_interpreter(void *arg) {
    (void)arg;
    run(false);
    CHECK(atomic_load(&n_compared) > 0);
#ifdef STEPS
    CHECK(seen.instructions > 10000);
    CHECK(seen.unknown * 50 < seen.instructions);
    CHECK_EQ(seen.compiled, 0);
#endif
}

static void each_instruction_of_compiled_code(void *arg) {
    (void)arg;
    run(true);
#ifdef STEPS
    CHECK(seen.instructions > 3000);
    CHECK(seen.unknown * 50 < seen.instructions);
    CHECK(seen.compiled * 2 > seen.instructions);
#endif
}

int main(void) {
#ifdef STEPS
    struct sigaction sa = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigaction(SIGTRAP, &sa, NULL);
#endif
    const struct CMUnitTest tests[] = {
        in_g_test(each_instruction_of_the_interpreter),
        in_g_test(each_instruction_of_compiled_code),
    };
    if (!LUAJIT_HEADERS) return 0;
    RUN_TESTS("luaframes", tests);
}
