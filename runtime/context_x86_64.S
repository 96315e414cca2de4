/* rt_context_swap and rt_context_prepare for the System V ABI of x86-64. See context.h.
 *
 * A stopped stack looks like this, growing downwards:
 *
 *     sp + 48   return address
 *     sp + 40   rbp
 *     sp + 32   rbx
 *     sp + 24   r12
 *     sp + 16   r13
 *     sp +  8   r14
 *     sp        r15
 */
        .text

/* void rt_context_swap(void **from_sp, void *to_sp) */
        .globl  rt_context_swap
        .type   rt_context_swap, @function
        .p2align 4
rt_context_swap:
        .cfi_startproc
        pushq   %rbp
        pushq   %rbx
        pushq   %r12
        pushq   %r13
        pushq   %r14
        pushq   %r15
        movq    %rsp, (%rdi)
        movq    %rsi, %rsp
        popq    %r15
        popq    %r14
        popq    %r13
        popq    %r12
        popq    %rbx
        popq    %rbp
        ret
        .cfi_endproc
        .size   rt_context_swap, .-rt_context_swap

/* void *rt_context_prepare(void *top, void (*entry)(void *), void *arg): the stack's sp. */
        .globl  rt_context_prepare
        .type   rt_context_prepare, @function
        .p2align 4
rt_context_prepare:
        .cfi_startproc
        movq    %rdi, %rax
        andq    $-16, %rax
        subq    $72, %rax               /* 7 slots, and 16 bytes that end the chain of frames */
        leaq    first_run(%rip), %rcx
        movq    %rcx, 48(%rax)
        movq    $0, 40(%rax)            /* rbp: no caller */
        movq    %rsi, 32(%rax)          /* rbx: entry */
        movq    %rdx, 24(%rax)          /* r12: arg */
        movq    $0, 16(%rax)
        movq    $0, 8(%rax)
        movq    $0, 0(%rax)
        movq    $0, 56(%rax)
        movq    $0, 64(%rax)
        ret
        .cfi_endproc
        .size   rt_context_prepare, .-rt_context_prepare

/* sp is top - 16 here, so the call pushes to a 16-byte boundary as the ABI wants it. */
        .type   first_run, @function
        .p2align 4
first_run:
        .cfi_startproc
        .cfi_undefined rip
        movq    %r12, %rdi
        call    *%rbx
        ud2
        .cfi_endproc
        .size   first_run, .-first_run

        .section .note.GNU-stack, "", @progbits
