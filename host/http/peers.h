/* Connections by address. See peers.c. Any thread; nothing here waits. */
#ifndef PEERS_H
#define PEERS_H

#include <stdint.h>

#define PEER_FULL UINT32_MAX
/* Counts a connection for the address at its other end: a number for peer_leave, 0: it is not counted. PEER_FULL: there
 * are too many of that address. */
uint32_t peer_enter(int fd);
void peer_leave(uint32_t peer);

#endif
