/* Changes of a dict as records of its file. See dict_record.c. Any thread. Does not wait. */
#ifndef DICT_RECORD_H
#define DICT_RECORD_H

#include "dict_table.h"

/* What a file of a dict begins with. */
#define DICT_MAGIC "lunapark dict 1\n"
enum { DICT_MAGIC_BYTES = 16 };

enum { RECORD_PUT = 1, RECORD_DELETE, RECORD_EXPIRE /* has no value, but a time */ };

/* A record in the file, in the byte order of the machine; the key and the value follow. */
typedef struct dict_record_head {
    uint32_t crc; /* of all that follows */
    uint32_t key_len, len;
    uint16_t op, type;
    int64_t expires_ns; /* since 1970; 0: never */
    double number;
} dict_record_head;

/* A record in memory. */
typedef struct dict_record {
    struct dict_record *next;
    dict_record_head head;
    char bytes[];
} dict_record;

/* A record of the change of a key. NULL: no memory. dict_record_fill, later, adds what is known under the lock alone. */
dict_record *dict_record_new(int op, const char *key, size_t key_len, const void *data, size_t len);
void dict_record_fill(dict_record *r, int type, double number, int64_t expires_ns);

/* The bytes of a record in the file, which begin at its head. */
size_t dict_record_size(const dict_record *r);

/* Makes the checksum. After dict_record_fill. */
void dict_record_seal(dict_record *r);

/* Makes the changes of the records in text[0 .. len), each to d. The number of bytes of the whole and unharmed records,
 * with which text begins. -ENOMEM. */
int64_t dict_records_apply(host_dict *d, const char *text, size_t len);

/* The entries of one bucket as records behind buf[used]: where they end, or, if they do not fit, 0 with *need. For
 * dict_copy. */
size_t dict_records_of(const dict_entry *e, char *buf, size_t used, size_t cap, size_t *need);

#endif
