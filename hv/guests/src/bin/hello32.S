/*
 * hello32: a 32-bit kernel without paging. It tries what differs in the 32-bit ABI: arguments in EBX, ECX,
 * EDX, ESI, EDI; the shared page's layout; structures with 32-bit addresses.
 *
 * Assembled as 32-bit code into an x86-64 object, because no 32-bit target need be installed for it, and
 * made an i386 ELF by `objcopy -O elf32-i386`. Linked at 1 MiB by the guests' linker script.
 */

    .section .note.Xen, "a", @note
    .balign 4
    .long 4, 4, 18                      /* name and descriptor sizes, XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long pvh_entry

    .set MEMORY_OP, 12
    .set XEN_VERSION, 17
    .set CONSOLE_IO, 18
    .set GRANT_TABLE_OP, 20
    .set SCHED_OP, 29
    .set EVENT_CHANNEL_OP, 32

    .set DOMID_SELF, 0x7ff0
    /* Frame numbers with no RAM behind them. */
    .set SHARED_PAGE, 0xf0000000
    .set GRANT_PAGE, 0xf0001000
    /* struct shared_info of a 32-bit guest. */
    .set EVTCHN_PENDING, 2048
    .set TIME_VERSION, 32
    .set SYSTEM_TIME, 32 + 16

    /* A hypercall; its result in EAX. */
    .macro hypercall number:req, cmd:req, argument=0, count=0
    mov ebx, \cmd
    lea ecx, [\argument]
    mov edx, \count
    mov eax, offset hypercall_page + \number * 32
    call eax
    .endm

    /* Names the step for @fail, and goes there unless EAX holds what it must. */
    .macro expect name:req, value=0
    mov esi, offset step_\@
    cmp eax, \value
    jne failed
    .section .rodata
step_\@: .asciz "\name"
    .section .text.entry
    .endm

    .section .text.entry, "ax", @progbits
    .code32
    .globl pvh_entry
pvh_entry:
    cld
    mov esp, offset stack_top
    mov [start_info], ebx

    /* The hypervisor's CPUID leaves. */
    mov esi, 0x40000000
find_leaves:
    mov eax, esi
    xor ecx, ecx
    cpuid
    cmp ebx, 0x566e6558                 /* "XenV" */
    jne 1f
    cmp ecx, 0x65584d4d                 /* "MMXe" */
    jne 1f
    cmp edx, 0x4d4d566e                 /* "nVMM" */
    je found
1:  add esi, 0x100
    cmp esi, 0x40010000
    jb find_leaves
    cli
    hlt                                 /* no hypervisor, so no console to say it on */
found:
    lea eax, [esi + 2]
    xor ecx, ecx
    cpuid
    mov ecx, ebx                        /* the MSR */
    mov eax, offset hypercall_page
    xor edx, edx
    wrmsr
    /* Our number, for grants to ourselves. */
    mov dword ptr [own_domid], DOMID_SELF
    lea eax, [esi + 4]
    xor ecx, ecx
    cpuid
    test eax, 0x10
    jz 1f
    mov [own_domid], ecx
1:
    mov esi, offset greeting
    call print

    mov eax, [start_info]
    mov eax, [eax]
    expect "start info: magic number", 0x336ec578

    hypercall XEN_VERSION, 6, feature_info
    expect "XENVER_get_features"
    mov eax, [feature_info + 4]
    and eax, 4                          /* auto-translated */
    expect "features", 4

    hypercall MEMORY_OP, 7, add_shared_info
    expect "XENMEM_add_to_physmap of the shared page"
    mov eax, [SHARED_PAGE + TIME_VERSION]
    and eax, 1
    expect "the clock's version"

    /* An event to ourselves. */
    hypercall EVENT_CHANNEL_OP, 6, alloc_unbound
    expect "EVTCHNOP_alloc_unbound"
    mov eax, [alloc_unbound + 4]
    mov [bind_interdomain + 4], eax
    hypercall EVENT_CHANNEL_OP, 0, bind_interdomain
    expect "EVTCHNOP_bind_interdomain"
    mov eax, [bind_interdomain + 8]
    mov [port], eax
    hypercall EVENT_CHANNEL_OP, 4, port
    expect "EVTCHNOP_send"
    mov ecx, [alloc_unbound + 4]
    xor eax, eax
    bt dword ptr [SHARED_PAGE + EVTCHN_PENDING], ecx
    setc al
    expect "the pending bit where a 32-bit guest has it", 1
    btr dword ptr [SHARED_PAGE + EVTCHN_PENDING], ecx

    /* SCHEDOP_poll with a time limit 2 ms after the clock's last update: it ends, if only at once. */
    mov eax, [SHARED_PAGE + SYSTEM_TIME]
    mov edx, [SHARED_PAGE + SYSTEM_TIME + 4]
    add eax, 2000000
    adc edx, 0
    mov [poll + 8], eax
    mov [poll + 12], edx
    mov eax, [alloc_unbound + 4]
    mov [poll_port], eax
    hypercall SCHED_OP, 3, poll
    expect "SCHEDOP_poll"

    /* A page granted to ourselves, copied from by its reference. */
    hypercall MEMORY_OP, 7, add_grant_table
    expect "XENMEM_add_to_physmap of the grant table"
    mov dword ptr [source_page + 256], 0x600df00d
    mov eax, offset source_page
    shr eax, 12
    mov [GRANT_PAGE + 100 * 8 + 4], eax
    mov eax, [own_domid]
    mov [GRANT_PAGE + 100 * 8 + 2], ax
    mov word ptr [GRANT_PAGE + 100 * 8], 1
    mov [copy + 4], ax
    mov eax, offset target_page
    shr eax, 12
    mov [copy + 8], eax
    hypercall GRANT_TABLE_OP, 5, copy, 1
    expect "GNTTABOP_copy"
    movsx eax, word ptr [copy + 20]
    expect "the copy's status"
    mov eax, [target_page + 16]
    expect "the copied word", 0x600df00d
    /* An array that does not end below 4 GiB is no address of ours. */
    hypercall GRANT_TABLE_OP, 5, 0xfffffff0, 1
    expect "a batch over the end of the address space", -14

    mov esi, offset success
    call print
    hypercall SCHED_OP, 2, poweroff
    ud2

/* ESI: the step's name; EAX: what it gave. */
failed:
    mov edi, offset hex
    mov ecx, 8
1:  rol eax, 4
    mov edx, eax
    and edx, 15
    mov dl, [digits + edx]
    mov [edi], dl
    inc edi
    loop 1b
    push esi
    mov esi, offset failure
    call print
    pop esi
    call print
    mov esi, offset failure_end
    call print
    hypercall SCHED_OP, 2, crash
    ud2

/* Prints the string at ESI. */
print:
    mov ecx, -1
1:  inc ecx
    cmp byte ptr [esi + ecx], 0
    jne 1b
    mov edx, esi
    xor ebx, ebx
    mov eax, offset hypercall_page + CONSOLE_IO * 32
    call eax
    ret

    .section .rodata
greeting:
    .asciz "hello32: a 32-bit guest without paging\n"
success:
    .asciz "@result {\"role\":\"hello32\",\"ok\":true}\n"
failure:
    .asciz "@fail "
digits:
    .ascii "0123456789abcdef"
poweroff:
    .long 0
crash:
    .long 3

    .data
    .balign 8
start_info:
    .long 0
own_domid:
    .long 0
port:
    .long 0
failure_end:
    .ascii ": 0x"
hex:
    .asciz "00000000\n"
    .balign 4
feature_info:
    .long 0, 0
add_shared_info:
    .word DOMID_SELF, 0
    .long 0, 0, SHARED_PAGE >> 12
add_grant_table:
    .word DOMID_SELF, 0
    .long 1, 0, GRANT_PAGE >> 12
alloc_unbound:
    .word DOMID_SELF, DOMID_SELF
    .long 0
bind_interdomain:
    .word DOMID_SELF, 0
    .long 0, 0
poll:
    .long poll_port, 1, 0, 0
poll_port:
    .long 0
copy:
    .long 100                           /* source: a reference, whose domain stands above */
    .word 0, 256
    .long 0                             /* destination: a frame of our own */
    .word DOMID_SELF, 16
    .word 4, 1, 0, 0                    /* length, GNTCOPY_source_gref, status */

    .bss
    .balign 4096
hypercall_page:
    .skip 4096
source_page:
    .skip 4096
target_page:
    .skip 4096
    .skip 4096
stack_top:
