/* Files of unix sockets. A process that binds a unix socket leaves a file. The socket's owner removes the file, or the
 * next process that wants the name.
 *
 * By then the name may lead to another file, so there are two rules. A file is in the way of a listener unless it is a
 * socket without a listener: a crash left such a file, and it is removed. A regular file, a link, and a socket with a
 * listener stay. And an owner removes only the file that it has made, known by device and inode.
 */
#include "sockpath.h"

#include "../../runtime/runtime.h"
#include "../base/addr.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static const char *path_of(const char *addr) {
    return strncmp(addr, "unix:", 5) == 0 ? addr + 5 : NULL;
}

sock_file sock_file_of(const char *addr) {
    struct stat st;
    const char *path = path_of(addr);
    if (!path || lstat(path, &st) < 0 || !S_ISSOCK(st.st_mode)) return (sock_file){0};
    return (sock_file){.dev = st.st_dev, .ino = st.st_ino};
}

void sock_file_remove(const char *addr, sock_file file) {
    sock_file now = sock_file_of(addr);
    if (now.ino && now.ino == file.ino && now.dev == file.dev) unlink(path_of(addr));
}

/* A name in a folder that other users write to may lead to another file by now. Opens the file if it is a socket of ours
 * without another name. Its descriptor, or -errno. */
static int open_own(const char *path, struct stat *st) {
    int fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return -errno;
    int err = fstat(fd, st) < 0 ? -errno : 0;
    if (!err && (!S_ISSOCK(st->st_mode) || st->st_nlink != 1 || st->st_uid != geteuid()))
        err = -EEXIST;
    if (!err) return fd;
    close(fd);
    return err;
}

int sock_file_give(const char *addr, uid_t uid, gid_t gid) {
    struct stat st;
    const char *path = path_of(addr);
    if (!path) return 0;
    int fd = open_own(path, &st);
    if (fd < 0) return fd;
    int err = fchownat(fd, "", uid, gid, AT_EMPTY_PATH) < 0 ? -errno : 0;
    close(fd);
    return err;
}

/* fchmod does not take such a descriptor, its name in /proc does. */
int sock_file_mode(const char *addr, mode_t mode) {
    struct stat st;
    char name[40];
    const char *path = path_of(addr);
    if (!path) return 0;
    int fd = open_own(path, &st);
    if (fd < 0) return fd;
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    int err = (st.st_mode & 07777) != mode && chmod(name, mode) < 0 ? -errno : 0;
    close(fd);
    return err;
}

/* No process listens on the socket file. */
static bool is_dead(const host_addr *a) {
    int fd = rt_socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0) return false;
    bool dead = connect(fd, (const struct sockaddr *)&a->sa, a->len) < 0 && errno == ECONNREFUSED;
    close(fd);
    return dead;
}

int sock_file_clear(const char *addr) {
    host_addr a;
    struct stat st;
    const char *path = path_of(addr);
    int err = path ? addr_parse(addr, &a) : 0;
    if (err || !path || lstat(path, &st) < 0) return err;
    sock_file found = sock_file_of(addr);
    if (!found.ino) return -EEXIST;
    if (!is_dead(&a)) return -EADDRINUSE;
    sock_file_remove(addr, found);
    return 0;
}
