/* Replacing the running binary without losing a request. See upgrade.c. */
#ifndef UPGRADE_H
#define UPGRADE_H

#include <stdint.h>
#include <sys/types.h>

typedef struct host_server host_server;

/* Remembers how the process was started. main alone, before argv or the directory is changed. */
void upgrade_init(int argc, char **argv);

/* So many listeners can be handed over. */
enum { UPGRADE_MAX = 64 };

/* Starts a new process with the sockets of these servers, in a G of its own. When the process is ready, calls ready(its
 * pid); if it fails, says why in the log and calls failed(). Both on a native G. If a process is being started already,
 * or this one stops, says so in the log and does nothing else. Holds the servers meanwhile. Does not wait. The main G. */
void upgrade_start(host_server **servers, int n, void (*ready)(pid_t pid), void (*failed)(void));

/* This process stops: a new process that is not ready by now ends too, and none is started any more. Any native G. */
void upgrade_stop(void);

/* Waits until nothing of an upgrade is in progress, at the latest at deadline_ns. Native Gs. */
void upgrade_wait(int64_t deadline_ns);

/* For the end of this process: kills a new process that should have ended and has not. Any G; blocks for a second at
 * most. */
void upgrade_end(void);

#endif
