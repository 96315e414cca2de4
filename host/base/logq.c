/* Queues of lines, and the threads that write them: the log to stderr or --log-file, the access log to --access-log.
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
 * Each queue has a thread of its own, so a reader of stderr that dawdles does not hold up the access log.
 *
 * `lunapark test` shows what a test logs only if the test fails (logq_hold): meanwhile the lines stay in the queue.
 * When the space is full, or somebody waits for the lines, they are written all the same.
 *
 * A SIGHUP has files opened anew (logq_reopen), for tools that rename them. The writer does so between two batches:
 * each batch goes into one file, and only the writer closes a file. So each line stands in one file, and the old file
 * gets no line after the next batch has begun. A file that cannot be opened leaves the old one in use.
 *
 * A SIGPIPE is fatal here as for any write to stderr (runtime/signal.c), so the thread has only this signal unblocked.
 *
 * At the end of the process (log_end), also at a crash, the ending thread waits for the writer, a second at most. It
 * takes no lock, since it may hold the lock itself.
 */
#include "logq.h"

#include "../../runtime/lock.h"
#include "../../runtime/note.h"
#include "../../runtime/runtime.h"
#include "base.h"
#include "log.h"
#include "logline.h"
#include "options.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    SPACE = 1 << 20,        /* bytes of each of the two spaces */
    RESERVE = SPACE / 8,    /* of these, for warnings and errors alone */
    MANY = SPACE / 2,       /* bytes that end a nap */
    NAP_NS = 2000000,       /* of the writer after a write */
    LOOK_NS = 200000,       /* between two looks of a flush */
    HEAD = sizeof(uint32_t) /* the length in front of each line */
};
#define TELL_NS (1 * NS_PER_SEC) /* between two reports of lines that the access log has lost */

enum { AWAKE, NAPS, SLEEPS };

struct logq {
    const char *name;  /* of the thread */
    bool is_log;       /* the writer tells of lost lines in the file itself */
    _Atomic int fd;    /* logq_open, before there are lines; then the writer writes */
    char *path;        /* logq_open writes; NULL: fd is not ours to open anew */
    _Atomic bool anew; /* atomic: the writer opens path anew */
    _Atomic bool held; /* atomic: the writer leaves the lines where they are */

    rt_lock lock;
    char *space;           /* lock: the space that lines go to */
    size_t n;              /* lock: bytes in it */
    int64_t lines;         /* lock: lines in it */
    _Atomic int64_t put;   /* lock writes: lines that were ever queued */
    _Atomic int64_t done;  /* the writer writes: lines that it has dealt with */
    _Atomic int64_t lost;  /* atomic: lines */
    _Atomic int state;     /* atomic: of the writer; the thread that sets it to AWAKE rings */
    note bell;             /* ends the writer's rest */
    rt_lock starting;      /* held while the writer is started */
    _Atomic bool started;  /* starting writes: there is a writer */
    int64_t told;          /* the writer: lost lines that it has told of */
    int64_t told_ns;       /* the writer: when */
    char *piece;           /* the writer: LOG_LINE_MAX bytes */
    char (*spaces)[SPACE]; /* never changes */
};

/* Pages of a space that no line ever reached cost nothing. */
static char spaces[2][2][SPACE], pieces[2][LOG_LINE_MAX];

static logq the_log = {.name = "lp-log",
                       .is_log = true,
                       .fd = STDERR_FILENO,
                       .space = spaces[0][0],
                       .spaces = spaces[0],
                       .piece = pieces[0]};
static logq the_access_log = {
    .name = "lp-access", .fd = -1, .space = spaces[1][0], .spaces = spaces[1], .piece = pieces[1]};
logq *const logq_log = &the_log, *const logq_access = &the_access_log;

static __thread bool is_writer;

/* ---- writing ---- */

static bool write_all(int fd, const char *s, size_t n) {
    while (n > 0) {
        ssize_t r = write(fd, s, n);
        if (r > 0) {
            s += r;
            n -= (size_t)r;
        } else if (r < 0 && errno == EAGAIN) { /* another process made it nonblocking */
            struct pollfd p = {.fd = fd, .events = POLLOUT};
            if (poll(&p, 1, -1) < 0 && errno != EINTR) return false;
        } else if (r == 0 || errno != EINTR) {
            return false;
        }
    }
    return true;
}

/* Gathers lines from s on, as many as go into one piece. Returns their bytes in the queue; *size: bytes of the piece,
 * *lines: its lines. */
static size_t gather(logq *q, const char *s, size_t n, size_t *size, int *lines) {
    size_t at = 0;
    *size = 0;
    *lines = 0;
    while (at < n) {
        uint32_t len;
        memcpy(&len, s + at, HEAD);
        if (*lines && *size + len > PIPE_BUF) break;
        memcpy(q->piece + *size, s + at + HEAD, len);
        *size += len;
        ++*lines;
        at += HEAD + len;
    }
    return at;
}

static void write_lines(logq *q, const char *s, size_t n) {
    while (n > 0) {
        size_t size;
        int lines;
        size_t taken = gather(q, s, n, &size, &lines);
        if (!write_all(q->fd, q->piece, size)) atomic_fetch_add(&q->lost, lines);
        s += taken;
        n -= taken;
    }
}

/* lost: how many lines were lost when the last line of this batch was queued. */
static void tell_lost(logq *q, int64_t lost) {
    int64_t n = lost - q->told;
    if (n <= 0) return;
    char msg[64];
    int len = snprintf(msg, sizeof msg, "%lld %s lost", (long long)n, n == 1 ? "line" : "lines");
    int format = (int)atomic_load_explicit(&options.log_format, memory_order_relaxed);
    host_log_pair pair = {
        .key = "lost", .key_len = 4, .kind = HOST_LOG_NUMBER, .number = (double)n};
    size_t size =
        logline_format(q->piece, format, LOG_WARN, msg, (size_t)len, &pair, format == LOG_JSON);
    if (write_all(q->fd, q->piece, size)) q->told = lost;
}

/* The same for the access log, whose readers know no other lines: the log tells of it. */
static void tell_log(logq *q, int64_t lost) {
    int64_t n = lost - q->told, now = rt_nanotime();
    if (n <= 0 || (q->told_ns && now - q->told_ns < TELL_NS)) return;
    q->told = lost;
    q->told_ns = now;
    log_line(LOG_WARN, "access log: %lld %s lost", (long long)n, n == 1 ? "line" : "lines");
}

/* Writes the queued lines. False: there are none. */
static bool write_batch(logq *q) {
    if (atomic_load(&q->held)) return false;
    rt_lock_acquire(&q->lock);
    char *space = q->space;
    size_t n = q->n;
    int64_t lines = q->lines, lost = atomic_load(&q->lost);
    q->space = space == q->spaces[0] ? q->spaces[1] : q->spaces[0];
    q->n = 0;
    q->lines = 0;
    rt_lock_release(&q->lock);
    write_lines(q, space, n);
    if (q->is_log)
        tell_lost(q, lost);
    else
        tell_log(q, lost);
    atomic_fetch_add(&q->done, lines);
    return n > 0;
}

/* ---- files ---- */

static int open_file(const char *path) {
    int fd;
    do
        fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_NOCTTY | O_CLOEXEC, 0644);
    while (fd < 0 && errno == EINTR);
    return fd < 0 ? -errno : fd;
}

int logq_open(logq *q, const char *path) {
    char *copy = strdup(path);
    int fd = copy ? open_file(path) : -ENOMEM;
    if (fd < 0) {
        free(copy);
        return fd;
    }
    q->path = copy;
    q->fd = fd;
    return 0;
}

void logq_use(logq *q, int fd) {
    q->fd = fd;
}

bool logq_is_open(const logq *q) {
    return q->fd >= 0;
}

/* By the writer. */
static void open_anew(logq *q) {
    if (!atomic_exchange(&q->anew, false)) return;
    int fd = open_file(q->path);
    if (fd < 0) {
        log_line(LOG_ERROR, "%s can't be opened anew, the old file stays in use: %s", q->path,
                 strerror(-fd));
        return;
    }
    close(atomic_exchange(&q->fd, fd));
}

/* ---- the writer's rest ---- */

/* Ends the writer's rest; a nap only if it is urgent. */
static void ring(logq *q, bool urgent) {
    int state = atomic_load(&q->state);
    if (state == AWAKE || (state == NAPS && !urgent)) return;
    if (atomic_compare_exchange_strong(&q->state, &state, AWAKE)) note_wake(&q->bell);
}

/* The thread that rang first is about to wake the writer: takes the wake-up. */
static void get_up(logq *q) {
    if (atomic_exchange(&q->state, AWAKE) == AWAKE) note_sleep(&q->bell);
}

static void nap(logq *q) {
    note_clear(&q->bell);
    atomic_store(&q->state, NAPS);
    if (!note_sleep_for(&q->bell, NAP_NS)) get_up(q);
}

static bool anything(logq *q) {
    rt_lock_acquire(&q->lock);
    bool any = (q->n > 0 && !atomic_load(&q->held)) || atomic_load(&q->anew);
    rt_lock_release(&q->lock);
    return any;
}

/* The writer says that it sleeps, then looks; a thread that logs queues, then looks whether the writer sleeps. */
static void sleep_until_rung(logq *q) {
    note_clear(&q->bell);
    atomic_store(&q->state, SLEEPS);
    if (anything(q))
        get_up(q);
    else
        note_sleep(&q->bell);
}

static void *writer(void *arg) {
    logq *q = arg;
    pthread_setname_np(pthread_self(), q->name);
    is_writer = true;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGPIPE);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    for (;;) {
        open_anew(q);
        if (write_batch(q))
            nap(q);
        else
            sleep_until_rung(q);
    }
    return NULL;
}

/* Without a writer, threads that log write, so that nothing is kept back. */
static void start(logq *q) {
    rt_lock_acquire(&q->starting);
    if (!atomic_load(&q->started)) {
        if (rt_start_thread(writer, q) == 0) {
            static _Atomic bool at_end;
            if (!atomic_exchange(&at_end, true)) rt_on_end(log_end);
            atomic_store(&q->started, true);
        } else {
            write_batch(
                q); /* the file is opened anew by the writer: what that logs would come here again */
        }
    }
    rt_lock_release(&q->starting);
}

/* ---- what others call ---- */

void logq_lose(logq *q) {
    atomic_fetch_add(&q->lost, 1);
}

void logq_put(logq *q, const char *line, size_t n, int level) {
    uint32_t len = (uint32_t)n;
    size_t limit = level < LOG_WARN ? SPACE - RESERVE : SPACE;
    rt_lock_acquire(&q->lock);
    bool fits = q->n + HEAD + n <= limit;
    if (fits) {
        memcpy(q->space + q->n, &len, HEAD);
        memcpy(q->space + q->n + HEAD, line, n);
        q->n += HEAD + n;
        q->lines++;
        atomic_fetch_add(&q->put, 1);
    } else {
        atomic_store(&q->held, false);
        logq_lose(q);
    }
    bool many = q->n >= MANY;
    rt_lock_release(&q->lock);
    if (!atomic_load(&q->started)) start(q);
    ring(q, many);
}

bool logq_flush(logq *q, int64_t timeout_ns) {
    int64_t all = atomic_load(&q->put), until = rt_nanotime() + timeout_ns;
    atomic_store(&q->held, false);
    while (atomic_load(&q->done) < all) {
        if (is_writer || rt_nanotime() >= until) return false;
        ring(q, true);
        nanosleep(&(struct timespec){0, LOOK_NS}, NULL);
    }
    return true;
}

logq_figures logq_read(const logq *q) {
    int64_t done = atomic_load(&q->done), put = atomic_load(&q->put);
    return (logq_figures){put, atomic_load(&q->lost), put - done};
}

void logq_hold(logq *q) {
    atomic_store(&q->held, true);
}

void logq_show(logq *q, bool keep) {
    rt_lock_acquire(&q->lock);
    if (!keep && atomic_load(&q->held)) {
        atomic_fetch_add(&q->done, q->lines);
        q->n = 0;
        q->lines = 0;
    }
    atomic_store(&q->held, false);
    rt_lock_release(&q->lock);
    ring(q, false);
}

void logq_reopen(logq *q) {
    if (!q->path) return;
    atomic_store(&q->anew, true);
    if (!atomic_load(&q->started)) start(q);
    ring(q, true);
}
