/* All connections, and their bound. See conns.c. Any thread. Nothing here waits. */
#ifndef CONNS_H
#define CONNS_H

#include "../base/base.h"
#include "server.h"

typedef enum { CONNS_SERVE, CONNS_REFUSE, CONNS_TURN_AWAY, CONNS_LATER } conns_answer;
/* The idle_ns of a connection that becomes idle now. served: the connection has brought a request. */
static inline int64_t conns_idle_since(int64_t now_ns, bool served) {
    return served ? now_ns + 2 * NS_PER_SEC : now_ns;
}
/* Finds out how many connections there may be. Before the first one is accepted. */
void conns_init(void);
/* What an accepted client gets. SERVE: a connection. REFUSE: a connection that answers so (503). TURN_AWAY: the
 * caller's own answer. LATER: the caller lets other Gs run and asks again. May tell the connection that has been idle
 * for longest to leave. */
conns_answer conns_admit(void);
/* Adds c to the list; takes it out when it is closed. */
void conns_add(server_conn *c);
void conns_remove(server_conn *c);
/* c was told to leave, but stays: a request has come. Only c's G. */
void conns_stay(server_conn *c);
/* apart: c's protocol is asked no more to look at what has changed. Only who has the connection. */
void conns_set_apart(server_conn *c, bool apart);
/* Makes the connections of s look at s->stopping. */
void conns_kick(const host_server *s);

#endif
