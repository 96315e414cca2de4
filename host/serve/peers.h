/* Connections by address. See peers.c. Any thread. Nothing here waits. */
#ifndef PEERS_H
#define PEERS_H

#include <netinet/in.h>
#include <stdint.h>

#define PEER_FULL UINT32_MAX
/* Counts the connection fd for its client's address. Returns a number for peer_leave; 0: the connection is not counted.
 * PEER_FULL: this address has too many connections. */
uint32_t peer_enter(int fd);
/* The same for a connection of the client that has this address. */
uint32_t peer_enter_address(const struct sockaddr_in6 *sa);
/* The connection has ended. peer: of peer_enter; 0 does nothing. */
void peer_leave(uint32_t peer);

#endif
