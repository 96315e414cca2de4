/* The end of an exchange: one place, whatever ended it, that knows what the exchange was, and counts.
 *
 * An exchange belongs to its connection. It begins with the first bytes of a request. It is over when the connection
 * lets go of it. Either its answer has left and nothing more comes now (the connection is idle, or ends), or its answer
 * is queued and the next request is there. Handler or C may have answered, or neither. So the connection's G alone
 * calls exchange_over, where it parts with its exchange. The handler ends elsewhere: perhaps long before (the queued
 * output has to leave), perhaps long after. A handler that loses its connection keeps the memory of the request. The
 * connection goes on with another exchange, to which the request moves (exchange_inherit).
 *
 * What Lua holds of a request ends with the handler (exchange_unname), by the thread that runs its VM.
 *
 * The times are those that the connection's G reads anyway: when bytes came, and when the connection becomes idle or
 * goes on with the next request. The beginning of an answer is noted only if it can differ from the end: for a streamed
 * answer, and for one that the kernel does not take at once.
 */
#include "over.h"

#include "../base/base.h"
#include "../base/count.h"
#include "access.h"
#include "conn.h"

enum { US = 1000 };

/* The M that has the P writes; any thread reads. */
static struct {
    OF_ONE_P _Atomic int64_t handed; /* exchanges that handlers got */
    _Atomic int64_t by_status[HOST_STATUS_CLASSES], in, out, ns, answer_ns;
} counts[MAX_PS];

void exchange_handed(void) {
    count_more(&counts[rt_p_id()].handed, 1);
}

/* ---- what it was ---- */

void exchange_answers(host_exchange *x, int64_t now_ns) {
    if (x->answer_us) return;
    int64_t us = (now_ns - x->begin_ns) / US;
    x->answer_us = us < 1 ? 1 : us < UINT32_MAX ? (uint32_t)us : UINT32_MAX;
}

static int64_t bytes_in(const host_exchange *x) {
    return (int64_t)((x->head_done ? x->head_end : x->in_end) + x->body_seen + x->raw_seen);
}

void exchange_account_of(const host_exchange *x, int64_t now_ns, exchange_account *a) {
    /* Negative if output that was queued before x was dropped (cut). */
    int64_t out = x->sent + (int64_t)x->conn->out.n;
    *a = (exchange_account){
        .status = x->req.status,
        .in = bytes_in(x),
        .out = out > 0 ? out : 0,
        .begin_ns = x->begin_ns,
        .answer_ns = x->answer_us ? x->begin_ns + (int64_t)x->answer_us * US : now_ns,
        .end_ns = now_ns,
    };
}

void exchange_inherit(host_exchange *heir, const host_exchange *x) {
    heir->req.method = x->req.method;
    heir->req.minor = x->req.minor;
    heir->req.status = x->req.status;
    heir->begin_ns = x->begin_ns;
    heir->answer_us = x->answer_us;
    heir->req.label = x->req.label;
    __atomic_store_n(&heir->req.vm, __atomic_load_n(&x->req.vm, __ATOMIC_RELAXED),
                     __ATOMIC_RELAXED);
    __atomic_load(&x->number, &heir->number, __ATOMIC_RELAXED); /* its handler may begin just now */
    heir->head_done = true;
    size_t in = (size_t)bytes_in(x);
    if (x->head_done && exchange_keep(heir, x->in, x->head_end) == 0) {
        heir->req.target = x->req.target;
        heir->req.path = x->req.path;
        heir->head_end = heir->in_pos = x->head_end;
    } /* else it has no bytes of the head, but knows how many there were */
    heir->raw_seen = in - heir->head_end;
    heir->sent = x->sent;
    heir->asked = x->asked;
}

/* ---- over ---- */

void exchange_over(host_exchange *x, int64_t now_ns) {
    exchange_account a;
    exchange_account_of(x, now_ns, &a);
    int p = rt_p_id(), class = a.status / 100;
    count_more(&counts[p].by_status[class < HOST_STATUS_CLASSES ? class : 1], 1);
    count_more(&counts[p].in, a.in);
    count_more(&counts[p].out, a.out);
    count_more(&counts[p].ns, a.end_ns - a.begin_ns);
    count_more(&counts[p].answer_ns, a.answer_ns - a.begin_ns);
    access_log(x, &a);
}

/* ---- for VMs ---- */

int64_t host_p_requests(int32_t p) {
    if (p < 0 || p >= rt_procs()) return -1;
    return count_now(&counts[p].handed);
}

void host_read_exchanges(host_exchanges *sum) {
    *sum = (host_exchanges){0};
    for (int p = 0; p < MAX_PS; p++) {
        for (int i = 0; i < HOST_STATUS_CLASSES; i++)
            sum->by_status[i] += (double)count_now(&counts[p].by_status[i]);
        sum->bytes_in += (double)count_now(&counts[p].in);
        sum->bytes_out += (double)count_now(&counts[p].out);
        sum->seconds += (double)count_now(&counts[p].ns) / NS_PER_SEC;
        sum->answer_seconds += (double)count_now(&counts[p].answer_ns) / NS_PER_SEC;
    }
}
