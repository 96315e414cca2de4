/* Whom a connection is with.
 *
 * As a rule the kernel knows, and is asked when somebody wants to know; the answer is kept beside the connection, whose
 * next requests ask again. Two cases need the address beforehand: the access log, since the kernel forgets the address
 * of a client that has reset its connection; and a proxy that says at the beginning of a connection whom it is for
 * (proxy.c). So without these options a connection costs nothing more until a handler asks.
 */
#include "client.h"

#include "../base/logq.h"
#include "peers.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

bool client_ip(const struct sockaddr *sa, uint8_t ip[16]) {
    if (sa->sa_family == AF_INET6) {
        memcpy(ip, &((const struct sockaddr_in6 *)sa)->sin6_addr, 16);
        return true;
    }
    if (sa->sa_family != AF_INET) return false;
    addr_map(ip, &((const struct sockaddr_in *)sa)->sin_addr);
    return true;
}

/* An address in the form that is kept: IPv4 mapped to IPv6; of a unix socket the family alone. NULL: no memory. */
static struct sockaddr_in6 *kept(const struct sockaddr_storage *sa) {
    struct sockaddr_in6 *from = calloc(1, sizeof *from);
    if (!from) return NULL;
    from->sin6_family = sa->ss_family == AF_UNIX ? AF_UNIX : AF_INET6;
    (void)client_ip((const struct sockaddr *)sa, from->sin6_addr.s6_addr);
    from->sin6_port = sa->ss_family == AF_INET ? ((const struct sockaddr_in *)sa)->sin_port
                                               : ((const struct sockaddr_in6 *)sa)->sin6_port;
    return from;
}

/* The peer's address as it is kept. NULL: the kernel knows none any more, or there is no memory. */
static struct sockaddr_in6 *peer_address(int fd) {
    struct sockaddr_storage sa = {0};
    socklen_t len = sizeof sa;
    return getpeername(fd, (struct sockaddr *)&sa, &len) < 0 ? NULL : kept(&sa);
}

bool client_of(int fd, server_client *c) {
    *c = (server_client){.peer = peer_enter(fd)};
    if (c->peer == PEER_FULL) {
        c->peer = 0;
        return false;
    }
    if (logq_is_open(logq_access)) c->from = peer_address(fd);
    return true;
}

bool client_told(const struct sockaddr_in6 *from, server_client *c) {
    *c = (server_client){.peer = peer_enter_address(from)};
    c->from = c->peer == PEER_FULL ? NULL : malloc(sizeof *from);
    if (!c->from) {
        if (c->peer != PEER_FULL) peer_leave(c->peer);
        c->peer = 0;
        return false;
    }
    *c->from = *from;
    return true;
}

void client_leave(server_client c) {
    peer_leave(c.peer);
    free(c.from);
}

int client_address(struct sockaddr_in6 **from, int fd, struct sockaddr_storage *sa,
                   socklen_t *len) {
    memset(sa, 0, sizeof *sa);
    *len = sizeof *sa;
    if (!*from) {
        if (getpeername(fd, (struct sockaddr *)sa, len) < 0) return -errno;
        if (sa->ss_family != AF_UNIX) *from = kept(sa); /* a socket's file has a name, too */
        return 0;
    }
    memcpy(sa, *from, sizeof **from);
    *len = (*from)->sin6_family == AF_UNIX ? sizeof(*from)->sin6_family : sizeof **from;
    return 0;
}
