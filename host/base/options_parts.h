/* The table of options, for options.c and usage.c alone. */
#ifndef OPTIONS_PARTS_H
#define OPTIONS_PARTS_H

#include <stddef.h>

enum { SERVE = 1, RUN = 2, TEST = 4, CHECK = 8, REPL = 16, TAG = 32, ROUTES = 64 };
#define EVERYWHERE (SERVE | RUN | TEST | CHECK | REPL | ROUTES)

/* KIND_LIMIT: KIND_INT, or 0 for none. */
typedef enum kind {
    KIND_ADDR,
    KIND_BIND, /* addresses that the app can't name */
    KIND_FILES,
    KIND_INT,
    KIND_LIMIT,
    KIND_SECONDS,
    KIND_LEVEL,
    KIND_FORMAT,
    KIND_STRING,
    KIND_NET,
    KIND_MODE,
    KIND_FLAG
} kind;

/* arg: what the value is, for people; "[=...]": there may be none, which is "". */
typedef struct option {
    const char *name, *arg, *help;
    kind kind;
    unsigned commands;
    void *to;
    double min, max;
    int source; /* FROM_...: the source that set it last */
} option;

enum { N_OPTIONS = 46 };
extern option options_table[N_OPTIONS];

/* The bit of a command: SERVE ... */
unsigned options_command(const char *command);

/* The option of this name, of n bytes; NULL: none. */
option *options_find(const char *name, size_t n);

/* ": did you mean X?" for a name of n bytes that is no option of these commands, X behind `dashes`, or as Lua has it if
 * there are none; "": nothing is near. In a static buffer. */
const char *options_hint(const char *name, size_t n, unsigned commands, const char *dashes);

/* Sets o, unless a stronger source has set it. NULL, or what is wrong, in a static buffer. */
const char *options_set(option *o, const char *value, int source);

#endif
