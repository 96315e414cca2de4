/* The buffers of lua-cjson. See strbuf.c. */
#ifndef STRBUF_H
#define STRBUF_H

#include "../base/list.h"
#include "charge.h"
#include "owned.h"

#include <lua.h>
#include <stddef.h>

typedef struct host_vm host_vm;

/* vm->json: the buffers of lua-cjson that the VM holds. Only strbuf.c touches it. */
typedef struct vm_json {
    lua_State *L; /* the state that called lua-cjson last */
    list_head blocks;
    host_owned owned; /* of the VM: all blocks */
    int n_passing;
    size_t bytes;
    vm_charge charge;
} vm_json;

#endif
