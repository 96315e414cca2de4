/* Jobs: what may block runs on native Gs while the Lua G that wants it waits. See job.c. */
#ifndef JOB_H
#define JOB_H

#include "host.h"

/* ---- what a VM's Lua holds ------------------------------------------------------------------ */

/* The first member of an object that Lua holds by a pointer with a finalizer: when the VM is dropped there
 * are no finalizers, and let_go does what they would have done. It must not wait. */
typedef struct host_owned {
    struct host_owned *prev, *next; /* of vm->owned; whoever runs the VM, or ends it */
    host_vm *vm;                    /* NULL: nobody's */
    void (*let_go)(struct host_owned *o);
} host_owned;

/* The VM that runs takes it; lets it go, which is harmless if nobody has it. By who runs the VM. */
void owned_take(host_owned *o, void (*let_go)(host_owned *));
void owned_leave(host_owned *o);
/* vm was dropped. */
void owned_drop_all(host_vm *vm);

/* The processes that vm holds end with it (exec.c). By who runs it, or ends it. */
void exec_bind_all(host_vm *vm);

/* ---- jobs ----------------------------------------------------------------------------------- */

/* A job of the VM that runs: once somebody waits for it, run(arg) is called on a native G, where it may
 * wait and block. free_arg(arg) is called when both the job and Lua are done with it, on any thread;
 * it must not wait. NULL: no memory, and arg is freed. */
host_job *job_new(void (*run)(void *arg), void (*free_arg)(void *arg), void *arg);

/* The same without a native G: begin(job, arg) is called by the first wait, in the VM that runs, and must not
 * wait. Later, or within it, somebody calls job_finish, once, on any thread; job and arg live until then. */
host_job *job_new_begun(void (*begin)(host_job *job, void *arg), void (*free_arg)(void *arg),
                        void *arg);
void job_finish(host_job *job);
/* Nobody wants to know of it any more. By who is to finish it. */
bool job_is_forgotten(host_job *job);

/* arg, if the job has ended; else NULL. */
void *job_arg(host_job *job);

/* Waits for its end, and starts it if nobody has: as luag_wait. A wakeup tells nothing: see host_job_done. */
int job_wait(lua_State *L, host_job *job, int64_t deadline_ns);

#endif
