/* Connections that a proxy has opened for a client, and says so at their beginning: --proxy-protocol. See proxy.c. */
#ifndef PROXY_H
#define PROXY_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct host_server host_server;

/* Takes over fd, an accepted connection of s. When the proxy's header has come, the protocol of s begins. refuse: as
 * server_protocol's start. With a P. Does not wait. */
void proxy_start(host_server *s, int fd, bool refuse);

/* What a header says. */
typedef struct proxy_header {
    size_t size;    /* its bytes */
    bool is_client; /* the client's address is `from`; false: that of the connection's peer */
    struct sockaddr_in6 from;
} proxy_header;

/* Bytes from which each header can be read; the longest are addresses of unix sockets, in version 2. */
enum { PROXY_LOOK = 232 };

/* Reads the header at the beginning of s[0 .. n), n is PROXY_LOOK or less. 1: *h; 0: more bytes are needed; -1: it is
 * none. Any thread. Does not wait. */
int proxy_parse(const char *s, size_t n, proxy_header *h);

#endif
