/* Virtual time for some Gs of a VM; see bubble.c. All of it by who runs the VM. */
#ifndef BUBBLE_H
#define BUBBLE_H

#include "host.h"

typedef struct bubble bubble;

/* What a Lua G has that stands in a bubble. */
struct bubble_seat {
    bubble *of;
    host_luag *lg;
    int64_t seq; /* of its wait: those that end at the same time end in this order */
    int at; /* where it stands in the bubble's heap; -1: its wait has no deadline, or has ended */
    int n_late;  /* waits that it has begun since it was canceled */
    bool asleep; /* it waits for the others or for time */
};

struct bubble {
    host_vm *vm;
    rt_g *driver; /* moves the clock */
    uint64_t ticket;
    int64_t now_ns, began_ns; /* virtual */
    int64_t limit_ns;         /* in real time: what limits who made it; 0: nothing does any more */
    int64_t outer_ns;         /* its own deadline outside */
    double start_s;           /* seconds since 1970 at began_ns */
    int64_t seq;
    int n_live, n_asleep;   /* Gs, those of them that wait */
    host_luag *main;        /* who made it; NULL: has left */
    struct bubble_seat **v; /* a heap of those that wait for time, by time and seq */
    int n, cap;
    int verdict;  /* HOST_BUBBLE_... */
    bool ending;  /* its Gs are canceled */
    bool leaving; /* `main` waits for the others to end */
    bool stuck;   /* which they do not */
    char *text;   /* the dump that belongs to verdict, or who did not end; NULL: none */
};

/* What lp.now tells lg, as host_view has it. */
static inline double bubble_now(const host_luag *lg) {
    return __builtin_expect(lg->seat != NULL, 0) ? (double)lg->seat->of->now_ns : 0;
}

/* lg begins in b. False: no memory. */
bool bubble_join(bubble *b, host_luag *lg);
/* It ends, or goes on in real time. */
void bubble_leave(host_luag *lg);
/* Its ticket is open. 0: no deadline. */
void bubble_sleep(host_luag *lg, int64_t deadline_ns);
/* Its wait has ended, or is about to; harmless if it had. */
void bubble_wake(host_luag *lg);
/* It begins a wait. May raise; false: it is to wait for good. */
bool bubble_may_wait(lua_State *L, host_luag *lg);
/* Raises: what is real, and so can't be had. */
void bubble_refuse(lua_State *L, const char *what);

#endif
