/* --user NAME[:GROUP]: root starts the server, and another user serves.
 *
 *     root      the user and the group are looked up
 *               --listen, --bind and --admin are bound, files of unix sockets and --pid-file are made, and become the user's
 *     the user  everything else: threads, the app's files, further addresses of the app
 *
 * All of root's part comes before the runtime starts. Ids and no_new_privs are each thread's own, and threads inherit
 * them when they are made: so no thread is forgotten, nor a ring of the kernel's that would keep root's rights. No
 * script runs as root, so a file that the user cannot read fails the start, not a reload in the night.
 *
 * Bound sockets wait in the list of those that the process was given (inherit.c), until the app is loaded and says
 * where else to listen. Clients that connect meanwhile wait with them.
 *
 * The app names addresses of its own (app:tcp, app.options.listen) when root is gone. --bind names those of them that
 * only root can bind. Rejected: a capability kept until the app is loaded, since capabilities are each thread's own,
 * threads run by then, and the app's code would have the capability, too; a helper process that binds as root what the
 * server asks for, since the server would then get any port.
 *
 * The user cannot do two things later: bind a port below 1024 that --bind does not name; remove a socket file
 * or the pid file from a folder without write permission. The socket file stays, and the next start replaces it. The
 * pid file is left empty (pidfile.c). An upgrade starts a process of the same user, which has --user in its arguments
 * and nothing to do.
 *
 * no_new_privs: no program that the app starts, sudo among them, gets more rights than the user has. The kernel takes
 * from a process that has changed its user the permission to look at its own /proc files. The process has read no file
 * yet that the user may not read, so the permission is given back.
 */
#include "user.h"

#include "../base/log.h"
#include "../base/options.h"
#include "../serve/server.h"
#include "../net/sockpath.h"
#include "commands.h"
#include "inherit.h"
#include "pidfile.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

static _Noreturn void refuse(const char *why, const char *what, int code) {
    fprintf(stderr, "lunapark: --user %s: %s%s\n", options.user, why, what);
    exit(code);
}

/* Looks up --user. name: a copy of it, which is cut. *group NULL: no group was named. */
static void look_up(char *name, const char **group, uid_t *uid, gid_t *gid) {
    char *colon = strchr(name, ':');
    if (colon) *colon = 0;
    *group = colon ? colon + 1 : NULL;
    int err = rt_find_user(name, *group, uid, gid);
    if (err == -ENOENT) refuse("no such user: ", name, 64);
    if (err == -ESRCH) refuse("no such group: ", *group, 64);
    if (err) refuse("", rt_strerror(err), 1);
}

typedef enum binds { FOR_ALL, FOR_ADMIN, FOR_APP } binds;

static void bind_one(const char *addr, binds what, uid_t uid, gid_t gid) {
    if (inherit_has(addr)) return;
    int fd = server_bind(addr, what == FOR_ADMIN, 0);
    int err = fd < 0 ? fd : sock_file_give(addr, uid, gid);
    if (!err && !inherit_keep(fd, addr, what == FOR_APP)) err = -ENOMEM;
    if (!err) return;
    fprintf(stderr, "lunapark: cannot listen on %s: %s\n", addr, rt_strerror(err));
    exit(1);
}

static void bind_all(uid_t uid, gid_t gid) {
    check_reach();
    for (int i = 0; i < options.n_listen; i++)
        bind_one(options.listen[i], FOR_ALL, uid, gid);
    for (int i = 0; i < options.n_bind; i++)
        bind_one(options.bind[i], FOR_APP, uid, gid);
    if (options.admin) bind_one(options.admin, FOR_ADMIN, uid, gid);
    int err = pidfile_give(uid, gid);
    if (!err) return;
    fprintf(stderr, "lunapark: %s: %s\n", options.pid_file, rt_strerror(err));
    exit(1);
}

/* True: all ids of the process are these. A process with only another effective id could be root again. */
static bool is_already(uid_t uid, gid_t gid) {
    uid_t u[3];
    gid_t g[3];
    if (getresuid(&u[0], &u[1], &u[2]) < 0 || getresgid(&g[0], &g[1], &g[2]) < 0) return false;
    for (int i = 0; i < 3; i++)
        if (u[i] != uid || g[i] != gid) return false;
    return true;
}

void user_become(void) {
    uid_t uid;
    gid_t gid;
    const char *group;
    if (!options.user) {
        if (options.n_bind == 0) return;
        fprintf(stderr, "lunapark: --bind is for --user, where root binds for another user\n");
        exit(64);
    }
    char *name = strdup(options.user);
    if (!name) start_failed("not enough memory");
    look_up(name, &group, &uid, &gid);
    bool is_root = geteuid() == 0;
    if (!is_root && !is_already(uid, gid)) refuse("only root can become another user", "", 64);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) refuse("no_new_privs: ", strerror(errno), 1);
    if (is_root) {
        bind_all(uid, gid);
        int err = rt_drop_privileges(name, group);
        if (err) refuse("", rt_strerror(err), 1);
        (void)prctl(PR_SET_DUMPABLE, 1, 0, 0, 0); /* else dumps say less */
    }
    free(name);
}
