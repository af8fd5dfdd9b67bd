//! `memcpy` and its kin, which compiled Rust calls by name and nobody else supplies here.
//!
//! They serve the compiler's own copies and cleared frames, not grant copies (copy_engine does those),
//! so they are plain: SSE2 only, up to 64 bytes by overlapping loads before the first store, beyond
//! that blocks of 64 bytes with the last (or first) block loaded up front. Written as assembly because
//! a compiled loop may be recognised as the very function it implements and call itself.
//!
//! In the image they carry the C names; on a host they keep their own, and are tested there.

use core::arch::naked_asm;

/// `memcpy` and `memmove`: copies `n` bytes; the ranges may overlap.
///
/// # Safety
/// `from` must be good for reading `n` bytes and `to` for writing as many.
#[unsafe(naked)]
#[cfg_attr(feature = "bare-metal", unsafe(export_name = "memmove"))]
pub unsafe extern "sysv64" fn memmove(to: *mut u8, from: *const u8, n: usize) -> *mut u8 {
    naked_asm!(
        "mov rax, rdi",
        "cmp rdx, 16",
        "jb 20f",
        "cmp rdx, 32",
        "ja 10f",
        "movups xmm0, [rsi]",
        "movups xmm1, [rsi + rdx - 16]",
        "movups [rdi], xmm0",
        "movups [rdi + rdx - 16], xmm1",
        "ret",
        "10:",
        "cmp rdx, 64",
        "ja 11f",
        "movups xmm0, [rsi]",
        "movups xmm1, [rsi + 16]",
        "movups xmm2, [rsi + rdx - 32]",
        "movups xmm3, [rsi + rdx - 16]",
        "movups [rdi], xmm0",
        "movups [rdi + 16], xmm1",
        "movups [rdi + rdx - 32], xmm2",
        "movups [rdi + rdx - 16], xmm3",
        "ret",
        // Over 64 bytes. Backwards when the destination begins inside the source.
        "11:",
        "mov rcx, rdi",
        "sub rcx, rsi",
        "cmp rcx, rdx",
        "jb 14f",
        "movups xmm4, [rsi + rdx - 64]",
        "movups xmm5, [rsi + rdx - 48]",
        "movups xmm6, [rsi + rdx - 32]",
        "movups xmm7, [rsi + rdx - 16]",
        "lea r8, [rdi + rdx - 64]",
        "12:",
        "movups xmm0, [rsi]",
        "movups xmm1, [rsi + 16]",
        "movups xmm2, [rsi + 32]",
        "movups xmm3, [rsi + 48]",
        "movups [rdi], xmm0",
        "movups [rdi + 16], xmm1",
        "movups [rdi + 32], xmm2",
        "movups [rdi + 48], xmm3",
        "add rsi, 64",
        "add rdi, 64",
        "cmp rdi, r8",
        "jb 12b",
        "movups [r8], xmm4",
        "movups [r8 + 16], xmm5",
        "movups [r8 + 32], xmm6",
        "movups [r8 + 48], xmm7",
        "ret",
        "14:",
        "movups xmm4, [rsi]",
        "movups xmm5, [rsi + 16]",
        "movups xmm6, [rsi + 32]",
        "movups xmm7, [rsi + 48]",
        "15:",
        "movups xmm0, [rsi + rdx - 64]",
        "movups xmm1, [rsi + rdx - 48]",
        "movups xmm2, [rsi + rdx - 32]",
        "movups xmm3, [rsi + rdx - 16]",
        "movups [rdi + rdx - 64], xmm0",
        "movups [rdi + rdx - 48], xmm1",
        "movups [rdi + rdx - 32], xmm2",
        "movups [rdi + rdx - 16], xmm3",
        "sub rdx, 64",
        "cmp rdx, 64",
        "ja 15b",
        "movups [rdi], xmm4",
        "movups [rdi + 16], xmm5",
        "movups [rdi + 32], xmm6",
        "movups [rdi + 48], xmm7",
        "ret",
        // Under 16 bytes.
        "20:",
        "cmp edx, 8",
        "jb 21f",
        "mov rcx, [rsi]",
        "mov r8, [rsi + rdx - 8]",
        "mov [rdi], rcx",
        "mov [rdi + rdx - 8], r8",
        "ret",
        "21:",
        "cmp edx, 4",
        "jb 22f",
        "mov ecx, [rsi]",
        "mov r8d, [rsi + rdx - 4]",
        "mov [rdi], ecx",
        "mov [rdi + rdx - 4], r8d",
        "ret",
        "22:",
        "test edx, edx",
        "jz 23f",
        "movzx ecx, byte ptr [rsi]",
        "movzx r8d, byte ptr [rsi + rdx - 1]",
        "shr edx, 1",
        "movzx r9d, byte ptr [rsi + rdx]",
        "mov [rdi + rdx], r9b",
        // The length again, from its half and the parity of the last byte's place.
        "mov [rdi], cl",
        "adc edx, edx",
        "mov [rdi + rdx - 1], r8b",
        "23:",
        "ret",
    )
}

/// `memset`: fills `n` bytes.
///
/// # Safety
/// `to` must be good for writing `n` bytes.
#[unsafe(naked)]
#[cfg_attr(feature = "bare-metal", unsafe(export_name = "memset"))]
pub unsafe extern "sysv64" fn memset(to: *mut u8, byte: i32, n: usize) -> *mut u8 {
    naked_asm!(
        "mov rax, rdi",
        "movzx esi, sil",
        "mov rcx, 0x0101010101010101",
        "imul rsi, rcx",
        "cmp rdx, 16",
        "jb 20f",
        "movq xmm0, rsi",
        "punpcklqdq xmm0, xmm0",
        "cmp rdx, 64",
        "ja 11f",
        "movups [rdi], xmm0",
        "movups [rdi + rdx - 16], xmm0",
        "cmp rdx, 32",
        "jbe 10f",
        "movups [rdi + 16], xmm0",
        "movups [rdi + rdx - 32], xmm0",
        "10:",
        "ret",
        "11:",
        "lea r8, [rdi + rdx - 64]",
        "12:",
        "movups [rdi], xmm0",
        "movups [rdi + 16], xmm0",
        "movups [rdi + 32], xmm0",
        "movups [rdi + 48], xmm0",
        "add rdi, 64",
        "cmp rdi, r8",
        "jb 12b",
        "movups [r8], xmm0",
        "movups [r8 + 16], xmm0",
        "movups [r8 + 32], xmm0",
        "movups [r8 + 48], xmm0",
        "ret",
        "20:",
        "cmp edx, 8",
        "jb 21f",
        "mov [rdi], rsi",
        "mov [rdi + rdx - 8], rsi",
        "ret",
        "21:",
        "cmp edx, 4",
        "jb 22f",
        "mov [rdi], esi",
        "mov [rdi + rdx - 4], esi",
        "ret",
        "22:",
        "test edx, edx",
        "jz 23f",
        "mov [rdi], sil",
        "mov [rdi + rdx - 1], sil",
        "shr edx, 1",
        "mov [rdi + rdx], sil",
        "23:",
        "ret",
    )
}

/// `memcmp`: the difference of the first bytes that differ, 0 when none do.
///
/// # Safety
/// Both pointers must be good for reading `n` bytes.
#[unsafe(naked)]
#[cfg_attr(feature = "bare-metal", unsafe(export_name = "memcmp"))]
pub unsafe extern "sysv64" fn memcmp(one: *const u8, other: *const u8, n: usize) -> i32 {
    naked_asm!(
        "xor ecx, ecx",
        "sub rdx, 8",
        "jb 12f",
        "10:",
        "mov rax, [rdi + rcx]",
        "mov r8, [rsi + rcx]",
        "cmp rax, r8",
        "jne 15f",
        "add rcx, 8",
        "cmp rcx, rdx",
        "jbe 10b",
        "12:",
        "add rdx, 8",
        "13:",
        "cmp rcx, rdx",
        "jae 14f",
        "movzx eax, byte ptr [rdi + rcx]",
        "movzx r8d, byte ptr [rsi + rcx]",
        "inc rcx",
        "sub eax, r8d",
        "jz 13b",
        "ret",
        "14:",
        "xor eax, eax",
        "ret",
        // Eight bytes differ: as big-endian numbers they compare like the strings.
        "15:",
        "bswap rax",
        "bswap r8",
        "cmp rax, r8",
        "sbb eax, eax",
        "or eax, 1",
        "ret",
    )
}

#[cfg(feature = "bare-metal")]
mod names {
    //! The other names of the same functions, and two that compiled `alloc` refers to but never calls.

    use core::arch::global_asm;

    global_asm!(
        ".global memcpy",
        ".set memcpy, {memmove}",
        ".global bcmp",
        ".set bcmp, {memcmp}",
        memmove = sym super::memmove,
        memcmp = sym super::memcmp,
    );

    // The precompiled library's landing pads name these; with panic = "abort" no unwinding starts.
    global_asm!(
        ".global rust_eh_personality",
        ".global _Unwind_Resume",
        "rust_eh_personality:",
        "_Unwind_Resume:",
        "ud2",
    );
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    const SIZES: [usize; 22] =
        [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 1000];

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|at| u8::try_from(at * 7 % 251).expect("small")).collect()
    }

    #[test]
    fn moves_like_copy_within_at_every_distance() {
        for n in SIZES {
            for (from, to) in
                [(300, 0), (100, 0), (65, 0), (8, 0), (1, 0), (5, 5), (0, 1), (0, 8), (0, 65), (0, 300)]
            {
                let mut bytes = pattern(1400);
                let mut wanted = bytes.clone();
                wanted.copy_within(from..from + n, to);
                let base = bytes.as_mut_ptr();
                // SAFETY: both ranges lie in the 1400 bytes.
                let returned = unsafe { memmove(base.add(to), base.add(from), n) };
                assert_eq!(returned, base.wrapping_add(to));
                assert!(bytes == wanted, "n {n} from {from} to {to}");
            }
        }
    }

    #[test]
    fn fills_exactly() {
        for n in SIZES {
            let mut bytes = pattern(1100);
            let mut wanted = bytes.clone();
            wanted[3..3 + n].fill(0xa5);
            // SAFETY: the range lies in the 1100 bytes.
            unsafe { memset(bytes.as_mut_ptr().add(3), 0x1_a5, n) };
            assert!(bytes == wanted, "n {n}");
        }
    }

    #[test]
    fn compares_like_slices() {
        for n in SIZES {
            let one = pattern(n);
            // SAFETY: both are `n` bytes long.
            let compare = |other: &[u8]| unsafe { memcmp(one.as_ptr(), other.as_ptr(), n) };
            assert_eq!(compare(&one), 0);
            for at in 0..n {
                for delta in [1, 0x80] {
                    let mut other = one.clone();
                    other[at] = other[at].wrapping_add(delta);
                    let wanted = one.cmp(&other);
                    assert_eq!(compare(&other).cmp(&0), wanted, "n {n} at {at}");
                }
            }
        }
    }
}
