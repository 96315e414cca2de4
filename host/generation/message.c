/* A load may fail for lack of memory, and then its message finds none either: so one text is never freed. */
#include "message.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

char message_no_memory[] = "not enough memory";

void message_free(char *text) {
    if (text != message_no_memory) free(text);
}

char *message_copy(const char *text) {
    char *s = strdup(text);
    return s ? s : message_no_memory;
}

char *message_format(const char *fmt, ...) {
    va_list ap;
    char *s;
    va_start(ap, fmt);
    int n = vasprintf(&s, fmt, ap);
    va_end(ap);
    return n < 0 ? message_no_memory : s;
}
