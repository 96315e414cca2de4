/* Lines of the log, as text and as JSON. See logline.c. */
#ifndef LOGLINE_H
#define LOGLINE_H

#include "base_ffi.h"

#include <stddef.h>

enum { LOG_TEXT, LOG_JSON };

enum {
    LOG_LINE_MAX = 16384, /* bytes of a line, with its end */
    LOG_VALUE_MAX = 4096, /* of a value in it */
};

/* Writes a line into buf (LOG_LINE_MAX bytes). Returns its length. Any thread. Does not wait. */
size_t logline_format(char *buf, int format, int level, const char *msg, size_t len,
                      const host_log_pair *pairs, int n);

/* Writes s[0 .. n) into to, as text between quotes or as JSON (format) without the quotes: at most max bytes, 64 or
 * more, cut if it is longer. Returns how many. Any thread. Does not wait. */
size_t logline_escape(char *to, const char *s, size_t n, int format, size_t max);

/* Writes the time as lines have it into to. Returns its bytes, less than 32. Any thread. Does not wait. */
size_t logline_time(char *to);

#endif
