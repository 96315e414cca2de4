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
    HISTORY_TAGS_MAX = 100,     /* tags */
    HISTORY_MESSAGE_MAX = 4096, /* bytes of a message */
};

/* The cause of a generation: the start of the process, SIGHUP, --watch, the admin API. */
typedef enum history_cause { BY_START, BY_SIGNAL, BY_WATCH, BY_ADMIN } history_cause;

/* Begins the history of the app at app_path, with the generations that the directory of --state holds; dir NULL: there
 * is no such directory. NULL, or what is wrong (message.h). Once, before the other functions. */
char *history_open(const char *app_path, const char *dir);

/* A generation that serves from now on; its parent is the generation that served. */
typedef struct history_new {
    source_set *sources; /* held as long as the generation is kept */
    const char *id;      /* source_id's */
    const char *again; /* the commit whose sources these are, as history_find says it; NULL: none */
    int number;
    history_cause cause;
    const char *message; /* NULL: none */
} history_new;

/* Adds a generation, and drops those that are too old. Writes the id of its commit. False: no memory, and nothing has
 * changed. */
bool history_add(const history_new *n, char commit[SOURCE_ID_SIZE]);

/* Writes the generations that were added to the directory of --state. NULL, or why the last of them could not be
 * written (message.h). */
char *history_store(void);

/* A generation to go back to. */
typedef struct history_found {
    source_set *sources;     /* the caller releases it */
    char id[SOURCE_ID_SIZE]; /* source_id's */
    char commit[SOURCE_ID_SIZE];
} history_found;

/* Finds a generation by a person's words: a tag; "-N", N generations before the one that serves, along the parents; or
 * at least 4 digits of its commit's id, or of its tree's, which means the latest with this tree. NULL, or what is
 * wrong (message.h); *damaged: the generation is there, but its files can not be read. */
char *history_find(const char *to, history_found *found, bool *damaged);

/* HISTORY_UNKNOWN: no generation, or no tag, is meant. HISTORY_WRONG: no such name can be given. HISTORY_TAKEN: another
 * generation has it. HISTORY_FAILED: the directory of --state could not be written. */
typedef enum history_result {
    HISTORY_DONE,
    HISTORY_UNKNOWN,
    HISTORY_WRONG,
    HISTORY_TAKEN,
    HISTORY_FAILED
} history_result;

/* Gives a tag to the generation that `to` means (as history_find); to "": the generation that serves. A generation
 * with a tag is kept. to NULL: removes the tag. *what (message.h): the commit, or what is wrong. */
history_result history_tag(const char *name, const char *to, char **what);

/* All generations, the latest first, as records that each end in a NUL: "id COMMIT", then "tree ID", "time SECONDS",
 * "who CAUSE". Where there are such, "parent COMMIT", "number N", "message TEXT", "tag NAME", "serves" and
 * source_compare's records follow. The caller frees the text. NULL: no memory. */
char *history_print(size_t *len);

#endif
