/* The generations that have served, the latest and those with a tag: commits as git has them. See history.c.
 *
 * Any thread. The functions block: a native G calls them between rt_entersyscall and rt_exitsyscall. */
#ifndef HISTORY_H
#define HISTORY_H

#include "source.h"

#include <stdbool.h>
#include <stddef.h>

enum {
    HISTORY_MAX = 20,           /* generations that are kept without a tag */
    HISTORY_MESSAGE_MAX = 4096, /* bytes of a message */
};

/* The cause of a generation: the start of the process, SIGHUP, --watch, the admin API. */
typedef enum history_cause { BY_START, BY_SIGNAL, BY_WATCH, BY_ADMIN } history_cause;

/* A generation that serves from now on; its parent is the generation that served. */
typedef struct history_new {
    source_set *sources; /* held as long as the generation is kept */
    const char *id;      /* source_id's */
    int number;
    history_cause cause;
    const char *message; /* NULL: none */
} history_new;

/* Adds a generation, and drops those that are too old. Writes the id of its commit. False: no memory, and nothing has
 * changed. */
bool history_add(const history_new *n, char commit[SOURCE_ID_SIZE]);

/* A generation to go back to. */
typedef struct history_found {
    source_set *sources;     /* the caller releases it */
    char id[SOURCE_ID_SIZE]; /* source_id's */
    char commit[SOURCE_ID_SIZE];
} history_found;

/* Finds a generation by a person's words: "-N", N generations before the one that serves, along the parents; or at
 * least 4 digits of its commit's id, or of its tree's, which means the latest with this tree. NULL, or what is wrong
 * (message.h). */
char *history_find(const char *to, history_found *found);

/* All generations, the latest first, as records that each end in a NUL: "id COMMIT", then "tree ID", "time SECONDS",
 * "who CAUSE". Where there are such, "parent COMMIT", "number N", "message TEXT", "serves" and source_compare's records
 * follow. The caller frees the text. NULL: no memory. */
char *history_print(size_t *len);

#endif
