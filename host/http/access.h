/* The access log: a line for each exchange that is over. See access.c. */
#ifndef ACCESS_H
#define ACCESS_H

#include "over.h"

/* Writes the line of x, whose account is a, if there is an access log. By the connection's G. Does not wait. */
void access_log(const host_exchange *x, const exchange_account *a);

#endif
