/*
 * From the PVH entry to Rust, the descriptor tables' entry points, and the doors between modes.
 *
 * PVH (public/arch-x86/hvm/start_info.h): 32-bit protected mode, paging off, flat segments, EBX = address
 * of the start info. Page tables map the first 4 GiB onto themselves in 2 MiB pages, for user mode as well
 * (faulty goes there). The tables stand in .bss, which the loader has zeroed.
 */

    .section .note.Xen, "a", @note
    .balign 4
    .long 4, 4, 18                      /* name and descriptor sizes, XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long pvh_entry

    .set CODE64, 0x08
    .set DATA, 0x10
    .set CODE32, 0x18
    .set USER_DATA, 0x20 + 3
    .set USER_CODE64, 0x28 + 3
    .set TSS, 0x30

    .section .text.entry, "ax", @progbits
    .code32
    .globl pvh_entry
pvh_entry:
    cld
    mov esp, offset guest_stack_top

    xor ecx, ecx
1:  mov eax, ecx
    shl eax, 21
    or eax, 0x87                        /* present, writable, user, 2 MiB */
    mov dword ptr [guest_pd + ecx * 8], eax
    inc ecx
    cmp ecx, 4 * 512
    jne 1b
    mov dword ptr [guest_pdpt], offset guest_pd + 7
    mov dword ptr [guest_pdpt + 8], offset guest_pd + 0x1000 + 7
    mov dword ptr [guest_pdpt + 16], offset guest_pd + 0x2000 + 7
    mov dword ptr [guest_pdpt + 24], offset guest_pd + 0x3000 + 7
    mov dword ptr [guest_pml4], offset guest_pdpt + 7

    mov eax, cr4
    or eax, 0x620                       /* PAE, OSFXSR, OSXMMEXCPT */
    mov cr4, eax
    mov eax, offset guest_pml4
    mov cr3, eax
    mov ecx, 0xc0000080                 /* EFER.LME */
    rdmsr
    or eax, 0x100
    wrmsr
    mov eax, cr0
    and eax, 0xfffffff3                 /* not EM, not TS */
    or eax, 0x80010022                  /* PG, WP, NE, MP */
    mov cr0, eax
    lgdt [guest_gdtr]
    /* A far jump by its bytes: assemblers differ in how they spell it. */
    .byte 0xea
    .long entry64
    .word CODE64

    .code64
entry64:
    mov eax, DATA
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    lea rsp, [rip + guest_stack_top]
    lea rax, [rip + ring0_stack_top]
    mov [rip + guest_tss + 4], rax      /* RSP0: not the main stack, to which `trap` goes back */
    lea rax, [rip + guest_tss]
    mov [rip + guest_gdt + TSS + 2], ax
    shr rax, 16
    mov [rip + guest_gdt + TSS + 4], al
    mov [rip + guest_gdt + TSS + 7], ah
    mov eax, TSS
    ltr ax
    mov edi, ebx
    xor ebp, ebp
    call guest_start
    ud2

    .text
    .code64
/* Exceptions: 32 stubs of 16 bytes each, all ending with a vector and an error code on the stack. */
    .balign 16
    .globl exception_stubs
exception_stubs:
    .set vector, 0
    .rept 32
    .balign 16
    .if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30)
    push 0
    .endif
    push vector
    jmp exception_common
    .set vector, vector + 1
    .endr

/* None is survived: the handler prints and ends the guest, or goes back to the caller of `trap`. */
exception_common:
    mov rdi, rsp
    and rsp, -16
    call guest_exception
    ud2

/* An event has come. Which one, the main loop finds out; here only the level is taken down. */
    .balign 16
    .globl upcall_entry
upcall_entry:
    push rax
1:  mov rax, [rip + guest_vcpu_info]
    mov byte ptr [rax], 0
    lock inc qword ptr [rip + guest_upcalls]
    pop rax
    iretq

/* The same, but it looks whether it may come, and takes its time. */
    .balign 16
    .globl slow_upcall_entry
slow_upcall_entry:
    test byte ptr [rsp + 17], 2         /* RFLAGS.IF of what it interrupted */
    jz masked
    push rax
    mov eax, 5000
2:  dec eax
    jnz 2b
    jmp 1b

    .balign 16
    .globl spurious_entry
spurious_entry:
    iretq

/* A second interrupt, so that there are two at once. */
    .balign 16
    .globl second_entry
second_entry:
    test byte ptr [rsp + 17], 2
    jz masked
    lock inc qword ptr [rip + guest_seconds]
    iretq

/* An interrupt that came while interrupts were off. */
masked:
    lock inc qword ptr [rip + guest_masked]
    iretq

/*
 * compat_hypercall(rdi = address to call, rsi = five argument words) -> eax.
 * Goes to 32-bit code in compatibility mode, where a hypercall has the 32-bit ABI: arguments in EBX, ECX,
 * EDX, ESI, EDI. Interrupts must be off. What compatibility mode does not preserve is kept on the stack.
 */
    .globl compat_hypercall
compat_hypercall:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov eax, edi
    mov ebx, [rsi]
    mov ecx, [rsi + 4]
    mov edx, [rsi + 8]
    mov edi, [rsi + 16]
    mov esi, [rsi + 12]
    push CODE32
    lea rbp, [rip + 1f]
    push rbp
    .byte 0x48, 0xcb                    /* 64-bit far return */
    .code32
1:  call eax
    .byte 0xea
    .long 2f
    .word CODE64
    .code64
2:  mov esp, esp
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret

/* enter_user(rdi = function): runs it in ring 3, on its own stack; never comes back. */
    .globl enter_user
enter_user:
    push USER_DATA
    lea rax, [rip + user_stack_top]
    push rax
    push 2                              /* RFLAGS: nothing but the fixed bit */
    push USER_CODE64
    push rdi
    iretq

/*
 * trap(rdi = function) -> rax: the vector of the exception it ended with, or -1 if it returned.
 * trap_return(rdi = vector) unwinds to the caller of trap.
 */
    .globl trap
trap:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov [rip + trap_stack], rsp
    sub rsp, 8
    call rdi
    add rsp, 8
    mov rax, -1
3:  mov qword ptr [rip + trap_stack], 0
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret
    .globl trap_return
trap_return:
    mov rsp, [rip + trap_stack]
    mov eax, edi
    jmp 3b

    .data
    .balign 8
guest_gdt:
    .quad 0
    .quad 0x00af9b000000ffff            /* 64-bit code */
    .quad 0x00cf93000000ffff            /* data */
    .quad 0x00cf9b000000ffff            /* 32-bit code */
    .quad 0x00cff3000000ffff            /* user data */
    .quad 0x00affb000000ffff            /* user 64-bit code */
    .quad 0x0000890000000067, 0         /* TSS, its base filled in above */
guest_gdtr:
    .word . - guest_gdt - 1
    .long guest_gdt
    .long 0
    .balign 8
    .globl guest_vcpu_info, guest_upcalls, guest_seconds, guest_masked, trap_stack
guest_vcpu_info:
    .quad 0
guest_upcalls:
    .quad 0
guest_seconds:
    .quad 0
guest_masked:
    .quad 0
trap_stack:
    .quad 0

    .bss
    .balign 4096
guest_pml4:
    .skip 4096
guest_pdpt:
    .skip 4096
guest_pd:
    .skip 4 * 4096
    .globl guest_hypercall_page
guest_hypercall_page:
    .skip 4096
    .skip 65536
guest_stack_top:
    .skip 4096
user_stack_top:
    .skip 8192
ring0_stack_top:
guest_tss:
    .skip 104
