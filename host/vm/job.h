/* Jobs: blocking work runs on native Gs while the Lua G that wants the result waits. See job.c. */
#ifndef JOB_H
#define JOB_H

#include "vm_ffi.h"

#include <lua.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct host_vm host_vm;

/* A job of the VM that runs. The first wait for it has run(arg) called on a native G, where run may wait and block.
 * free_arg(arg) is called when neither the job nor Lua needs arg any more, on any thread; free_arg must not wait. NULL:
 * no memory, and arg is freed. */
host_job *job_new(void (*run)(void *arg), void (*free_arg)(void *arg), void *arg);

/* A job without a native G. The first wait calls begin(job, arg) in the VM that runs; begin must not wait. job_finish
 * is called once, later or within begin, on any thread; job and arg live until then. Else as job_new. */
host_job *job_new_begun(void (*begin)(host_job *job, void *arg), void (*free_arg)(void *arg),
                        void *arg);
void job_finish(host_job *job);
/* True: Lua has let go of the job, and no G waits for its end. By the thread that will call job_finish. */
bool job_is_forgotten(host_job *job);

/* arg, if the job has ended; else NULL. */
void *job_arg(host_job *job);

/* Waits for the end of the job, as luag_wait; starts the job if it was not started. The wait may end early: ask
 * host_job_done. */
int job_wait(lua_State *L, host_job *job, int64_t deadline_ns);

#endif
