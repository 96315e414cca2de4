/* Notices to the service manager: a datagram per event, to the socket that $NOTIFY_SOCKET names. The name is a path or,
 * with an @ in place of its first byte, an abstract name.
 *
 * libsystemd could send them, too, and would bring a dozen libraries along. Nothing here may hold up the server. A
 * socket is made for each message, since there are few. A message for which the manager has no room is lost.
 *
 * The variable stays in the environment, since the process that an upgrade starts needs it. Programs that an app starts
 * see the variable, too; systemd listens to the main process only (NotifyAccess=main in lunapark.service).
 */
#include "notify.h"

#include "../../runtime/runtime.h"
#include "../base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

/* Fills *un. Returns the length of the address; 0: there is none that we understand. */
static socklen_t manager_address(struct sockaddr_un *un) {
    const char *path = getenv("NOTIFY_SOCKET");
    size_t n = path ? strlen(path) : 0;
    if (n < 2 || n >= sizeof un->sun_path || (path[0] != '/' && path[0] != '@')) return 0;
    *un = (struct sockaddr_un){.sun_family = AF_UNIX};
    memcpy(un->sun_path, path, n);
    if (path[0] == '@') un->sun_path[0] = 0;
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
}

static void notify(const char *text) {
    struct sockaddr_un un;
    socklen_t len = manager_address(&un);
    if (!len) return;
    int fd = rt_socket(AF_UNIX, SOCK_DGRAM, 0);
    int err = fd < 0 ? -fd : 0;
    if (!err && sendto(fd, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT, (struct sockaddr *)&un,
                       len) < 0)
        err = errno;
    if (fd >= 0) close(fd);
    if (err) log_line(LOG_DEBUG, "NOTIFY_SOCKET: %s", rt_strerror(-err));
}

void notify_ready(void) {
    notify("READY=1");
}

/* The time lets systemd tell the end of this reload from the end of an earlier one. */
void notify_reloading(void) {
    char text[80];
    snprintf(text, sizeof text, "RELOADING=1\nMONOTONIC_USEC=%lld",
             (long long)(rt_nanotime() / 1000));
    notify(text);
}

void notify_stopping(void) {
    notify("STOPPING=1");
}

void notify_main_pid(pid_t pid) {
    char text[32];
    snprintf(text, sizeof text, "MAINPID=%d", (int)pid);
    notify(text);
}
