/* The queue of those who want another generation. See reloads.c. */
#ifndef RELOADS_H
#define RELOADS_H

#include "generation.h"

#include <stdbool.h>

/* From now on load is called for what was asked for, on a G of the queue's own: one call at a time, which may wait.
 * False: no memory. Once, on a native G. */
bool reloads_begin(reload_result (*load)(const reload_ask *ask, char **what));

#endif
