/* Hashes, random bytes, passwords and sealed messages: libcrypto, behind functions that Lua calls (sys_ffi.h).
 *
 * Nothing here is cryptography of our own. These functions choose parameters, hand buffers over, and see to two things:
 *
 *  - The error queue of libcrypto belongs to the thread. A G changes threads, so whatever a call leaves there would be
 *    found by another G. Each function that may fail empties the queue before it returns.
 *  - An algorithm is fetched once per process. A fetch by name takes a lock and compares texts for longer than the hash
 *    of a short message takes.
 *
 * host_scrypt takes tens of milliseconds and megabytes on purpose: call it by lp.offload. */
#include "crypto.h"

#include "sys_ffi.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

/* Bytes at most: a hash that somebody else has made may ask for any number. */
enum { SCRYPT_MEMORY = 1 << 30 };

/* ---- algorithms ---- */

/* Written once, by fetch; afterwards any thread reads. NULL: libcrypto has none, as in a FIPS installation. */
static EVP_MD *digests[HOST_DIGESTS];
static EVP_CIPHER *sealing;

static void fetch(void) {
    static const char *const names[HOST_DIGESTS] = {
        [HOST_MD5] = "MD5",       [HOST_SHA1] = "SHA1",     [HOST_SHA256] = "SHA256",
        [HOST_SHA384] = "SHA384", [HOST_SHA512] = "SHA512",
    };
    for (int i = 0; i < HOST_DIGESTS; i++)
        digests[i] = EVP_MD_fetch(NULL, names[i], NULL);
    sealing = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
    ERR_clear_error();
}

static void fetch_once(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, fetch);
}

static const EVP_MD *digest_of(int alg) {
    fetch_once();
    return alg >= 0 && alg < HOST_DIGESTS ? digests[alg] : NULL;
}

const char *crypto_version(void) {
    return OpenSSL_version(OPENSSL_VERSION_STRING);
}

/* ---- hashes ---- */

int host_digest(int alg, const char *s, size_t n, uint8_t *out) {
    const EVP_MD *md = digest_of(alg);
    unsigned len = 0;
    if (!md) return -EINVAL;
    if (EVP_Digest(s, n, out, &len, md, NULL)) return (int)len;
    ERR_clear_error();
    return -ENOMEM;
}

int host_hmac(int alg, const char *key, size_t key_len, const char *s, size_t n, uint8_t *out) {
    const EVP_MD *md = digest_of(alg);
    unsigned len = 0;
    if (!md || key_len > INT32_MAX) return -EINVAL;
    if (HMAC(md, key, (int)key_len, (const uint8_t *)s, n, out, &len)) return (int)len;
    ERR_clear_error();
    return -ENOMEM;
}

int host_equal(const char *a, const char *b, size_t n) {
    return CRYPTO_memcmp(a, b, n) == 0;
}

int host_scrypt(const char *password, size_t n, const char *salt, size_t salt_len, double cost,
                double block, double parallel, uint8_t *out, size_t len) {
    int ok = EVP_PBE_scrypt(password, n, (const uint8_t *)salt, salt_len, (uint64_t)cost,
                            (uint64_t)block, (uint64_t)parallel, SCRYPT_MEMORY, out, len);
    ERR_clear_error();
    return ok ? 0 : -EINVAL;
}

/* ---- random bytes ---- */

int host_random(uint8_t *out, size_t n) {
    if (n <= INT32_MAX && RAND_bytes(out, (int)n) == 1) return 0;
    ERR_clear_error();
    return -EIO;
}

/* ---- texts ---- */

size_t host_base64(const char *s, size_t n, char *out) {
    return (size_t)EVP_EncodeBlock((uint8_t *)out, (const uint8_t *)s, (int)n);
}

int64_t host_unbase64(const char *s, size_t n, uint8_t *out) {
    int len = n % 4 || n > INT32_MAX ? -1 : EVP_DecodeBlock(out, (const uint8_t *)s, (int)n);
    ERR_clear_error();
    if (len < 0) return -EINVAL;
    for (int i = 1; i <= 2 && n > 0 && s[n - (size_t)i] == '='; i++)
        len--;
    return len;
}

/* ---- sealed messages ----
 *
 * AES-256-GCM: nonce, encrypted message, tag. The nonce is random: a key is good for 2^32 messages. */

static size_t sealed(EVP_CIPHER_CTX *c, const uint8_t *key, const char *about, size_t about_len,
                     const char *s, size_t n, uint8_t *out) {
    int len = 0, end = 0;
    uint8_t *text = out + HOST_SEAL_NONCE;
    bool ok = RAND_bytes(out, HOST_SEAL_NONCE) == 1 &&
              EVP_EncryptInit_ex2(c, sealing, key, out, NULL) &&
              EVP_EncryptUpdate(c, NULL, &len, (const uint8_t *)about, (int)about_len) &&
              EVP_EncryptUpdate(c, text, &len, (const uint8_t *)s, (int)n) &&
              EVP_EncryptFinal_ex(c, text + len, &end) &&
              EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_GET_TAG, HOST_SEAL_TAG, text + n);
    return ok ? HOST_SEAL_NONCE + n + HOST_SEAL_TAG : 0;
}

static bool opened(EVP_CIPHER_CTX *c, const uint8_t *key, const char *about, size_t about_len,
                   const uint8_t *s, size_t n, uint8_t *out) {
    int len = 0, end = 0;
    const uint8_t *text = s + HOST_SEAL_NONCE;
    size_t text_len = n - HOST_SEAL_NONCE - HOST_SEAL_TAG;
    return EVP_DecryptInit_ex2(c, sealing, key, s, NULL) &&
           EVP_DecryptUpdate(c, NULL, &len, (const uint8_t *)about, (int)about_len) &&
           EVP_DecryptUpdate(c, out, &len, text, (int)text_len) &&
           EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_SET_TAG, HOST_SEAL_TAG,
                               (void *)(text + text_len)) &&
           EVP_DecryptFinal_ex(c, out + len, &end) == 1;
}

int64_t host_seal(const char *key, const char *about, size_t about_len, const char *s, size_t n,
                  uint8_t *out) {
    fetch_once();
    EVP_CIPHER_CTX *c = sealing && n < INT32_MAX / 2 ? EVP_CIPHER_CTX_new() : NULL;
    size_t len = c ? sealed(c, (const uint8_t *)key, about, about_len, s, n, out) : 0;
    EVP_CIPHER_CTX_free(c);
    ERR_clear_error();
    return len ? (int64_t)len : -EIO;
}

int64_t host_unseal(const char *key, const char *about, size_t about_len, const char *s, size_t n,
                    uint8_t *out) {
    enum { AROUND = HOST_SEAL_NONCE + HOST_SEAL_TAG };
    fetch_once();
    if (n < AROUND || n > INT32_MAX / 2) return -EINVAL;
    EVP_CIPHER_CTX *c = sealing ? EVP_CIPHER_CTX_new() : NULL;
    bool ok = c && opened(c, (const uint8_t *)key, about, about_len, (const uint8_t *)s, n, out);
    EVP_CIPHER_CTX_free(c);
    ERR_clear_error();
    if (!ok) OPENSSL_cleanse(out, n - AROUND);
    return ok ? (int64_t)(n - AROUND) : -EINVAL;
}
