//! Atomics that tell the model of each access and are otherwise the standard ones, laid out alike.

use crate::model::{Kind, access, barrier};
use core::sync::atomic as real;

pub use core::sync::atomic::Ordering;

/// A full barrier, or a weaker fence, which costs nothing.
#[inline]
pub fn fence(order: Ordering) {
    if order == Ordering::SeqCst {
        barrier();
    }
    real::fence(order);
}

/// One turn of a loop that waits.
#[inline]
pub fn spin_loop() {
    crate::model::spin();
}

macro_rules! common {
    ($name:ident, $value:ty) => {
        #[doc = concat!("`", stringify!($name), "`, seen by the model.")]
        #[repr(transparent)]
        #[derive(Debug, Default)]
        pub struct $name(real::$name);

        impl $name {
            /// A new one; no access.
            #[must_use]
            pub const fn new(value: $value) -> Self {
                Self(real::$name::new(value))
            }

            /// One in place.
            ///
            /// # Safety
            /// As for the standard type's.
            #[must_use]
            pub const unsafe fn from_ptr<'x>(at: *mut $value) -> &'x Self {
                // SAFETY: the caller's promise; the layout is the standard type's, which is the value's.
                unsafe { &*at.cast::<Self>() }
            }

            /// The address.
            pub const fn as_ptr(&self) -> *mut $value {
                self.0.as_ptr()
            }

            /// The value, by exclusive access; none the model sees.
            pub fn get_mut(&mut self) -> &mut $value {
                self.0.get_mut()
            }

            fn seen(&self, kind: Kind) -> &real::$name {
                access(std::ptr::from_ref(self).addr(), kind);
                &self.0
            }

            /// Loads.
            #[must_use]
            pub fn load(&self, order: Ordering) -> $value {
                self.seen(Kind::Load).load(order)
            }

            /// Stores; at `SeqCst` by an exchange.
            pub fn store(&self, value: $value, order: Ordering) {
                let kind = if order == Ordering::SeqCst { Kind::Exchange } else { Kind::Store };
                self.seen(kind).store(value, order);
            }

            /// Exchanges.
            pub fn swap(&self, value: $value, order: Ordering) -> $value {
                self.seen(Kind::Exchange).swap(value, order)
            }

            /// Compares and exchanges.
            ///
            /// # Errors
            /// The present value, if it is another than `now`.
            pub fn compare_exchange(
                &self,
                now: $value,
                new: $value,
                good: Ordering,
                bad: Ordering,
            ) -> Result<$value, $value> {
                self.seen(Kind::Exchange).compare_exchange(now, new, good, bad)
            }

            /// The same: it never fails by chance here.
            ///
            /// # Errors
            /// The present value, if it is another than `now`.
            pub fn compare_exchange_weak(
                &self,
                now: $value,
                new: $value,
                good: Ordering,
                bad: Ordering,
            ) -> Result<$value, $value> {
                self.compare_exchange(now, new, good, bad)
            }
        }
    };
}

macro_rules! number {
    ($($name:ident, $value:ty, [$($op:ident)*]);*) => {$(
        common!($name, $value);
        impl $name {
            $(
                #[doc = concat!("`", stringify!($op), "`.")]
                pub fn $op(&self, value: $value, order: Ordering) -> $value {
                    self.seen(Kind::Exchange).$op(value, order)
                }
            )*

            /// A loop of compare-exchanges.
            ///
            /// # Errors
            /// The last value, if `change` wants no other.
            pub fn fetch_update(
                &self, good: Ordering, bad: Ordering, mut change: impl FnMut($value) -> Option<$value>,
            ) -> Result<$value, $value> {
                let mut now = self.load(bad);
                while let Some(new) = change(now) {
                    match self.compare_exchange(now, new, good, bad) {
                        Ok(old) => return Ok(old),
                        Err(other) => now = other,
                    }
                }
                Err(now)
            }
        }
    )*};
}

number!(
    AtomicU8, u8, [fetch_add fetch_sub fetch_and fetch_or fetch_max];
    AtomicU16, u16, [fetch_add fetch_sub fetch_and fetch_or fetch_max];
    AtomicU32, u32, [fetch_add fetch_sub fetch_and fetch_or fetch_max];
    AtomicU64, u64, [fetch_add fetch_sub fetch_and fetch_or fetch_max];
    AtomicUsize, usize, [fetch_add fetch_sub fetch_and fetch_or fetch_max];
    AtomicBool, bool, [fetch_and fetch_or]
);

#[doc = "`AtomicPtr`, seen by the model."]
#[repr(transparent)]
#[derive(Debug)]
pub struct AtomicPtr<T>(real::AtomicPtr<T>);

impl<T> AtomicPtr<T> {
    /// A new one; no access.
    #[must_use]
    pub const fn new(value: *mut T) -> Self {
        Self(real::AtomicPtr::new(value))
    }

    fn seen(&self, kind: Kind) -> &real::AtomicPtr<T> {
        access(std::ptr::from_ref(self).addr(), kind);
        &self.0
    }

    /// Loads.
    #[must_use]
    pub fn load(&self, order: Ordering) -> *mut T {
        self.seen(Kind::Load).load(order)
    }

    /// Stores.
    pub fn store(&self, value: *mut T, order: Ordering) {
        self.seen(Kind::Store).store(value, order);
    }

    /// Exchanges.
    pub fn swap(&self, value: *mut T, order: Ordering) -> *mut T {
        self.seen(Kind::Exchange).swap(value, order)
    }

    /// Compares and exchanges.
    ///
    /// # Errors
    /// The present value, if it is another than `now`.
    pub fn compare_exchange(
        &self,
        now: *mut T,
        new: *mut T,
        good: Ordering,
        bad: Ordering,
    ) -> Result<*mut T, *mut T> {
        self.seen(Kind::Exchange).compare_exchange(now, new, good, bad)
    }
}
