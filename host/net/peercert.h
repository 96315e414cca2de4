/* A peer's certificate as text. See peercert.c. */
#ifndef PEERCERT_H
#define PEERCERT_H

#include <stddef.h>

typedef struct ssl_st SSL;

/* Texts in a buffer, one behind the other, each with its NUL. */
typedef struct texts {
    char *at, *end;
} texts;

/* Adds text[0 .. n), or, if that does not fit, an empty text. */
void texts_add(texts *t, const char *text, size_t n);

/* Adds what ssl's peer has shown: "1" or "0": it was verified; the SHA-256 of the certificate; its subject; its names.
 * Nothing: the peer has shown no certificate. Any thread. Does not wait. */
void peercert_print(SSL *ssl, texts *to);

#endif
