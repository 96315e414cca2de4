/* A history of generations, in the words of git.
 *
 * Each generation is a commit: its tree, the commit that served before it, its cause, the time, and a message if one
 * was given. The commit's id is git's, of this text:
 *
 *     tree 0f1a...
 *     parent 93c2...
 *     author signal <signal@lunapark> 1764439200 +0000
 *     committer signal <signal@lunapark> 1764439200 +0000
 *
 *     message
 *
 * So an id stands for everything that led to it, and `git cat-file` can check it. Two generations of one tree, before
 * and after another generation, have different ids.
 *
 * A generation is kept with its source_set, which VMs can load again: names that lead to files, and the files' bytes,
 * which sets share (blob.c). The last HISTORY_MAX generations are kept.
 */
#include "history.h"

#include "../base/list.h"
#include "gittree.h"
#include "message.h"

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { DIGITS_MIN = 4 /* of an id that a person says */ };

typedef struct entry {
    list_link link; /* of history.all */
    git_id commit, parent;
    bool has_parent;
    char id[SOURCE_ID_SIZE]; /* source_id's */
    int number;
    int64_t time_s;
    history_cause cause;
    char *message; /* NULL: none */
    char *files;   /* source_list's */
    size_t files_len;
    char *changes; /* source_compare's, with the parent */
    size_t changes_len;
    source_set *sources;
} entry;

static struct {
    pthread_mutex_t lock;
    list_head all; /* lock: the oldest first */
    int n;         /* lock: entries of `all` */
    entry *now;    /* lock: the last entry, which serves */
} history = {.lock = PTHREAD_MUTEX_INITIALIZER};

static const char *const causes[] = {"start", "signal", "watch", "admin"};

/* ---- an entry ---- */

static void free_entry(entry *e) {
    if (!e) return;
    free(e->message);
    free(e->files);
    free(e->changes);
    source_set_free(e->sources);
    free(e);
}

/* Writes the commit as git has it; the caller frees it. -1: no memory. */
static int commit_text(const entry *e, char **text) {
    char parent[GIT_ID_DIGITS + 1] = "";
    const char *who = causes[e->cause];
    if (e->has_parent) git_print(&e->parent, parent);
    return asprintf(text,
                    "tree %.*s\n%s%s%sauthor %s <%s@lunapark> %lld +0000\n"
                    "committer %s <%s@lunapark> %lld +0000\n\n%s%s",
                    GIT_ID_DIGITS, e->id, *parent ? "parent " : "", parent, *parent ? "\n" : "",
                    who, who, (long long)e->time_s, who, who, (long long)e->time_s,
                    e->message ? e->message : "", e->message ? "\n" : "");
}

/* lock held. NULL: no memory. */
static entry *new_entry(const history_new *n) {
    const entry *parent = history.now;
    entry *e = calloc(1, sizeof *e);
    if (!e) return NULL;
    memcpy(e->id, n->id, strlen(n->id) + 1);
    e->number = n->number;
    e->cause = n->cause;
    e->time_s = time(NULL);
    e->has_parent = parent;
    if (parent) e->parent = parent->commit;
    if (n->message && *n->message && !(e->message = strdup(n->message))) goto no_memory;
    if (!source_list(n->sources, &e->files, &e->files_len) ||
        !source_compare(parent ? parent->files : NULL, parent ? parent->files_len : 0, e->files,
                        e->files_len, &e->changes, &e->changes_len))
        goto no_memory;
    char *text;
    int len = commit_text(e, &text);
    if (len < 0) goto no_memory;
    e->commit = git_object("commit", text, (size_t)len);
    free(text);
    e->sources = source_set_hold(n->sources);
    return e;

no_memory:
    free_entry(e);
    return NULL;
}

/* ---- the list ---- */

/* lock held. */
static void drop_old(void) {
    while (history.n > HISTORY_MAX) {
        free_entry(list_of(list_take_first(&history.all), entry, link));
        history.n--;
    }
}

bool history_add(const history_new *n, char commit[SOURCE_ID_SIZE]) {
    pthread_mutex_lock(&history.lock);
    entry *e = new_entry(n);
    if (e) {
        list_append(&history.all, &e->link);
        history.n++;
        history.now = e;
        git_print(&e->commit, commit);
        drop_old();
    }
    pthread_mutex_unlock(&history.lock);
    return e;
}

/* ---- finding an entry ---- */

/* lock held. NULL: the commit is not kept. */
static entry *find_commit(const git_id *id) {
    for (list_link *l = history.all.last; l; l = l->prev) {
        entry *e = list_of(l, entry, link);
        if (memcmp(&e->commit, id, sizeof *id) == 0) return e;
    }
    return NULL;
}

/* lock held. The entry n generations back. NULL: there are not so many. */
static entry *go_back(long n) {
    entry *e = history.now;
    while (e && n-- > 0)
        e = e->has_parent ? find_commit(&e->parent) : NULL;
    return e;
}

/* lock held. The latest entry whose id begins with the digits; trees: whose tree's id does. *other: another entry's
 * does, too, with another id. */
static entry *find_digits(const char *digits, size_t n, bool trees, bool *other) {
    entry *found = NULL;
    *other = false;
    for (list_link *l = history.all.last; l; l = l->prev) {
        entry *e = list_of(l, entry, link);
        char commit[GIT_ID_DIGITS + 1];
        git_print(&e->commit, commit);
        if (strncmp(trees ? e->id : commit, digits, n) != 0) continue;
        if (found && !(trees && strncmp(found->id, e->id, GIT_ID_DIGITS) == 0)) *other = true;
        if (!found) found = e;
    }
    return found;
}

/* lock held. NULL: *why says what is wrong. */
static entry *find(const char *to, char **why) {
    char *end;
    entry *e;
    bool other = false;
    size_t n = strlen(to);
    if (to[0] == '-' && to[1] >= '0' && to[1] <= '9') {
        e = go_back(strtol(to + 1, &end, 10));
        if (e && !*end) return e;
        *why = message_format("%s: the history does not go back so far", to);
        return NULL;
    }
    bool is_id = n >= DIGITS_MIN && n <= GIT_ID_DIGITS && strspn(to, "0123456789abcdef") == n;
    e = is_id ? find_digits(to, n, false, &other) : NULL;
    if (!e && is_id) e = find_digits(to, n, true, &other);
    if (e && !other) return e;
    *why = message_format(e ? "%s: several generations have ids that begin so"
                            : "%s: no such generation in the history",
                          to);
    return NULL;
}

char *history_find(const char *to, history_found *found) {
    char *why = NULL;
    pthread_mutex_lock(&history.lock);
    const entry *e = find(to, &why);
    if (e) {
        found->sources = source_set_hold(e->sources);
        memcpy(found->id, e->id, sizeof found->id);
        git_print(&e->commit, found->commit);
    }
    pthread_mutex_unlock(&history.lock);
    return why;
}

/* ---- the history as text ---- */

static void print_entry(const entry *e, FILE *out) {
    char id[GIT_ID_DIGITS + 1];
    git_print(&e->commit, id);
    fprintf(out, "id %s%ctree %.*s%ctime %lld%cwho %s%c", id, 0, GIT_ID_DIGITS, e->id, 0,
            (long long)e->time_s, 0, causes[e->cause], 0);
    git_print(&e->parent, id);
    if (e->has_parent) fprintf(out, "parent %s%c", id, 0);
    if (e->number) fprintf(out, "number %d%c", e->number, 0);
    if (e->message) fprintf(out, "message %s%c", e->message, 0);
    if (e == history.now) fprintf(out, "serves%c", 0);
    if (e->changes_len) fwrite(e->changes, e->changes_len, 1, out);
}

char *history_print(size_t *len) {
    char *text = NULL;
    FILE *out = open_memstream(&text, len);
    if (!out) return NULL;
    pthread_mutex_lock(&history.lock);
    for (list_link *l = history.all.last; l; l = l->prev)
        print_entry(list_of(l, entry, link), out);
    pthread_mutex_unlock(&history.lock);
    bool whole = !ferror(out);
    if (fclose(out) != 0) whole = false;
    if (whole) return text;
    free(text);
    return NULL;
}
