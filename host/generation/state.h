/* The state directory (--state): generations over a restart, in the layout of a bare git repository. See state.c.
 *
 * One thread at a time, but for state_read_blob. The functions block for the disk: a G calls them between
 * rt_entersyscall and rt_exitsyscall. Those that return a text return NULL, or what is wrong (message.h). */
#ifndef STATE_H
#define STATE_H

#include "blob.h"

#include <stdbool.h>
#include <stddef.h>

/* A generation: its commit as git has it, and the record that the history keeps of it. */
typedef struct state_generation {
    git_id commit;
    char *text, *record; /* a NUL follows each */
    size_t text_len, record_len;
} state_generation;

/* Opens dir, or makes it. Before state_open the other functions do nothing, and succeed. Once. */
char *state_open(const char *dir);

/* Calls each for all generations of the directory, in any order. each takes the texts, and returns whether they make
 * sense. A damaged generation is named in the log, and stays in the directory. */
void state_load(bool (*each)(void *arg, state_generation *g), void *arg);

/* Calls each for all tags. */
void state_load_tags(void (*each)(void *arg, const char *name, const git_id *commit), void *arg);

/* Writes a generation; root: the folder of its relative paths, which ends in a slash. Then removes the generation
 * `replaces`, unless NULL, and the generations that have no tag and are not among the last HISTORY_MAX. */
char *state_store(const state_generation *g, const char *root, const git_id *replaces);

/* Writes a tag, which names the commit; commit NULL: removes the tag. */
char *state_tag(const char *name, const git_id *commit);

/* Bytes of a blob, from memory or from the directory: as source_read_blob. Any thread. */
int state_read_blob(void *arg, const git_id *id, file_blob **b);

#endif
