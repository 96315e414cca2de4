/* The operations of VMs without a keeper: VMs of tests, and of commands before pool_init. */
#include "keeper.h"

_Atomic(generation *) vm_serving;

static host_vm *choose_none(bool *soon) {
    *soon = false;
    return NULL;
}

static void ignore_back(host_vm *vm, bool ended) {
    (void)vm;
    (void)ended;
}

static void ignore_vm(host_vm *vm) {
    (void)vm;
}

static bool replace_none(host_vm *vm) {
    (void)vm;
    return false;
}

static const vm_keeper_ops nobody = {
    .choose = choose_none,
    .back = ignore_back,
    .unstick = ignore_vm,
    .replace = replace_none,
};
const vm_keeper_ops *vm_keeper = &nobody;
