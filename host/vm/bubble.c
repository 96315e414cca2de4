/* Bubbles: virtual time for some Gs (testing.virtual).
 *
 * A G that enters a bubble (host_bubble_enter), and all Gs that it starts from there, see a clock of their own. The
 * clock stands still while any of these Gs runs, and jumps to the next deadline when all of them wait, for time or for
 * each other. So an hour of sleeping takes only as long as the work in it, and a program does the same in every run.
 *
 * Each G of a bubble has a seat. The bubble counts its Gs, and those asleep: in a wait for a ticket whose deadline is
 * not the G's timer but a place in the bubble's heap. The end of a wait takes the sleeper out of the count at once. So
 * when the two counts are equal, no G inside can go on before time does. Then the bubble's driver, a step G of the VM's
 * cell without any Lua, moves the clock to the nearest deadline and ends the due waits, in the order of their
 * deadlines. Waits with the same deadline end in the order in which they began.
 *
 * If no G waits for time, all Gs are asleep for good: the driver notes where they stand and cancels them, and
 * testing.virtual raises. The clock of the bubble begins at a whole second, so programs compute the same fractions from
 * it in each run.
 *
 * The G that made the bubble runs in it as its main G. Its own deadline outside is a real one: the driver keeps it, as
 * the deadline of the driver's own wait, and cancels all Gs if it comes. When main has ended its work, the remaining Gs
 * are canceled, and main waits for their end. A canceled G's waits answer at once, so a G that goes on regardless would
 * go on for ever. After LATE_MAX such waits its waits raise, and after as many more that it catches, the next one never
 * returns.
 *
 * The world outside cannot be simulated, so descriptors, jobs, calls on other threads and channels of other VMs are
 * refused. A G outside may still wake a G inside, through a channel or a mutex of the VM: then the bubble is only as
 * repeatable as the G outside.
 *
 * The bubble lives until its last G has ended; the driver then frees it. All of this runs in the VM, so there are no
 * locks.
 *
 * Rejected: to run the VM's timers from a clock that can be set (all Gs of the process share them); to move the clock
 * where the last G falls asleep (it may wake itself again and again, and never leave the cell to others).
 */
#include "bubble.h"

#include "../base/base.h"
#include "dump.h"
#include "vm.h"

#include <errno.h>
#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LATE_MAX = 100 };

/* ---- the heap ---- */

static bool before(const struct bubble_seat *a, const struct bubble_seat *b) {
    int64_t x = a->lg->deadline_ns, y = b->lg->deadline_ns;
    return x < y || (x == y && a->seq < b->seq);
}

static void place(bubble *b, int i, struct bubble_seat *s) {
    b->v[i] = s;
    s->at = i;
}

static void sift(bubble *b, int i, struct bubble_seat *s) {
    while (i > 0 && before(s, b->v[(i - 1) / 2])) {
        place(b, i, b->v[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    for (;;) {
        int child = 2 * i + 1;
        if (child >= b->n) break;
        if (child + 1 < b->n && before(b->v[child + 1], b->v[child])) child++;
        if (!before(b->v[child], s)) break;
        place(b, i, b->v[child]);
        i = child;
    }
    place(b, i, s);
}

static void take_out(struct bubble_seat *s) {
    bubble *b = s->of;
    int i = s->at;
    if (i < 0) return;
    s->at = -1;
    struct bubble_seat *last = b->v[--b->n];
    if (last != s) sift(b, i, last);
}

/* ---- falling asleep and waking up ---- */

static void wake_driver(bubble *b) {
    rt_wake(b->driver, b->ticket, RT_WOKEN);
}

/* No G inside can go on before time does. */
static void look(bubble *b) {
    if (b->n_asleep == b->n_live) wake_driver(b);
}

void bubble_sleep(host_luag *lg, int64_t deadline_ns) {
    struct bubble_seat *s = lg->seat;
    bubble *b = s->of;
    s->asleep = true;
    b->n_asleep++;
    if (deadline_ns) {
        s->seq = ++b->seq;
        sift(b, b->n++, s); /* the heap has room for each G */
    }
    look(b);
}

void bubble_wake(host_luag *lg) {
    struct bubble_seat *s = lg->seat;
    if (!s->asleep) return;
    s->asleep = false;
    s->of->n_asleep--;
    take_out(s);
}

/* ---- the Gs inside ---- */

bool bubble_join(bubble *b, host_luag *lg) {
    if (b->n_live == b->cap) {
        int cap = b->cap ? b->cap * 2 : 8;
        struct bubble_seat **v = realloc(b->v, (size_t)cap * sizeof(struct bubble_seat *));
        if (!v) return false;
        b->v = v;
        b->cap = cap;
    }
    struct bubble_seat *s = calloc(1, sizeof *s);
    if (!s) return false;
    *s = (struct bubble_seat){.of = b, .lg = lg, .at = -1};
    lg->seat = s;
    b->n_live++;
    if (b->ending) lg->canceled |= HOST_CANCELED_BUBBLE;
    return true;
}

static void cancel_all(bubble *b, const host_luag *but) {
    b->ending = true;
    for (int i = 0; i < b->vm->slots.n; i++) {
        host_luag *lg = b->vm->slots.v[i];
        if (lg->seat && lg->seat->of == b && lg != but) luag_cancel(lg, HOST_CANCELED_BUBBLE);
    }
}

void bubble_leave(host_luag *lg) {
    bubble *b = lg->seat->of;
    bubble_wake(lg);
    free(lg->seat);
    lg->seat = NULL;
    lg->canceled &= (uint8_t)~HOST_CANCELED_BUBBLE;
    b->n_live--;
    bool dropped = atomic_load_explicit(&b->vm->dropped, memory_order_relaxed);
    if (b->main == lg) {
        b->main = NULL;
        if (!dropped) cancel_all(b, NULL);
    } else if (b->leaving && b->n_live == 1 && b->main && !dropped) {
        luag_wake(b->main);
    }
    look(b);
}

/* ---- the driver ---- */

static void go_on(bubble *b) {
    if (b->v[0]->lg->deadline_ns > b->now_ns) b->now_ns = b->v[0]->lg->deadline_ns;
    while (b->n && b->v[0]->lg->deadline_ns <= b->now_ns) {
        host_luag *lg = b->v[0]->lg;
        bubble_wake(lg);
        rt_wake(lg->g, lg->ticket, RT_TIMEOUT);
    }
}

static void give_up(bubble *b, int verdict) {
    b->verdict = verdict;
    b->limit_ns = 0;
    cancel_all(b, NULL);
}

/* All Gs are asleep, and none waits for time. */
static void die(bubble *b) {
    if (!b->ending) {
        b->text = dump_bubble(b->vm, b, NULL);
        give_up(b, HOST_BUBBLE_DEADLOCK);
    } else if (b->leaving && b->main && !b->stuck) {
        b->stuck = true;
        if (!b->text) b->text = dump_bubble(b->vm, b, b->main);
        luag_wake(b->main);
    }
}

static rt_step drive(rt_g *g) {
    bubble *b = *RT_LOCAL(g, bubble *);
    if (b->ticket) rt_wait_code(g);
    /* Asks the clock: other events end the driver's waits so often that its deadline may never come. */
    bool timeout = b->limit_ns && b->limit_ns <= rt_nanotime();
    if (b->n_live == 0) {
        free(b->text);
        free(b->v);
        free(b);
        return RT_EXIT;
    }
    if (!atomic_load_explicit(&b->vm->dropped, memory_order_relaxed)) {
        if (timeout && !b->ending) give_up(b, HOST_BUBBLE_TIMEOUT);
        if (timeout) b->limit_ns = 0;
        if (b->n_asleep == b->n_live) {
            if (b->n)
                go_on(b);
            else
                die(b);
        }
    }
    b->ticket = rt_wait_open(g);
    rt_set_wait(g, RT_WAIT_OTHER, b->limit_ns);
    return RT_PARK;
}

/* ---- waits ---- */

/* "file:line: " of the script's code, on the stack. */
static const char *push_place(lua_State *L) {
    lua_Debug ar;
    return luag_script_line(L, &ar) ? lua_pushfstring(L, "%s:%d: ", ar.short_src, ar.currentline)
                                    : lua_pushfstring(L, "");
}

void bubble_refuse(lua_State *L, const char *what) {
    push_place(L);
    lua_pushfstring(L, "real I/O in testing.virtual: %s", what);
    lua_concat(L, 2);
    lua_error(L);
}

/* Adds lg to the text about Gs that have not ended. */
static void note_late(lua_State *L, host_luag *lg) {
    bubble *b = lg->seat->of;
    char where[256], *text = NULL;
    const char *place = push_place(L);
    dump_where(L, lg, where, sizeof where);
    int n = asprintf(&text, "%s  G %d.%.0f%s%s: %sgoes on waiting after it was canceled\n",
                     b->text ? b->text : "", lg->slot, lg->serial, where[0] ? ", created at " : "",
                     where, place);
    lua_pop(L, 1);
    if (n < 0) return;
    free(b->text);
    b->text = text;
}

bool bubble_may_wait(lua_State *L, host_luag *lg) {
    struct bubble_seat *s = lg->seat;
    bubble *b = s->of;
    if (!b->ending || lg->sheltered || (b->leaving && b->main == lg)) return true;
    if (++s->n_late <= LATE_MAX) return true;
    if (s->n_late > 2 * LATE_MAX) return false;
    if (s->n_late == LATE_MAX + 1 && b->verdict == HOST_BUBBLE_NONE) note_late(L, lg);
    luaL_error(L, "testing.virtual is over: this G was canceled, and goes on waiting");
    return true;
}

/* ---- what Lua calls ---- */

/* The bubble of lg; NULL: lg is in none. */
static bubble *bubble_of(const host_luag *lg) {
    return lg->seat ? lg->seat->of : NULL;
}

int host_bubble_enter(double start_s) {
    host_luag *lg = luag_current();
    if (lg->seat) return -EBUSY;
    if (lg->x) return -EPERM; /* waits of its request are real */
    bubble *b = calloc(1, sizeof *b);
    if (!b) return -ENOMEM;
    b->vm = lg->vm;
    b->main = lg;
    b->limit_ns = luag_limit(lg);
    b->outer_ns = atomic_load_explicit(&lg->limit_ns, memory_order_relaxed);
    b->now_ns = b->began_ns = (rt_nanotime() / NS_PER_SEC + 1) * NS_PER_SEC;
    b->start_s = start_s;
    if (!bubble_join(b, lg)) {
        free(b);
        return -ENOMEM;
    }
    atomic_store_explicit(&lg->limit_ns, 0, memory_order_relaxed);
    lg->vm->view.virtual_ns = bubble_now(lg);
    b->driver = rt_new_step_sure(drive, lg->vm->cell);
    *RT_LOCAL(b->driver, bubble *) = b;
    rt_ready(b->driver);
    return 0;
}

double host_bubble_elapsed(void) {
    const bubble *b = bubble_of(luag_current());
    return b ? (double)(b->now_ns - b->began_ns) / 1e9 : 0;
}

double host_bubble_start(void) {
    const bubble *b = bubble_of(luag_current());
    return b ? b->start_s : 0;
}

void host_bubble_end(void) {
    host_luag *lg = luag_current();
    bubble *b = bubble_of(lg);
    if (!b) return;
    b->leaving = true;
    cancel_all(b, lg);
}

int host_bubble_others(void) {
    const bubble *b = bubble_of(luag_current());
    return !b || b->stuck ? 0 : b->n_live - 1;
}

int host_bubble_verdict(void) {
    const bubble *b = bubble_of(luag_current());
    return b ? (int)b->verdict : HOST_BUBBLE_NONE;
}

const char *host_bubble_text(void) {
    const bubble *b = bubble_of(luag_current());
    return b ? b->text : NULL;
}

void host_bubble_leave(void) {
    host_luag *lg = luag_current();
    const bubble *b = bubble_of(lg);
    if (!b) return;
    atomic_store_explicit(&lg->limit_ns, b->outer_ns, memory_order_relaxed);
    bubble_leave(lg);
    lg->vm->view.virtual_ns = 0;
}

void host_bubble_put_out(int32_t slot) {
    host_vm *vm = vm_current();
    if (slot >= 0 && slot < vm->slots.n && vm->slots.v[slot]->seat) bubble_leave(vm->slots.v[slot]);
}
