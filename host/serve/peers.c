/* Connections by address: --max-conns-per-addr.
 *
 * Only while the option is set, each client's address is asked for and counted. The /64 of an IPv6 address counts as
 * one address, since the holder of one address of a /64 has all. Unix sockets have no address and are not counted.
 *
 * A hash table with a fixed number of chains; a connection keeps the number of its address's place. The hash is seeded,
 * so no client can choose addresses that stand in one chain.
 */
#include "../../runtime/lock.h"
#include "../../runtime/runtime.h"
#include "../base/base.h"
#include "../base/log.h"
#include "../base/options.h"
#include "client.h"
#include "peers.h"

#include <arpa/inet.h>
#include <endian.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { CHAINS = 4096 };
#define SAY_NS (10 * NS_PER_SEC)

typedef struct peer {
    uint64_t addr[2]; /* IPv6, or IPv4 mapped to it */
    uint32_t n;       /* connections; 0: the place is free */
    uint32_t next;    /* next place of the chain or of the free ones; 0: none */
} peer;

static struct {
    rt_lock lock;
    peer *places;            /* lock: by number; number 0 is not used */
    uint32_t cap, free;      /* lock: places; the first free one */
    uint32_t chains[CHAINS]; /* lock */
    uint64_t seed;           /* lock; 0: not yet chosen */
    int64_t silent_ns;       /* lock: nothing is logged until then */
} peers;

static bool address_of(const struct sockaddr *sa, uint64_t addr[2]) {
    if (!client_ip(sa, (uint8_t *)addr)) return false;
    addr[0] = be64toh(addr[0]);
    addr[1] = addr[0] ? 0 : be64toh(addr[1]); /* no network part: mapped IPv4, loopback */
    return true;
}

/* The lock is held, here and in the functions below. */
static uint32_t *chain_of(const uint64_t addr[2]) {
    if (!peers.seed) peers.seed = (uint64_t)rt_nanotime() * UINT64_C(0x9e3779b97f4a7c15) | 1;
    uint64_t h = (addr[0] ^ peers.seed) * UINT64_C(0xff51afd7ed558ccd);
    h = (h ^ h >> 32 ^ addr[1]) * (peers.seed | 1);
    return &peers.chains[(h ^ h >> 29) >> 32 & (CHAINS - 1)];
}

/* Takes a free place. 0: no memory. */
static uint32_t new_place(void) {
    if (!peers.free) {
        uint32_t cap = peers.cap ? peers.cap * 2 : 64;
        peer *grown = realloc(peers.places, cap * sizeof *grown);
        if (!grown) return 0;
        for (uint32_t i = cap - 1; i >= (peers.cap ? peers.cap : 1); i--) {
            grown[i] = (peer){.next = peers.free};
            peers.free = i;
        }
        peers.places = grown;
        peers.cap = cap;
    }
    uint32_t i = peers.free;
    peers.free = peers.places[i].next;
    return i;
}

static uint32_t find_or_add(const uint64_t addr[2]) {
    uint32_t *chain = chain_of(addr), i = *chain;
    while (i && (peers.places[i].addr[0] != addr[0] || peers.places[i].addr[1] != addr[1]))
        i = peers.places[i].next;
    if (i || !(i = new_place())) return i;
    peers.places[i] = (peer){.addr = {addr[0], addr[1]}, .next = *chain};
    *chain = i;
    return i;
}

static bool may_say(void) {
    int64_t now = rt_nanotime();
    bool now_is_time = now >= peers.silent_ns;
    if (now_is_time) peers.silent_ns = now + SAY_NS;
    return now_is_time;
}

static uint32_t enter(const struct sockaddr *sa) {
    uint64_t addr[2];
    int64_t max = options.max_conns_per_addr;
    if (max == 0 || !address_of(sa, addr)) return 0;
    rt_lock_acquire(&peers.lock);
    uint32_t i = find_or_add(addr);
    bool full = i && peers.places[i].n >= max, say = full && may_say();
    if (i && !full) peers.places[i].n++;
    rt_lock_release(&peers.lock);
    if (say) {
        char text[INET6_ADDRSTRLEN] = "?";
        uint64_t wire[2] = {htobe64(addr[0]), htobe64(addr[1])};
        uint32_t v4 = htonl((uint32_t)addr[1]);
        bool is_v4 = addr[0] == 0 && addr[1] >> 32 == 0xffff;
        inet_ntop(is_v4 ? AF_INET : AF_INET6, is_v4 ? (void *)&v4 : (void *)wire, text,
                  sizeof text);
        log_line(LOG_WARN, "new connections of %s are refused: it has %lld (--max-conns-per-addr)",
                 text, (long long)max);
    }
    return full ? PEER_FULL : i;
}

uint32_t peer_enter(int fd) {
    struct sockaddr_storage sa = {0};
    socklen_t len = sizeof sa;
    if (options.max_conns_per_addr == 0 || getpeername(fd, (struct sockaddr *)&sa, &len) < 0)
        return 0;
    return enter((struct sockaddr *)&sa);
}

uint32_t peer_enter_address(const struct sockaddr_in6 *sa) {
    return enter((const struct sockaddr *)sa);
}
void peer_leave(uint32_t i) {
    if (!i) return;
    rt_lock_acquire(&peers.lock);
    if (--peers.places[i].n == 0) {
        uint32_t *at = chain_of(peers.places[i].addr);
        while (*at != i)
            at = &peers.places[*at].next;
        *at = peers.places[i].next;
        peers.places[i].next = peers.free;
        peers.free = i;
    }
    rt_lock_release(&peers.lock);
}
