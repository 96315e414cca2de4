/* rt_context_swap and rt_context_prepare for AAPCS64. See context.h.
 *
 * A stopped stack holds, from sp upwards: x19..x28, x29 (frame), x30 (return address), d8..d15.
 */
        .text

/* void rt_context_swap(void **from_sp, void *to_sp) */
        .globl  rt_context_swap
        .type   rt_context_swap, %function
        .p2align 4
rt_context_swap:
        .cfi_startproc
        sub     sp, sp, #160
        stp     x19, x20, [sp, #0]
        stp     x21, x22, [sp, #16]
        stp     x23, x24, [sp, #32]
        stp     x25, x26, [sp, #48]
        stp     x27, x28, [sp, #64]
        stp     x29, x30, [sp, #80]
        stp     d8, d9, [sp, #96]
        stp     d10, d11, [sp, #112]
        stp     d12, d13, [sp, #128]
        stp     d14, d15, [sp, #144]
        mov     x9, sp
        str     x9, [x0]
        mov     sp, x1
        ldp     x19, x20, [sp, #0]
        ldp     x21, x22, [sp, #16]
        ldp     x23, x24, [sp, #32]
        ldp     x25, x26, [sp, #48]
        ldp     x27, x28, [sp, #64]
        ldp     x29, x30, [sp, #80]
        ldp     d8, d9, [sp, #96]
        ldp     d10, d11, [sp, #112]
        ldp     d12, d13, [sp, #128]
        ldp     d14, d15, [sp, #144]
        add     sp, sp, #160
        ret
        .cfi_endproc
        .size   rt_context_swap, .-rt_context_swap

/* void *rt_context_prepare(void *top, void (*entry)(void *), void *arg): the stack's sp. */
        .globl  rt_context_prepare
        .type   rt_context_prepare, %function
        .p2align 4
rt_context_prepare:
        .cfi_startproc
        and     x0, x0, #-16
        sub     x0, x0, #160
        stp     x1, x2, [x0, #0]        /* x19: entry, x20: arg */
        stp     xzr, xzr, [x0, #16]
        stp     xzr, xzr, [x0, #32]
        stp     xzr, xzr, [x0, #48]
        stp     xzr, xzr, [x0, #64]
        adr     x9, first_run
        stp     xzr, x9, [x0, #80]
        stp     xzr, xzr, [x0, #96]
        stp     xzr, xzr, [x0, #112]
        stp     xzr, xzr, [x0, #128]
        stp     xzr, xzr, [x0, #144]
        ret
        .cfi_endproc
        .size   rt_context_prepare, .-rt_context_prepare

        .type   first_run, %function
        .p2align 2
first_run:
        .cfi_startproc
        .cfi_undefined x30
        mov     x0, x20
        blr     x19
        brk     #1
        .cfi_endproc
        .size   first_run, .-first_run

        .section .note.GNU-stack, "", %progbits
