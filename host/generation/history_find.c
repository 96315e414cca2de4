/* How people name a generation: by its commit, by its tree, by its distance from the one that serves, and by tags.
 *
 * No tag looks like the beginning of an id, so a name means either. With --state a tag is a file of the repository;
 * tags that git has made are found as well, if they name a commit.
 */
#include "history_parts.h"
#include "message.h"
#include "source_restore.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { DIGITS_MIN = 4 /* of an id that a person says */, NAME_MAX_LEN = 100 };

typedef struct tag {
    list_link link; /* of the_history.tags */
    char *name;
    git_id commit;
} tag;

/* ---- tags ---- */

static tag *find_tag(const char *name) {
    for (list_link *l = the_history.tags.first; l; l = l->next) {
        tag *t = list_of(l, tag, link);
        if (strcmp(t->name, name) == 0) return t;
    }
    return NULL;
}

tag *history_tag_of(const entry *e, const tag *after) {
    for (list_link *l = after ? after->link.next : the_history.tags.first; l; l = l->next) {
        tag *t = list_of(l, tag, link);
        if (memcmp(&t->commit, &e->commit, sizeof t->commit) == 0) return t;
    }
    return NULL;
}

void history_each_tag(const entry *e, void (*fn)(void *arg, const char *name), void *arg) {
    for (tag *t = NULL; (t = history_tag_of(e, t));)
        fn(arg, t->name);
}

static tag *add_tag(const char *name, const git_id *commit) {
    tag *t = calloc(1, sizeof *t);
    if (!t || !(t->name = strdup(name))) {
        free(t);
        return NULL;
    }
    t->commit = *commit;
    list_append(&the_history.tags, &t->link);
    the_history.n_tags++;
    return t;
}

static void remove_tag(tag *t) {
    list_remove(&the_history.tags, &t->link);
    the_history.n_tags--;
    free(t->name);
    free(t);
}

static void load_tag(void *arg, const char *name, const git_id *commit) {
    (void)arg;
    if (history_commit(commit)) (void)add_tag(name, commit); /* another's is left alone */
}

void history_load_tags(void) {
    state_load_tags(load_tag, NULL);
}

static bool is_id(const char *text) {
    size_t n = strlen(text);
    return n >= DIGITS_MIN && n <= GIT_ID_DIGITS && strspn(text, "0123456789abcdef") == n;
}

/* True: git takes the name for a tag, and it can be a file's name. */
static bool can_be_tag(const char *name) {
    static const char good[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-+";
    size_t n = strlen(name);
    return n > 0 && n <= NAME_MAX_LEN && strspn(name, good) == n && name[0] != '-' &&
           name[0] != '.' && name[n - 1] != '.' && !strstr(name, "..") &&
           !(n >= 5 && strcmp(name + n - 5, ".lock") == 0) && !is_id(name);
}

/* ---- finding an entry ---- */

/* The entry n generations back. NULL: there are not so many. */
static entry *go_back(long n) {
    entry *e = the_history.now;
    while (e && n-- > 0)
        e = e->has_parent ? history_commit(&e->parent) : NULL;
    return e;
}

/* The latest entry whose id begins with the digits; trees: whose tree's id does. *other: another entry's does, too,
 * with another id. */
static entry *find_digits(const char *digits, bool trees, bool *other) {
    entry *found = NULL;
    *other = false;
    for (list_link *l = the_history.all.last; l; l = l->prev) {
        entry *e = list_of(l, entry, link);
        char commit[GIT_ID_DIGITS + 1];
        git_print(&e->commit, commit);
        if (strncmp(trees ? e->id : commit, digits, strlen(digits)) != 0) continue;
        if (found && !(trees && strncmp(found->id, e->id, GIT_ID_DIGITS) == 0)) *other = true;
        if (!found) found = e;
    }
    return found;
}

/* NULL: *why says what is wrong. */
static entry *find(const char *to, char **why) {
    char *end;
    bool other = false;
    if (to[0] == '-' && to[1] >= '0' && to[1] <= '9') {
        entry *e = go_back(strtol(to + 1, &end, 10));
        if (e && !*end) return e;
        *why = message_format("%s: the history does not go back so far", to);
        return NULL;
    }
    const tag *t = find_tag(to);
    entry *e = t ? history_commit(&t->commit) : NULL;
    if (!e && is_id(to)) e = find_digits(to, false, &other);
    if (!e && is_id(to)) e = find_digits(to, true, &other);
    if (e && !other) return e;
    *why = message_format(e ? "%s: several generations have ids that begin so"
                            : "%s: no such generation in the history",
                          to);
    return NULL;
}

/* Reads e's sources from --state, unless they are in memory. NULL, or what is wrong. */
static char *restore(entry *e) {
    int err;
    git_id blob;
    char id[GIT_ID_DIGITS + 1], commit[GIT_ID_DIGITS + 1];
    if (e->sources) return NULL;
    e->sources = source_restore(the_history.app_path, e->record, e->record_len, state_read_blob,
                                NULL, &err, &blob);
    if (e->sources) return NULL;
    git_print(&blob, id);
    git_print(&e->commit, commit);
    if (err == -ESRCH)
        return message_format("generation %s did not load %s", commit, the_history.app_path);
    return message_format("generation %s can not be read from --state: object %s: %s", commit, id,
                          err == -EBADMSG ? "is damaged" : strerror(-err));
}

char *history_find(const char *to, history_found *found, bool *damaged) {
    char *why = NULL;
    *damaged = false;
    pthread_mutex_lock(&the_history.lock);
    entry *e = find(to, &why);
    if (e) {
        why = restore(e);
        *damaged = why;
    }
    if (!why) {
        found->sources = source_set_hold(e->sources);
        memcpy(found->id, e->id, sizeof found->id);
        git_print(&e->commit, found->commit);
    }
    pthread_mutex_unlock(&the_history.lock);
    return why;
}

/* ---- giving tags ---- */

static history_result untag(const char *name, char **what) {
    tag *t = find_tag(name);
    *what = t ? state_tag(name, NULL) : message_format("%s: no such tag", name);
    if (*what) return t ? HISTORY_FAILED : HISTORY_UNKNOWN;
    char commit[GIT_ID_DIGITS + 1];
    git_print(&t->commit, commit);
    *what = message_copy(commit);
    remove_tag(t);
    history_drop_old();
    return HISTORY_DONE;
}

static history_result tag_one(const char *name, const char *to, char **what) {
    if (!can_be_tag(name)) {
        *what =
            message_format("%s: can be no tag: letters, digits and . _ - + , not as an id", name);
        return HISTORY_WRONG;
    }
    const entry *e = *to ? find(to, what) : the_history.now;
    if (!e) {
        if (!*to) *what = message_copy("no generation serves yet");
        return HISTORY_UNKNOWN;
    }
    const tag *there = find_tag(name);
    char commit[GIT_ID_DIGITS + 1];
    git_print(&e->commit, commit);
    bool same = there && memcmp(&there->commit, &e->commit, sizeof e->commit) == 0;
    if (same || there) {
        *what = same ? message_copy(commit)
                     : message_format("%s: another generation has this tag", name);
        return same ? HISTORY_DONE : HISTORY_TAKEN;
    }
    if (the_history.n_tags >= HISTORY_TAGS_MAX) {
        *what = message_format("there are %d tags already", the_history.n_tags);
        return HISTORY_TAKEN;
    }
    tag *t = add_tag(name, &e->commit);
    *what = t ? state_tag(name, &e->commit) : message_no_memory;
    if (*what) {
        if (t) remove_tag(t);
        return HISTORY_FAILED;
    }
    *what = message_copy(commit);
    return HISTORY_DONE;
}

history_result history_tag(const char *name, const char *to, char **what) {
    pthread_mutex_lock(&the_history.lock);
    history_result r = to ? tag_one(name, to, what) : untag(name, what);
    pthread_mutex_unlock(&the_history.lock);
    return r;
}
