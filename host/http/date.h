/* Dates as HTTP writes them. */
#ifndef DATE_H
#define DATE_H

#include <stddef.h>
#include <time.h>

enum { DATE_LEN = sizeof "Thu, 01 Jan 1970 00:00:00 GMT" - 1, DATE_SIZE = 48 };

/* Writes "Thu, 01 Jan 1970 00:00:00 GMT" for a time from 0 to the end of the year 9999, and a NUL: DATE_LEN + 1 bytes.
 * Any thread. Does not wait. */
void date_print(char buf[DATE_SIZE], time_t t);

#endif
