/* The file of a dict. See dict_file.c. */
#ifndef DICT_FILE_H
#define DICT_FILE_H

#include "dict_record.h"

typedef struct dict_file dict_file;

/* Begins the file of d, which is not read before the first wait for it (host_dict_settle). path: as the caller's
 * directory has it now. sync: HOST_SYNC_... NULL: no memory. Any thread. Does not wait. */
dict_file *dict_file_new(host_dict *d, const char *path, size_t path_len, int sync);

/* Was it begun with this path and sync? Any thread. Does not wait. */
bool dict_file_is(const dict_file *f, const char *path, size_t path_len, int sync);

/* Its sync. Any thread. Does not wait. */
int dict_file_sync(const dict_file *f);

/* A change of the dict, with the lock of its shard: after dict_file_enter the dict is changed, dict_file_add queues the
 * record of the change, which from then on is the file's. False: the dict must not change now, and the caller answers
 * -EBUSY. Any thread. Do not wait. */
bool dict_file_enter(dict_file *f);
void dict_file_add(dict_file *f, dict_record *r);

/* on: another process may want the files of this one's dicts, too, as during an upgrade. by_parent: until our parent has
 * ended. Any thread. Does not wait. */
void dict_files_share(bool on, bool by_parent);

/* Writes and syncs what is queued, two seconds at most: the process ends. Any thread. Blocks. */
void dict_files_end(void);

#endif
