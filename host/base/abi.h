/* What the C compiler makes of the declarations that LuaJIT parses: size and offset of every field,
 * address of every function. The build generates the table from the same text as lunapark.cdef
 * (host/build/cdef.lua); spec/cdef_spec.lua compares it with what LuaJIT made of them. */
#ifndef HOST_ABI_H
#define HOST_ABI_H

#include <stdint.h>

/* ffi:begin */
typedef struct host_abi_entry {
    int32_t kind;        /* 0 struct, 1 field, 2 function, 3 constant */
    const char *name;    /* of the struct (also of a field's), function, constant */
    const char *field;   /* "" if it is none */
    const char *type;    /* the field's, as C writes it without a name; "" if it is none */
    uint64_t size;       /* bytes of a struct or field */
    int64_t offset;      /* of a field; a constant's value */
    const void *address; /* of a function */
} host_abi_entry;

/* The table; *n: its length. */
const host_abi_entry *host_abi_table(int32_t *n);
/* ffi:end */

enum { HOST_ABI_STRUCT, HOST_ABI_FIELD, HOST_ABI_FUNCTION, HOST_ABI_CONSTANT };

#endif
