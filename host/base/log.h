/* The log: what the host calls. See log.c; the parts behind it are logline.h and logq.h. */
#ifndef LOG_H
#define LOG_H

enum { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

/* Logs a line, if --log-level has its level. A text of more than 4 kB is cut. Any thread. Does not wait. */
void log_line(int level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* A buffer of the thread, of LOG_LINE_MAX bytes, until the thread logs the next line. NULL: no memory. Any thread. Does
 * not wait. */
char *log_buffer(void);

/* For the end of the process. Waits until the lines that were logged are written, for a second at most. Blocks the
 * thread. Any thread, signal handlers too. */
void log_end(void);

/* For a process that can not begin to serve. Writes what was logged, then "lunapark: ...", and exits with 1. Any
 * thread. */
_Noreturn void start_failed(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
