/* Generations, for Lua. The rules of vm_ffi.h hold. */
#ifndef GENERATION_FFI_H
#define GENERATION_FFI_H

#include "../vm/vm_ffi.h"

#include <stddef.h>
#include <stdint.h>

/* ffi:begin */
/* ---- VMs (pool.c) ---- */

/* A number of VMs. which: 0 VMs that serve, 1 stuck VMs, 2 spare VMs among those of 0, 3 VMs that have not ended. */
int host_vms(int which);

/* What a VM does: it loads its app; it is one of those that answer requests; it has loaded, for when another is stuck;
 * its Lua runs on and on; it ends what it runs, and gets no more requests; it is of no generation: that of a script, of
 * `test`, of the admin listener. */
enum {
    HOST_VM_LOADS,
    HOST_VM_SERVES,
    HOST_VM_SPARE,
    HOST_VM_STUCK,
    HOST_VM_RETIRES,
    HOST_VM_ALONE
};

/* Figures of one VM, each as of some moment during the call. */
typedef struct host_vm_figures {
    int32_t id;         /* -1: the admin listener's */
    int32_t state;      /* HOST_VM_... */
    int32_t generation; /* its number; 0: none that has served */
    int32_t ps;         /* Ps whose requests it answers */
    int32_t gs;         /* its Lua Gs */
    double stuck_s;     /* for so long it has been stuck; 0: it is not */
    double begun;       /* requests that it has begun to answer */
    double running;     /* of these, handlers that have not ended */
    double heap;     /* bytes of LuaJIT's heap, counted 10 ms ago at most, or when it last waited */
    double mapped;   /* bytes that LuaJIT has mapped */
    double held;     /* bytes that it holds elsewhere: host_charged */
    double limit;    /* --vm-memory, of which mapped and held are parts; 0: none */
    double gc_steps; /* of the collector, in idle time */
    double gc_idle;  /* collections that these have ended */
    double gc_full;  /* whole collections, after an allocation was refused */
    double gc_s;     /* seconds in gc_steps and gc_full */
    char id_of[64];  /* of its generation */
} host_vm_figures;

/* Writes the figures of at most max VMs that have not ended. How many there are, which may be more. */
int host_read_vms(host_vm_figures *to, int max);

/* ---- --dev (dev.c) ---- */

typedef struct host_dev {
    double run;          /* of this process: different in every process */
    int32_t own;         /* the number of this VM's generation; 0: a generation that stands in */
    int32_t serving;     /* the number of the generation that serves now */
    int32_t failing;     /* host_dev_failing */
    int32_t live_reload; /* --live-reload */
    char id[64];         /* of this VM's generation, NUL-terminated */
} host_dev;

/* Fills d. */
void host_dev_read(host_dev *d);

/* 0: the files that were saved last serve; else the number of the load that has failed last. */
int host_dev_failing(void);

/* Why the last load has failed, a NUL, and names of the files that it had loaded, each with a NUL: the number of bytes,
 * which are in buf if they are no more than cap. 0: no load has failed. *number is host_dev_failing's. */
size_t host_dev_failure(char *buf, size_t cap, int32_t *number);

/* ---- files that specs have loaded (changes.c) ---- */

/* A job that watches n names of files and folders (C strings, one behind another) in place of the names before. */
host_job *host_changes_watch(const char *names, size_t len, int n);

/* A job that ends when something has happened to a watched name since. */
host_job *host_changes_wait(void);

/* ---- singletons (singleton.c) ---- */

/* A job that ends when the running G holds the name. The G stands for the name, or holds it, until
 * host_singleton_leave. */
host_job *host_singleton_stand(const char *text, size_t len);

/* done: no VM of this generation needs to run the G again. */
void host_singleton_leave(const char *text, size_t len, int done);
/* ffi:end */

#endif
