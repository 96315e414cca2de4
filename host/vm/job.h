/* Jobs: what may block runs on native Gs while the Lua G that wants it waits. See job.c. */
#ifndef JOB_H
#define JOB_H

#include "vm_ffi.h"

#include <lua.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct host_vm host_vm;

/* A job of the VM that runs: once somebody waits for it, run(arg) is called on a native G, where it may
 * wait and block. free_arg(arg) is called when both the job and Lua are done with it, on any thread;
 * it must not wait. NULL: no memory, and arg is freed. */
host_job *job_new(void (*run)(void *arg), void (*free_arg)(void *arg), void *arg);

/* A job without a native G: the first wait calls begin(job, arg), in the VM that runs; begin must not wait. job_finish
 * is called once, later or within begin, on any thread; job and arg live until then. The rest: as job_new. */
host_job *job_new_begun(void (*begin)(host_job *job, void *arg), void (*free_arg)(void *arg),
                        void *arg);
void job_finish(host_job *job);
/* True: Lua has let go of the job, and its end is for nobody. By the thread that is to finish it. */
bool job_is_forgotten(host_job *job);

/* arg, if the job has ended; else NULL. */
void *job_arg(host_job *job);

/* Waits for its end, and starts it if nobody has: as luag_wait. A wakeup tells nothing: see host_job_done. */
int job_wait(lua_State *L, host_job *job, int64_t deadline_ns);

#endif
