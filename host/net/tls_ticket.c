/* Keys of session tickets. See tls_ticket.h.
 *
 * Whoever has a key reads all sessions that were resumed under it (RFC 5077, 5.5; TLS 1.3's, too, as far as no new key
 * exchange was made), so keys are random and in memory only. The first ticket after an hour gets a new key. Two older
 * keys are still good for the tickets that they have sealed. A process that takes over (SIGUSR2) gets the keys in sealed
 * memory, so sessions resume there too.
 *
 * Machines that answer for one name share a file of keys instead. Who writes the file rotates them.
 *
 * The callback runs in each handshake, on any thread. The lock is held while a key is copied. Algorithms are fetched
 * once, since a fetch takes several locks of OpenSSL 3.0. */
#include "tls_ticket.h"

#include "../../runtime/runtime.h"
#include "../base/base.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define ROTATE_NS (3600 * NS_PER_SEC)

typedef struct ticket_key {
    uint8_t name[16], mac[32], aes[32];
} ticket_key;

enum { KEPT = 3, KEYS = 16, KEY = 80 };
_Static_assert(sizeof(ticket_key) == KEY, "as in files");

static struct {
    pthread_mutex_t lock;
    ticket_key keys[KEYS]; /* the first one is for new tickets */
    int n;
    bool of_file;       /* the keys are a file's, and stay */
    int64_t made_ns;    /* when the first one came */
    EVP_CIPHER *cipher; /* fetched under the lock, once */
} tickets = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* Puts a new key in front. Under the lock. */
static bool push_random(void) {
    ticket_key key;
    if (RAND_bytes((uint8_t *)&key, sizeof key) != 1) return false;
    memmove(tickets.keys + 1, tickets.keys, (KEPT - 1) * sizeof tickets.keys[0]);
    tickets.keys[0] = key;
    OPENSSL_cleanse(&key, sizeof key);
    if (tickets.n < KEPT) tickets.n++;
    tickets.made_ns = rt_nanotime();
    return true;
}

/* The key of this name, or the first one; false: there is none. *old: it is not the first one. */
static bool find_key(const uint8_t *name, ticket_key *to, bool *old) {
    bool found = false;
    pthread_mutex_lock(&tickets.lock);
    /* Without random bytes the old key stays. */
    if (!name && !tickets.of_file && rt_nanotime() - tickets.made_ns >= ROTATE_NS)
        (void)push_random();
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

/* ---- keys from elsewhere ---- */

/* Puts keys[0 .. n) in place of all. */
static void set_keys(const ticket_key *keys, int n, bool of_file, int64_t made_ns) {
    pthread_mutex_lock(&tickets.lock);
    memcpy(tickets.keys, keys, (size_t)n * sizeof *keys);
    tickets.n = n;
    tickets.of_file = of_file;
    tickets.made_ns = made_ns;
    pthread_mutex_unlock(&tickets.lock);
}

bool tls_ticket_load(const char *file, char *why, size_t cap) {
    ticket_key keys[KEYS + 1];
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, keys, sizeof keys);
    int err = errno;
    if (fd >= 0) close(fd);
    bool ok = n > 0 && n % KEY == 0 && n <= KEYS * KEY;
    if (ok)
        set_keys(keys, (int)(n / KEY), true, 0);
    else if (n < 0)
        snprintf(why, cap, "ticket keys %s: %s", file, strerror(err));
    else
        snprintf(why, cap, "ticket keys %s: must be 1 to %d keys of %d bytes", file, KEYS, KEY);
    OPENSSL_cleanse(keys, sizeof keys);
    return ok;
}

/* What a process hands over. Of rt_nanotime, which counts alike in all processes of a machine. */
typedef struct handed_keys {
    int64_t made_ns;
    ticket_key keys[KEPT];
} handed_keys;

static const int seals = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

/* A descriptor of sealed memory with these bytes, or -errno. */
static int seal(const void *bytes, size_t n) {
    int fd = memfd_create("ticket keys", MFD_CLOEXEC | MFD_ALLOW_SEALING), err = 0;
    if (fd < 0) return -errno;
    ssize_t written = write(fd, bytes, n);
    if (written != (ssize_t)n)
        err = written < 0 ? -errno : -EIO;
    else if (fcntl(fd, F_ADD_SEALS, seals) < 0)
        err = -errno;
    if (!err) return fd;
    close(fd);
    return err;
}

int tls_ticket_hand_over(void) {
    handed_keys handed;
    pthread_mutex_lock(&tickets.lock);
    int n = tickets.of_file ? 0 : tickets.n;
    handed.made_ns = tickets.made_ns;
    memcpy(handed.keys, tickets.keys, (size_t)n * KEY);
    pthread_mutex_unlock(&tickets.lock);
    int fd = n ? seal(&handed, offsetof(handed_keys, keys) + (size_t)n * KEY) : -ENOENT;
    OPENSSL_cleanse(&handed, sizeof handed);
    return fd;
}

int tls_ticket_inherit(int fd) {
    const ssize_t head = offsetof(handed_keys, keys);
    handed_keys handed;
    int sealed = fcntl(fd, F_GET_SEALS);
    if (sealed != seals) return -EINVAL; /* another's descriptor */
    ssize_t n = pread(fd, &handed, sizeof handed, 0);
    close(fd);
    bool ok = n > head && (n - head) % KEY == 0;
    if (ok) set_keys(handed.keys, (int)((n - head) / KEY), false, handed.made_ns);
    OPENSSL_cleanse(&handed, sizeof handed);
    return ok ? 0 : -EINVAL;
}
