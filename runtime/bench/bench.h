/* What the runtime's bench programs share. Each prints lines "NAME NUMBER..." that run.sh reads. */
#ifndef BENCH_H
#define BENCH_H

#include "../runtime.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#pragma GCC diagnostic ignored "-Wunused-function"

_Noreturn static void die(const char *what) {
    perror(what);
    exit(1);
}

static void *need(void *p) {
    if (!p) die("malloc");
    return p;
}

/* Argument i as a number of 1 or more, or `otherwise`. */
static int64_t arg_or(int argc, char **argv, int i, int64_t otherwise) {
    if (i >= argc) return otherwise;
    long long n = strtoll(argv[i], NULL, 10);
    if (n < 1) {
        fprintf(stderr, "%s: not a number of 1 or more: %s\n", argv[0], argv[i]);
        exit(2);
    }
    return n;
}

static int64_t clock_ns(clockid_t clock) {
    struct timespec t;
    if (clock_gettime(clock, &t) < 0) die("clock_gettime");
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/* CPU time of the process, all threads. With one P that never waits it is as good as time, and what
 * else the machine does does not count. */
static int64_t cpu_ns(void) {
    return clock_ns(CLOCK_PROCESS_CPUTIME_ID);
}

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The value that a share q of v's n values do not exceed; sorts v. */
static double quantile(double *v, size_t n, double q) {
    qsort(v, n, sizeof *v, compare_doubles);
    size_t i = (size_t)(q * (double)n);
    return v[i < n ? i : n - 1];
}

/* A pseudo-random permutation of 0 .. n-1, the same in every run and in the Go program: heaps get
 * their keys neither in order nor against it. */
static int64_t shuffled(int64_t i, int64_t n) {
    enum { PRIME = 7368787 }; /* larger than any n here, so it divides none */
    return i * PRIME % n;
}

#endif
