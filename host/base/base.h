/* Constants that any file of the host may use. */
#ifndef BASE_H
#define BASE_H

#include <stdint.h>

#define NS_PER_MS  INT64_C(1000000)
#define NS_PER_SEC INT64_C(1000000000)

/* Ps at most: the bound of rt_procs. */
enum { MAX_PS = 256 };

/* An array with an element per P: each element begins a cache line. */
#define OF_ONE_P _Alignas(64)

#endif
