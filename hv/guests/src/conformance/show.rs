//! How results are spelled: the same on every hypervisor and in both widths.
#![forbid(unsafe_code)]

use core::fmt;

use hv::abi::grant_table::{MapGrantRef, gtf};

/// What a status field holds before the call, and after it if nobody has written it.
pub const UNSET: i16 = 0x4d4d;
/// The same for a handle and other words.
pub const UNSET_WORD: u32 = 0x4d4d_4d4d;

/// The text of one case.
pub struct Out {
    bytes: [u8; 400],
    length: usize,
}

impl Out {
    pub(super) const fn new() -> Self {
        Self { bytes: [0; 400], length: 0 }
    }

    pub(super) fn text(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.length]).unwrap_or("?").trim_end()
    }
}

impl fmt::Write for Out {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.get_mut(self.length..self.length + text.len()).ok_or(fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.length += text.len();
        Ok(())
    }
}

/// A hypercall's result: a number, or the error's name.
pub struct Ret(pub i64);

impl fmt::Display for Ret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            -1 => "EPERM",
            -2 => "ENOENT",
            -3 => "ESRCH",
            -6 => "ENXIO",
            -7 => "E2BIG",
            -11 => "EAGAIN",
            -12 => "ENOMEM",
            -13 => "EACCES",
            -14 => "EFAULT",
            -16 => "EBUSY",
            -17 => "EEXIST",
            -19 => "ENODEV",
            -22 => "EINVAL",
            -28 => "ENOSPC",
            -34 => "ERANGE",
            -38 => "ENOSYS",
            -75 => "EOVERFLOW",
            -95 => "EOPNOTSUPP",
            other => return write!(f, "{other}"),
        };
        f.write_str(name)
    }
}

/// A status.
pub struct St(pub i16);

impl fmt::Display for St {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            0 => "okay",
            -1 => "general_error",
            -2 => "bad_domain",
            -3 => "bad_gntref",
            -4 => "bad_handle",
            -5 => "bad_virt_addr",
            -6 => "bad_dev_addr",
            -7 => "no_device_space",
            -8 => "permission_denied",
            -9 => "bad_page",
            -10 => "bad_copy_arg",
            -11 => "address_too_big",
            -12 => "eagain",
            -13 => "no_space",
            UNSET => "unset",
            other => return write!(f, "{other}"),
        };
        f.write_str(name)
    }
}

/// Statuses, runs of equal ones counted.
pub struct Sts<I>(pub I);

impl<I: Iterator<Item = i16> + Clone> fmt::Display for Sts<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.clone().peekable();
        let mut separator = "";
        while let Some(status) = rest.next() {
            let mut count = 1;
            while rest.next_if_eq(&status).is_some() {
                count += 1;
            }
            write!(f, "{separator}{}", St(status))?;
            if count > 1 {
                write!(f, "*{count}")?;
            }
            separator = ",";
        }
        Ok(())
    }
}

/// Whether the hypervisor says that an entry is read or written through.
pub struct Use(pub u16);

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.0 & gtf::READING != 0, self.0 & gtf::WRITING != 0) {
            (false, false) => "idle",
            (true, false) => "r",
            (false, true) => "w",
            (true, true) => "rw",
        })
    }
}

/// What a map left in its request: the handle and the machine address vary, whether they came does not.
pub struct Mapped(pub MapGrantRef);

impl fmt::Display for Mapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", St(self.0.status))?;
        let came = |unset| if unset { "kept" } else { "ok" };
        if self.0.status == UNSET {
            return Ok(());
        }
        write!(
            f,
            "(handle:{} bus:{})",
            came(self.0.handle == UNSET_WORD),
            came(self.0.dev_bus_addr == u64::from(UNSET_WORD))
        )
    }
}
