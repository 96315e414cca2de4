/* The queue of reloads. See reloads.c. */
#ifndef RELOADS_H
#define RELOADS_H

#include "generation.h"

#include <stdbool.h>

/* Begins to call load for the reloads that were asked for, on a G of the queue's own: one call at a time, which may
 * wait. False: no memory. Once, on a native G. */
bool reloads_begin(reload_result (*load)(const reload_ask *ask, char **what));

#endif
