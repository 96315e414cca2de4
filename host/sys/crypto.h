/* libcrypto: see crypto.c, and sys_ffi.h for what Lua calls. */
#ifndef CRYPTO_H
#define CRYPTO_H

/* The version of libcrypto, "3.0.19". Any thread. Does not wait. */
const char *crypto_version(void);

#endif
