//! `public/errno.h`: what hypercalls return, negated.

/// A hypercall's error, with the number of `public/errno.h`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i32)]
pub enum Errno {
    /// Operation not permitted.
    EPERM = 1,
    /// No such thing.
    ENOENT = 2,
    /// No such domain or vCPU.
    ESRCH = 3,
    /// Input or output error.
    EIO = 5,
    /// No such device.
    ENXIO = 6,
    /// Argument list too long.
    E2BIG = 7,
    /// Bad handle.
    EBADF = 9,
    /// Try again.
    EAGAIN = 11,
    /// Out of memory.
    ENOMEM = 12,
    /// Permission denied.
    EACCES = 13,
    /// Bad guest address.
    EFAULT = 14,
    /// Busy.
    EBUSY = 16,
    /// Exists already.
    EEXIST = 17,
    /// No such device.
    ENODEV = 19,
    /// Invalid argument.
    EINVAL = 22,
    /// No space left.
    ENOSPC = 28,
    /// Argument out of the function's domain.
    EDOM = 33,
    /// Result out of range.
    ERANGE = 34,
    /// Not implemented.
    ENOSYS = 38,
    /// No data.
    ENODATA = 61,
    /// The time has passed.
    ETIME = 62,
    /// Value too large.
    EOVERFLOW = 75,
    /// Illegal byte sequence: Xen's word for a continuation that makes no sense.
    EILSEQ = 84,
    /// Operation not supported.
    EOPNOTSUPP = 95,
}

impl Errno {
    /// The value a guest finds in its result register.
    #[must_use]
    pub const fn ret(self) -> i64 {
        -(self as i64)
    }
}
