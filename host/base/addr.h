/* Addresses: `host:port`, `:port`, `[v6]:port` with a numeric host or localhost, and `unix:path`. See addr.c. */
#ifndef ADDR_H
#define ADDR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

enum { HOST_ADDR_MAX = 128 }; /* bytes of an address as text, with the 0 */

typedef struct host_addr {
    struct sockaddr_storage sa;
    socklen_t len;
} host_addr;

/* The four bytes of an IPv4 address as the IPv6 address that they are mapped to (::ffff:a.b.c.d), whose last bytes they
 * are. addr_is_mapped: ip is such an address. Any thread. Do not wait. */
static inline void addr_map(uint8_t ip[16], const void *four) {
    memset(ip, 0, 10);
    memset(ip + 10, 0xff, 2);
    memcpy(ip + 12, four, 4);
}
static inline bool addr_is_mapped(const uint8_t ip[16]) {
    static const uint8_t before[12] = {[10] = 0xff, [11] = 0xff};
    return memcmp(ip, before, sizeof before) == 0;
}

/* Reads an address. Any thread. Does not wait. 0 or -EINVAL. */
int addr_parse(const char *s, host_addr *a);

/* True: s is a loopback address or a unix socket, which only this machine reaches. False: another address, or none. Any
 * thread. Does not wait. */
bool addr_is_local(const char *s);

/* Writes an address into buf, as text with a NUL; an IPv4 address that is mapped to IPv6 as IPv4. Returns its length.
 * Any thread. Does not wait. */
int addr_format(const struct sockaddr *sa, socklen_t len, char *buf, size_t cap);

#endif
