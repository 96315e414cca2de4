/* Generations: VMs that have loaded one set of files. See generation.c. */
#ifndef GENERATION_H
#define GENERATION_H

#include "../base/base.h"
#include "history.h"
#include "listeners.h"
#include "source.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct host_vm host_vm;
typedef struct generation generation;

enum { MAX_VMS = 4096 };

/* The struct of an ended generation is used again. So a thread that has read vm_serving a moment ago still finds a
 * generation there. */
struct generation {
    /* pool.c; under the pool's lock */
    host_vm *vms[MAX_VMS]; /* the VMs that have loaded */
    int n;
    int making;
    int64_t retry_ns; /* when to make a VM again, after one failed to load */
    enum { FULL_NOT, FULL_TO_SAY, FULL_SAID } full; /* all VMs that there may be are stuck */
    bool served;    /* it serves, or has served: number and id do not change */
    bool retired;   /* it serves no more, or never will */
    bool stands_in; /* --dev: the app has not loaded; this generation shows why */
    _Atomic(host_vm *) current[MAX_PS]; /* by P; the lock writes, the M that has the P reads */
    /* generation.c */
    int number;
    source_set *sources;
    /* With --watch, if the sources are the history's: the disk's files at that time; else NULL. */
    source_set *disk;
    char id[SOURCE_ID_SIZE];     /* set when it has loaded */
    char commit[SOURCE_ID_SIZE]; /* its id in the history, when it serves; empty: none */
    _Atomic int n_left;          /* holders: VMs that have not ended, and others */
    generation *next_free;
};

/* Loads the app's first generation, and begins to serve. may_stand_in: with --dev, an app that does not load is no
 * error; a generation that shows the error serves meanwhile. open: opens the listeners that the app asks for. NULL,
 * or what is wrong (message.h). Any native G. Waits. */
char *generation_start(const char *app_path, bool may_stand_in, listeners_opener open);

/* RELOAD_UNKNOWN: `to` names no generation, or several. */
typedef enum reload_result {
    RELOAD_DONE,
    RELOAD_SAME,
    RELOAD_FAILED,
    RELOAD_UNKNOWN
} reload_result;

/* The arguments of a reload. */
typedef struct reload_ask {
    history_cause cause;
    const char *message; /* for the history; NULL: none */
    /* Names a generation of the history (history_find); NULL: the files as they are now. */
    const char *to;
} reload_ask;

/* Loads these files beside the generation that serves, and switches, or changes nothing. *what (message.h): the id of
 * the generation that serves now, or what is wrong. One reload at a time: others wait. Any native G. Waits. */
reload_result generation_reload(const reload_ask *ask, char **what);

/* The process is about to end: the VMs that serve call the functions of on_retire, until until_ns (rt_nanotime) at
 * most. Any native G. Waits. */
void generation_stop(int64_t until_ns);

/* The number of the generation that serves; its id, and its commit's (may be NULL), are written. 0: none serves. Any
 * thread. Does not wait. */
int generation_now(char id[SOURCE_ID_SIZE], char commit[SOURCE_ID_SIZE]);

/* Makes a VM and loads its app for gen. first: it is the generation's first VM. NULL: *err (message.h) says what is
 * wrong. pool_add follows. Any native G. Waits. */
host_vm *generation_make_vm(generation *gen, bool first, char **err);
/* Holds gen for a VM that will be made, perhaps later. generation_lost_vm ends the hold. Any thread. Does not wait. */
void generation_hold(generation *gen);
/* A holder of gen, as an ended VM, lets go. Any native G. */
void generation_lost_vm(generation *gen);
/* Ends vm, which has loaded for a generation that serves no more. Any native G. */
void generation_end_vm(host_vm *vm);
/* vm_keeper_ops.replace: vm retires as after a reload. As many replaced VMs as may serve have --drain-timeout at a
 * time; the Gs of further ones are canceled. By the thread that runs vm. */
bool generation_replace_vm(host_vm *vm);

#endif
