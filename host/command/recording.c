/* Recordings of the process for some seconds, for the admin API: where CPU time goes (runtime/prof.c), or what the
 * scheduler does (runtime/trace.c).
 *
 * A recording is a job: it starts, sleeps, stops, and writes to a file in memory, from which Lua takes pieces. A
 * recording whose client has gone ends within STEP_NS, so no recording goes on without a client. When the process
 * stops, recordings end as soon, and their clients get what there is. There is one recording of a kind at a time; a
 * second one gets -EBUSY.
 *
 * The profile's stacks: while a G's Lua runs, the native frames beneath the interpreter or compiled code are the
 * scheduler's and the same for all Gs. So Lua's functions replace them, and the native frames that Lua has called stay:
 *
 *     GET /users/:id;app.lua:12;shop/db.lua:40;lj_str_new        12 and 40: where the functions begin
 *     GET /;app.lua:7;trace at app.lua:9                          compiled code, named by where its trace begins
 *
 * The signal handler cannot keep pointers to names, since their VM may be gone when the lines are written. So it writes
 * each name that it meets into a table of the process, once, without a lock. A handler claims a free place by the
 * name's key. A handler that finds its key has its place, whether the name is written yet or not. Names stay for ever;
 * there are as many as functions that were met. Names without room are "(other Lua)".
 */
#include "recording.h"

#include "../base/base_ffi.h"
#include "../vm/job.h"
#include "../vm/luaframes.h"
#include "../vm/luag.h"
#include "../vm/vm.h"
#include "../vm/vmmem.h"
#include "command_ffi.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { HZ = 100, STEP_NS = 100000000 };

/* ---- names ---- */

enum { NAMES = 1 << 13, PROBES = 16, NAME_MAX_BYTES = 112 };
/* Numbers beyond the table's, of names that are not in it. */
enum { ID_OTHER = NAMES, ID_UNKNOWN, ID_CUT, ID_ROUTES };

typedef struct name {
    _Atomic uint64_t key;  /* 0: free */
    _Atomic bool is_there; /* text is written */
    char text[NAME_MAX_BYTES];
} name;

static name names[NAMES];

static uint64_t mix(uint64_t h, uint64_t x) {
    return (h ^ x) * UINT64_C(1099511628211);
}

static uint64_t key_of(const lua_frame *f) {
    uint64_t h = mix(mix(UINT64_C(14695981039346656037), (uint64_t)f->line), f->compiled);
    for (size_t i = 0; i < f->len; i++)
        h = mix(h, (uint8_t)f->chunk[i]);
    h ^= h >> 32;
    return h ? h : 1;
}

static size_t put(char *to, size_t at, const char *s, size_t n) {
    for (size_t i = 0; i < n && at < NAME_MAX_BYTES - 1; i++)
        to[at++] = s[i];
    return at;
}

static size_t put_number(char *to, size_t at, unsigned x) {
    char digits[12];
    size_t n = sizeof digits;
    do
        digits[--n] = (char)('0' + x % 10);
    while ((x /= 10) > 0);
    return put(to, at, digits + n, sizeof digits - n);
}

/* Writes the name of a chunk. Of a long file name the end, of a chunk that is text the beginning. No printf: a handler
 * calls it. */
static void write_name(char *to, const lua_frame *f) {
    const char *s = f->chunk;
    size_t n = f->len, at = 0, room = NAME_MAX_BYTES - 32;
    bool is_file = n > 0 && (s[0] == '@' || s[0] == '=');
    if (f->compiled) at = put(to, at, "trace at ", 9);
    if (is_file) {
        s++;
        n--;
    } else {
        at = put(to, at, "[string \"", 9);
    }
    if (n > room && is_file) {
        at = put(to, at, "...", 3);
        s += n - room;
    }
    at = put(to, at, s, n < room ? n : room);
    if (!is_file) at = put(to, at, "\"]", 2);
    at = put(to, at, ":", 1);
    at = put_number(to, at, (unsigned)f->line);
    to[at] = 0;
}

static uintptr_t intern(const lua_frame *f) {
    uint64_t key = key_of(f);
    for (uint64_t i = key, end = key + PROBES; i != end; i++) {
        name *n = &names[i % NAMES];
        uint64_t found = 0;
        if (atomic_compare_exchange_strong(&n->key, &found, key)) {
            write_name(n->text, f);
            atomic_store_explicit(&n->is_there, true, memory_order_release);
            return i % NAMES;
        }
        if (found == key) return i % NAMES;
    }
    return ID_OTHER;
}

static const char *text_of(uintptr_t id) {
    if (id == ID_UNKNOWN) return "(Lua)";
    if (id == ID_CUT) return "...";
    if (id > ID_ROUTES) return host_label_text((int)(id - ID_ROUTES));
    if (id < NAMES && atomic_load_explicit(&names[id].is_there, memory_order_acquire))
        return names[id].text;
    return "(other Lua)";
}

/* ---- Lua's part of a sample; in the signal handler ---- */

static bool is_lua(host_vm *vm, uintptr_t pc) {
    return luaframes_is_interpreter(pc) || vmmem_has_code(vm, pc);
}

/* How many of the native addresses stay: the functions that Lua has called. An address in the interpreter's own
 * functions stays, too. */
static int native_part(host_vm *vm, const uintptr_t *pcs, int n) {
    int i = 0;
    while (i < n && !is_lua(vm, pcs[i]))
        i++;
    if (i == 0 && n > 0 && luaframes_is_interpreter(pcs[0]) && !luaframes_is_instruction(pcs[0]))
        i = 1;
    return i;
}

static int add_lua(const void *context, uintptr_t *pcs, int n, int max) {
    enum { FRAMES_MAX = 64 };
    lua_frame frames[FRAMES_MAX];
    rt_cell *cell = rt_current_cell();
    host_vm *vm = cell ? rt_cell_data(cell) : NULL;
    if (!vm || !vm->in_lua) return n;
    host_luag *lg = atomic_load_explicit(&vm->running, memory_order_relaxed);
    int route = lg ? luag_route(lg) : 0;
    int at = native_part(vm, pcs, n), spare = 2; /* for the route and "..." */
    int room = max - at - spare;
    if (room < 1) return n;
    bool more = false;
    int found = luaframes_read(vm, context, frames, room < FRAMES_MAX ? room : FRAMES_MAX, &more);
    for (int i = 0; i < found; i++)
        pcs[at++] = RT_PROF_NAMED | intern(&frames[i]);
    if (found < 0) pcs[at++] = RT_PROF_NAMED | ID_UNKNOWN;
    if (more) pcs[at++] = RT_PROF_NAMED | ID_CUT;
    if (route > 0) pcs[at++] = RT_PROF_NAMED | (uintptr_t)(ID_ROUTES + route);
    return at;
}

void recording_init(void) {
    rt_prof_on_sample(add_lua, text_of);
}

/* ---- recordings, for Lua ---- */

typedef struct recording {
    int kind;
    int64_t ns;
    host_job *job; /* its argument is this recording */
    FILE *file;    /* NULL: there is none */
    int err;       /* 0 or -errno */
    int64_t size, samples, dropped;
} recording;

static _Atomic bool ending; /* atomic: the process stops */

void recording_stop(void) {
    atomic_store(&ending, true);
}

static bool goes_on(const recording *r) {
    return !atomic_load(&ending) && !job_is_forgotten(r->job);
}

static int start(const recording *r) {
    return r->kind == HOST_RECORD_PROFILE ? rt_prof_start(HZ) : rt_trace_start();
}

static int stop(recording *r) {
    if (r->kind == HOST_RECORD_TRACE) return rt_trace_stop(r->file, &r->dropped);
    rt_prof_result result;
    int err = rt_prof_stop(r->file, &result);
    r->samples = result.samples;
    r->dropped = result.dropped;
    return err;
}

static FILE *open_memory(void) {
    int fd = memfd_create("lunapark recording", MFD_CLOEXEC);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "w");
    if (!f && fd >= 0) close(fd);
    return f;
}

static void run(void *arg) {
    recording *r = arg;
    r->file = open_memory();
    r->err = r->file ? start(r) : -errno;
    if (r->err) return;
    for (int64_t now, end = rt_nanotime() + r->ns; (now = rt_nanotime()) < end && goes_on(r);)
        rt_sleep(end - now < STEP_NS ? end - now : STEP_NS);
    r->err = stop(r);
    r->size = ftello(r->file);
}

static void free_recording(void *arg) {
    recording *r = arg;
    if (r->file) fclose(r->file);
    free(r);
}

host_job *host_record(int kind, double seconds) {
    recording *r = calloc(1, sizeof *r);
    if (!r) return NULL;
    r->kind = kind;
    r->ns = (int64_t)(seconds * 1e9);
    host_job *job = job_new(run, free_recording, r);
    if (job) r->job = job;
    return job;
}

int host_record_result(host_job *job, double *size, double *samples, double *dropped) {
    const recording *r = job_arg(job);
    if (!r) return -EAGAIN;
    *size = (double)r->size;
    *samples = (double)r->samples;
    *dropped = (double)r->dropped;
    return r->err;
}

int host_record_read(host_job *job, double at, uint8_t *buf, size_t n) {
    const recording *r = job_arg(job);
    if (!r) return -EAGAIN;
    if (r->err) return r->err;
    ssize_t got = pread(fileno(r->file), buf, n, (off_t)at);
    return got < 0 ? -errno : (int)got;
}
