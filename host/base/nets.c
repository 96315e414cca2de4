/* Addresses with a number of leading bits that count, as --trusted-proxy names them. IPv4 is looked at as the part of
 * IPv6 that it is mapped to, since a client of IPv4 may come by a socket of either family. */
#include "nets.h"

#include "addr.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { MAPPED = 96 }; /* bits before those of an IPv4 address */

bool nets_read_ip(const char *s, size_t n, uint8_t ip[16]) {
    char text[INET6_ADDRSTRLEN];
    if (n > 2 && s[0] == '[' && s[n - 1] == ']') {
        s++;
        n -= 2;
    }
    if (n == 0 || n >= sizeof text) return false;
    memcpy(text, s, n);
    text[n] = 0;
    if (inet_pton(AF_INET6, text, ip) == 1) return true;
    uint8_t four[4];
    if (inet_pton(AF_INET, text, four) != 1) return false;
    addr_map(ip, four);
    return true;
}

/* By hand: inet_ntop calls sprintf, which would be half of the cost of a line of the access log. */
static int print_four(const uint8_t *ip, char *buf) {
    char *at = buf;
    for (int i = 0; i < 4; i++) {
        if (ip[i] >= 100) *at++ = (char)('0' + ip[i] / 100);
        if (ip[i] >= 10) *at++ = (char)('0' + ip[i] / 10 % 10);
        *at++ = (char)('0' + ip[i] % 10);
        *at++ = '.';
    }
    *--at = 0;
    return (int)(at - buf);
}

int nets_print_ip(const uint8_t ip[16], char *buf, size_t cap) {
    if (addr_is_mapped(ip)) return print_four(ip + 12, buf);
    (void)inet_ntop(AF_INET6, ip, buf, (socklen_t)cap);
    return (int)strlen(buf);
}

/* The first `bits` of a and b are the same. */
static bool same_bits(const uint8_t *a, const uint8_t *b, int bits) {
    int whole = bits / 8, rest = bits % 8;
    if (memcmp(a, b, (size_t)whole) != 0) return false;
    return rest == 0 || ((a[whole] ^ b[whole]) >> (8 - rest)) == 0;
}

static bool is_clear_from(const uint8_t *ip, int bits) {
    for (int i = bits; i < 128; i++)
        if (ip[i / 8] >> (7 - i % 8) & 1) return false;
    return true;
}

int nets_parse(const char *s, host_net *to) {
    *to = (host_net){.bits = NET_UNIX};
    if (strcmp(s, "unix") == 0) return 0;
    const char *slash = strchr(s, '/');
    size_t n = slash ? (size_t)(slash - s) : strlen(s);
    if (!nets_read_ip(s, n, to->ip)) return -EINVAL;
    int first = memchr(s, ':', n) ? 0 : MAPPED, bits = 128 - first;
    if (slash) {
        char *end;
        long given = strtol(slash + 1, &end, 10);
        if (slash[1] < '0' || slash[1] > '9' || *end || given > bits) return -EINVAL;
        bits = (int)given;
    }
    to->bits = (uint8_t)(first + bits);
    return is_clear_from(to->ip, to->bits) ? 0 : -EINVAL;
}

bool nets_have(const host_nets *nets, const uint8_t *ip) {
    for (int i = 0; i < nets->n; i++) {
        const host_net *net = &nets->list[i];
        if (ip ? net->bits != NET_UNIX && same_bits(net->ip, ip, net->bits) : net->bits == NET_UNIX)
            return true;
    }
    return false;
}
