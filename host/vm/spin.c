/* Loops over waits that fail.
 *
 *     lp.go(function() while true do lp.sleep(0.1) work() end end)      -- in a handler
 *
 * From the handler's deadline on, or when it was canceled, each wait of that loop answers at once, and a loop that does
 * not look at the answers spins: it holds its VM, and would be ended as a runaway (runaway.c), most often with its VM,
 * innocent requests and all. So the waits of a G that fail are counted, and after SPIN_MAX in a row the next one raises
 * an error, which names the line. A G that catches the error and goes on is doomed after as many more: its Lua raises
 * wherever it is, as a runaway's does, and so the VM is replaced.
 *
 * Answers count that will come again: "canceled", and "timeout" when the G's own deadline has passed. A wait that
 * lasted until a time of its own did wait, and ends the row, as a wait that succeeded does. When the cause is gone,
 * because a deadline or a scope was left, the row counts no more. Sheltered waits know neither cause, and are not
 * counted.
 *
 * Objects that are closed, broken or at their end answer without a wait. There the failures of one object count, since
 * the G was resumed last: a G that writes once to each of a thousand clients that have left does not spin.
 */
#include "spin.h"

#include "../base/log.h"
#include "bubble.h"
#include "keeper.h"
#include "runaway.h"
#include "vm.h"
#include "wait.h"

/* lg's own deadline, or its request's, has passed. */
static bool is_late(const host_luag *lg) {
    int64_t limit = luag_limit(lg);
    double virtual_ns = bubble_now(lg);
    return limit != 0 && limit <= (virtual_ns != 0 ? (int64_t)virtual_ns : rt_nanotime());
}

void spin_count(host_luag *lg, int word) {
    if (word == CLOSED || lg->sheltered) return;
    if (word == TIMEOUT && !is_late(lg)) /* the descriptor's deadline */
        lg->n_failed = 0;
    else if ((lg->n_failed & (SPIN_RAISED - 1)) < SPIN_MAX)
        lg->n_failed++;
}

bool spin_lasts(host_luag *lg) {
    if (lg->sheltered) return false;
    if (wait_canceled(lg) || is_late(lg)) return true;
    lg->n_failed = 0;
    return false;
}

static int raise(lua_State *L, const char *word) {
    lua_Debug ar;
    lua_pushfstring(L, "%s: this G has waited %d times since, at ", word, SPIN_MAX);
    if (luag_script_line(L, &ar))
        lua_pushfstring(L, "%s:%d", ar.short_src, ar.currentline);
    else
        lua_pushliteral(L, "?");
    lua_concat(L, 2);
    return lua_error(L);
}

int spin_raise(lua_State *L, host_luag *lg) {
    if (lg->n_failed & SPIN_RAISED) {
        lg->doomed = true;
        runaway_doom(lg->vm);
    } else {
        lg->n_failed = SPIN_RAISED;
    }
    return raise(L, wait_canceled(lg) ? "canceled" : "timeout");
}

void spin_answer(lua_State *L) {
    host_luag *lg = luag_current();
    if (wait_spins(lg)) spin_raise(L, lg);
    spin_count(lg, CANCELED);
}

void spin_answer_for(lua_State *L, const void *object, const char *word) {
    host_vm *vm = vm_current();
    if (vm->spin.failing != object) {
        vm->spin.failing = object;
        vm->spin.n = 0;
    }
    if (vm->spin.n++ < SPIN_MAX) return;
    vm->spin.failing = NULL;
    raise(L, word);
}

void luag_undoom(host_luag *lg) {
    if (!lg->doomed) return;
    char what[RUNAWAY_NAME], origin[LUAG_ORIGIN];
    lg->doomed = false;
    if (!vm_keeper->replace(lg->vm)) return;
    luag_name(lg, what, sizeof what);
    luag_origin(lg, origin, sizeof origin);
    log_line(LOG_ERROR, "%s was ended, since it went on with waits that fail: VM %d is replaced%s",
             what, lg->vm->view.vm_id, origin);
}
