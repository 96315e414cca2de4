/* Lines for `lunapark repl`: editing, history and completion by libedit, on a job.
 *
 * A read is a job (job.c): it blocks a thread in libedit, between rt_entersyscall and rt_exitsyscall, while the Lua G
 * that wants the line waits and other Gs run. libedit takes each character from get_char here, which polls the terminal
 * and an eventfd. host_repl_interrupt writes the eventfd on Ctrl-C, and the read ends with -EINTR.
 *
 * The tab key needs Lua, since only Lua knows which names there are. The thread in libedit must not touch the VM. So it
 * leaves a question, for which another job waits, and waits itself for the answer, for a second at most, because the VM
 * may be busy.
 *
 * Without a terminal, lines come from getline, and the rest of this file does nothing.
 *
 * libedit is BSD-licensed; GNU readline would put its licence on the whole binary.
 */
#include "repl.h"

#include "../../runtime/runtime.h"
#include "../base/log.h"
#include "../vm/job.h"
#include "command_ffi.h"

#include <errno.h>
#include <histedit.h>
#include <locale.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>
#include <wchar.h>

/* libedit wants much more stack than a job's worker has. */
enum { HISTORY_LINES = 1000, READ_STACK = 1 << 20 };

typedef struct read_job {
    host_job *job;
    char *prompt;
    char *line;
    size_t len, cap;
    int how; /* as host_repl_line */
} read_job;

typedef struct question_job {
    char *before;
    size_t len;
} question_job;

/* Fields without the lock belong to the present read; there is one at a time. */
static struct {
    bool tty;
    EditLine *el;
    History *history;
    char *history_file;
    struct termios termios; /* the terminal's, before */
    locale_t locale;
    mbstate_t mb;
    const char *prompt;
    int wake; /* eventfd: the read shall end */
    bool interrupted;
    pthread_mutex_t lock;
    pthread_cond_t asked, answered;
    char *question, *insert, *list; /* lock */
    bool replied;                   /* lock: insert and list are the answer */
    size_t question_len;            /* lock */
} r = {.wake = -1, .lock = PTHREAD_MUTEX_INITIALIZER, .asked = PTHREAD_COND_INITIALIZER};

/* ---- in the thread that reads ---- */

static char *prompt_text(EditLine *el) {
    (void)el;
    return (char *)r.prompt;
}

/* One character: 1; 0 at the end, -1. */
static int get_char(EditLine *el, wchar_t *c) {
    (void)el;
    for (;;) {
        struct pollfd fds[2] = {{0, POLLIN, 0}, {r.wake, POLLIN, 0}};
        char byte;
        if (poll(fds, 2, -1) < 0) {
            if (errno == EINTR) continue;
            return -1;
        }
        if (fds[1].revents) {
            r.interrupted = true;
            errno = EINTR;
            return -1;
        }
        ssize_t n = read(0, &byte, 1);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return (int)n;
        size_t done = mbrtowc(c, &byte, 1, &r.mb);
        if (done == (size_t)-2) continue; /* the beginning of a character */
        if (done != (size_t)-1) return 1;
        memset(&r.mb, 0, sizeof r.mb);
        *c = L'?';
        return 1;
    }
}

/* Asks Lua, and waits a second for its answer: insert and list. False: no answer. */
static bool ask(const char *before, size_t len, char **insert, char **list) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec++;
    pthread_mutex_lock(&r.lock);
    free(r.question);
    r.question = strndup(before, len);
    r.question_len = len;
    pthread_cond_signal(&r.asked);
    int err = 0;
    while (!r.replied && !err)
        err = pthread_cond_clockwait(&r.answered, &r.lock, CLOCK_MONOTONIC, &until);
    *insert = r.insert;
    *list = r.list;
    r.insert = r.list = NULL;
    r.replied = false;
    free(r.question);
    r.question = NULL;
    pthread_mutex_unlock(&r.lock);
    if (*insert && *list) return true;
    free(*insert);
    free(*list);
    return false;
}

static unsigned char on_tab(EditLine *el, int ch) {
    (void)ch;
    const LineInfo *line = el_line(el);
    char *insert, *list;
    unsigned char what = CC_REFRESH;
    if (!ask(line->buffer, (size_t)(line->cursor - line->buffer), &insert, &list))
        return CC_REFRESH_BEEP;
    if (*insert) el_insertstr(el, insert);
    if (*list) {
        fprintf(stdout, "\n%s\n", list);
        fflush(stdout);
        what = CC_REDISPLAY;
    } else if (!*insert) {
        what = CC_REFRESH_BEEP;
    }
    free(insert);
    free(list);
    return what;
}

/* Makes the editor, in the first read. */
static int begin_editing(void) {
    HistEvent ev;
    r.el = el_init("lunapark", stdin, stdout, stderr);
    r.history = history_init();
    if (!r.el || !r.history) return -ENOMEM;
    history(r.history, &ev, H_SETSIZE, HISTORY_LINES);
    history(r.history, &ev, H_SETUNIQUE, 1);
    if (r.history_file) history(r.history, &ev, H_LOAD, r.history_file);
    el_set(r.el, EL_EDITOR, "emacs");
    el_set(r.el, EL_SIGNAL, 0);
    el_set(r.el, EL_PROMPT, prompt_text);
    el_set(r.el, EL_GETCFN, get_char);
    el_set(r.el, EL_HIST, history, r.history);
    el_set(r.el, EL_ADDFN, "lua-complete", "what may follow in Lua", on_tab);
    el_set(r.el, EL_BIND, "^I", "lua-complete", NULL);
    el_set(r.el, EL_BIND, "^R", "em-inc-search-prev", NULL);
    el_source(r.el, NULL); /* the user's ~/.editrc */
    return 0;
}

/* A line that cannot be saved is missing from the next history. */
static void remember(const char *line) {
    HistEvent ev;
    if (line[strspn(line, " \t\r\n")] == 0) return;
    history(r.history, &ev, H_ENTER, line);
    if (!r.history_file) return;
    mode_t mask = umask(077);
    history(r.history, &ev, H_SAVE, r.history_file);
    umask(mask);
}

static int read_edited(read_job *x) {
    int err = r.el ? 0 : begin_editing(), n = 0;
    if (err) return err;
    uint64_t old;
    if (read(r.wake, &old, sizeof old) < 0 && errno != EAGAIN) return -errno;
    r.interrupted = false;
    r.prompt = x->prompt;
    el_resize(r.el); /* the window may have another size */
    errno = 0;
    const char *line = el_gets(r.el, &n);
    err = errno;
    if (r.interrupted) {
        fputs("^C\n", stdout);
        fflush(stdout);
        return -EINTR;
    }
    if (!line || n <= 0) {
        fputs("\n", stdout);
        fflush(stdout);
        return n < 0 && err ? -err : 0;
    }
    x->line = strndup(line, (size_t)n);
    if (!x->line) return -ENOMEM;
    x->len = (size_t)n;
    remember(x->line);
    return 1;
}

static int read_plain(read_job *x) {
    errno = 0;
    ssize_t n = getline(&x->line, &x->cap, stdin);
    if (n < 0) return feof(stdin) ? 0 : -errno;
    x->len = (size_t)n;
    return 1;
}

static void run_read(void *arg) {
    read_job *x = arg;
    rt_entersyscallblock();
    locale_t before = r.locale ? uselocale(r.locale) : (locale_t)0;
    x->how = r.tty ? read_edited(x) : read_plain(x);
    if (before) uselocale(before);
    rt_exitsyscall();
    if (x->how == 1 && x->len && x->line[x->len - 1] == '\n') x->line[--x->len] = 0;
    job_finish(x->job);
}

static void begin_read(host_job *job, void *arg) {
    read_job *x = arg;
    x->job = job;
    if (rt_go_stack(run_read, x, READ_STACK)) return;
    x->how = -ENOMEM;
    job_finish(job);
}

static void free_read(void *arg) {
    read_job *x = arg;
    free(x->prompt);
    free(x->line);
    free(x);
}

/* ---- what Lua calls ---- */

int host_repl_open(const char *history_file) {
    r.tty = isatty(0) && isatty(1) && tcgetattr(0, &r.termios) == 0;
    if (!r.tty) return 0;
    r.wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (r.wake < 0) start_failed("no eventfd: %s", rt_strerror(-errno));
    r.locale = newlocale(LC_CTYPE_MASK, "", (locale_t)0); /* 0: that of C */
    if (history_file) r.history_file = strdup(history_file);
    return 1;
}

host_job *host_repl_read(const char *prompt) {
    read_job *x = calloc(1, sizeof *x);
    if (!x) return NULL;
    x->prompt = strdup(prompt);
    if (!x->prompt) {
        free_read(x);
        return NULL;
    }
    return job_new_begun(begin_read, free_read, x);
}

int host_repl_line(host_job *job, const char **line, size_t *len) {
    read_job *x = job_arg(job);
    if (!x) return -EAGAIN;
    *line = x->line ? x->line : "";
    *len = x->len;
    return x->how;
}

void host_repl_interrupt(void) {
    uint64_t one = 1;
    if (r.wake >= 0 && write(r.wake, &one, sizeof one) < 0)
        rt_throw("an eventfd does not take a 1: %s", rt_strerror(-errno));
}

static void run_question(void *arg) {
    question_job *q = arg;
    rt_entersyscallblock();
    pthread_mutex_lock(&r.lock);
    while (!r.question)
        pthread_cond_wait(&r.asked, &r.lock);
    q->before = r.question;
    q->len = r.question_len;
    r.question = NULL;
    pthread_mutex_unlock(&r.lock);
    rt_exitsyscall();
}

static void free_question(void *arg) {
    question_job *q = arg;
    free(q->before);
    free(q);
}

host_job *host_repl_question(void) {
    question_job *q = calloc(1, sizeof *q);
    return q ? job_new(run_question, free_question, q) : NULL;
}

const char *host_repl_before(host_job *job, size_t *len) {
    question_job *q = job_arg(job);
    if (!q) return NULL;
    *len = q->len;
    return q->before;
}

void host_repl_answer(const char *insert, const char *list) {
    pthread_mutex_lock(&r.lock);
    free(r.insert);
    free(r.list);
    r.insert = strdup(insert);
    r.list = strdup(list);
    r.replied = true; /* without memory the answer is empty */
    pthread_cond_signal(&r.answered);
    pthread_mutex_unlock(&r.lock);
}

void repl_end(void) {
    if (r.tty) tcsetattr(0, TCSADRAIN, &r.termios);
}
