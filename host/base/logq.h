/* The queues of the log's and the access log's lines, and the threads that write them. See logq.c. */
#ifndef LOGQ_H
#define LOGQ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct logq logq;

/* The log, which goes to stderr as long as nothing else is said; the access log, which has no file at first. */
extern logq *const logq_log, *const logq_access;

/* Has lines go to the end of a file, which is made if it is not there. 0 or -errno: lines go where they went. Once for
 * each queue, by main or the main G, before lines of the access log. Blocks the thread. */
int logq_open(logq *q, const char *path);

/* Has lines go to fd, which stays the caller's and is not opened anew. As logq_open. */
void logq_use(logq *q, int fd);

/* False: lines have nowhere to go. Any thread. Does not wait. */
bool logq_is_open(const logq *q);

/* Has the file of logq_open opened anew by its name: lines that are queued from now on stand in the new file. Does
 * nothing without a file. Any thread. Does not wait. */
void logq_reopen(logq *q);

/* Lines stay in the queue until logq_show, which has them written, or drops them if !keep. logq_flush, and a line that
 * finds no room, have them written before. Any thread. Do not wait. */
void logq_hold(logq *q);
void logq_show(logq *q, bool keep);

/* Queues a line, or counts it as lost. Any thread. Does not wait for the reader of the log. */
void logq_put(logq *q, const char *line, size_t n, int level);

/* Counts a line that could not be made as lost. Any thread. Does not wait. */
void logq_lose(logq *q);

/* Waits until all lines that are queued now are written, or lost. False: not within timeout_ns. Blocks the thread. Any
 * thread, signal handlers too. */
bool logq_flush(logq *q, int64_t timeout_ns);

/* Numbers of lines: queued so far, lost, not written yet. */
typedef struct logq_figures {
    int64_t queued, lost, waiting;
} logq_figures;

/* Any thread. Does not wait. */
logq_figures logq_read(const logq *q);

#endif
