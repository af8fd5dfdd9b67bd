//! Results of grant operations, and the one place where they become numbers of the ABI.

/// `GNTST_*` (public/grant_table.h): what an element's `status` field tells the caller.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(i16)]
pub enum Status {
    /// Done.
    Okay = 0,
    /// Anything without a code of its own.
    GeneralError = -1,
    /// No such domain.
    BadDomain = -2,
    /// The reference is outside the table, or the request names no way to map it.
    BadGntref = -3,
    /// The handle is not live.
    BadHandle = -4,
    /// The address to map at cannot be used.
    BadVirtAddr = -5,
    /// The device address is not that of the mapping.
    BadDevAddr = -6,
    /// No IOMMU space.
    NoDeviceSpace = -7,
    /// Not the caller's to do.
    PermissionDenied = -8,
    /// The frame is no ordinary memory of its domain.
    BadPage = -9,
    /// A copy reaches over the end of a frame.
    BadCopyArg = -10,
    /// A frame number does not fit the caller's width.
    AddressTooBig = -11,
    /// Not possible now; later perhaps.
    Eagain = -12,
    /// No free handle.
    NoSpace = -13,
}

impl Status {
    /// The number the guest sees.
    #[must_use]
    #[inline]
    pub const fn abi(self) -> i16 {
        self as i16
    }
}

/// Errors a whole hypercall can end with. Numbers are those of public/errno.h.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(i32)]
pub enum Errno {
    /// Not the caller's to do (`EPERM`).
    NotPermitted = 1,
    /// No such domain (`ESRCH`).
    NoDomain = 3,
    /// Try again: operations are under way (`EAGAIN`).
    Again = 11,
    /// Out of memory (`ENOMEM`).
    NoMemory = 12,
    /// The argument array cannot be read or written (`EFAULT`).
    Fault = 14,
    /// Entries are in use (`EBUSY`).
    Busy = 16,
    /// Bad argument (`EINVAL`).
    Invalid = 22,
    /// A reserved entry cannot be kept (`ERANGE`).
    Range = 34,
    /// Not here (`ENOSYS`).
    NoSystem = 38,
    /// Not for this caller (`EOPNOTSUPP`).
    NotSupported = 95,
}

impl Errno {
    /// The number, positive.
    #[must_use]
    pub const fn code(self) -> i32 {
        self as i32
    }
}
