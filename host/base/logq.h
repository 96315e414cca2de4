/* The queue of the log's lines, and the thread that writes it. See logq.c. */
#ifndef LOGQ_H
#define LOGQ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Queues a line, or counts it as lost. Any thread. Does not wait for the reader of the log. */
void logq_put(const char *line, size_t n, int level);

/* Waits until all lines that are queued now are written, or lost. False: not within timeout_ns. Blocks the thread. Any
 * thread, signal handlers too. */
bool logq_flush(int64_t timeout_ns);

/* Numbers of lines: queued so far, lost, not written yet. */
typedef struct logq_figures {
    int64_t queued, lost, waiting;
} logq_figures;

/* Any thread. Does not wait. */
logq_figures logq_read(void);

#endif
