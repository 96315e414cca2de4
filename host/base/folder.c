/* A file that was synced may still have no name after a power failure: the name stands in the folder, which is synced
 * by itself. */
#include "folder.h"

#include "base_ffi.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

int folder_sync(const char *path) {
    char folder[PATH_MAX];
    const char *slash = strrchr(path, '/');
    size_t n = slash ? (size_t)(slash - path) + 1 : 1; /* with its slash: that of the root, too */
    if (n >= sizeof folder) return -ENAMETOOLONG;
    memcpy(folder, slash ? path : ".", n);
    folder[n] = 0;
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return errno == EACCES ? 0 : -errno;
    int err = fsync(fd) < 0 && errno != EINVAL ? -errno : 0;
    close(fd);
    return err;
}

int host_cwd(char *path, size_t size) {
    if (!getcwd(path, size) || access(path, X_OK) < 0) return -errno;
    return (int)strlen(path);
}
