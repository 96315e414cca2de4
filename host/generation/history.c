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
 * which sets share (blob.c). The last HISTORY_MAX generations are kept, and those with a tag.
 *
 * The record of a generation holds what the commit does not: a text as source_list's, which these records precede:
 *
 *     lunapark 1              the form
 *     content ID              source_id's
 *     seq N                   of all generations, which one
 *     parent COMMIT
 *     added PATH ...          source_compare's, with the parent
 *
 * "end" follows them. With --state, commit, files and record are kept on the disk too (state.c). A generation that
 * another process has left there gets its source_set when it is to serve again.
 *
 * A start makes a generation, too, though often of the files of the last one. A process that is started over and over
 * would displace all other generations. So a start that brings the files of the start before it, which had brought
 * nothing new, replaces that start.
 */
#include "history.h"

#include "../base/array.h"
#include "../base/list.h"
#include "history_parts.h"
#include "message.h"
#include "source_restore.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct history the_history = {.lock = PTHREAD_MUTEX_INITIALIZER};

static const char *const causes[] = {"start", "signal", "watch", "admin"};

/* ---- records ---- */

static const char *next_record(const char *at) {
    return at + strlen(at) + 1;
}

/* What stands behind the word, if the record begins with it. */
static const char *after_word(const char *record, const char *word) {
    size_t n = strlen(word);
    return strncmp(record, word, n) == 0 && record[n] == ' ' ? record + n + 1 : NULL;
}

static bool is_change(const char *record) {
    return after_word(record, "added") || after_word(record, "changed") ||
           after_word(record, "removed") || after_word(record, "more");
}

static bool is_listed(const char *record) {
    return after_word(record, "file") || after_word(record, "watched") ||
           after_word(record, "kept") || after_word(record, "name") || after_word(record, "is") ||
           after_word(record, "missing") || after_word(record, "folder");
}

static const char *value_of(const entry *e, const char *word) {
    for (const char *at = e->record; at < e->record + e->record_len; at = next_record(at)) {
        const char *value = after_word(at, word);
        if (value) return value;
    }
    return NULL;
}

static void copy_records(const entry *e, bool (*which)(const char *record), FILE *out) {
    for (const char *at = e->record; at < e->record + e->record_len; at = next_record(at))
        if (which(at)) fwrite(at, strlen(at) + 1, 1, out);
}

static bool changes_nothing(const entry *e) {
    for (const char *at = e->record; at < e->record + e->record_len; at = next_record(at))
        if (is_change(at)) return false;
    return true;
}

/* ---- an entry ---- */

static void free_entry(entry *e) {
    if (!e) return;
    free(e->message);
    free(e->text);
    free(e->record);
    source_set_free(e->sources);
    free(e);
}

/* Makes e's commit. False: no memory. */
static bool make_commit(entry *e) {
    char parent[GIT_ID_DIGITS + 1] = "";
    if (e->has_parent) git_print(&e->parent, parent);
    int n = asprintf(&e->text,
                     "tree %.*s\n%s%s%sauthor %s <%s@lunapark> %lld +0000\n"
                     "committer %s <%s@lunapark> %lld +0000\n\n%s%s",
                     GIT_ID_DIGITS, e->id, *parent ? "parent " : "", parent, *parent ? "\n" : "",
                     e->who, e->who, (long long)e->time_s, e->who, e->who, (long long)e->time_s,
                     e->message ? e->message : "", e->message ? "\n" : "");
    if (n < 0) {
        e->text = NULL;
        return false;
    }
    e->text_len = (size_t)n;
    e->commit = git_object("commit", e->text, e->text_len);
    return true;
}

/* Makes e's record, of a list of files and what differs from the parent. False: no memory. */
static bool make_record(entry *e, const char *list, size_t list_len, const char *changes,
                        size_t changes_len) {
    char parent[GIT_ID_DIGITS + 1];
    FILE *out = open_memstream(&e->record, &e->record_len);
    if (!out) return false;
    fprintf(out, "lunapark 1%ccontent %s%cseq %ld%c", 0, e->id, 0, e->seq, 0);
    git_print(&e->parent, parent);
    if (e->has_parent) fprintf(out, "parent %s%c", parent, 0);
    if (changes_len) fwrite(changes, changes_len, 1, out);
    if (list_len) fwrite(list, list_len, 1, out);
    fprintf(out, "end%c", 0);
    bool whole = !ferror(out);
    return fclose(out) == 0 && whole;
}

/* The list of n's files. Of sources that are loaded again, it is the old list: the set may have loaded more since. */
static bool make_list(const history_new *n, char **list, size_t *len) {
    git_id id;
    const entry *old = n->again && git_scan(n->again, &id) ? history_commit(&id) : NULL;
    if (!old) return source_list(n->sources, list, len);
    FILE *out = open_memstream(list, len);
    if (!out) return false;
    copy_records(old, is_listed, out);
    bool whole = !ferror(out);
    return fclose(out) == 0 && whole;
}

static entry *last_entry(void) {
    return the_history.all.last ? list_of(the_history.all.last, entry, link) : NULL;
}

/* n is a start that brings the files of the start before, and this start had brought nothing new. */
static bool repeats(const history_new *n, const entry *last) {
    return n->cause == BY_START && !the_history.now && last &&
           strcmp(last->who, causes[BY_START]) == 0 && strcmp(last->id, n->id) == 0 &&
           changes_nothing(last) && !history_tag_of(last, NULL);
}

/* lock held. NULL: no memory. */
static entry *new_entry(const history_new *n) {
    entry *last = last_entry(), *e = calloc(1, sizeof *e);
    const entry *parent = the_history.now ? the_history.now : last;
    char *list = NULL, *changes = NULL;
    size_t list_len = 0, changes_len = 0;
    if (!e) return NULL;
    e->replaces = repeats(n, last) ? last : NULL;
    e->has_parent = e->replaces ? last->has_parent : parent != NULL;
    if (e->has_parent) e->parent = e->replaces ? last->parent : parent->commit;
    memcpy(e->id, n->id, strlen(n->id) + 1);
    strcpy(e->who, causes[n->cause]);
    e->number = n->number;
    e->seq = last ? last->seq + 1 : 1;
    e->time_s = time(NULL);
    bool whole = !n->message || !*n->message || (e->message = strdup(n->message));
    whole = whole && make_list(n, &list, &list_len) &&
            source_compare(parent ? parent->record : NULL, parent ? parent->record_len : 0, list,
                           list_len, &changes, &changes_len) &&
            make_record(e, list, list_len, changes, changes_len) && make_commit(e);
    free(list);
    free(changes);
    if (whole) {
        e->sources = source_set_hold(n->sources);
        return e;
    }
    free_entry(e);
    return NULL;
}

/* ---- the list ---- */

entry *history_commit(const git_id *id) {
    for (list_link *l = the_history.all.last; l; l = l->prev) {
        entry *e = list_of(l, entry, link);
        if (memcmp(&e->commit, id, sizeof *id) == 0) return e;
    }
    return NULL;
}

static void drop(entry *e) {
    list_remove(&the_history.all, &e->link);
    free_entry(e);
}

void history_drop_old(void) {
    int n = 0;
    for (list_link *l = the_history.all.last, *prev; l; l = prev) {
        entry *e = list_of(l, entry, link);
        prev = l->prev;
        if (n++ >= HISTORY_MAX && !history_tag_of(e, NULL)) drop(e);
    }
}

bool history_add(const history_new *n, char commit[SOURCE_ID_SIZE]) {
    pthread_mutex_lock(&the_history.lock);
    entry *e = new_entry(n);
    if (e) {
        list_append(&the_history.all, &e->link);
        the_history.now = e;
        git_print(&e->commit, commit);
        if (e->replaces) {
            e->has_replaced = memcmp(&e->replaces->commit, &e->commit, sizeof e->commit) != 0;
            e->replaced = e->replaces->commit;
            drop(e->replaces);
            e->replaces = NULL;
        }
        history_drop_old();
    }
    pthread_mutex_unlock(&the_history.lock);
    return e;
}

static char *store(entry *e) {
    state_generation g = {.commit = e->commit,
                          .text = e->text,
                          .text_len = e->text_len,
                          .record = e->record,
                          .record_len = e->record_len};
    char *err = state_store(&g, e->sources ? source_root(e->sources) : "",
                            e->has_replaced ? &e->replaced : NULL);
    e->stored = !err;
    return err;
}

char *history_store(void) {
    char *err = NULL;
    pthread_mutex_lock(&the_history.lock);
    for (list_link *l = the_history.all.first; l; l = l->next) {
        entry *e = list_of(l, entry, link);
        if (e->stored) continue;
        message_free(err); /* the log has it from the attempt before */
        err = store(e);
    }
    pthread_mutex_unlock(&the_history.lock);
    return err;
}

/* ---- generations of other processes ---- */

/* Fills e from its commit. False: the commit is none of ours. */
static bool scan_commit(entry *e) {
    const char *at = e->text + 5 + GIT_ID_DIGITS + 1, *author, *end;
    long long time_s = 0;
    if (e->text_len < 60 || strncmp(e->text, "tree ", 5) != 0) return false;
    e->has_parent = strncmp(at, "parent ", 7) == 0 && git_scan(at + 7, &e->parent);
    if (e->has_parent) at += 7 + GIT_ID_DIGITS + 1;
    author = after_word(at, "author");
    if (!author || sscanf(author, "%15[a-z] <%*[^>]> %lld", e->who, &time_s) != 2) return false;
    e->time_s = time_s;
    end = strstr(at, "\n\n");
    if (!end) return false;
    if (!end[2]) return true;
    e->message = strndup(end + 2, strlen(end + 2) - 1);
    return e->message;
}

static bool take(void *arg, state_generation *g) {
    entries *all = arg;
    entry *e = calloc(1, sizeof *e);
    if (!e || !ARRAY_ROOM(all->list, all->n)) {
        free(e);
        free(g->text);
        free(g->record);
        return false;
    }
    e->commit = g->commit;
    e->text = g->text;
    e->text_len = g->text_len;
    e->record = g->record;
    e->record_len = g->record_len;
    e->stored = true;
    const char *id = value_of(e, "content"), *seq = value_of(e, "seq");
    if (!id || strlen(id) < GIT_ID_DIGITS || strlen(id) >= SOURCE_ID_SIZE || !seq ||
        !scan_commit(e) || strncmp(id, e->text + 5, GIT_ID_DIGITS) != 0) {
        free_entry(e);
        return false;
    }
    strcpy(e->id, id);
    e->seq = strtol(seq, NULL, 10);
    all->list[all->n++] = e;
    return true;
}

static int by_seq(const void *a, const void *b) {
    long x = (*(entry *const *)a)->seq, y = (*(entry *const *)b)->seq;
    return (x > y) - (x < y);
}

char *history_open(const char *app_path, const char *dir) {
    entries all = {0};
    the_history.app_path = app_path;
    if (!dir) return NULL;
    char *err = state_open(dir);
    if (err) return err;
    pthread_mutex_lock(&the_history.lock);
    state_load(take, &all);
    if (all.n) qsort(all.list, all.n, sizeof(entry *), by_seq);
    for (size_t i = 0; i < all.n; i++)
        list_append(&the_history.all, &all.list[i]->link);
    free(all.list);
    history_load_tags();
    pthread_mutex_unlock(&the_history.lock);
    return NULL;
}

/* ---- the history as text ---- */

static void print_tag(void *out, const char *name) {
    fprintf(out, "tag %s%c", name, 0);
}

static void print_entry(const entry *e, FILE *out) {
    char id[GIT_ID_DIGITS + 1];
    git_print(&e->commit, id);
    fprintf(out, "id %s%ctree %.*s%ctime %lld%cwho %s%c", id, 0, GIT_ID_DIGITS, e->id, 0,
            (long long)e->time_s, 0, e->who, 0);
    git_print(&e->parent, id);
    if (e->has_parent) fprintf(out, "parent %s%c", id, 0);
    if (e->number) fprintf(out, "number %d%c", e->number, 0);
    if (e->message) fprintf(out, "message %s%c", e->message, 0);
    if (e == the_history.now) fprintf(out, "serves%c", 0);
    history_each_tag(e, print_tag, out);
    copy_records(e, is_change, out);
}

char *history_print(size_t *len) {
    char *text = NULL;
    FILE *out = open_memstream(&text, len);
    if (!out) return NULL;
    pthread_mutex_lock(&the_history.lock);
    for (list_link *l = the_history.all.last; l; l = l->prev)
        print_entry(list_of(l, entry, link), out);
    pthread_mutex_unlock(&the_history.lock);
    bool whole = !ferror(out);
    if (fclose(out) != 0) whole = false;
    if (whole) return text;
    free(text);
    return NULL;
}
