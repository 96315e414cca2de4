/* The scheduler trace: which G ran where and why it stopped, as a picture.
 *
 * Hooks in the scheduler (trace.h) write events while a trace is recorded. rt_trace_stop turns the events into Chrome's
 * trace JSON. Perfetto shows a track per P with the Gs that ran on the P. A track per M shows what the M did without a
 * P: system calls, blocking polls.
 *
 * Buffers. Each M writes to a buffer of its own, so an event costs a clock read and 40 bytes, no lock and no atomic
 * read-modify-write. Threads that are no Ms (sysmon, the program's own) share one buffer under a lock, since they have
 * few events. A full buffer drops the newest events and counts them: the beginning of a trace is complete.
 *
 * Sessions. rt_trace_start touches no buffer: it raises the session number. A writer that finds its buffer to be of
 * another session empties the buffer. rt_trace_stop reads the buffers of the session, the events below `n` only. The
 * writer raises `n` by a release store after it wrote the event. So a writer may be anywhere in trace_event during a
 * start or a stop. Buffers are never given back.
 *
 * Few hooks. A G's slice begins with TRACE_START. The slice ends with the next event of its M that says so: another
 * START, PARK, EXIT, IDLE, or ENTER (a system call; LEAVE opens the slice anew, on the P that the M came back to). So a
 * yield passes one hook, not two. Native Gs may switch straight to each other. Then the START of the next G comes
 * before the PARK or EXIT of the one before, since the next G commits the one before. So a slice that a START ends
 * waits one event for its reason. A cell's Gs run inside the slice of the cell's driver, so an M has two open slices at
 * most, the outer and the inner. Sysmon may take the P, which the M notices later: the M's slices end on this P's track
 * at TRACE_RETAKE (taken_ns).
 *
 * Rejected: a ring that keeps the newest events (the state before its first event is unknown, so half of the slices
 * have no beginning); one buffer per P (events come also from Ms without a P); Perfetto's own protobuf format (a tenth
 * of the size, and a library).
 */
#include "trace.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#ifdef RT_TINY
enum { EVENTS = 64 };
#else
enum { EVENTS = 256 << 10 }; /* 10 MiB of address space per M, committed as they are used */
#endif

typedef struct event {
    int64_t at_ns;
    int64_t duration_ns; /* of POLL, SPAN */
    union {
        int64_t g;        /* id of the G; 0: none */
        const char *name; /* of SPAN */
    };
    int32_t detail;
    int16_t p; /* -1: none */
    uint8_t kind;
    bool inner; /* START: g runs inside a cell's driver */
} event;

typedef struct trace_buf {
    _Atomic uint32_t session; /* its writer writes */
    _Atomic uint32_t n;       /* its writer writes: events published */
    _Atomic int64_t dropped;  /* its writer writes */
    int32_t m;                /* -1: of the threads that are no Ms */
    event at[EVENTS];
} trace_buf;

_Atomic bool trace_is_on;

static struct {
    rt_lock lock;
    bool running;             /* lock: a trace is recorded */
    int64_t start_ns;         /* lock */
    _Atomic uint32_t session; /* lock writes, anybody reads */
    rt_lock others_lock;      /* held by the writers of `others` */
    _Atomic(trace_buf *) others;
} trace;

/* ---- recording ---- */

static trace_buf *new_buf(int32_t m) {
    trace_buf *b = mmap(NULL, sizeof *b, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (b == MAP_FAILED) return NULL;
    b->m = m;
    return b;
}

static void append(_Atomic(trace_buf *) *slot, int32_t m, const event *e) {
    trace_buf *b = atomic_load_explicit(slot, memory_order_relaxed);
    if (!b) {
        b = new_buf(m);
        if (!b) return; /* no memory: the event is lost */
        atomic_store_explicit(slot, b, memory_order_release);
    }
    /* Acquire: the rt_trace_stop of the last session has read the events that are overwritten now. */
    uint32_t session = atomic_load_explicit(&trace.session, memory_order_acquire);
    uint32_t n = atomic_load_explicit(&b->n, memory_order_relaxed);
    if (atomic_load_explicit(&b->session, memory_order_relaxed) != session) {
        atomic_store_explicit(&b->n, n = 0, memory_order_relaxed);
        atomic_store_explicit(&b->dropped, 0, memory_order_relaxed);
        atomic_store_explicit(&b->session, session, memory_order_release);
    }
    if (n == EVENTS) {
        count_add(&b->dropped, 1);
        return;
    }
    b->at[n] = *e;
    atomic_store_explicit(&b->n, n + 1, memory_order_release);
}

static void record(const event *e) {
    rt_m *m = rt_getm();
    if (m) {
        append(&m->trace, m->id, e);
        return;
    }
    rt_lock_acquire(&trace.others_lock);
    append(&trace.others, -1, e);
    rt_lock_release(&trace.others_lock);
}

void trace_event(trace_kind kind, const rt_p *p, const rt_g *g, int32_t detail) {
    event e = {.at_ns = rt_nanotime(), .detail = detail, .kind = (uint8_t)kind};
    e.g = g ? g->id : 0;
    e.p = (int16_t)(p ? p->id : -1);
    e.inner = g && g->cell;
    record(&e);
}

static void record_span(event *e, int64_t start_ns) {
    e->at_ns = start_ns;
    e->duration_ns = rt_nanotime() - start_ns;
    record(e);
}

void trace_poll(const rt_p *p, int64_t start_ns, int32_t n) {
    rt_m *m = rt_getm();
    event e = {
        .kind = TRACE_POLL, .detail = n, .g = p->id, .p = (int16_t)(m && m->p ? m->p->id : -1)};
    record_span(&e, start_ns);
}

bool rt_trace_on(void) {
    return TRACE_ON();
}

void rt_trace_span(const char *name, int64_t start_ns) {
    if (!TRACE_ON()) return;
    rt_m *m = rt_getm();
    event e = {.kind = TRACE_SPAN, .name = name, .p = (int16_t)(m && m->p ? m->p->id : -1)};
    record_span(&e, start_ns);
}

/* ---- writing; trace.lock held ---- */

static bool is_of_session(const trace_buf *b) {
    return b &&
           atomic_load_explicit(&b->session, memory_order_acquire) == atomic_load(&trace.session);
}

static uint32_t events_of(const trace_buf *b) {
    return is_of_session(b) ? atomic_load_explicit(&b->n, memory_order_acquire) : 0;
}

typedef struct slice {
    int64_t g, from_ns;
    bool open;
} slice;

typedef struct writer {
    FILE *f;
    int32_t m;
    int16_t p;                                  /* the P of the open slices */
    slice outer, inner, outer_kept, inner_kept; /* kept: closed by a system call */
    slice left; /* the outer slice that a START ended at left_ns on left_p */
    int64_t left_ns;
    int16_t left_p;
    int64_t enter_ns; /* 0: not in a system call */
    bool any;         /* false: the next entry is the first and has no comma */
} writer;

/* The processes of the picture: Chrome's format groups tracks by pid. */
enum { PID_PS = 1, PID_MS = 2, TID_OTHERS = 9999 };

enum { DISORDER_NS = NS_PER_MS };

/* Writes the beginning of an event on the track of P number p; p -1: on the track of the writer's M. */
static void begin(writer *w, char phase, int p, int64_t at_ns) {
    int tid = p >= 0 ? p : w->m >= 0 ? w->m : TID_OTHERS;
    int64_t ns = at_ns > trace.start_ns ? at_ns - trace.start_ns : 0;
    fprintf(w->f, "%s\n{\"ph\":\"%c\",\"pid\":%d,\"tid\":%d,\"ts\":%" PRId64 ".%03d",
            w->any ? "," : "", phase, p >= 0 ? PID_PS : PID_MS, tid, ns / 1000, (int)(ns % 1000));
    w->any = true;
}

static void duration(writer *w, int64_t ns) {
    if (ns < 0) ns = 0;
    fprintf(w->f, ",\"dur\":%" PRId64 ".%03d", ns / 1000, (int)(ns % 1000));
}

/* The index of the first event at or after ns. Events of different threads may be out of order by less than
 * DISORDER_NS. */
static uint32_t first_at(const trace_buf *b, uint32_t n, int64_t ns) {
    uint32_t lo = 0;
    while (lo < n) {
        uint32_t middle = lo + (n - lo) / 2;
        if (b->at[middle].at_ns < ns)
            lo = middle + 1;
        else
            n = middle;
    }
    return lo;
}

/* When sysmon took P number p from an M that held p from from_ns on and believed so until to_ns; 0: p was not taken. */
static int64_t taken_ns(int16_t p, int64_t from_ns, int64_t to_ns) {
    const trace_buf *b = atomic_load_explicit(&trace.others, memory_order_acquire);
    uint32_t n = events_of(b);
    for (uint32_t i = first_at(b, n, from_ns - DISORDER_NS); i < n; i++) {
        const event *e = &b->at[i];
        if (e->at_ns >= to_ns + DISORDER_NS) break;
        if (e->kind == TRACE_RETAKE && e->detail == p && e->at_ns > from_ns && e->at_ns < to_ns)
            return e->at_ns;
    }
    return 0;
}

static void write_part(writer *w, const slice *s, int16_t p, int64_t from_ns, int64_t to_ns,
                       const char *why) {
    begin(w, 'X', p, from_ns);
    duration(w, to_ns - from_ns);
    fprintf(w->f, ",\"name\":\"G %" PRId64 "\",\"args\":{\"g\":%" PRId64 ",\"end\":\"%s\"}}", s->g,
            s->g, why);
}

/* Writes a slice. If sysmon took the P in between, the rest of the slice stands on the M's track: another G runs on the
 * P. */
static void write_slice(writer *w, const slice *s, int16_t p, int64_t to_ns, const char *why) {
    int64_t from_ns = s->from_ns > trace.start_ns ? s->from_ns : trace.start_ns;
    int64_t end_ns = p >= 0 ? taken_ns(p, from_ns, to_ns) : 0;
    write_part(w, s, p, from_ns, end_ns ? end_ns : to_ns, end_ns ? "retaken" : why);
    if (end_ns) write_part(w, s, -1, end_ns, to_ns, why);
}

static void close_slice(writer *w, slice *s, int64_t now_ns, const char *why) {
    if (s->open) write_slice(w, s, w->p, now_ns, why);
    s->open = false;
}

static void close_both(writer *w, int64_t now_ns, const char *why) {
    close_slice(w, &w->inner, now_ns, why);
    close_slice(w, &w->outer, now_ns, why);
}

static void instant(writer *w, const event *e, const char *name) {
    begin(w, 'i', e->p, e->at_ns);
    fprintf(w->f, ",\"s\":\"t\",\"name\":\"%s\"", name);
}

static void write_start(writer *w, const event *e) {
    close_slice(w, &w->inner, e->at_ns, "yield");
    if (!e->inner) {
        w->left = w->outer;
        w->left_ns = e->at_ns;
        w->left_p = w->p;
    }
    w->p = e->p;
    *(e->inner ? &w->inner : &w->outer) = (slice){e->g, e->at_ns, true};
}

static void write_stop(writer *w, const event *e, const char *why) {
    if (w->inner.open && w->inner.g == e->g)
        close_slice(w, &w->inner, e->at_ns, why);
    else if (w->outer.open && w->outer.g == e->g)
        close_both(w, e->at_ns, why);
}

/* The system call ends. A G that entered it before the trace began gets a slice that begins here. */
static void write_leave(writer *w, const event *e) {
    begin(w, 'X', -1, w->enter_ns ? w->enter_ns : trace.start_ns);
    duration(w, e->at_ns - (w->enter_ns ? w->enter_ns : trace.start_ns));
    fprintf(w->f, ",\"name\":\"system call\",\"args\":{\"g\":%" PRId64 "}}", e->g);
    w->enter_ns = 0;
    w->outer = w->outer_kept;
    w->inner = w->inner_kept;
    if (!w->outer.open) w->outer = (slice){e->g, 0, true};
    w->outer.from_ns = w->inner.from_ns = e->at_ns;
    w->outer_kept.open = w->inner_kept.open = false;
    w->p = e->p;
    if (e->p < 0) w->outer.open = w->inner.open = false; /* the G found no P: it is queued */
}

static void write_string(FILE *f, const char *s) {
    for (; *s; s++) {
        if ((unsigned char)*s < 0x20) continue;
        if (*s == '"' || *s == '\\') fputc('\\', f);
        fputc(*s, f);
    }
}

/* Writes the slice that waits for its reason. e gives the reason if e is about the same G. True: e says nothing
 * else. */
static bool settle_left(writer *w, const event *e) {
    if (!w->left.open) return false;
    w->left.open = false;
    const char *why = "yield";
    bool same = e && e->g == w->left.g && (e->kind == TRACE_PARK || e->kind == TRACE_EXIT);
    if (same) why = e->kind == TRACE_EXIT ? "exit" : rt_reason_name((rt_reason)e->detail);
    write_slice(w, &w->left, w->left_p, w->left_ns, why);
    return same;
}

static void write_event(writer *w, const event *e) {
    if (settle_left(w, e)) return;
    switch ((trace_kind)e->kind) {
    case TRACE_START:
        write_start(w, e);
        break;
    case TRACE_PARK:
        write_stop(w, e, rt_reason_name((rt_reason)e->detail));
        break;
    case TRACE_EXIT:
        write_stop(w, e, "exit");
        break;
    case TRACE_IDLE:
        close_both(w, e->at_ns, "yield");
        break;
    case TRACE_ENTER:
        w->outer_kept = w->outer;
        w->inner_kept = w->inner;
        close_both(w, e->at_ns, "system call");
        w->enter_ns = e->at_ns;
        break;
    case TRACE_LEAVE:
        write_leave(w, e);
        break;
    case TRACE_READY:
        instant(w, e, "ready");
        fprintf(w->f, ",\"args\":{\"g\":%" PRId64 "}}", e->g);
        break;
    case TRACE_STEAL:
        instant(w, e, "steal");
        fprintf(w->f, ",\"args\":{\"from\":%d}}", e->detail);
        break;
    case TRACE_RETAKE:
        instant(w, e, "retake");
        fprintf(w->f, ",\"args\":{\"p\":%d}}", e->detail);
        break;
    case TRACE_POLL:
        begin(w, 'X', e->p, e->at_ns);
        duration(w, e->duration_ns);
        fprintf(w->f, ",\"name\":\"poll\",\"args\":{\"poller\":%" PRId64 ",\"ready\":%d}}", e->g,
                e->detail);
        break;
    case TRACE_SPAN:
        begin(w, 'X', e->p, e->at_ns);
        duration(w, e->duration_ns);
        fputs(",\"name\":\"", w->f);
        write_string(w->f, e->name);
        fputs("\"}", w->f);
        break;
    }
}

static void write_track_name(FILE *f, int pid, int tid, const char *what, const char *name,
                             int number) {
    fprintf(f, ",\n{\"ph\":\"M\",\"pid\":%d,\"tid\":%d,\"name\":\"%s\",\"args\":{\"name\":\"%s",
            pid, tid, what, name);
    if (number >= 0) fprintf(f, " %d", number);
    fputs("\"}}", f);
}

static int64_t write_buf(writer *w, trace_buf *b, int64_t now_ns) {
    if (!is_of_session(b)) return 0;
    uint32_t n = events_of(b);
    bool any = w->any;
    *w = (writer){.f = w->f, .m = b->m, .p = -1, .any = any};
    for (uint32_t i = 0; i < n; i++)
        write_event(w, &b->at[i]);
    settle_left(w, NULL);
    /* A buffer that dropped events does not tell when its open slices ended. */
    if (n < EVENTS) close_both(w, now_ns, "trace");
    write_track_name(w->f, PID_MS, b->m >= 0 ? b->m : TID_OTHERS, "thread_name",
                     b->m >= 0 ? "M" : "other threads", b->m);
    return atomic_load(&b->dropped);
}

static int64_t write_all(FILE *f) {
    int64_t now = rt_nanotime(), dropped = 0;
    writer w = {.f = f};
    fputs("{\"displayTimeUnit\":\"ns\",\"traceEvents\":[", f);
    fputs(
        "\n{\"ph\":\"M\",\"pid\":1,\"tid\":0,\"name\":\"process_name\",\"args\":{\"name\":\"Ps\"}}",
        f);
    w.any = true;
    write_track_name(f, PID_MS, 0, "process_name", "Ms", -1);
    for (int32_t i = 0; i < sched.procs; i++)
        write_track_name(f, PID_PS, i, "thread_name", "P", i);
    for (rt_m *m = atomic_load(&sched.all_ms); m; m = m->all_link)
        dropped += write_buf(&w, atomic_load_explicit(&m->trace, memory_order_acquire), now);
    dropped += write_buf(&w, atomic_load_explicit(&trace.others, memory_order_acquire), now);
    fprintf(f, "],\n\"otherData\":{\"dropped\":%" PRId64 "}}\n", dropped);
    return dropped;
}

/* ---- start and stop ---- */

int rt_trace_start(void) {
    rt_lock_acquire(&trace.lock);
    bool busy = trace.running;
    if (!busy) {
        trace.running = true;
        trace.start_ns = rt_nanotime();
        atomic_fetch_add(&trace.session, 1);
        atomic_store(&trace_is_on, true);
    }
    rt_lock_release(&trace.lock);
    return busy ? -EBUSY : 0;
}

int rt_trace_stop(FILE *file, int64_t *dropped) {
    int err = -EINVAL;
    int64_t n = 0;
    atomic_store(&trace_is_on, false);
    rt_g *g = rt_self();
    bool native = g && !g->step;
    if (native) rt_entersyscallblock();
    rt_lock_acquire(&trace.lock);
    if (trace.running) {
        err = 0;
        if (file) n = write_all(file);
        if (file && (fflush(file) != 0 || ferror(file))) err = -EIO;
        trace.running = false;
    }
    rt_lock_release(&trace.lock);
    if (native) rt_exitsyscall();
    if (dropped) *dropped = n;
    return err;
}
