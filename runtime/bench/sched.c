/* What the scheduler costs when Gs do nothing else: one P, native Gs.
 *
 *     sched switch   [OPS [BATCHES]]    two Gs yield in turns: ns per switch
 *     sched pingpong [OPS [BATCHES]]    two Gs hand a value to and fro over two unbuffered channels:
 *                                       ns per round trip
 *     sched spawn    [OPS [BATCHES]]    Gs that end at once, SPAWN_AT_ONCE at a time: ns per G
 *
 * Prints "NAME NS": CPU time, the median of the batches. go/bench.go does the same things in the same batches.
 *
 * A channel here is what a channel on this runtime would be: a lock, two queues of waiters that lie
 * on the waiters' stacks, the lock given back by the commit function. So it is right with any number
 * of Ps, as Go's is, and both pay for that. */
#include "bench.h"

#include "../lock.h"

enum { SPAWN_AT_ONCE = 100 };

static int64_t ops, batches;
static rt_g *main_g; /* waits for the workers; the last one readies it */
static int workers;

static bool start_workers(rt_g *g, void *fns) {
    main_g = g;
    for (void (**fn)(void *) = fns; *fn; fn++) {
        workers++;
        rt_go(*fn, NULL);
    }
    return true;
}

static void done(void) {
    if (--workers == 0) rt_ready(main_g);
}

/* One batch: ops / batches of what the workers do. */
static double run_workers(void (**fns)(void *)) {
    int64_t begin = cpu_ns();
    rt_park(start_workers, fns, RT_WAIT_JOIN);
    return (double)(cpu_ns() - begin);
}

/* ---- switch ---- */

static void yielder(void *arg) {
    (void)arg;
    for (int64_t i = 0; i < ops / batches / 2; i++)
        rt_yield();
    done();
}

static double switch_batch(void) {
    return run_workers((void (*[])(void *)){yielder, yielder, NULL});
}

/* ---- ping-pong ---- */

typedef struct waiter {
    struct waiter *next;
    rt_g *g;
    int64_t value; /* the sender's, or where the sender leaves it */
} waiter;

typedef struct waiters {
    waiter *head, *tail;
} waiters;

typedef struct channel {
    rt_lock lock;
    waiters senders, receivers; /* lock */
} channel;

static channel ping, pong;

static void waiters_push(waiters *q, waiter *w) {
    w->next = NULL;
    if (q->tail)
        q->tail->next = w;
    else
        q->head = w;
    q->tail = w;
}

static waiter *waiters_pop(waiters *q) {
    waiter *w = q->head;
    if (!w) return NULL;
    q->head = w->next;
    if (!q->head) q->tail = NULL;
    return w;
}

static bool unlock_channel(rt_g *g, void *lock) {
    (void)g;
    rt_lock_release(lock);
    return true;
}

static void channel_send(channel *c, int64_t value) {
    rt_lock_acquire(&c->lock);
    waiter *r = waiters_pop(&c->receivers);
    if (r) {
        rt_g *g = r->g;
        r->value = value;
        rt_lock_release(&c->lock);
        rt_ready(g);
        return;
    }
    waiter self = {.g = rt_self(), .value = value};
    waiters_push(&c->senders, &self);
    rt_park(unlock_channel, &c->lock, RT_WAIT_OTHER);
}

static int64_t channel_receive(channel *c) {
    rt_lock_acquire(&c->lock);
    waiter *s = waiters_pop(&c->senders);
    if (s) {
        rt_g *g = s->g;
        int64_t value = s->value;
        rt_lock_release(&c->lock);
        rt_ready(g);
        return value;
    }
    waiter self = {.g = rt_self()};
    waiters_push(&c->receivers, &self);
    rt_park(unlock_channel, &c->lock, RT_WAIT_OTHER);
    return self.value;
}

static void pinger(void *arg) {
    (void)arg;
    for (int64_t i = 0; i < ops / batches; i++) {
        channel_send(&ping, i);
        if (channel_receive(&pong) != i) rt_throw("pong lost ping %lld", (long long)i);
    }
    done();
}

static void ponger(void *arg) {
    (void)arg;
    for (int64_t i = 0; i < ops / batches; i++)
        channel_send(&pong, channel_receive(&ping));
    done();
}

static double pingpong_batch(void) {
    return run_workers((void (*[])(void *)){pinger, ponger, NULL});
}

/* ---- spawn ---- */

static int64_t ended;

static void ender(void *arg) {
    (void)arg;
    ended++;
}

static double spawn_batch(void) {
    int64_t begin = cpu_ns();
    for (int64_t n = 0; n < ops / batches; n += SPAWN_AT_ONCE) {
        ended = 0;
        for (int i = 0; i < SPAWN_AT_ONCE; i++)
            rt_go(ender, NULL);
        while (ended < SPAWN_AT_ONCE)
            rt_yield();
    }
    return (double)(cpu_ns() - begin);
}

/* ---- which ---- */

static const struct bench {
    const char *name;
    double (*batch)(void);
    int64_t ops;
} benches[] = {
    {"switch", switch_batch, 4000000},
    {"pingpong", pingpong_batch, 1000000},
    {"spawn", spawn_batch, 1000000},
};

static void run(void *arg) {
    const struct bench *b = arg;
    double *ns = need(malloc((size_t)batches * sizeof *ns));
    for (int64_t i = 0; i < batches; i++)
        ns[i] = b->batch() / (double)(ops / batches);
    printf("%s %.2f\n", b->name, quantile(ns, (size_t)batches, 0.5));
    free(ns);
}

int main(int argc, char **argv) {
    for (size_t i = 0; argc > 1 && i < sizeof benches / sizeof *benches; i++) {
        if (strcmp(argv[1], benches[i].name) != 0) continue;
        ops = arg_or(argc, argv, 2, benches[i].ops);
        batches = arg_or(argc, argv, 3, 20);
        if (ops < batches) batches = 1;
        rt_main(&(rt_options){.procs = 1}, run, (void *)&benches[i]);
    }
    fprintf(stderr, "sched switch|pingpong|spawn [OPS [BATCHES]]\n");
    return 2;
}
