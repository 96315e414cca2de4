/* What a generation costs. A reload reads all files of the app anew, and most have not changed. So the bytes of a file
 * are looked for by their git id. If a blob has them already, it is used and the new bytes are freed. So a generation
 * that is kept for a rollback costs its names, and the files that have changed since.
 *
 * SHA-1 can be made to collide. So two files with one id are compared, and stay two if they differ.
 *
 * The table is libc's tree, under a pthread mutex: source.c calls from threads that run no G.
 */
#include "blob.h"

#include <pthread.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>

static struct {
    pthread_mutex_t lock;
    void *all; /* lock: tree of file_blob, by id */
} blobs = {.lock = PTHREAD_MUTEX_INITIALIZER};

static int by_id(const void *a, const void *b) {
    return memcmp(&((const file_blob *)a)->id, &((const file_blob *)b)->id, sizeof(git_id));
}

static file_blob *find_locked(const git_id *id) {
    file_blob key = {.id = *id};
    file_blob **found = tfind(&key, &blobs.all, by_id);
    return found ? *found : NULL;
}

file_blob *blob_keep(char *bytes, size_t len) {
    file_blob *made = malloc(sizeof *made), *b = made;
    if (!made) {
        free(bytes);
        return NULL;
    }
    *made =
        (file_blob){.id = git_object("blob", bytes, len), .bytes = bytes, .len = len, .holders = 1};
    pthread_mutex_lock(&blobs.lock);
    file_blob *there = find_locked(&made->id);
    if (there && there->len == len && memcmp(there->bytes, bytes, len) == 0) {
        there->holders++;
        b = there;
    } else if (there) {
        made->alone = true;
    } else if (!tsearch(made, &blobs.all, by_id)) {
        b = NULL;
    }
    pthread_mutex_unlock(&blobs.lock);
    if (b == made) return b;
    free(bytes);
    free(made);
    return b;
}

file_blob *blob_find(const git_id *id) {
    pthread_mutex_lock(&blobs.lock);
    file_blob *b = find_locked(id);
    if (b) b->holders++;
    pthread_mutex_unlock(&blobs.lock);
    return b;
}

void blob_drop(file_blob *b) {
    if (!b) return;
    pthread_mutex_lock(&blobs.lock);
    bool last = --b->holders == 0;
    if (last && !b->alone) tdelete(b, &blobs.all, by_id);
    pthread_mutex_unlock(&blobs.lock);
    if (!last) return;
    free((char *)b->bytes);
    free(b);
}
