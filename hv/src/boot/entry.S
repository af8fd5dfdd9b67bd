// The first instructions, for multiboot 1 and PVH: 32-bit protected mode, no paging, interrupts off,
// flat segments. Both ways meet at `enter`, build the boot page tables and call `image_main` in the
// high half. AT&T syntax; {offset} is link address minus load address.
//
// Boot page tables, replaced by mm/paging.rs: the first 4 GiB at 0 and at the direct map's base, and the
// first 16 MiB of the image at its link address, all writable and executable.

    .section .multiboot, "ax"
    .balign 4
multiboot_header:
    .long 0x1badb002
    .long 0x00010003                    // modules page-aligned, memory map, address fields valid
    .long -(0x1badb002 + 0x00010003)
    .long multiboot_header - {offset}
    .long __image_start - {offset}
    .long __load_end - {offset}
    .long __image_end - {offset}
    .long multiboot_entry - {offset}

    // XEN_ELFNOTE_PHYS32_ENTRY (public/elfnote.h). Eight bytes of value: QEMU reads as many.
    .section .note.Xen, "a", @note
    .balign 4
    .long 4, 8, 18
    .asciz "Xen"
    .quad pvh_entry - {offset}

    .text
    .code32
    .global multiboot_entry
multiboot_entry:
    movl %eax, %edi
    jmp enter

    .global pvh_entry
pvh_entry:
    movl ${pvh_magic}, %edi

enter:                                  // edi: which protocol, ebx: its information
    cli
    cld
    movl %ebx, %esi
    movl $({stack} + {stack_top} - {offset}), %esp

    movl $0x80000000, %eax
    cpuid
    cmpl $0x80000001, %eax
    jb no_long_mode
    movl $0x80000001, %eax
    cpuid
    testl $(1 << 29), %edx
    jz no_long_mode

    // Four page directories of 2 MiB pages: the first 4 GiB.
    movl $(boot_pd - {offset}), %ebx
    xorl %ecx, %ecx
1:  movl %ecx, %eax
    shll $21, %eax
    orl $0x83, %eax
    movl %eax, (%ebx, %ecx, 8)
    incl %ecx
    cmpl $2048, %ecx
    jb 1b
    movl $(boot_pdpt_low - {offset}), %ebx
    movl $(boot_pd - {offset} + 3), %eax
    xorl %ecx, %ecx
2:  movl %eax, (%ebx, %ecx, 8)
    addl $4096, %eax
    incl %ecx
    cmpl $4, %ecx
    jb 2b
    // The image: eight 2 MiB pages.
    movl $(boot_pd_image - {offset}), %ebx
    movl $(__image_start - {offset} + 0x83), %eax
    xorl %ecx, %ecx
3:  movl %eax, (%ebx, %ecx, 8)
    addl $0x200000, %eax
    incl %ecx
    cmpl $8, %ecx
    jb 3b
    movl $(boot_pd_image - {offset} + 3), boot_pdpt_high - {offset} + 510 * 8
    movl $(boot_pdpt_low - {offset} + 3), boot_pml4 - {offset}
    movl $(boot_pdpt_low - {offset} + 3), boot_pml4 - {offset} + {direct_slot} * 8
    movl $(boot_pdpt_high - {offset} + 3), boot_pml4 - {offset} + 511 * 8

    movl $0x620, %eax                   // PAE, OSFXSR, OSXMMEXCPT
    movl %eax, %cr4
    movl $(boot_pml4 - {offset}), %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx              // EFER.LME
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl $0x80010033, %eax              // PG, WP, NE, ET, MP, PE
    movl %eax, %cr0
    lgdt boot_gdt_pointer - {offset}
    ljmp $8, $(enter64 - {offset})

no_long_mode:
    movl $(no_long_mode_text - {offset}), %esi
    movw $0x3f8, %dx
4:  lodsb
    testb %al, %al
    jz 5f
    outb %al, %dx
    jmp 4b
5:  movb $0xfe, %al                     // the keyboard controller's reset line
    outb %al, $0x64
6:  hlt
    jmp 6b

    .code64
enter64:
    movabsq $enter_high, %rax
    jmp *%rax
enter_high:
    xorl %eax, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl %eax, %fs
    movl %eax, %gs
    movabsq $({stack} + {stack_top}), %rsp
    movl %edi, %edi                     // the upper halves are undefined after the mode switch
    movl %esi, %esi
    xorl %ebp, %ebp                     // the end of every backtrace
    call image_main
    ud2

    .section .rodata
    .balign 8
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff            // 64-bit code
boot_gdt_pointer:
    .word 15
    .long boot_gdt - {offset}
no_long_mode_text:
    .asciz "(hv) error: this CPU has no 64-bit mode\r\n"

    .section .bss
    .balign 4096
boot_pml4:
    .skip 4096
boot_pdpt_low:
    .skip 4096
boot_pdpt_high:
    .skip 4096
boot_pd_image:
    .skip 4096
boot_pd:
    .skip 4 * 4096
    .text
