/* Names of places in scripts: routes of handlers, lines that start Gs. The log names such a place when it tells what
 * holds a VM or was ended. Then the VM's Lua cannot be asked: the VM is stuck, or thrown away. So the names stand here.
 * Requests and Gs have their numbers, which any thread may read at any time.
 *
 * A name has the same number in all VMs and generations, and stays as long as the process. There are as many names as
 * the script has routes and lines that start Gs, and some more with each reload of changed files. Beyond LABELS_MAX
 * names, which a script must make from its input, there are no further ones, and the log says less. */
#include "../../runtime/lock.h"
#include "base_ffi.h"
#include "hash.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { LABELS_MAX = 1 << 14, BUCKETS = 1 << 12, TEXT_MAX = 240 };

typedef struct label {
    uint16_t next; /* in its bucket; 0: none */
    uint16_t len;
    char text[];
} label;

static struct {
    rt_lock lock;
    uint16_t buckets[BUCKETS];              /* lock */
    int n;                                  /* lock: of the last one, from 1 */
    _Atomic(label *) by_number[LABELS_MAX]; /* lock writes */
} labels;

static label *at(int number) {
    return atomic_load_explicit(&labels.by_number[number], memory_order_acquire);
}

/* lock held. */
static int find(uint16_t first, const char *text, size_t len) {
    for (int i = first; i != 0; i = at(i)->next)
        if (at(i)->len == len && memcmp(at(i)->text, text, len) == 0) return i;
    return 0;
}

/* lock held. 0: no memory, or too many. */
static int add(uint16_t *bucket, const char *text, size_t len) {
    if (labels.n == LABELS_MAX - 1) return 0;
    label *l = malloc(sizeof *l + len + 1);
    if (!l) return 0;
    l->next = *bucket;
    l->len = (uint16_t)len;
    memcpy(l->text, text, len);
    l->text[len] = 0;
    int number = ++labels.n;
    atomic_store_explicit(&labels.by_number[number], l, memory_order_release);
    *bucket = (uint16_t)number;
    return number;
}

int host_label(const char *text, size_t len) {
    if (len > TEXT_MAX) len = TEXT_MAX;
    uint16_t *bucket = &labels.buckets[hash_name(text, len) % BUCKETS];
    rt_lock_acquire(&labels.lock);
    int number = find(*bucket, text, len);
    if (!number) number = add(bucket, text, len);
    rt_lock_release(&labels.lock);
    return number;
}

const char *host_label_text(int number) {
    const label *l = number > 0 && number < LABELS_MAX ? at(number) : NULL;
    return l ? l->text : "";
}
