/* Names in a folder. See folder.c. */
#ifndef FOLDER_H
#define FOLDER_H

/* Has the disk keep the names in the folder of `path`, after a file was made, renamed or removed there. A folder that
 * we may write to and not read counts as kept, since nobody can ask for more. 0 or -errno. Any thread. Blocks. */
int folder_sync(const char *path);

#endif
