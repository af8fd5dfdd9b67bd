// Where another CPU starts: real mode, at the page this is copied to. Straight into long mode (setting
// CR0.PE and CR0.PG together with EFER.LME set does that), then on to `ap_enter` in the image. AT&T
// syntax. Copied and patched by arch/x86/smp.rs; the page is executable and not writable while CPUs
// run here, so nothing in it is written. {cr0}, {cr4}: control registers.

    .section .rodata
    .balign 16
    .code16
    .global trampoline_start
trampoline_start:
    cli
    cld
    movw %cs, %ax
    movw %ax, %ds
    lgdtl trampoline_gdt_pointer - trampoline_start
    movl ${cr4}, %eax
    movl %eax, %cr4
    movl trampoline_root - trampoline_start, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx              // EFER: LME, NXE
    rdmsr
    orl $0x900, %eax
    wrmsr
    movl ${cr0}, %eax
    movl %eax, %cr0
    ljmpl *(trampoline_far - trampoline_start)

    .code64
trampoline_64:
    movabsq $ap_enter, %rax
    jmp *%rax

    .balign 8
trampoline_gdt:
    .quad 0
    .quad 0x00af9b000000ffff            // 64-bit code
trampoline_gdt_pointer:
    .word 15
    .global trampoline_gdt_base
trampoline_gdt_base:
    .long trampoline_gdt - trampoline_start     // patched: plus the page's address
    .balign 4
    .global trampoline_far
trampoline_far:
    .long trampoline_64 - trampoline_start      // patched: plus the page's address
    .word 8
    .balign 4
    .global trampoline_root
trampoline_root:
    .long 0                             // patched: the page tables' root
    .global trampoline_end
trampoline_end:

    .text
    .code64
ap_enter:
    xorl %eax, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl %eax, %fs
    movl %eax, %gs
    movq {stack}(%rip), %rsp
    xorl %ebp, %ebp                     // the end of every backtrace
    call {main}
    ud2
