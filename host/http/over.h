/* The end of an exchange. See over.c. */
#ifndef OVER_H
#define OVER_H

#include "exchange.h"

/* The account of an exchange. Bytes are those of the protocol, heads and framing included. Times: rt_nanotime. */
typedef struct exchange_account {
    int status; /* 0: no answer has begun */
    int64_t in; /* bytes of the request that came */
    /* bytes of the response that the kernel took, or that are still queued */
    int64_t out;
    int64_t begin_ns;  /* when the first bytes of the request came */
    int64_t answer_ns; /* when the answer began */
    int64_t end_ns;    /* when the connection was done with the exchange */
} exchange_account;

/* Fills *a with the account of x, which is over at now_ns. By the holder of the connection. Does not wait. */
void exchange_account_of(const host_exchange *x, int64_t now_ns, exchange_account *a);

/* x is over at now_ns: counts it. Nothing of x is read or queued afterwards. Once for each exchange, by the
 * connection's G. Does not wait. */
void exchange_over(host_exchange *x, int64_t now_ns);

/* Makes `heir` the exchange of the connection in the place of x, which its handler keeps. The request goes on in
 * `heir`, and will be over there. By the connection's G. Does not wait. */
void exchange_inherit(host_exchange *heir, const host_exchange *x);

/* The answer to x begins at now_ns, unless it has begun before. An answer that is whole at once need not say so: it
 * begins when it ends. By the holder of the connection. Does not wait. */
void exchange_answers(host_exchange *x, int64_t now_ns);

/* Counts an exchange that a handler gets. With a P. Does not wait. */
void exchange_handed(void);

#endif
