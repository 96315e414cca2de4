/* Generations: the VMs that have loaded the same files. See generation.c. */
#ifndef GENERATION_H
#define GENERATION_H

#include "host.h"
#include "source.h"

enum { MAX_VMS = 4096 };

/* One that has ended is used again, so that who has read pool_serving a moment ago finds a generation there. */
struct generation {
    /* vmpool.c; the pool's lock */
    host_vm *vms[MAX_VMS]; /* those that have loaded */
    int n;
    int making;
    int64_t retry_ns; /* after a further VM failed to load, when to try again */
    bool said_full;
    bool retired;                       /* it serves no more, or never will */
    bool stands_in;                     /* --dev: it has not loaded the app, and shows why */
    _Atomic(host_vm *) current[MAX_PS]; /* by P; the lock writes, the M that has the P reads */
    /* generation.c */
    int number;
    source_set *sources;
    char id[SOURCE_ID_SIZE]; /* when it has loaded */
    _Atomic int n_left;      /* VMs that have not ended, and others that hold it */
    generation *next_free;
};

/* The app's first generation: NULL, or what is wrong, to be freed. Waits. Any native G. */
char *generation_start(const char *app_path);

typedef enum reload_result { RELOAD_DONE, RELOAD_SAME, RELOAD_FAILED } reload_result;

/* Loads the files as they are now beside the generation that serves, and switches, or changes nothing. *what, to be
 * freed: the id of the generation that serves now, or what is wrong. One at a time: others wait. Any native G. */
reload_result generation_reload(char **what);

/* The process is about to end: has the VMs that serve run what on_retire was given, until until_ns at most. Any native G. */
void generation_stop(int64_t until_ns);

/* A number and an id of the generation that serves. Any thread. */
int generation_now(char id[SOURCE_ID_SIZE]);

/* A VM that has loaded its app for gen, or NULL and what is wrong, to be freed. pool_add follows. Waits. */
host_vm *generation_make_vm(generation *gen, bool first, char **err);
/* Whoever makes a VM, later perhaps, holds it; pool_add or generation_lost_vm ends that. */
void generation_hold(generation *gen);
/* A VM of gen has ended. */
void generation_lost_vm(generation *gen);
/* vm has loaded for a generation that serves no more. */
void generation_end_vm(host_vm *vm);

#endif
