/* The log's queue, and the thread that writes it to stderr.
 *
 * A thread that logs must not wait for the disk, or for the reader of a pipe. So a line is copied into a queue, and a
 * thread writes it. The queue has two spaces: lines go into one while the writer writes the other; then the two change
 * places. A line that finds no room is lost and counted. When the writer comes to the place of lost lines, it says how
 * many. The last part of a space is for warnings and errors, so that chatter does not push them out.
 *
 * Why a thread, and no G:
 *   - A write may block for as long as it likes. A G's write would hold its P until sysmon notices.
 *   - Lines come from threads without a P (sysmon), and from before the runtime runs.
 *   - Lines about stuck Ps, or a broken runtime, get out all the same.
 * stderr is not made nonblocking: this is a property of the open file, which other processes share.
 *
 * Waking a thread is a system call, and costs far more than the rest of a line. So after a write the writer naps for 2
 * ms, and lines do not wake it from a nap. Only if it finds nothing afterwards, it sleeps in earnest. A lone line is
 * written at once; lines that come within a nap are written together. A flush, and a line that finds the space half
 * full, end the nap.
 *
 * Lines are written in pieces of whole lines, of PIPE_BUF bytes at most, unless one line is longer. Other processes,
 * and our own dumps, may write to the same pipe, and such pieces are not torn. Bytes that the kernel refuses (a full
 * disk) are lost, and counted, too.
 *
 * A SIGPIPE is fatal here as for any write to stderr (runtime/signal.c), so the thread has only this signal unblocked.
 *
 * At the end of the process (log_end), also at a crash, the ending thread waits for the writer, a second at most. It
 * takes no lock, since it may hold the lock itself.
 *
 * Only the writer could write elsewhere, or open a file anew, between two batches: no other thread knows the
 * descriptor.
 */
#include "logq.h"

#include "../../runtime/lock.h"
#include "../../runtime/note.h"
#include "../../runtime/runtime.h"
#include "log.h"
#include "logline.h"
#include "options.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    SPACE = 1 << 20,        /* bytes of each of the two spaces */
    RESERVE = SPACE / 8,    /* of these, for warnings and errors alone */
    MANY = SPACE / 2,       /* bytes that end a nap */
    NAP_NS = 2000000,       /* */
    LOOK_NS = 200000,       /* between two looks of a flush */
    HEAD = sizeof(uint32_t) /* the length in front of each line */
};

enum { AWAKE, NAPS, SLEEPS };

/* Pages of a space that no line ever reached cost nothing. */
static char spaces[2][SPACE];

static struct {
    rt_lock lock;
    char *space;              /* lock: the space that lines go to */
    size_t n;                 /* lock: bytes in it */
    int64_t lines;            /* lock: lines in it */
    _Atomic int64_t put;      /* lock writes: lines that were ever queued */
    _Atomic int64_t done;     /* the writer writes: lines that it has dealt with */
    _Atomic int64_t lost;     /* atomic: lines */
    _Atomic int state;        /* atomic: of the writer; the thread that sets it to AWAKE rings */
    note bell;                /* ends the writer's rest */
    rt_lock starting;         /* */
    _Atomic bool started;     /* starting writes: there is a writer */
    int64_t told;             /* the writer: lost lines that it has told of */
    char piece[LOG_LINE_MAX]; /* the writer */
} q = {.space = spaces[0]};

static __thread bool is_writer;

/* ---- writing ---- */

static bool write_all(const char *s, size_t n) {
    while (n > 0) {
        ssize_t r = write(STDERR_FILENO, s, n);
        if (r > 0) {
            s += r;
            n -= (size_t)r;
        } else if (r < 0 && errno == EAGAIN) { /* another process made it nonblocking */
            struct pollfd p = {.fd = STDERR_FILENO, .events = POLLOUT};
            if (poll(&p, 1, -1) < 0 && errno != EINTR) return false;
        } else if (r == 0 || errno != EINTR) {
            return false;
        }
    }
    return true;
}

/* Gathers lines from s on, as many as go into one piece. Returns their bytes in the queue; *size: bytes of the piece,
 * *lines: its lines. */
static size_t gather(const char *s, size_t n, size_t *size, int *lines) {
    size_t at = 0;
    *size = 0;
    *lines = 0;
    while (at < n) {
        uint32_t len;
        memcpy(&len, s + at, HEAD);
        if (*lines && *size + len > PIPE_BUF) break;
        memcpy(q.piece + *size, s + at + HEAD, len);
        *size += len;
        ++*lines;
        at += HEAD + len;
    }
    return at;
}

static void write_lines(const char *s, size_t n) {
    while (n > 0) {
        size_t size;
        int lines;
        size_t taken = gather(s, n, &size, &lines);
        if (!write_all(q.piece, size)) atomic_fetch_add(&q.lost, lines);
        s += taken;
        n -= taken;
    }
}

/* lost: how many lines were lost when the last line of this batch was queued. */
static void tell_lost(int64_t lost) {
    int64_t n = lost - q.told;
    if (n <= 0) return;
    char msg[64];
    int len = snprintf(msg, sizeof msg, "%lld %s lost", (long long)n, n == 1 ? "line" : "lines");
    int format = (int)atomic_load_explicit(&options.log_format, memory_order_relaxed);
    host_log_pair pair = {
        .key = "lost", .key_len = 4, .kind = HOST_LOG_NUMBER, .number = (double)n};
    size_t size =
        logline_format(q.piece, format, LOG_WARN, msg, (size_t)len, &pair, format == LOG_JSON);
    if (write_all(q.piece, size)) q.told = lost;
}

/* Writes the queued lines. False: there are none. */
static bool write_batch(void) {
    rt_lock_acquire(&q.lock);
    char *space = q.space;
    size_t n = q.n;
    int64_t lines = q.lines, lost = atomic_load(&q.lost);
    q.space = space == spaces[0] ? spaces[1] : spaces[0];
    q.n = 0;
    q.lines = 0;
    rt_lock_release(&q.lock);
    write_lines(space, n);
    tell_lost(lost);
    atomic_fetch_add(&q.done, lines);
    return n > 0;
}

/* ---- the writer's rest ---- */

/* Ends the writer's rest; a nap only if it is urgent. */
static void ring(bool urgent) {
    int state = atomic_load(&q.state);
    if (state == AWAKE || (state == NAPS && !urgent)) return;
    if (atomic_compare_exchange_strong(&q.state, &state, AWAKE)) note_wake(&q.bell);
}

/* The thread that rang first is about to wake the writer: takes the wake-up. */
static void get_up(void) {
    if (atomic_exchange(&q.state, AWAKE) == AWAKE) note_sleep(&q.bell);
}

static void nap(void) {
    note_clear(&q.bell);
    atomic_store(&q.state, NAPS);
    if (!note_sleep_for(&q.bell, NAP_NS)) get_up();
}

static bool anything(void) {
    rt_lock_acquire(&q.lock);
    bool any = q.n > 0;
    rt_lock_release(&q.lock);
    return any;
}

/* The writer says that it sleeps, then looks; a thread that logs queues, then looks whether the writer sleeps. */
static void sleep_until_rung(void) {
    note_clear(&q.bell);
    atomic_store(&q.state, SLEEPS);
    if (anything())
        get_up();
    else
        note_sleep(&q.bell);
}

static void *writer(void *arg) {
    (void)arg;
    pthread_setname_np(pthread_self(), "lp-log");
    is_writer = true;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGPIPE);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    for (;;) {
        if (write_batch())
            nap();
        else
            sleep_until_rung();
    }
    return NULL;
}

static bool start_thread(void) {
    pthread_t t;
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int err = pthread_create(&t, NULL, writer, NULL);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (!err) pthread_detach(t);
    return err == 0;
}

/* Without a writer, threads that log write, so that nothing is kept back. */
static void start(void) {
    rt_lock_acquire(&q.starting);
    if (!atomic_load(&q.started)) {
        if (start_thread()) {
            rt_on_end(log_end);
            atomic_store(&q.started, true);
        } else {
            write_batch();
        }
    }
    rt_lock_release(&q.starting);
}

/* ---- what others call ---- */

static void lose(void) {
    atomic_fetch_add(&q.lost, 1);
}

void logq_put(const char *line, size_t n, int level) {
    uint32_t len = (uint32_t)n;
    size_t limit = level < LOG_WARN ? SPACE - RESERVE : SPACE;
    rt_lock_acquire(&q.lock);
    bool fits = q.n + HEAD + n <= limit;
    if (fits) {
        memcpy(q.space + q.n, &len, HEAD);
        memcpy(q.space + q.n + HEAD, line, n);
        q.n += HEAD + n;
        q.lines++;
        atomic_fetch_add(&q.put, 1);
    } else {
        lose();
    }
    bool many = q.n >= MANY;
    rt_lock_release(&q.lock);
    if (!atomic_load(&q.started)) start();
    ring(many);
}

bool logq_flush(int64_t timeout_ns) {
    int64_t all = atomic_load(&q.put), until = rt_nanotime() + timeout_ns;
    while (atomic_load(&q.done) < all) {
        if (is_writer || rt_nanotime() >= until) return false;
        ring(true);
        nanosleep(&(struct timespec){0, LOOK_NS}, NULL);
    }
    return true;
}

logq_figures logq_read(void) {
    int64_t done = atomic_load(&q.done), put = atomic_load(&q.put);
    return (logq_figures){put, atomic_load(&q.lost), put - done};
}
