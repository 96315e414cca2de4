/* Lines from a terminal. See repl.c. The functions for Lua are in command_ffi.h. */
#ifndef REPL_H
#define REPL_H

/* For the end of the process: makes the terminal as it was before. Any thread. */
void repl_end(void);

#endif
