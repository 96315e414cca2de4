/* Lines that somebody types. See repl.c; what Lua calls is in host_ffi.h. */
#ifndef REPL_H
#define REPL_H

/* The process ends: the terminal is as it was before. */
void repl_end(void);

#endif
