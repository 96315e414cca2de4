/* Loads come one after another, however many Gs ask at once. A reload that is asked for while another runs must load
 * the files as they are by then. So askers wait in a queue, which one G serves. Reloads that wait one behind another
 * are one load, since the files are the same for all of them. Its generation is said to be the first asker's.
 */
#include "reloads.h"

#include "../base/bell.h"
#include "../base/list.h"
#include "message.h"

/* On the stack of the G that waits. */
typedef struct asker {
    list_link link; /* of reloads.waiting */
    bell over;      /* rung last: afterwards the asker is gone */
    const reload_ask *ask;
    reload_result result;
    char *what;
} asker;

static struct {
    rt_lock lock;
    list_head waiting; /* lock */
    bell asked;        /* rung: an asker waits */
    reload_result (*load)(const reload_ask *ask, char **what);
} reloads;

static bool wants_the_disk(const list_link *l) {
    return !list_of(l, asker, link)->ask->to;
}

/* Takes the first asker. If it wants the disk's files, takes those behind it that want them, too. */
static list_head take_askers(void) {
    list_head taken = {NULL, NULL};
    rt_lock_acquire(&reloads.lock);
    for (list_link *l; (l = reloads.waiting.first);) {
        if (taken.first && !(wants_the_disk(taken.first) && wants_the_disk(l))) break;
        list_remove(&reloads.waiting, l);
        list_append(&taken, l);
    }
    rt_lock_release(&reloads.lock);
    return taken;
}

static void answer_all(list_head *askers, reload_result result, const char *what) {
    for (list_link *l; (l = list_take_first(askers));) {
        asker *a = list_of(l, asker, link);
        a->result = result;
        a->what = message_copy(what);
        bell_ring(&a->over);
    }
}

static void serve_reloads(void *arg) {
    (void)arg;
    for (;;) {
        list_head askers = take_askers();
        if (!askers.first) {
            bell_wait(&reloads.asked, 0);
            continue;
        }
        char *what;
        reload_result result = reloads.load(list_of(askers.first, asker, link)->ask, &what);
        answer_all(&askers, result, what);
        message_free(what);
    }
}

reload_result generation_reload(const reload_ask *ask, char **what) {
    asker a = {.ask = ask};
    rt_lock_acquire(&reloads.lock);
    list_append(&reloads.waiting, &a.link);
    rt_lock_release(&reloads.lock);
    bell_ring(&reloads.asked);
    while (!bell_wait(&a.over, 0))
        ;
    *what = a.what;
    return a.result;
}

bool reloads_begin(reload_result (*load)(const reload_ask *ask, char **what)) {
    reloads.load = load;
    return rt_go(serve_reloads, NULL);
}
