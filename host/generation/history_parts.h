/* The parts of the history, for history.c and history_find.c. */
#ifndef HISTORY_PARTS_H
#define HISTORY_PARTS_H

#include "../base/list.h"
#include "history.h"
#include "state.h"

#include <pthread.h>
#include <stdint.h>

typedef struct entry {
    list_link link; /* of the_history.all */
    git_id commit, parent;
    bool has_parent;
    char id[SOURCE_ID_SIZE]; /* the tree's, and what else source_id says */
    int number;              /* 0: another process had it */
    long seq;                /* which of all */
    int64_t time_s;
    char who[16];
    char *message; /* NULL: none */
    char *text;    /* the commit */
    size_t text_len;
    char *record; /* history.c */
    size_t record_len;
    source_set *sources;    /* NULL: not yet read from --state */
    bool stored;            /* it is in --state */
    struct entry *replaces; /* while it is made */
    git_id replaced;        /* goes from --state when this one is there */
    bool has_replaced;
} entry;

typedef struct entries {
    entry **list;
    size_t n;
} entries;

struct history {
    pthread_mutex_t lock;
    const char *app_path;
    list_head all;  /* lock: of entry, the oldest first */
    list_head tags; /* lock: history_find.c */
    int n_tags;     /* lock */
    entry *now;     /* lock: which serves; NULL: none does yet */
};

extern struct history the_history;

/* ---- all with the lock held ---- */

/* The entry of that commit. NULL: it is not kept. */
entry *history_commit(const git_id *id);

/* Drops what is too old and has no tag. */
void history_drop_old(void);

/* A tag of e, behind `after`; NULL: its first. NULL: it has none. */
struct tag *history_tag_of(const entry *e, const struct tag *after);

/* Calls fn for each tag of e. */
void history_each_tag(const entry *e, void (*fn)(void *arg, const char *name), void *arg);

/* Reads the tags that are in --state. */
void history_load_tags(void);

#endif
