/* What Lua sees of servers. The rules are those of vm_ffi.h. */
#ifndef SERVE_FFI_H
#define SERVE_FFI_H

#include <stddef.h>
#include <stdint.h>

/* ffi:begin */
/* ---- servers (server.c) ---- */

/* Stops accepting, of one of this VM's servers; the connections end when what is in flight is done. */
void host_serve_stop(int server);
/* ffi:end */

#endif
