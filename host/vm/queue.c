/* Queues of Lua Gs that wait for each other: the ground of channels, mutexes and the like.
 *
 * A host_queue lies in an object of Lua (ffi.new). Gs stand in it with a host_waiter each, in the order in which they
 * came. A G that has something for the first waiter *fires* this waiter: the waiter leaves its queue and is woken, in
 * one step. So a value can be handed over at this moment, and no other G gets in between. A G that gives up, by a
 * timeout or a cancellation, leaves its queue when it runs. If it was fired before, it has its value, and the wait
 * answers so. The thread that runs the VM does all of this between two waits, so no locks are needed, and nothing is
 * lost or done twice. Only a select may also stand in channels that VMs share. Then the first side that claims the
 * select fires it (outer_wait), and a later side passes it over.
 *
 * A G waits once at a time, so its waiters belong to its host_luag: one for a wait in one queue, and an array for a
 * select, which stands in several. The first waiter that is fired takes all of them out.
 *
 * A handed-over Lua value stays in Lua: sync/waitq.lua keeps it by slot.
 *
 * Lua keeps the queue: a G must hold it in a variable that it uses after the wait.
 */
#include "queue.h"

#include "luag.h"
#include "vm.h"

#include <stdlib.h>

static void join(host_queue *q, host_waiter *w, host_luag *lg, int32_t index) {
    *w = (host_waiter){.q = q, .lg = lg, .prev = q->tail, .index = index};
    if (q->tail)
        q->tail->next = w;
    else
        q->head = w;
    q->tail = w;
    q->n++;
}

static void leave(host_waiter *w) {
    host_queue *q = w->q;
    if (!q) return;
    if (w->prev)
        w->prev->next = w->next;
    else
        q->head = w->next;
    if (w->next)
        w->next->prev = w->prev;
    else
        q->tail = w->prev;
    q->n--;
    w->q = NULL;
}

void queue_join(host_queue *q, host_luag *lg) {
    join(q, &lg->queues.one, lg, 0);
}

void queue_leave(host_luag *lg) {
    leave(&lg->queues.one);
    for (int i = 0; i < lg->queues.n; i++)
        leave(&lg->queues.cases[i]);
    lg->queues.n = 0;
    lg->fired = -1;
}

/* The first waiter whose wait has not ended. */
static host_waiter *claim_first(host_queue *q) {
    while (q->head && q->head->lg->outer && !q->head->lg->outer->ops->claim(q->head->lg))
        queue_leave(q->head->lg);
    return q->head;
}

int host_queue_fire(host_queue *q, int ok) {
    host_waiter *w = claim_first(q);
    if (!w) return -1;
    host_luag *lg = w->lg;
    int32_t index = w->index;
    if (lg->queues.n)
        queue_leave(lg);
    else
        leave(w);
    lg->fired = 2 * index + (ok != 0);
    lg->vm->view.index = index;
    luag_wake(lg);
    return lg->slot;
}

int host_queue_first(const host_queue *q) {
    return q->head ? q->head->lg->slot : -1;
}

int host_queue_prepare(int n) {
    host_luag *lg = luag_current();
    queue_leave(lg);
    if (lg->outer) lg->outer->ops->end(lg);
    if (n <= lg->queues.cap) return 0;
    host_waiter *grown = calloc((size_t)n, sizeof *grown);
    if (!grown) return -1;
    free(lg->queues.cases);
    lg->queues.cases = grown;
    lg->queues.cap = n;
    return 0;
}

void host_queue_join(host_queue *q, int index) {
    host_luag *lg = luag_current();
    if (lg->queues.n == lg->queues.cap) return;
    join(q, &lg->queues.cases[lg->queues.n++], lg, index);
}

void host_queue_leave(void) {
    host_luag *lg = luag_current();
    queue_leave(lg);
    if (lg->outer) lg->outer->ops->end(lg);
}
