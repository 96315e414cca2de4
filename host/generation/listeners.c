/* Listeners of the app's own: app:tcp(addr, fn).
 *
 * Each VM of a generation loads the app and so asks for the same addresses. What is asked for gets a number, the same one
 * in all VMs and generations for as long as the process lives: in each VM the function for that address is the handler of
 * this number, and the listener's connections go to whichever VM serves (serve/bind.c). So a reload needs no change of
 * listeners as long as the addresses stay: new connections begin in the new generation, the others stay where they are.
 *
 * A reload may ask for more addresses, or fewer. All that are new are bound before the switch, so that one which can't be
 * bound makes the reload fail, and nothing has changed. After the switch they accept, and those that are not asked for
 * any more stop. A VM that loads later, a spare one, asks for what its generation has already asked for, or has no such
 * listener.
 *
 * The first generation's may be sockets that the process was given, and accept when all other listeners do, so the
 * command (commands.c) opens them and says when. From then on they are handed over to another process as those of HTTP
 * are (upgrade.c).
 */
#include "listeners.h"

#include "../base/base.h"
#include "../base/log.h"
#include "../base/options.h"
#include "../serve/raw.h"
#include "../vm/vm.h"
#include "message.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

_Static_assert((int)MAX_APP_LISTEN < (int)VM_NAMED_HANDLERS,
               "their handlers have numbers of their own");

typedef struct listener {
    char addr[HOST_ADDR_MAX];
    int max, backlog;
    bool asked;          /* by the app that loads, or that loaded last */
    bool accepts;        /* server was started */
    host_server *server; /* held; NULL: not open */
} listener;

static struct {
    rt_lock lock;
    listener list[MAX_APP_LISTEN]; /* lock: the fields of all */
    int n;                         /* lock */
    bool begun;                    /* lock: listeners_begin was called */
    void (*stop)(host_server *);   /* lock: NULL: the process does not stop */
} all;

/* lock held. NULL: it was never asked for. */
static listener *find(const char *addr) {
    for (int i = 0; i < all.n; i++)
        if (strcmp(all.list[i].addr, addr) == 0) return &all.list[i];
    return NULL;
}

/* lock held. A place for another address; NULL: there is none. Numbers of addresses that nobody listens on are used
 * again only when there are no others: a VM of an earlier generation may still know them. */
static listener *add(const char *addr) {
    listener *l = NULL;
    if (all.n < MAX_APP_LISTEN) l = &all.list[all.n++];
    for (int i = 0; i < MAX_APP_LISTEN && !l; i++)
        if (!all.list[i].asked && !all.list[i].server) l = &all.list[i];
    if (!l) return NULL;
    *l = (listener){0};
    snprintf(l->addr, sizeof l->addr, "%s", addr);
    return l;
}

/* Handler 0 is the app's HTTP. */
static int number_of(const listener *l) {
    return (int)(l - all.list) + 1;
}

int listeners_ask(const char *addr, int max, int backlog, bool late) {
    rt_lock_acquire(&all.lock);
    listener *l = find(addr);
    if (!l && !late) l = add(addr);
    if (l && !late && !l->asked) {
        l->asked = true;
        l->max = max;
        l->backlog = backlog;
    }
    int n = l ? number_of(l) : late ? -EBUSY : -ENOSPC;
    rt_lock_release(&all.lock);
    return n;
}

void listeners_stage(void) {
    rt_lock_acquire(&all.lock);
    for (int i = 0; i < all.n; i++)
        all.list[i].asked = false;
    rt_lock_release(&all.lock);
}

/* The next one that is to be opened, as a listener; false: there is none. */
static bool next_to_open(int *i, host_listener *l) {
    rt_lock_acquire(&all.lock);
    while (*i < all.n && (!all.list[*i].asked || all.list[*i].server))
        ++*i;
    bool is = *i < all.n;
    if (is)
        *l = (host_listener){.addr = all.list[*i].addr,
                             .protocol = &raw_protocol,
                             .handler = number_of(&all.list[*i]),
                             .max = all.list[*i].max,
                             .backlog = all.list[*i].backlog,
                             .limits = &options.limits};
    rt_lock_release(&all.lock);
    return is;
}

char *listeners_open(listeners_opener open) {
    host_listener l;
    for (int i = 0, err; next_to_open(&i, &l);) {
        host_server *s = open(&l, &err);
        if (!s) {
            char *what =
                message_format("app:tcp: cannot listen on %s: %s", l.addr, rt_strerror(err));
            listeners_drop();
            return what;
        }
        rt_lock_acquire(&all.lock);
        all.list[i].server = s;
        rt_lock_release(&all.lock);
    }
    return NULL;
}

/* Takes a server out of the list, and its hold: one that does not accept yet, or one that does and is not asked for any
 * more. NULL: there is none. */
static host_server *take(bool accepts) {
    host_server *s = NULL;
    rt_lock_acquire(&all.lock);
    for (int i = 0; i < all.n && !s; i++) {
        listener *l = &all.list[i];
        if (!l->server || l->accepts != accepts || (accepts && l->asked)) continue;
        s = l->server;
        l->server = NULL;
        l->accepts = false;
    }
    rt_lock_release(&all.lock);
    return s;
}

void listeners_drop(void) {
    for (host_server *s; (s = take(false));) {
        server_stop(s); /* before it starts: so its acceptors end at once, and close it */
        (void)server_start(s);
        server_release(s);
    }
    rt_lock_acquire(&all.lock);
    for (int i = 0; i < all.n; i++)
        all.list[i].asked = all.list[i].server != NULL;
    rt_lock_release(&all.lock);
}

/* The next one that does not accept yet, and does from now on. */
static host_server *next_to_start(void (**stop)(host_server *)) {
    host_server *s = NULL;
    rt_lock_acquire(&all.lock);
    for (int i = 0; all.begun && i < all.n && !s; i++) {
        listener *l = &all.list[i];
        if (!l->server || l->accepts) continue;
        s = l->server;
        l->accepts = true;
    }
    *stop = all.stop;
    rt_lock_release(&all.lock);
    return s;
}

char *listeners_commit(void) {
    char *what = NULL;
    void (*stop)(host_server *);
    for (host_server *s; (s = next_to_start(&stop));) {
        int err = stop ? 0 : server_start(s);
        if (err && !what)
            what = message_format("app:tcp: cannot listen on %s: %s", s->addr, rt_strerror(err));
        if (!stop) continue;
        stop(s);
        (void)server_start(s); /* which ends, and closes it */
    }
    for (host_server *s; (s = take(true));) {
        log_line(LOG_INFO, "%s: not listened on any more", s->addr);
        server_stop(s);
        server_release(s);
    }
    return what;
}

char *listeners_begin(void) {
    rt_lock_acquire(&all.lock);
    all.begun = true;
    rt_lock_release(&all.lock);
    return listeners_commit();
}

int listeners_list(host_server *list[MAX_APP_LISTEN]) {
    int n = 0;
    rt_lock_acquire(&all.lock);
    for (int i = 0; i < all.n; i++) {
        if (!all.list[i].server || !all.list[i].accepts) continue;
        list[n++] = all.list[i].server;
        server_hold(all.list[i].server);
    }
    rt_lock_release(&all.lock);
    return n;
}

void listeners_stop(void (*stop)(host_server *)) {
    host_server *list[MAX_APP_LISTEN];
    rt_lock_acquire(&all.lock);
    all.stop = stop;
    rt_lock_release(&all.lock);
    int n = listeners_list(list);
    for (int i = 0; i < n; i++) {
        stop(list[i]);
        server_release(list[i]);
    }
}
