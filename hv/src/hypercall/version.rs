//! `xen_version` (public/version.h): who we say we are.
#![forbid(unsafe_code)]

use zerocopy::FromZeros;

use super::{Call, Outcome};
use crate::{
    abi::{
        errno::Errno,
        features,
        version::{CompileInfo, FeatureInfo, op},
    },
    vt::{Width, cpuid::XEN_VERSION},
};

/// `XENFEAT_*` of a translated guest.
const FEATURES: u32 = 1 << features::WRITABLE_PAGE_TABLES
    | 1 << features::AUTO_TRANSLATED_PHYSMAP
    | 1 << features::SUPERVISOR_MODE_KERNEL
    | 1 << features::PAE_PGDIR_ABOVE_4GB
    | 1 << features::GNTTAB_MAP_AVAIL_BITS
    | 1 << features::HVM_CALLBACK_VECTOR
    | 1 << features::HVM_SAFE_PVCLOCK;

/// The lowest address of the hypervisor in a guest's address space, as a translated guest is told: none.
const VIRT_START: u64 = 0;

/// The hypercall.
pub fn op(call: &mut Call<'_>) -> Outcome {
    let [cmd, ..] = call.args();
    if cmd == u64::from(op::VERSION) {
        return Outcome::Done(i64::from(XEN_VERSION.0 << 16 | XEN_VERSION.1));
    }
    answer(call).into()
}

/// All but the version itself.
#[cold]
#[inline(never)]
fn answer(call: &Call<'_>) -> Result<i64, Errno> {
    let [cmd, arg, ..] = call.args();
    match u32::try_from(cmd).map_err(|_| Errno::ENOSYS)? {
        op::PAGESIZE if arg == 0 => return Ok(4096),
        op::PAGESIZE => return Err(Errno::EINVAL),
        op::EXTRAVERSION => text::<16>(call, arg, ".0-tollgate")?,
        op::CAPABILITIES => text::<1024>(call, arg, "hvm-3.0-x86_32 hvm-3.0-x86_32p hvm-3.0-x86_64 ")?,
        op::CHANGESET => text::<64>(call, arg, concat!("tollgate ", env!("CARGO_PKG_VERSION")))?,
        // A guest learns nothing of the host's command line: as Xen answers an unprivileged domain.
        op::COMMANDLINE => text::<1024>(call, arg, "<denied>")?,
        op::COMPILE_INFO => {
            let mut info = CompileInfo::new_zeroed();
            fill(&mut info.compiler, "rustc");
            fill(&mut info.compile_by, "tollgate");
            fill(&mut info.compile_date, "<hidden>");
            call.write(arg, &info)?;
        }
        op::PLATFORM_PARAMETERS => match call.width {
            Width::Bits64 => call.write(arg, &VIRT_START)?,
            Width::Bits32 => call.write(arg, &0u32)?,
        },
        op::GET_FEATURES => {
            let mut info: FeatureInfo = call.read(arg)?;
            info.submap = match info.submap_idx {
                0 => FEATURES,
                _ => return Err(Errno::EINVAL),
            };
            call.write(arg, &info)?;
        }
        // No toolstack gives a domain an identity of 128 bits yet: zero, as Xen has it without one.
        op::GUEST_HANDLE => call.write(arg, &[0u8; 16])?,
        // The image has no build id note.
        op::BUILD_ID => return Err(Errno::ENODATA),
        other => {
            call.refuse("xen_version", u64::from(other));
            return Err(Errno::ENOSYS);
        }
    }
    Ok(0)
}

fn fill(to: &mut [u8], text: &str) {
    for (to, from) in to.iter_mut().zip(text.bytes()) {
        *to = from;
    }
}

/// A string in a field of `N` bytes, padded with NULs; the last is always one.
fn text<const N: usize>(call: &Call<'_>, at: u64, text: &str) -> Result<(), Errno> {
    let mut field = [0; N];
    fill(&mut field[..N - 1], text);
    call.write(at, &field)
}
