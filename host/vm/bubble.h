/* Virtual time for some Gs of a VM. See bubble.c. By the thread that runs the VM. */
#ifndef BUBBLE_H
#define BUBBLE_H

#include "luag.h"

#include <lua.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct bubble bubble;

/* The place of a Lua G in a bubble. */
struct bubble_seat {
    bubble *of;
    host_luag *lg;
    int64_t seq; /* of its wait: waits that end at the same time end in this order */
    int at; /* where it stands in the bubble's heap; -1: its wait has no deadline, or has ended */
    int n_late;  /* waits that it has begun since it was canceled */
    bool asleep; /* it waits for the others or for time */
};

struct bubble {
    host_vm *vm;
    rt_g *driver; /* moves the clock */
    uint64_t ticket;
    int64_t now_ns, began_ns; /* virtual */
    int64_t limit_ns;         /* in real time: the limit of `main`; 0: none any more */
    int64_t outer_ns;         /* its own deadline outside */
    double start_s;           /* seconds since 1970 at began_ns */
    int64_t seq;
    int n_live, n_asleep;   /* Gs; how many of them wait */
    host_luag *main;        /* the G that made it; NULL: it has left */
    struct bubble_seat **v; /* a heap of the Gs that wait for time, by time and seq */
    int n, cap;
    int verdict;  /* HOST_BUBBLE_... */
    bool ending;  /* its Gs are canceled */
    bool leaving; /* `main` waits for the others to end */
    bool stuck;   /* the others do not end */
    char *text;   /* the dump that belongs to verdict, or the Gs that did not end; NULL: none */
};

/* lg's time as host_view has it; 0: real time. */
static inline double bubble_now(const host_luag *lg) {
    return __builtin_expect(lg->seat != NULL, 0) ? (double)lg->seat->of->now_ns : 0;
}

/* lg, which has not begun yet, begins in b. False: no memory. */
bool bubble_join(bubble *b, host_luag *lg);
/* lg ends, or goes on in real time. */
void bubble_leave(host_luag *lg);
/* lg waits; its ticket is open. deadline_ns 0: none. */
void bubble_sleep(host_luag *lg, int64_t deadline_ns);
/* The wait of lg has ended, or is about to. Calling it twice is harmless. */
void bubble_wake(host_luag *lg);
/* lg begins a wait. False: lg is to wait for good. May raise. */
bool bubble_may_wait(lua_State *L, host_luag *lg);
/* Raises that `what` is real and not to be had in virtual time. */
void bubble_refuse(lua_State *L, const char *what);

#endif
