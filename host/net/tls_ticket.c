/* Keys of session tickets. See tls_ticket.h.
 *
 * Whoever has a key reads all sessions that were resumed under it (RFC 5077, 5.5; TLS 1.3's, too, as far as no new key
 * exchange was made), so keys are random and in memory only. The first ticket after an hour gets a new key. Two older
 * keys are still good for the tickets that they have sealed.
 *
 * The callback runs in each handshake on any thread: it copies a key under a lock that is held for so long. Algorithms
 * are fetched once: a fetch takes several locks of OpenSSL 3.0. */
#include "tls_ticket.h"

#include "../../runtime/runtime.h"

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <string.h>

#define ROTATE_NS ((int64_t)3600 * 1000 * 1000 * 1000)

typedef struct ticket_key {
    uint8_t name[16], mac[32], aes[32];
} ticket_key;

enum { KEYS = 3 };

static struct {
    pthread_mutex_t lock;
    ticket_key keys[KEYS]; /* the first one is for new tickets */
    int n;
    int64_t made_ns;    /* when the first one came */
    EVP_CIPHER *cipher; /* fetched under the lock, once */
} tickets = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* Puts a new key in front. Under the lock. */
static bool push_random(void) {
    ticket_key key;
    if (RAND_bytes((uint8_t *)&key, sizeof key) != 1) return false;
    memmove(tickets.keys + 1, tickets.keys, sizeof tickets.keys - sizeof tickets.keys[0]);
    tickets.keys[0] = key;
    OPENSSL_cleanse(&key, sizeof key);
    if (tickets.n < KEYS) tickets.n++;
    tickets.made_ns = rt_nanotime();
    return true;
}

/* The key of this name, or the first one; false: there is none. *old: it is not the first one. */
static bool find_key(const uint8_t *name, ticket_key *to, bool *old) {
    bool found = false;
    pthread_mutex_lock(&tickets.lock);
    /* Without random bytes the old key stays. */
    if (!name && rt_nanotime() - tickets.made_ns >= ROTATE_NS) (void)push_random();
    for (int i = 0; i < tickets.n && !found; i++) {
        found = !name || memcmp(tickets.keys[i].name, name, sizeof to->name) == 0;
        if (!found) continue;
        *to = tickets.keys[i];
        *old = i > 0;
    }
    pthread_mutex_unlock(&tickets.lock);
    return found;
}

static int init_mac(EVP_MAC_CTX *mac, ticket_key *key) {
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, key->mac, sizeof key->mac),
        OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, (char *)"SHA256", 0),
        OSSL_PARAM_construct_end(),
    };
    return EVP_MAC_CTX_set_params(mac, params);
}

/* OpenSSL's contract: 1: use it; 2: use it, and send a new ticket; 0: there is none; negative: an error. */
static int ticket_cb(SSL *ssl, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher,
                     EVP_MAC_CTX *mac, int encrypt) {
    (void)ssl;
    ticket_key key;
    bool old = false;
    if (!find_key(encrypt ? NULL : name, &key, &old)) return 0;
    int ok;
    if (encrypt) {
        memcpy(name, key.name, sizeof key.name);
        ok = RAND_bytes(iv, EVP_CIPHER_get_iv_length(tickets.cipher)) == 1 &&
             EVP_EncryptInit_ex2(cipher, tickets.cipher, key.aes, iv, NULL) == 1;
    } else {
        ok = EVP_DecryptInit_ex2(cipher, tickets.cipher, key.aes, iv, NULL) == 1;
    }
    ok = ok && init_mac(mac, &key) == 1;
    OPENSSL_cleanse(&key, sizeof key);
    if (!ok) return -1;
    return old ? 2 : 1;
}

bool tls_ticket_use(SSL_CTX *ctx) {
    pthread_mutex_lock(&tickets.lock);
    bool ok = tickets.n > 0 || push_random();
    if (!tickets.cipher) tickets.cipher = EVP_CIPHER_fetch(NULL, "AES-256-CBC", NULL);
    ok = ok && tickets.cipher;
    pthread_mutex_unlock(&tickets.lock);
    return ok && SSL_CTX_set_tlsext_ticket_key_evp_cb(ctx, ticket_cb) == 1;
}
