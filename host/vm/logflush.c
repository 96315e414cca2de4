/* lunapark.log.flush: a job that waits until the lines that were logged are written. */
#include "../../runtime/runtime.h"
#include "../base/logq.h"
#include "job.h"

#include <stdlib.h>

typedef struct flush {
    int64_t timeout_ns;
    bool done;
} flush;

static void run_flush(void *arg) {
    flush *f = arg;
    rt_entersyscallblock();
    f->done = logq_flush(logq_log, f->timeout_ns);
    rt_exitsyscall();
}

host_job *host_log_flush(double timeout_ns) {
    flush *f = calloc(1, sizeof *f);
    if (!f) return NULL;
    f->timeout_ns = (int64_t)timeout_ns;
    return job_new(run_flush, free, f);
}

int host_log_flushed(host_job *job) {
    const flush *f = job_arg(job);
    return f && f->done;
}
