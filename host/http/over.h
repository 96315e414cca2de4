/* The end of an exchange. See over.c. */
#ifndef OVER_H
#define OVER_H

#include "exchange.h"

/* What an exchange was. Bytes are those of its protocol, heads and framing included; times: rt_nanotime. */
typedef struct exchange_account {
    int status; /* 0: no answer was begun */
    int64_t in; /* bytes of the request, as far as it came */
    /* Bytes of the response that the kernel took, or that are still queued for it. */
    int64_t out;
    int64_t begin_ns;  /* when the first bytes of the request came */
    int64_t answer_ns; /* when the answer was begun */
    int64_t end_ns;    /* when the connection was done with it */
} exchange_account;

/* x is over, and was this. By who has the connection. */
void exchange_account_of(const host_exchange *x, int64_t now_ns, exchange_account *a);

/* x is over: nothing of it is read or queued from now on. Once for each exchange, by the connection's G. Does not wait. */
void exchange_over(host_exchange *x, int64_t now_ns);

/* Makes `heir` the exchange of the connection in the place of x, which its handler keeps: the request goes on there, and
 * will be over there. By the connection's G. */
void exchange_inherit(host_exchange *heir, const host_exchange *x);

/* The answer to x begins, or has begun before. An answer that is whole at once need not say so: it begins when it ends.
 * By who has the connection. */
void exchange_answers(host_exchange *x, int64_t now_ns);

/* A handler gets an exchange. With a P. */
void exchange_handed(void);

#endif
