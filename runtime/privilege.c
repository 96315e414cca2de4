/* Another user, on every thread.
 *
 * In Linux each thread has ids of its own: "the process is no longer root" holds only when all threads have changed.
 * glibc's set*id functions change all. They interrupt every thread of pthread_create with a signal of glibc's (33,
 * which no mask of ours can block), whose handler makes the system call there, and return when all threads have. The Ms
 * and sysmon are such threads, also in a system call. A thread that is made meanwhile waits, and starts with the ids of
 * its maker.
 *
 * The raw system calls would change one thread, so they are not used.
 */
#include "impl.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdlib.h>
#include <unistd.h>

int rt_setuid(uid_t uid) {
    return setresuid(uid, uid, uid) < 0 ? -errno : 0;
}

int rt_setgid(gid_t gid) {
    return setresgid(gid, gid, gid) < 0 ? -errno : 0;
}

int rt_setgroups(size_t n, const gid_t *groups) {
    return setgroups(n, groups) < 0 ? -errno : 0;
}

/* Sets the user's groups as initgroups does, which is not documented to change all threads. */
static int set_groups_of(const char *user, gid_t gid) {
    int n = 64;
    for (;;) {
        gid_t *groups = malloc((size_t)n * sizeof *groups);
        if (!groups) return -ENOMEM;
        int room = n;
        int found = getgrouplist(user, gid, groups, &n);
        int err = found < 0 ? 0 : rt_setgroups((size_t)found, groups);
        free(groups);
        if (found >= 0) return err;
        if (n <= room) n = room * 2; /* getgrouplist should have set n */
    }
}

int rt_find_user(const char *user, const char *group, uid_t *uid, gid_t *gid) {
    enum { ROOM = 1 << 20 }; /* a group's record has the names of its members */
    struct passwd pw, *found = NULL;
    struct group gr, *found_group = NULL;
    char *buf = malloc(ROOM);
    if (!buf) return -ENOMEM;
    int err = -getpwnam_r(user, &pw, buf, ROOM, &found);
    if (!err && !found) err = -ENOENT;
    if (!err) *uid = pw.pw_uid;
    if (!err) *gid = pw.pw_gid;
    if (!err && group) {
        err = -getgrnam_r(group, &gr, buf, ROOM, &found_group);
        if (!err && !found_group) err = -ESRCH;
        if (!err) *gid = gr.gr_gid;
    }
    free(buf);
    return err;
}

int rt_drop_privileges(const char *user, const char *group) {
    uid_t uid;
    gid_t gid;
    int err = rt_find_user(user, group, &uid, &gid);
    /* Groups first: without uid 0 no further change is allowed. */
    if (!err) err = set_groups_of(user, gid);
    if (!err) err = rt_setgid(gid);
    if (!err) err = rt_setuid(uid);
    if (err) return err;
    if (uid != 0 && (setuid(0) == 0 || seteuid(0) == 0)) return -EPERM; /* there is a way back */
    return 0;
}
