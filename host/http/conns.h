/* All connections there are, and how many there may be. See conns.c. Any thread; nothing here waits. */
#ifndef CONNS_H
#define CONNS_H

#include "../base/base.h"
#include "conn.h"

typedef enum { CONNS_SERVE, CONNS_REFUSE, CONNS_TURN_AWAY, CONNS_LATER } conns_answer;
/* What its idle_ns is, for one that becomes idle now. */
static inline int64_t conns_idle_since(int64_t now_ns, bool served) {
    return served ? now_ns + 2 * NS_PER_SEC : now_ns;
}
/* Finds out how many there may be. Before the first is accepted. */
void conns_init(void);
/* What a client gets that was accepted: a connection, one that answers 503, no other answer than the caller's; or the
 * caller lets others run and asks again. The connection that has been idle for longest may be told to leave. */
conns_answer conns_admit(void);
void conns_add(host_conn *c);
void conns_remove(host_conn *c);
/* c was told to leave, but there is a request. By its G. */
void conns_stay(host_conn *c);
/* The connections of s look at what has changed. */
void conns_kick(const host_server *s);

#endif
