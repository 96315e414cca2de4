/* Compression: see compress.c, and sys_ffi.h for what Lua calls. */
#ifndef COMPRESS_H
#define COMPRESS_H

#include <stddef.h>

/* Writes a line for each library, with its version. Any thread. Does not wait. */
void compress_versions(char *buf, size_t size);

#endif
