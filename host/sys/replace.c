/* Writing a file in the place of an existing one.
 *
 * A new file is made beside the old one, written, synced and renamed; then the directory is synced. A reader sees the
 * old or the new content, also after a power failure. Symbolic links are followed: the file behind them is replaced.
 *
 * The new file gets the old one's owner, group, permissions, access lists and other extended attributes. It does not
 * get rights for the content that its writer did not mean to give: the setuid and setgid bits and the attributes below
 * "security.", capabilities among them. Else a server that runs as root would turn a user's setuid program, whose
 * content the server does not know, into root's, and a file of the server's into one that runs with rights.
 *
 * Some files cannot be replaced: a file that is a mount (a container's), a file in a folder that we may not write to, a
 * file whose owner we cannot give to another file. Their content is written over in place. A reader may meanwhile see a
 * part, and a power failure may leave a part. Room on the disk is taken before the first byte is written, so a full
 * disk loses nothing. The setuid and setgid bits go first.
 *
 * A file with several names (hard links) keeps its old content under the other names.
 */
#include "replace.h"

#include "../base/folder.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/xattr.h>
#include <unistd.h>

/* A file with more attributes than this is written in place. */
enum { XATTR_NAMES_MAX = 4096, XATTR_VALUE_MAX = 65536 };

/* ---- descriptors ---- */

int replace_write_all(int fd, const char *data, size_t len) {
    while (len > 0) {
        ssize_t r = write(fd, data, len);
        if (r < 0 && errno == EINTR) continue;
        if (r < 0) return -errno;
        data += r;
        len -= (size_t)r;
    }
    return 0;
}

int replace_close(int fd, int err) {
    int r = close(fd) < 0 && errno != EINTR ? -errno : 0;
    return err ? err : r;
}

/* ---- beside ---- */

/* The length of the directory's part of path, 0: it has none. */
static size_t dir_len(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? (size_t)(slash - path) + 1 : 0;
}

int replace_open_beside(const char *path, char *temp, size_t size, mode_t mode) {
    for (int i = 0; i < 100; i++) {
        uint64_t x;
        if (getrandom(&x, sizeof x, 0) != sizeof x) return -EIO;
        int n = snprintf(temp, size, "%.*s.lunapark-%016llx", (int)dir_len(path), path,
                         (unsigned long long)x);
        if (n < 0 || (size_t)n >= size) return -ENAMETOOLONG;
        int fd = open(temp, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
        if (fd >= 0) return fd;
        if (errno != EEXIST) return -errno;
    }
    return -EEXIST;
}

/* Names as listxattr has them. Attributes that the new file may not get are left out: see above. */
static int copy_xattrs(const char *path, int fd) {
    char *names = malloc(XATTR_NAMES_MAX + XATTR_VALUE_MAX);
    if (!names) return -ENOMEM;
    char *value = names + XATTR_NAMES_MAX;
    ssize_t n = listxattr(path, names, XATTR_NAMES_MAX);
    int err = n < 0 && errno != ENOTSUP ? -errno : 0;
    for (const char *name = names; name < names + n && !err; name += strlen(name) + 1) {
        if (strncmp(name, "security.", 9) == 0) continue;
        ssize_t len = getxattr(path, name, value, XATTR_VALUE_MAX);
        if (len < 0 || fsetxattr(fd, name, value, (size_t)len, 0) < 0) err = -errno;
    }
    free(names);
    return err;
}

/* Gives fd the old file's attributes; the owner first, since a change of owner may clear bits of the mode. */
static int take_after(int fd, const char *path, const struct stat *st) {
    struct stat own;
    if (fstat(fd, &own) < 0) return -errno;
    bool other = own.st_uid != st->st_uid || own.st_gid != st->st_gid;
    if (other && fchown(fd, st->st_uid, st->st_gid) < 0) return -errno;
    if (fchmod(fd, st->st_mode & 01777) < 0) return -errno;
    return copy_xattrs(path, fd);
}

/* *refused: path itself can't be replaced, whatever the content, and nothing has happened to it. */
static int write_beside(const char *path, const char *data, size_t len, const struct stat *st,
                        bool *refused) {
    size_t size = dir_len(path) + 64;
    char *temp = malloc(size);
    if (!temp) return -ENOMEM;
    int fd = replace_open_beside(path, temp, size, st ? 0600 : 0666);
    if (fd < 0) {
        free(temp);
        *refused = fd == -EACCES || fd == -EPERM || fd == -EROFS || fd == -ENAMETOOLONG;
        return fd;
    }
    int err = st ? take_after(fd, path, st) : 0;
    *refused = err && err != -ENOMEM && err != -ENOSPC && err != -EDQUOT && err != -EIO;
    if (!err) err = replace_write_all(fd, data, len);
    if (!err && fsync(fd) < 0) err = -errno;
    err = replace_close(fd, err);
    if (!err && rename(temp, path) < 0) {
        err = -errno;
        *refused = err == -EBUSY || err == -EPERM || err == -EACCES;
    }
    if (err) unlink(temp);
    free(temp);
    return err ? err : folder_sync(path);
}

/* ---- in place ---- */

/* path is no link. */
static int write_in_place(const char *path, const char *data, size_t len) {
    struct stat st;
    int fd = open(path, O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC), err = 0;
    if (fd < 0) return -errno;
    if (fstat(fd, &st) < 0) err = -errno;
    if (!err && !S_ISREG(st.st_mode)) err = -EBUSY; /* it has changed its kind meanwhile */
    mode_t runs_as = st.st_mode & (S_ISUID | S_ISGID);
    /* The kernel clears these bits for a process that is neither root nor the owner. */
    if (!err && runs_as && fchmod(fd, st.st_mode & 01777) < 0 && errno != EPERM) err = -errno;
    if (!err && fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)(len ? len : 1)) < 0 &&
        errno == ENOSPC)
        err = -errno;
    if (!err) err = replace_write_all(fd, data, len);
    if (!err && ftruncate(fd, (off_t)len) < 0) err = -errno;
    if (!err && fsync(fd) < 0) err = -errno;
    return replace_close(fd, err);
}

int replace_file(const char *name, const char *data, size_t len, const struct stat *st) {
    bool refused = false;
    if (!st) return write_beside(name, data, len, NULL, &refused);
    if (faccessat(AT_FDCWD, name, W_OK, AT_EACCESS) < 0)
        return -errno; /* a directory's permission is not enough */
    char *path = realpath(name, NULL);
    if (!path) return -errno;
    int err = write_beside(path, data, len, st, &refused);
    if (refused) err = write_in_place(path, data, len);
    free(path);
    return err;
}
