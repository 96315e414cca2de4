/* Writing a file in the place of another. See replace.c. Any thread. The functions block: a G calls them between
 * rt_entersyscall and rt_exitsyscall. 0 or -errno. */
#ifndef REPLACE_H
#define REPLACE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>

/* data[0 .. len) becomes the content of the file `name`. st: what stat says of the file, which is regular; NULL:
 * nothing has this name, not even a link. */
int replace_file(const char *name, const char *data, size_t len, const struct stat *st);

/* Opens a new file in the directory of path, to read and write it; never a file or link that is there. Writes its name to
 * temp. The descriptor, or -errno. */
int replace_open_beside(const char *path, char *temp, size_t size, mode_t mode);

/* Writes all of data[0 .. len). */
int replace_write_all(int fd, const char *data, size_t len);

/* Closes fd. Returns err; if err is 0, why the close failed, or 0. */
int replace_close(int fd, int err);

#endif
