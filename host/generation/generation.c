/* Generations: loading an app beside the one that serves, the switch, and the end of the old one.
 *
 *     files --load--> VMs of a new generation --hand over, switch--> they serve; the old ones retire
 *                 \--error--> the new VMs end, nothing has changed
 *
 * All VMs of a generation load the same bytes, which its source_set keeps (source.c). So a file that is saved meanwhile
 * is never half in a generation. When all VMs have loaded, the files are looked at once more. If a file has changed
 * since it was read, the files were perhaps never on the disk together, and all are loaded anew.
 *
 * A load takes a while: an app of 300 routes 2 ms in each VM, a large app as long as it likes. So a VM that loads lets
 * other Gs run between its modules, and every 0.1 ms as it defines and compiles routes (luag_share). With one saturated
 * P, and two such loads each half second, p99 is 1.3 to 1.8 times p99 without reloads; without luag_share it was 4 to 5
 * times. One long stretch is treated as any handler's: after 20 ms its P is taken.
 *
 * The switch is one store (pool_switch). A request that was given to a VM of the old generation and has not begun is
 * given to another VM (serve/bind.c, may_begin). So a request that begins after the switch begins in the new
 * generation. Connections belong to no VM and notice nothing. Old VMs finish what they run: vmend.c.
 *
 * State that lives on goes from the old VMs to the new ones right before the switch: handover.c.
 *
 * A VM may load for --load-timeout. Then a script that waits is thrown away with its VM; a script that runs without
 * waiting is ended like a runaway (runaway.c).
 *
 * Options that the app sets (app.options) are put aside while it loads, and count from the switch on (options.c).
 *
 * Each generation that serves is kept in the history (history.c), and can be loaded again from there: a rollback. A
 * rollback does not ask for the files on the disk; the next reload takes them again. --watch waits for a change of the
 * files after a rollback, since the disk holds other files than those that serve, on purpose.
 *
 * Holders of a generation: the generation itself, as long as it serves or loads, and each VM that has not ended. After
 * the last one, it lets go of its files, and the struct is used again.
 */
#include "generation.h"

#include "../base/base.h"
#include "../base/log.h"
#include "../base/options.h"
#include "../http/site.h"
#include "../vm/owned.h"
#include "../vm/runaway.h"
#include "../vm/vmcall.h"
#include "../vm/vmend.h"
#include "dev.h"
#include "handover.h"
#include "listeners.h"
#include "message.h"
#include "pool.h"
#include "reloads.h"
#include "singleton.h"
#include "watch.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    TRIES = 5, /* tries to load files that change meanwhile */
};
#define KILL_NS   (3 * NS_PER_SEC)  /* how long a script that is ended may take */
#define SETTLE_NS (100 * NS_PER_MS) /* files change: look again after this */
#define STUCK_NS  (200 * NS_PER_MS) /* a VM that has not begun a call by then is stuck */

static struct {
    const char *app_path;
    rt_lock lock;
    generation *free;      /* lock */
    generation *now;       /* lock writes; the G that reloads reads */
    source_set *failed;    /* the G that reloads: of the last load, if it has failed; else NULL */
    int number;            /* of the last generation that served */
    host_vm *old[MAX_VMS]; /* the G that reloads: a list */
    _Atomic int32_t next_vm;
} all;

static struct iovec text(const char *s) {
    return (struct iovec){(char *)s, strlen(s)};
}

static int64_t after(double seconds) {
    return rt_nanotime() + (int64_t)(seconds * 1e9);
}

/* ---- memory of generations ---- */

static void give_generation(generation *gen) {
    rt_lock_acquire(&all.lock);
    gen->next_free = all.free;
    all.free = gen;
    rt_lock_release(&all.lock);
}

/* A generation of `sources`, which it holds from now on; NULL: of the disk's files. NULL: no memory. */
static generation *new_generation(source_set *sources) {
    rt_lock_acquire(&all.lock);
    generation *gen = all.free;
    if (gen) all.free = gen->next_free;
    rt_lock_release(&all.lock);
    if (!gen && !(gen = calloc(1, sizeof *gen))) return NULL;
    gen->n = gen->making = 0;
    gen->retry_ns = 0;
    gen->served = gen->retired = gen->stands_in = false;
    gen->full = FULL_NOT;
    gen->id[0] = gen->commit[0] = 0;
    gen->disk = NULL;
    gen->sources = sources ? source_set_hold(sources) : source_set_new(all.app_path);
    if (!gen->sources) {
        give_generation(gen);
        return NULL;
    }
    atomic_store(&gen->n_left, 1);
    return gen;
}

void generation_hold(generation *gen) {
    atomic_fetch_add(&gen->n_left, 1);
}

void generation_lost_vm(generation *gen) {
    if (atomic_fetch_sub(&gen->n_left, 1) > 1) return;
    source_set_free(gen->sources);
    source_set_free(gen->disk);
    gen->sources = gen->disk = NULL;
    for (int i = 0; i < MAX_PS; i++)
        atomic_store_explicit(&gen->current[i], NULL, memory_order_relaxed);
    give_generation(gen);
}

/* ---- loading one VM ---- */

/* Says what a script does that has not loaded in time, and whether it waits. The caller frees the text. */
static char *doing(host_vm *vm, bool *waits) {
    vm_call *c = vm_call_begin(vm, "where", 0, NULL);
    vm_call_state state = vm_call_wait(c, rt_nanotime() + STUCK_NS);
    size_t len;
    const char *where = state == CALL_DONE ? vm_call_value(c, &len) : NULL;
    *waits = state != CALL_LATE;
    char *what = *waits ? message_format("waits%s%s", where ? "\n" : "", where ? where : "") : NULL;
    vm_call_free(c);
    if (what) return what;
    char at[160];
    runaway_place(vm, at, sizeof at);
    return message_format("runs without waiting, in %s", at);
}

/* c has not loaded vm in time. Returns what is wrong, when the load has ended or cannot be ended. */
static char *too_late(host_vm *vm, vm_call *c) {
    bool waits;
    char *what = doing(vm, &waits);
    atomic_store(&vm->loads_until_ns, rt_nanotime()); /* not before `doing` has looked */
    bool ended =
        !waits && vm_call_wait(c, rt_nanotime() + KILL_NS) == CALL_DONE && vm->runaway.ended_at[0];
    char *err = message_format("%s: not loaded after %g s (--load-timeout); it %s%s%s",
                               all.app_path, (double)options.load_timeout, what,
                               ended ? ", at " : "", ended ? vm->runaway.ended_at : "");
    message_free(what);
    return err;
}

static void leave_pool(host_owned *o) {
    pool_forget(o->vm);
}

static void leave_generation(host_owned *o) {
    generation_lost_vm(o->vm->generation);
}

static const owned_kind pool_kind = {OWNED_ROLES, leave_pool};
static const owned_kind generation_kind = {OWNED_REMAINS, leave_generation};

host_vm *generation_make_vm(generation *gen, bool first, char **err) {
    host_vm *vm = vm_new(atomic_fetch_add(&all.next_vm, 1));
    if (!vm) {
        *err = message_no_memory;
        generation_lost_vm(gen);
        return NULL;
    }
    vm_visit(vm); /* while it loads: vm may be thrown away, but its struct is no other VM's yet */
    int64_t until = options.load_timeout > 0 ? after(options.load_timeout) : 0;
    vm->gc.serves = true;
    vm->generation = gen;
    owned_add(vm, &vm->entries.generation, &generation_kind);
    owned_add(vm, &vm->entries.pool, &pool_kind);
    vm->sources = gen->sources;
    atomic_store(&vm->loads_until_ns, INT64_MAX);
    struct iovec args[] = {text(all.app_path), text(first ? "first" : ""),
                           text(options.dev ? "dev" : "")};
    vm_call *c = vm_call_begin(vm, gen->stands_in ? "stand_in" : "serve", 3, args);
    vm_call_state state = vm_call_wait(c, until);
    *err = NULL;
    if (state == CALL_LATE)
        *err = too_late(vm, c);
    else if (state == CALL_LOST)
        *err = message_format("%s: its VM was ended while it loaded", all.app_path);
    else if (vm_call_error(c))
        *err = message_copy(vm_call_error(c));
    vm_call_free(c);
    if (*err) {
        vm_abandon(vm); /* a load that failed is not worth an orderly end */
        return NULL;
    }
    atomic_store(&vm->loads_until_ns, 0);
    vm_leave(vm);
    return vm;
}

/* ---- the end of a generation ---- */

/* Retires vm: runs its on_retire functions, and ends it. */
static void retire_vm(void *arg) {
    host_vm *vm = arg;
    int64_t drain_ns = atomic_load(&vm->end.drain_ns);
    vm_call *c = vm_call_begin(vm, "retire", 0, NULL);
    if (vm_call_wait(c, drain_ns) == CALL_DONE && vm_call_error(c))
        log_line(LOG_ERROR, "on_retire: %s", vm_call_error(c));
    vm_call_free(c);
    pool_forget(vm);
    vm_retire(vm);
}

/* vm retires from now on. False: it does already. */
static bool is_to_retire(host_vm *vm, int64_t drain_ns) {
    int64_t not_yet = 0;
    return atomic_compare_exchange_strong(&vm->end.drain_ns, &not_yet, drain_ns);
}

/* Begins to retire vm, which is visited. Without memory for a G the caller waits for vm's on_retire. */
static void begin_retirement(host_vm *vm, int64_t drain_ns) {
    if (!is_to_retire(vm, drain_ns))
        vm_leave(vm);
    else if (!rt_go(retire_vm, vm))
        retire_vm(vm);
}

static int64_t drain_end(void) {
    return after(options.drain_timeout);
}

void generation_end_vm(host_vm *vm) {
    if (vm_visit(vm)) begin_retirement(vm, drain_end());
}

bool generation_replace_vm(host_vm *vm) {
    if (!vm_serves(vm)) return false;
    bool crowded = pool_crowded(vm->generation);
    int64_t drain_ns = crowded ? rt_nanotime() : drain_end();
    if (!is_to_retire(vm, drain_ns)) return false;
    vm_visit(vm); /* it succeeds: the caller runs vm */
    pool_forget(vm);
    singleton_look();
    if (crowded)
        log_line(LOG_WARN, "VM %d ends what it runs: too many that were replaced do so still",
                 vm->view.vm_id);
    if (!rt_go(retire_vm, vm)) {
        log_line(LOG_ERROR, "VM %d: no memory to run its on_retire", vm->view.vm_id);
        vm_retire(vm);
    }
    return true;
}

/* Retires all VMs of gen, each for itself: one may be stuck. */
static void retire(generation *gen) {
    int64_t drain_ns = drain_end();
    int n = pool_list(gen, all.old, MAX_VMS);
    for (int i = 0; i < n; i++)
        begin_retirement(all.old[i], drain_ns);
    generation_lost_vm(gen);
}

/* Waits for c until until_ns, unless its VM is stuck. */
static void wait_unless_stuck(host_vm *vm, vm_call *c, int64_t until_ns) {
    for (;;) {
        int64_t next_ns = rt_nanotime() + STUCK_NS;
        vm_call_state state = vm_call_wait(c, next_ns < until_ns ? next_ns : until_ns);
        if (state == CALL_DONE && vm_call_error(c))
            log_line(LOG_ERROR, "on_retire: %s", vm_call_error(c));
        if (state != CALL_LATE || atomic_load(&vm->stuck) || rt_nanotime() >= until_ns) return;
    }
}

void generation_stop(int64_t until_ns) {
    static host_vm *vms[MAX_VMS]; /* a process ends once */
    static vm_call *calls[MAX_VMS];
    int n = pool_list(all.now, vms, MAX_VMS);
    for (int i = 0; i < n; i++)
        calls[i] = vm_call_begin(vms[i], "retire", 1, (struct iovec[]){text("stop")});
    for (int i = 0; i < n; i++) {
        wait_unless_stuck(vms[i], calls[i], until_ns);
        vm_call_free(calls[i]);
        vm_leave(vms[i]);
    }
}

/* ---- loading ---- */

/* What an app says while it loads (options, listeners, folders of files) is put aside; is forgotten. */
static void stage(void) {
    options_stage();
    listeners_stage();
    site_forget();
}

static void drop(void) {
    options_drop();
    listeners_drop();
    site_forget();
}

/* Makes the VMs that serve at first. NULL, or what is wrong. */
static char *load_vms(generation *gen) {
    char *err = NULL;
    int procs = rt_procs_in();
    gen->making = procs;
    for (int i = 0; i < procs; i++) {
        if (err) {
            pool_add(gen, NULL, i);
            continue;
        }
        generation_hold(gen);
        pool_add(gen, generation_make_vm(gen, i == 0, &err), i);
    }
    return err;
}

static bool settled(generation *gen) {
    rt_entersyscallblock();
    source_keep(gen->sources);
    bool is = source_settled(gen->sources);
    rt_exitsyscall();
    return is;
}

/* Ends gen, which never serves. */
static void give_up(generation *gen) {
    gen->retired = true;
    retire(gen);
}

static void watch(generation *now, generation *failed) {
    if (!options.watch) return;
    watch_files(!now        ? NULL
                : now->disk ? now->disk
                            : now->sources,
                failed ? failed->sources : NULL);
}

/* gen has loaded the disk's files, and they do not run. */
static void not_these(generation *gen, const char *what) {
    if (options.dev) dev_failed(what, gen->sources);
    source_set_free(all.failed);
    all.failed = source_set_hold(gen->sources);
    watch(all.now, gen);
}

/* Loads a generation from the disk's files, which were all there together. NULL: *err says what is wrong. */
static generation *load(char **err) {
    for (int i = 0; i < TRIES; i++) {
        generation *gen = new_generation(NULL);
        if (!gen) {
            *err = message_no_memory;
            return NULL;
        }
        stage();
        *err = load_vms(gen);
        bool stable = settled(gen);
        if (stable && !*err && !source_id(gen->sources, gen->id)) *err = message_no_memory;
        if (stable && !*err) {
            source_has_loaded(gen->sources);
            return gen;
        }
        drop();
        if (stable) not_these(gen, *err);
        give_up(gen);
        if (stable) return NULL;
        message_free(*err);
        rt_sleep(SETTLE_NS);
    }
    *err = message_format("%s: its files go on changing while they are loaded", all.app_path);
    if (options.dev) dev_failed(*err, NULL);
    return NULL;
}

/* For --dev: a generation that shows why the app has not loaded, when no generation serves yet. */
static generation *load_stand_in(char **err) {
    generation *gen = new_generation(NULL);
    if (!gen) {
        *err = message_no_memory;
        return NULL;
    }
    gen->stands_in = true;
    stage();
    *err = load_vms(gen);
    if (!*err) return gen;
    drop();
    give_up(gen);
    return NULL;
}

/* ---- the switch ---- */

/* Adds gen, which serves from now on, to the history. again: the commit whose sources gen has; NULL: gen has the
 * disk's. */
static void record(generation *gen, const reload_ask *ask, const char *again) {
    history_new n = {.sources = gen->sources,
                     .id = gen->id,
                     .again = again,
                     .number = gen->number,
                     .cause = ask->cause,
                     .message = ask->message};
    rt_entersyscallblock();
    bool added = history_add(&n, gen->commit);
    rt_exitsyscall();
    if (added) return;
    gen->commit[0] = 0;
    log_line(LOG_ERROR, "generation %d is not in the history: not enough memory", gen->number);
}

/* Writes the history to --state; gen has been added to it. */
static void store(const generation *gen) {
    rt_entersyscallblock();
    char *err = history_store();
    rt_exitsyscall();
    if (err) log_line(LOG_ERROR, "generation %d is not in --state: %s", gen->number, err);
    message_free(err);
}

static void switch_to(generation *gen, const reload_ask *ask, const char *again) {
    gen->number = gen->stands_in ? 0 : ++all.number;
    options_commit();
    if (!gen->stands_in) record(gen, ask, again);
    site_commit();
    generation *old = pool_switch(gen); /* all that hear of the switch find gen serving */
    rt_lock_acquire(&all.lock);
    all.now = gen;
    rt_lock_release(&all.lock);
    char *err = listeners_commit();
    if (err) log_line(LOG_ERROR, "%s", err);
    message_free(err);
    if (old) retire(old);
    if (gen->stands_in) return; /* the files of the failed load are watched */
    source_set_free(all.failed);
    all.failed = NULL;
    dev_loaded();
    watch(gen, NULL);
    store(gen);
}

int generation_now(char id[SOURCE_ID_SIZE], char commit[SOURCE_ID_SIZE]) {
    rt_lock_acquire(&all.lock);
    int number = all.now ? all.now->number : 0;
    memcpy(id, all.now ? all.now->id : "", all.now ? SOURCE_ID_SIZE : 1);
    if (commit) memcpy(commit, all.now ? all.now->commit : "", all.now ? SOURCE_ID_SIZE : 1);
    rt_lock_release(&all.lock);
    return number;
}

/* ---- reloads ---- */

/* True: the disk holds the files that old has loaded. Also true if old was taken from the history, the watch asks, and
 * the disk holds the same files as then. */
static bool has_not_changed(generation *old, const reload_ask *ask) {
    if (old->stands_in) return false;
    rt_entersyscallblock();
    bool same = source_unchanged(old->sources);
    if (same) {
        source_set_free(old->disk);
        old->disk = NULL;
    } else if (old->disk && ask->cause == BY_WATCH) {
        same = source_unchanged(old->disk);
    }
    rt_exitsyscall();
    return same;
}

static reload_result reload(const reload_ask *ask, char **what) {
    generation *old = all.now;
    int64_t start = rt_nanotime();
    if (has_not_changed(old, ask)) {
        dev_loaded();
        watch(old, NULL);
        log_line(LOG_INFO, "reload: generation %d (%s) has not changed", old->number, old->id);
        *what = message_copy(old->id);
        return RELOAD_SAME;
    }
    generation *gen = load(what);
    if (gen && ((*what = listeners_open(server_open)) || (*what = hand_over(old, gen)))) {
        drop();
        not_these(gen, *what);
        give_up(gen);
        gen = NULL;
    }
    if (!gen && old->stands_in) {
        log_line(LOG_ERROR, "the app does not load yet: %s", *what);
        return RELOAD_FAILED;
    }
    if (!gen) {
        log_line(LOG_ERROR, "reload failed, generation %d (%s) goes on: %s", old->number, old->id,
                 *what);
        return RELOAD_FAILED;
    }
    switch_to(gen, ask, NULL);
    log_line(LOG_INFO, "reload: generation %d (%s) serves, loaded in %.0f ms", gen->number, gen->id,
             (double)(rt_nanotime() - start) / 1e6);
    *what = message_copy(gen->id);
    return RELOAD_DONE;
}

/* ---- rollbacks ---- */

/* Loads a generation of f's sources, with the state that old hands over. NULL: *what says what is wrong. */
static generation *load_again(generation *old, const history_found *f, char **what) {
    generation *gen = new_generation(f->sources);
    if (!gen) {
        *what = message_no_memory;
        return NULL;
    }
    memcpy(gen->id, f->id, sizeof gen->id);
    rt_entersyscallblock();
    if (options.watch)
        gen->disk =
            source_set_of_names(all.app_path, old->disk ? old->disk : old->sources, all.failed);
    rt_exitsyscall();
    stage();
    *what = load_vms(gen);
    if (!*what) *what = listeners_open(server_open);
    if (!*what) *what = hand_over(old, gen);
    if (!*what) return gen;
    drop();
    give_up(gen);
    return NULL;
}

static reload_result roll_back(const reload_ask *ask, char **what) {
    generation *old = all.now;
    int64_t start = rt_nanotime();
    history_found f;
    bool damaged;
    rt_entersyscall();
    *what = history_find(ask->to, &f, &damaged);
    rt_exitsyscall();
    if (*what) return damaged ? RELOAD_FAILED : RELOAD_UNKNOWN;
    bool same = strcmp(f.commit, old->commit) == 0;
    generation *gen = same ? NULL : load_again(old, &f, what);
    source_set_free(f.sources);
    if (same) {
        *what = message_copy(old->id);
        return RELOAD_SAME;
    }
    if (!gen) {
        log_line(LOG_ERROR, "rollback to %s failed, generation %d (%s) goes on: %s", f.commit,
                 old->number, old->id, *what);
        return RELOAD_FAILED;
    }
    char message[80];
    snprintf(message, sizeof message, "rollback to %s", f.commit);
    bool says = ask->message && *ask->message;
    switch_to(gen, &(reload_ask){ask->cause, says ? ask->message : message, NULL}, f.commit);
    log_line(LOG_INFO, "rollback to %s: generation %d (%s) serves, loaded in %.0f ms", f.commit,
             gen->number, gen->id, (double)(rt_nanotime() - start) / 1e6);
    *what = message_copy(gen->id);
    return RELOAD_DONE;
}

static reload_result serve_ask(const reload_ask *ask, char **what) {
    return ask->to ? roll_back(ask, what) : reload(ask, what);
}

static void reload_by_watch(void) {
    char *what;
    generation_reload(&(reload_ask){.cause = BY_WATCH}, &what);
    message_free(what);
}

char *generation_start(const char *app_path, bool may_stand_in, listeners_opener open) {
    all.app_path = app_path;
    rt_entersyscallblock();
    char *err = history_open(app_path, options.state);
    rt_exitsyscall();
    if (err) {
        char *why = message_format("--state: %s", err);
        message_free(err);
        return why;
    }
    if (options.watch) watch_start(reload_by_watch);
    generation *gen = load(&err);
    if (!gen && options.dev && may_stand_in) {
        log_line(LOG_ERROR, "the app does not load; requests are told so until it does: %s", err);
        message_free(err);
        gen = load_stand_in(&err);
    }
    if (!gen || (err = listeners_open(open))) return err;
    switch_to(gen, &(reload_ask){.cause = BY_START}, NULL);
    return reloads_begin(serve_ask)
               ? NULL
               : message_no_memory; /* reloads that were asked for before begin now */
}
