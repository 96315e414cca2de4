/* The PROXY protocol, versions 1 and 2, on the side of the server.
 *
 * A proxy that forwards bytes cannot say in HTTP whom it does so for. Instead it begins each connection with a header:
 *
 *     1   PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n          or TCP6, or UNKNOWN and whatever; 107 bytes at most
 *     2   12 bytes that no text protocol begins with; version and command; family; the length of the rest;
 *         the rest: addresses, then fields (TLVs) that are skipped
 *
 * LOCAL (the proxy itself asks whether we live), UNKNOWN, and families that are no address of a client leave the
 * connection's peer as the client.
 *
 * A listener has this protocol always or never: a server that guessed would let each client name an address for itself.
 * So a connection that begins with anything else is closed. The proxy is believed, whoever it is; who may connect is
 * the matter of a firewall.
 *
 * The header is read before the connection becomes one of HTTP or of an app: neither knows of it. A step G peeks until
 * the header is there, takes just the header from the socket, and gives the descriptor to the protocol. A proxy that
 * does not send its header is waited for as long as for the head of a request, --header-timeout. The connection counts
 * for --max-conns meanwhile, and counts for --max-conns-per-addr from the header on.
 */
#include "proxy.h"

#include "../base/base.h"
#include "../base/log.h"
#include "conns.h"
#include "server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { V1_MAX = 107, V2_HEAD = 16 };

/* A connection looks so often whether its server stops. */
#define LOOK_NS NS_PER_SEC

typedef struct early_conn {
    server_conn base; /* first */
    rt_pd *pd;
    int fd;
    bool refuse;
    size_t skip; /* bytes of the header that are still to be dropped */
    bool known;  /* header is read */
    proxy_header header;
    int64_t until_ns;
} early_conn;

/* ---- the header ---- */

/* The next word of s[0 .. n), which ends with `stop`; its length, and *rest behind the stop. -1: there is none. */
static int word(const char *s, size_t n, char stop, char *to, size_t cap, const char **rest) {
    const char *end = memchr(s, stop, n);
    if (!end || end == s || (size_t)(end - s) >= cap) return -1;
    memcpy(to, s, (size_t)(end - s));
    to[end - s] = 0;
    *rest = end + 1;
    return (int)(end - s);
}

static bool read_port(const char *s, in_port_t *port) {
    long n = 0;
    for (const char *c = s; *c; c++) {
        if (*c < '0' || *c > '9' || c - s > 4 || (*s == '0' && c > s)) return false;
        n = n * 10 + (*c - '0');
    }
    *port = htons((uint16_t)n);
    return n <= 65535;
}

/* An address of version 1 as it is kept: IPv4 mapped to IPv6. */
static bool read_address(const char *s, bool four, struct in6_addr *to) {
    struct in_addr in;
    if (!four) return inet_pton(AF_INET6, s, to) == 1;
    if (inet_pton(AF_INET, s, &in) != 1) return false;
    addr_map(to->s6_addr, &in);
    return true;
}

/* The line s[0 .. n), without its end. */
static int parse_line(const char *s, size_t n, proxy_header *h) {
    const char *end = s + n, *at = s + 6;
    char text[5][INET6_ADDRSTRLEN];
    static const char stops[] = "    \r"; /* the line's end stands behind it */
    struct in6_addr to;
    in_port_t port;
    if (n >= 13 && memcmp(at, "UNKNOWN", 7) == 0 && (n == 13 || at[7] == ' ')) return 1;
    for (int i = 0; i < 5; i++)
        if (word(at, (size_t)(end + 1 - at), stops[i], text[i], sizeof text[i], &at) < 0) return -1;
    bool four = strcmp(text[0], "TCP4") == 0;
    if (!four && strcmp(text[0], "TCP6") != 0) return -1;
    h->is_client = true;
    h->from.sin6_family = AF_INET6;
    bool right = read_address(text[1], four, &h->from.sin6_addr) &&
                 read_address(text[2], four, &to) && read_port(text[3], &h->from.sin6_port) &&
                 read_port(text[4], &port);
    return right ? 1 : -1;
}

static int parse_v1(const char *s, size_t n, proxy_header *h) {
    const char *end = memchr(s, '\n', n < V1_MAX ? n : V1_MAX);
    if (!end) return n < V1_MAX ? 0 : -1;
    h->size = (size_t)(end - s) + 1;
    return end[-1] == '\r' && end - s > 6 ? parse_line(s, (size_t)(end - s) - 1, h) : -1;
}

/* body: what stands behind the 16 bytes, len of them. */
static int parse_v2(int command, int family, const char *body, size_t len, proxy_header *h) {
    enum { TCP4 = 0x11, TCP6 = 0x21 };
    struct sockaddr_in6 *from = &h->from;
    if (command == 0) return 1;
    if (command != 1) return -1;
    if ((family == TCP4 && len < 12) || (family == TCP6 && len < 36)) return -1;
    from->sin6_family = AF_INET6;
    h->is_client = family == TCP4 || family == TCP6;
    if (family == TCP4) {
        addr_map(from->sin6_addr.s6_addr, body);
        memcpy(&from->sin6_port, body + 8, 2);
    } else if (family == TCP6) {
        memcpy(&from->sin6_addr, body, 16);
        memcpy(&from->sin6_port, body + 32, 2);
    }
    return 1;
}

int proxy_parse(const char *s, size_t n, proxy_header *h) {
    static const char v1[] = "PROXY ", v2[] = "\r\n\r\n\0\r\nQUIT\n";
    const size_t v1_len = sizeof v1 - 1, v2_len = sizeof v2 - 1;
    memset(h, 0, sizeof *h);
    if (memcmp(s, v1, n < v1_len ? n : v1_len) == 0) return n < v1_len ? 0 : parse_v1(s, n, h);
    if (memcmp(s, v2, n < v2_len ? n : v2_len) != 0) return -1;
    if (n < V2_HEAD) return 0;
    int version = (uint8_t)s[12] >> 4, command = s[12] & 15, family = (uint8_t)s[13];
    size_t len = (size_t)(uint8_t)s[14] << 8 | (uint8_t)s[15];
    if (version != 2) return -1;
    h->size = V2_HEAD + len;
    size_t wanted = h->size < PROXY_LOOK ? h->size : PROXY_LOOK; /* what is behind are fields */
    return n < wanted ? 0 : parse_v2(command, family, s + V2_HEAD, len, h);
}

/* ---- the connection ---- */

static rt_step end(early_conn *c) {
    if (c->pd) rt_pd_close(c->pd);
    if (c->fd >= 0) close(c->fd);
    server_remove_conn(&c->base);
    free(c);
    return RT_EXIT;
}

/* Gives the descriptor to the protocol, whose connection is one of the server before this one is none any more. */
static rt_step go_on(early_conn *c) {
    host_server *s = c->base.server;
    server_client client;
    int fd = c->fd;
    bool may = c->header.is_client ? client_told(&c->header.from, &client) : client_of(fd, &client);
    rt_pd_close(c->pd);
    c->pd = NULL;
    c->fd = -1;
    if (may)
        s->listener.protocol->start(s, fd, client, c->refuse);
    else
        server_turn_away(s, fd);
    return end(c);
}

/* Takes c->skip bytes from the socket. 0; -EAGAIN: there are no more now; -ECONNRESET. */
static int drop(early_conn *c) {
    char dropped[4096];
    while (c->skip > 0) {
        ssize_t n = recv(c->fd, dropped, c->skip < sizeof dropped ? c->skip : sizeof dropped, 0);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return n < 0 && errno == EAGAIN ? -EAGAIN : -ECONNRESET;
        c->skip -= (size_t)n;
    }
    return 0;
}

static void log_bad(const early_conn *c) {
    struct sockaddr_storage sa = {0};
    socklen_t len = sizeof sa;
    char from[HOST_ADDR_MAX] = "?";
    if (getpeername(c->fd, (struct sockaddr *)&sa, &len) == 0)
        addr_format((struct sockaddr *)&sa, len, from, sizeof from);
    log_line(LOG_WARN, "%s: a connection of %s begins without the header of --proxy-protocol",
             c->base.server->addr, from);
}

/* 0: the header was taken from the socket; -EAGAIN; else the connection ends. */
static int look(early_conn *c) {
    char s[PROXY_LOOK];
    if (c->known) return drop(c);
    bool is_all = rt_pd_hup(c->pd); /* asked first: what came before the end is seen below */
    ssize_t n;
    do
        n = recv(c->fd, s, sizeof s, MSG_PEEK);
    while (n < 0 && errno == EINTR);
    if (n <= 0) return n < 0 && errno == EAGAIN ? -EAGAIN : -ECONNRESET;
    int r = proxy_parse(s, (size_t)n, &c->header);
    if (r == 0) return is_all ? -ECONNRESET : -EAGAIN;
    if (r < 0) {
        log_bad(c);
        return -EPROTO;
    }
    c->known = true;
    c->skip = c->header.size;
    return drop(c);
}

static int64_t limit_of(early_conn *c) {
    int64_t now = rt_nanotime(), drain = now + server_drain_idle_ns();
    if (atomic_load(&c->base.server->stopping) && c->until_ns > drain) c->until_ns = drain;
    return c->until_ns < now + LOOK_NS ? c->until_ns : now + LOOK_NS;
}

static rt_step early_step(rt_g *g) {
    early_conn *c = *RT_LOCAL(g, early_conn *);
    for (;;) {
        int err = look(c);
        if (err == 0) return go_on(c);
        if (err != -EAGAIN || rt_nanotime() >= c->until_ns) return end(c);
        rt_pd_set_deadline(c->pd, RT_R, limit_of(c));
        if (rt_pd_prepare(c->pd, RT_R, RT_WAIT_READ, g) == RT_PARKED) return RT_PARK;
    }
}

void proxy_start(host_server *s, int fd, bool refuse) {
    int err = -ENOMEM;
    early_conn *c = calloc(1, sizeof *c);
    rt_pd *pd = c ? rt_pd_open(fd, &err) : NULL;
    rt_g *g = pd ? rt_new_step(early_step, NULL) : NULL;
    if (!g) {
        log_line(LOG_ERROR, "a connection is refused: %s", rt_strerror(err));
        if (pd) rt_pd_close(pd);
        close(fd);
        free(c);
        return;
    }
    c->pd = pd;
    c->fd = fd;
    c->refuse = refuse;
    c->until_ns = rt_nanotime() + (int64_t)(s->listener.limits->header_timeout * 1e9);
    c->base.is_apart = true;
    *RT_LOCAL(g, early_conn *) = c;
    server_add_conn(&c->base, s, (server_client){0});
    rt_ready(g);
}
