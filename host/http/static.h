/* Answers of app:static from C, before there is a VM. See static.c. */
#ifndef STATIC_H
#define STATIC_H

#include <stdbool.h>

typedef struct host_exchange host_exchange;

/* Answers x, whose head is whole, with a file, if C may and can. False: Lua has to. By the connection's G, the holder
 * of the connection. Does not wait, except for a disk that has to read a file's bytes. */
bool static_answer(host_exchange *x);

#endif
