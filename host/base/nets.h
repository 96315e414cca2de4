/* Sets of addresses: --trusted-proxy. See nets.c. Any thread. Nothing here waits. */
#ifndef NETS_H
#define NETS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MAX_NETS = 32, NET_UNIX = 255 };

typedef struct host_net {
    uint8_t ip[16]; /* IPv6, or IPv4 mapped to it */
    uint8_t bits;   /* how many of them count; NET_UNIX: all unix sockets, and no address */
} host_net;

typedef struct host_nets {
    host_net list[MAX_NETS];
    int n;
} host_nets;

/* Reads "192.0.2.0/24", "2001:db8::/32", an address alone, or "unix". 0 or -EINVAL, also for bits beyond the mask. */
int nets_parse(const char *s, host_net *to);

/* Is the address one of these? ip NULL: a unix socket. */
bool nets_have(const host_nets *nets, const uint8_t *ip);

/* Reads an address, 192.0.2.7, 2001:db8::7 or [2001:db8::7], as of s[0 .. n): IPv4 mapped to IPv6. False: it is
 * none. */
bool nets_read_ip(const char *s, size_t n, uint8_t ip[16]);

/* Writes an address as text with a NUL: one that IPv4 is mapped to as IPv4. Its length. cap: 46 or more. */
int nets_print_ip(const uint8_t ip[16], char *buf, size_t cap);

#endif
