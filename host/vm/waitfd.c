/* Waits for descriptors. One G at a time waits for reading from a descriptor and one for writing (its holders). Another
 * G stands in a queue, and looks again when it has its turn.
 *
 * The holder's wait is the pollDesc's, and its deadline is the G's own timer. The other Gs wait for a ticket.
 */
#include "waitfd.h"

#include "wait.h"

/* True: lg is canceled. A G that answers its client (`answers`) may still write when the client has hung up. */
static bool is_canceled(host_luag *lg, bool answers) {
    return wait_canceled(lg) && (!answers || lg->canceled != HOST_CANCELED_GONE);
}

/* True: the wait's own deadline has passed. The deadline of a client's descriptor only tells when to ask whether the
 * client reads, if lg->answers: pace.c. */
static bool is_late(const host_luag *lg) {
    return lg->deadline_ns && lg->deadline_ns <= rt_nanotime();
}

/* ---- beginning ---- */

static void stand_in_queue(host_luag *lg, host_waitq *q, int i) {
    host_luag **at = &q->queue[i];
    while (*at)
        at = &(*at)->next_wait;
    *at = lg;
    lg->next_wait = NULL;
    lg->waitq = q;
    lg->want = WANT_QUEUE;
    lg->ticket = rt_wait_open(lg->g);
    rt_set_wait(lg->g, RT_WAIT_OTHER, lg->deadline_ns);
}

/* RT_PARKED: yield now; else 0 or an error. Raises nothing. */
static int enter(host_luag *lg, host_waitq *q, rt_pd *pd, int mode, int64_t deadline_ns) {
    int i = mode == RT_W;
    lg->pd = pd;
    lg->mode = (uint8_t)mode;
    lg->deadline_ns = wait_until(lg, deadline_ns);
    if (q->holder[i]) {
        stand_in_queue(lg, q, i);
        return RT_PARKED;
    }
    rt_set_deadline(lg->g, lg->deadline_ns);
    int r = rt_pd_prepare(pd, mode, mode == RT_R ? RT_WAIT_READ : RT_WAIT_WRITE, lg->g);
    if (r == RT_ECANCELED && !is_canceled(lg, lg->answers)) r = 0; /* tries again */
    if (r == RT_ETIMEOUT && lg->answers && !is_late(lg))
        r = 0; /* the caller asks whether the client reads */
    if (r != RT_PARKED) {
        rt_set_deadline(lg->g, 0);
        return r;
    }
    q->holder[i] = lg;
    lg->waitq = q;
    lg->want = WANT_FD;
    return RT_PARKED;
}

static int leave(lua_State *L, host_luag *lg, int r) {
    if (r == RT_PARKED) return wait_leave(L, lg);
    if (r == RT_ETIMEOUT)
        spin_answer_for(L, lg->pd, "timeout"); /* the deadline had passed before the wait */
    return r == 0 ? 0 : wait_answer_error(L, lg, r);
}

int luag_wait_fd(lua_State *L, host_waitq *q, rt_pd *pd, int mode, int64_t deadline_ns) {
    host_luag *lg = wait_begin(L, "a descriptor");
    if (wait_early(lg)) return luag_yield(L); /* the caller tries again */
    lg->answers = false;
    if (wait_refused(lg)) return wait_refuse(L, lg);
    return leave(L, lg, enter(lg, q, pd, mode, deadline_ns));
}

int luag_wait_req(lua_State *L, host_req *req, double id, int mode, int64_t deadline_ns) {
    host_luag *lg = wait_begin(L, "a request");
    lg->answers = mode == RT_W;
    if (is_canceled(lg, lg->answers) || wait_spins(lg)) return wait_refuse(L, lg);
    host_waitq *q;
    rt_pd *pd = luag_requests->pd_take(req, id, &q);
    if (!pd) {
        spin_answer_for(L, req, "closed");
        return wait_answer(L, lg, CLOSED);
    }
    int r = enter(lg, q, pd, mode, deadline_ns);
    luag_requests->pd_give(req);
    return leave(L, lg, r);
}

/* ---- ending ---- */

static int holder_result(host_luag *lg) {
    rt_set_deadline(lg->g, 0);
    int err = rt_pd_check(lg->pd, lg->mode);
    if (err && !(err == RT_ETIMEOUT && lg->answers)) return err;
    err = 0;
    if (is_canceled(lg, lg->answers))
        err = RT_ECANCELED;
    else if (is_late(lg))
        err = RT_ETIMEOUT;
    /* An event may have ended this wait as well, and will not come again: the next wait tries first. */
    if (err) rt_pd_kick(lg->pd, lg->mode);
    return err;
}

/* lg no longer waits for its descriptor: the next G has its turn. This also holds when lg was woken for its turn and
 * does not take it. */
static void leave_queue(host_luag *lg) {
    int i = lg->mode == RT_W;
    host_waitq *q = lg->waitq;
    lg->waitq = NULL;
    if (lg->want == WANT_FD) {
        q->holder[i] = NULL;
    } else {
        host_luag **at = &q->queue[i];
        while (*at != lg)
            at = &(*at)->next_wait;
        *at = lg->next_wait;
    }
    host_luag *next = q->queue[i];
    if (next && !q->holder[i]) rt_wake(next->g, next->ticket, RT_WOKEN);
}

int wait_fd_result(host_luag *lg) {
    bool closed = !lg->waitq;
    int err = lg->want == WANT_FD ? holder_result(lg) : wait_ticket_result(lg);
    if (closed) return RT_ECLOSED;
    if (err == RT_ECANCELED && !is_canceled(lg, lg->answers)) err = 0; /* tries again */
    leave_queue(lg);
    return err;
}

static void force_closed(host_luag *lg) {
    lg->waitq = NULL;
    rt_interrupt(lg->g, RT_WOKEN);
}

void waitq_close(host_waitq *q) {
    for (int i = 0; i < 2; i++) {
        if (q->holder[i]) force_closed(q->holder[i]);
        for (host_luag *lg = q->queue[i]; lg; lg = lg->next_wait)
            force_closed(lg);
        q->holder[i] = q->queue[i] = NULL;
    }
}
