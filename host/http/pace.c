/* How fast a client must be: --min-rate bytes a second, on average over each --idle-timeout of waiting for it.
 *
 * A deadline that begins anew with each byte lets a client hold a handler, a buffer and a descriptor for days, at a
 * byte a minute. So a client has a purse of waiting time, --idle-timeout seconds. Only waits for the client are paid
 * from the purse, not the time in which a handler does something else. A client that has moved --min-rate times
 * --idle-timeout bytes gets the purse filled again. A client whose purse is empty is too slow. A client that goes
 * silent has the whole --idle-timeout, as without a rate (--min-rate=0: each byte fills the purse).
 *
 * Bytes of a body count when they are read. Bytes of an answer count when the client's side has acknowledged them. A
 * kernel takes megabytes for a client that reads nothing, and for a client that reads steadily it becomes writable only
 * when a third of them is gone. So when a write would block, the kernel is asked how much it still holds (SIOCOUTQ; for
 * a unix socket the answer is the memory of what the peer has not read, which shrinks as well).
 *
 * All state of this file belongs to the holder of the connection: see hold.c.
 */
#include "../base/base.h"
#include "conn.h"
#include "pace.h"

#include <linux/sockios.h>
#include <sys/ioctl.h>

/* Milliseconds that wrap; only differences count. */
static uint32_t now_ms(void) {
    return (uint32_t)(rt_nanotime() / NS_PER_MS);
}

static void fill_purse(host_exchange *x) {
    x->pace.left_ms = (uint32_t)(x->server->listener.limits->idle_timeout * 1e3) + 1;
    x->pace.moved = 0;
    x->paced = true;
}

/* Ends the wait, if there is one, and pays for it. */
static void pay(host_exchange *x) {
    if (!x->waiting) return;
    uint32_t spent = now_ms() - x->pace.since_ms;
    x->pace.left_ms = spent < x->pace.left_ms ? x->pace.left_ms - spent : 0;
    x->waiting = false;
}

static void count(host_exchange *x, size_t n) {
    double moved = (double)x->pace.moved + (double)n;
    x->pace.moved = moved < UINT32_MAX ? (uint32_t)moved : UINT32_MAX;
    if (n > 0 && moved >= (double)x->server->listener.limits->min_rate *
                              x->server->listener.limits->idle_timeout)
        fill_purse(x);
}

/* Begins a wait and returns its deadline. */
static int64_t begin(host_exchange *x) {
    if (!x->paced) fill_purse(x);
    x->pace.since_ms = now_ms();
    x->waiting = true;
    return rt_nanotime() + (int64_t)x->pace.left_ms * NS_PER_MS;
}

int64_t pace_read(host_exchange *x) {
    pay(x);
    return begin(x);
}

void pace_got(host_exchange *x, size_t n) {
    if (x->waiting) rt_pd_set_deadline(x->conn->io.pd, RT_R, 0);
    pay(x);
    count(x, n);
}

int64_t pace_write(host_exchange *x, bool *moved) {
    int held = 0;
    if (ioctl(x->conn->io.fd, SIOCOUTQ, &held) < 0) held = 0; /* then what the kernel took counts */
    int64_t taken = x->sent - held;
    int64_t n = x->waiting ? taken - x->taken : 0;
    *moved = n > 0;
    x->taken = taken;
    pay(x);
    count(x, n > 0 ? (size_t)n : 0);
    if (x->paced && x->pace.left_ms == 0) return 0;
    return begin(x);
}

void pace_wrote(host_exchange *x) {
    x->paced = x->waiting = false;
}
