/* Certificates that change while they serve. See certs.h.
 *
 * Certificates live for weeks, servers for months. A G looks at the files each second, through links: certbot keeps
 * the files of each renewal and moves links to them. What has changed, and then was the same in two looks, is loaded
 * beside the present config. If all of it is good, the two are exchanged: connections that begin afterwards have the
 * new one, others go on with the one that they began with, which is freed with the last of them. A file that can't be
 * used changes nothing, and the log tells its name, once, until the files change again.
 *
 * Rejected: inotify. It watches inodes: each folder of each path and each target of each link would have to be watched,
 * anew after each change, for a few stat calls a second.
 *
 * A certificate and its key are two files, and no rename exchanges both at once. A pair of which one file is new does
 * not fit together: it is bad, so nothing changes until the other file comes. */
#include "certs.h"

#include "../../runtime/lock.h"
#include "../../runtime/runtime.h"
#include "../base/base.h"
#include "../base/bell.h"
#include "../base/hash.h"
#include "../base/log.h"
#include "../base/refs.h"
#include "tls_ticket.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define LOOK_NS NS_PER_SEC

struct certs {
    refs refs;
    rt_lock lock;
    tls_config *config; /* lock: the present one, held */
    tls_settings set;   /* own copies; constant. Of certs_of: nothing */
    char *ticket_keys;  /* constant; NULL: none */
    _Atomic bool asked; /* atomic: load, changed or not */
    bell bell;          /* rung when asked becomes true */
    /* Stamps of all files, when they were loaded last and looked at last. The maker, then the G that watches. */
    uint64_t loaded, seen;
};

/* ---- making ---- */

/* A copy of a text that may be NULL. *ok becomes false without memory. */
static char *copy(const char *text, bool *ok) {
    char *s = text ? strdup(text) : NULL;
    if (text && !s) *ok = false;
    return s;
}

static bool copy_settings(certs *c, const tls_settings *set, const char *ticket_keys) {
    bool ok = true;
    tls_pair *pairs = calloc((size_t)set->n_pairs + 1, sizeof *pairs);
    c->set = *set;
    c->set.pairs = pairs;
    c->set.ca = copy(set->ca, &ok);
    c->set.pin = copy(set->pin, &ok);
    c->set.alpn = copy(set->alpn, &ok);
    c->ticket_keys = copy(ticket_keys, &ok);
    if (!pairs) c->set.n_pairs = 0;
    for (int i = 0; i < c->set.n_pairs; i++)
        pairs[i] = (tls_pair){copy(set->pairs[i].cert, &ok), copy(set->pairs[i].key, &ok)};
    return ok && pairs;
}

static uint64_t stamp(uint64_t h, const char *file) {
    struct stat st;
    uint64_t of[6] = {h};
    if (!file) return h;
    if (stat(file, &st) < 0) {
        of[1] = (uint64_t)errno;
    } else {
        of[1] = st.st_dev;
        of[2] = st.st_ino;
        of[3] = (uint64_t)st.st_size;
        of[4] = (uint64_t)st.st_ctim.tv_sec;
        of[5] = (uint64_t)st.st_ctim.tv_nsec;
    }
    return hash_name((const char *)of, sizeof of);
}

/* Of all files as they are now. */
static uint64_t stamps(const certs *c) {
    uint64_t h = 0;
    for (int i = 0; i < c->set.n_pairs; i++) {
        char *staple = tls_staple_file(c->set.pairs[i].cert);
        h = stamp(stamp(stamp(h, c->set.pairs[i].cert), c->set.pairs[i].key), staple);
        free(staple);
    }
    return stamp(stamp(h, c->set.ca), c->ticket_keys);
}

/* Loads all files beside what there is. NULL: why. */
static tls_config *load(certs *c, char why[TLS_WHY]) {
    c->loaded = c->seen = stamps(c); /* before the load: a later change is seen */
    tls_config *config = tls_config_new(&c->set, why);
    if (!config || !c->ticket_keys || tls_ticket_load(c->ticket_keys, why, TLS_WHY)) return config;
    tls_config_release(config);
    return NULL;
}

certs *certs_new(const tls_settings *set, const char *ticket_keys, char why[TLS_WHY]) {
    certs *c = calloc(1, sizeof *c);
    if (c) refs_init(&c->refs, 1);
    if (!c || !copy_settings(c, set, ticket_keys))
        snprintf(why, TLS_WHY, "no memory");
    else if ((c->config = load(c, why)))
        return c;
    if (c) certs_release(c);
    return NULL;
}

certs *certs_of(tls_config *config) {
    certs *c = calloc(1, sizeof *c);
    if (!c) return NULL;
    refs_init(&c->refs, 1);
    tls_config_hold(config);
    c->config = config;
    return c;
}

void certs_hold(certs *c) {
    refs_hold(&c->refs);
}

void certs_release(certs *c) {
    if (!refs_drop(&c->refs)) return;
    tls_config_release(c->config);
    for (int i = 0; i < c->set.n_pairs; i++) {
        free((char *)c->set.pairs[i].cert);
        free((char *)c->set.pairs[i].key);
    }
    free((tls_pair *)c->set.pairs);
    free((char *)c->set.ca);
    free((char *)c->set.pin);
    free((char *)c->set.alpn);
    free(c->ticket_keys);
    free(c);
}

/* ---- exchanging ---- */

tls_config *certs_config(certs *c) {
    rt_lock_acquire(&c->lock);
    tls_config *config = c->config;
    tls_config_hold(config);
    rt_lock_release(&c->lock);
    return config;
}

static void reload(certs *c) {
    char why[TLS_WHY];
    tls_config *config = load(c, why);
    if (!config) {
        log_line(LOG_ERROR, "TLS: %s: the certificates stay as they were", why);
        return;
    }
    rt_lock_acquire(&c->lock);
    tls_config *old = c->config;
    c->config = config;
    rt_lock_release(&c->lock);
    tls_config_release(old);
    log_line(LOG_INFO, "TLS: certificates loaded anew");
}

static void look(certs *c) {
    bool asked = atomic_exchange(&c->asked, false);
    uint64_t now = stamps(c);
    bool settled = now == c->seen;
    c->seen = now;
    if (asked || (settled && now != c->loaded)) reload(c);
}

static void watch_main(void *arg) {
    certs *c = arg;
    for (;;) {
        (void)bell_wait(&c->bell, rt_nanotime() + LOOK_NS);
        rt_entersyscall();
        look(c);
        rt_exitsyscall();
    }
}

bool certs_watch(certs *c) {
    certs_hold(c);
    if (rt_go(watch_main, c)) return true;
    certs_release(c);
    return false;
}

void certs_ask(certs *c) {
    atomic_store(&c->asked, true);
    bell_ring(&c->bell);
}
