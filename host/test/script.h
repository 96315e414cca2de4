/* Running Lua in a VM, for tests. Native Gs. */
#ifndef SCRIPT_H
#define SCRIPT_H

#include "../vm/luag.h"
#include "../vm/vm.h"

#include <lauxlib.h>

/* Zeroed but for the text before use. */
typedef struct script {
    const char *text;
    crowd ended;
    int status;     /* of its end: 0, or it has raised */
    char said[256]; /* what it has returned last, or its error, if that is a text */
} script;

static inline void load_script(lua_State *L, const char *text) {
    if (luaL_loadbuffer(L, text, strlen(text), "=script") != 0) rt_throw("%s", lua_tostring(L, -1));
}

/* A luag_boot; arg: the script, which gets no arguments. */
static inline int push_script(host_vm *vm, lua_State *L, void *arg) {
    (void)vm;
    load_script(L, ((script *)arg)->text);
    return 0;
}

static inline void script_done(host_luag *lg, int status) {
    script *s = lg->done_arg;
    const char *said = lua_gettop(lg->L) ? lua_tostring(lg->L, -1) : NULL;
    s->status = status;
    snprintf(s->said, sizeof s->said, "%s", said ? said : "");
    luag_give(lg, status);
    crowd_leave(&s->ended);
}

/* Runs what boot pushes, to its end. arg: boot's; s is told of the end. */
static inline void run_boot(host_vm *vm, luag_boot boot, void *arg, script *s) {
    crowd_enter(&s->ended);
    if (!luag_spawn(vm, boot, arg, script_done, NULL, s)) rt_throw("no memory for a script");
    crowd_wait(&s->ended);
}

#endif
