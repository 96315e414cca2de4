/* The file of --pid-file.
 *
 * The file is replaced as a whole: a reader finds this pid or the one before. A link with this name is replaced and not
 * followed, since other users may be able to write to the folder.
 *
 * A user who may not write to the folder (/run, after --user) cannot replace the file, but owns the file
 * (pidfile_give). Then the pid is written over the one before, and the rest of the file becomes line ends, so a reader
 * takes no longer number for the pid. Such a file cannot be removed either, and is left empty: no number is better than
 * the number of an ended process, which another process may have tomorrow.
 */
#include "pidfile.h"

#include "../base/options.h"
#include "../sys/replace.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TEXT_SIZE = 32 };

static bool wrote; /* the main G, or the thread that ends the process */

/* Opens a file of our user alone in the pid file's place, the file of pidfile_give. -1: there is none. */
static int open_own(int flags) {
    struct stat st;
    int fd = open(options.pid_file, flags | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) return -1;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_uid == geteuid() && st.st_nlink == 1)
        return fd;
    close(fd);
    return -1;
}

static int write_over(const char *text, int len) {
    char line_ends[TEXT_SIZE];
    memset(line_ends, '\n', sizeof line_ends);
    memcpy(line_ends, text, (size_t)len);
    int fd = open_own(O_WRONLY);
    if (fd < 0) return -EACCES;
    ssize_t n = pwrite(fd, line_ends, sizeof line_ends, 0);
    int err = n < 0 ? -errno : n < (ssize_t)sizeof line_ends ? -ENOSPC : 0;
    if (!err && ftruncate(fd, len) < 0) err = -errno;
    close(fd);
    return err;
}

/* uid -1: ours. */
static int replace(const char *text, int len, uid_t uid, gid_t gid) {
    char path[PATH_MAX];
    int fd = replace_open_beside(options.pid_file, path, sizeof path, 0644);
    if (fd < 0) return fd;
    ssize_t n = write(fd, text, (size_t)len);
    int err = n == len ? 0 : n < 0 ? -errno : -ENOSPC;
    if (!err && uid != (uid_t)-1 && fchown(fd, uid, gid) < 0) err = -errno;
    close(fd);
    if (!err && rename(path, options.pid_file) < 0) err = -errno;
    if (err) unlink(path);
    return err;
}

int pidfile_give(uid_t uid, gid_t gid) {
    return options.pid_file ? replace("", 0, uid, gid) : 0;
}

int pidfile_make(void) {
    char text[TEXT_SIZE];
    if (!options.pid_file) return 0;
    int len = snprintf(text, sizeof text, "%d\n", (int)getpid());
    int err = replace(text, len, (uid_t)-1, (gid_t)-1);
    if (err == -EACCES || err == -EPERM || err == -EROFS) err = write_over(text, len);
    wrote = !err;
    return err;
}

bool pidfile_is_ours(void) {
    int pid = 0;
    int fd = wrote ? open(options.pid_file, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC) : -1;
    FILE *f = fd >= 0 ? fdopen(fd, "r") : NULL;
    if (!f) {
        if (fd >= 0) close(fd);
        return false;
    }
    if (fscanf(f, "%d", &pid) != 1) pid = 0; /* NOLINT: a number that is too large is not ours */
    fclose(f);
    return pid == getpid();
}

void pidfile_unmake(void) {
    if (!pidfile_is_ours() || unlink(options.pid_file) == 0) return;
    int fd = open_own(O_WRONLY);
    if (fd < 0) return;
    (void)!ftruncate(fd, 0);
    close(fd);
}
