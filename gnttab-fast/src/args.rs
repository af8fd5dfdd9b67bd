//! The argument array of a hypercall: elements read once each, results written back field by field.

use crate::cells::Cells;
use crate::host::{Fault, GuestMemory};
use crate::status::Status;
use core::marker::PhantomData;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// An array of `T` in the caller's memory.
pub(crate) struct Args<'m, M, T> {
    memory: &'m mut M,
    base: u64,
    element: PhantomData<T>,
}

impl<'m, M: GuestMemory, T: FromBytes + IntoBytes> Args<'m, M, T> {
    #[inline]
    pub(crate) fn new(memory: &'m mut M, base: u64) -> Self {
        Self { memory, base, element: PhantomData }
    }

    /// Address of a byte of an element. An array that reaches over the end of the address space faults.
    #[inline]
    fn address(&self, index: u32, offset: usize) -> Result<u64, Fault> {
        // 2^32 elements of less than 4 KiB: no overflow before the addition.
        self.base.checked_add(u64::from(index) * size_of::<T>() as u64 + offset as u64).ok_or(Fault)
    }

    /// The elements from `index` on that can be used in place, at most `most`: perhaps none, and then the next
    /// is to be [`read`](Self::read).
    ///
    /// # Errors
    /// [`Fault`]; perhaps only `read` of the next would say so.
    #[inline]
    pub(crate) fn in_place(&mut self, index: u32, most: u32) -> Result<&[T], Fault>
    where
        T: Cells,
    {
        let address = self.address(index, 0)?;
        self.memory.in_place(address, most as usize)
    }

    /// Element `index`.
    #[inline]
    pub(crate) fn read(&mut self, index: u32) -> Result<T, Fault> {
        let address = self.address(index, 0)?;
        let mut value = T::new_zeroed();
        self.memory.read(address, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Writes the status, at `offset`, of element `index`.
    #[inline]
    pub(crate) fn write_status(&mut self, index: u32, offset: usize, status: Status) -> Result<(), Fault> {
        self.write(index, offset, &status.abi())
    }

    /// Writes a field, at `offset`, of element `index`.
    #[inline]
    pub(crate) fn write<V: IntoBytes + Immutable>(
        &mut self,
        index: u32,
        offset: usize,
        value: &V,
    ) -> Result<(), Fault> {
        let address = self.address(index, offset)?;
        self.memory.write(address, value.as_bytes())
    }

    /// The caller's memory, for what an element points to.
    pub(crate) fn memory(&mut self) -> &mut M {
        self.memory
    }
}
