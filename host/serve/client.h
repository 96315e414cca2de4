/* The client of a connection: the address that counts as the client's, and the number that it is counted by. See
 * client.c. Any thread. Nothing here waits. */
#ifndef CLIENT_H
#define CLIENT_H

#include "../base/addr.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct server_client {
    struct sockaddr_in6 *from; /* its address, which the holder frees; NULL: ask the kernel */
    uint32_t peer;             /* of peer_enter */
} server_client;

/* The client of the accepted connection fd, counted. False: its address has too many connections, or there is no
 * memory: *c is empty. */
bool client_of(int fd, server_client *c);

/* The client of a connection whose address another program has told of (proxy.c). Otherwise as client_of. */
bool client_told(const struct sockaddr_in6 *from, server_client *c);

/* The connection has ended. */
void client_leave(server_client c);

/* The address of the client of the connection fd. *from as in server_client; what the kernel says is kept there. The
 * caller has the connection. 0 or -errno. */
int client_address(struct sockaddr_in6 **from, int fd, struct sockaddr_storage *sa, socklen_t *len);

/* The bytes of an address, of IPv6 or of IPv4 mapped to it. False: it is a unix socket's. */
bool client_ip(const struct sockaddr *sa, uint8_t ip[16]);

#endif
