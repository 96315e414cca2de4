/* The log's parts: lines (logline.c), their queue and its writer (logq.c). What the rest of the host
 * calls is in host.h. */
#ifndef LOG_H
#define LOG_H

#include "host.h"

/* ---- lines (logline.c) ----------------------------------------------------------------------- */

enum { LOG_TEXT, LOG_JSON };

enum {
    LOG_LINE_MAX = 16384, /* bytes of a line, with its end */
    LOG_VALUE_MAX = 4096, /* of a value in it */
};

/* Writes a line into buf (LOG_LINE_MAX bytes): its length. Any thread. */
size_t logline_format(char *buf, int format, int level, const char *msg, size_t len,
                      const host_log_pair *pairs, int n);

/* ---- the queue (logq.c) ---------------------------------------------------------------------- */

/* Queues a line, or counts it as lost. Any thread; never waits for whoever reads the log. */
void logq_put(const char *line, size_t n, int level);
void logq_lose(void);

/* Waits until all lines that are queued now were written, or lost: true; false after timeout_ns. It blocks
 * the thread. Any thread, signal handlers too. */
bool logq_flush(int64_t timeout_ns);

/* Lines that were ever queued; of all, those that were lost; and those that are not written yet. Any thread. */
typedef struct logq_figures {
    int64_t queued, lost, waiting;
} logq_figures;
logq_figures logq_read(void);

#endif
