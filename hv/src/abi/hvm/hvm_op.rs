//! `public/hvm/hvm_op.h`. Both widths alike.

use crate::abi::{abi_struct, layout};

/// `HVMOP_*`
pub mod op {
    /// `HVMOP_set_param`
    pub const SET_PARAM: u32 = 0;
    /// `HVMOP_get_param`
    pub const GET_PARAM: u32 = 1;
    /// `HVMOP_flush_tlbs`
    pub const FLUSH_TLBS: u32 = 5;
    /// `HVMOP_pagetable_dying`: obsolete, `-ENOSYS`.
    pub const PAGETABLE_DYING: u32 = 9;
    /// `HVMOP_get_time`
    pub const GET_TIME: u32 = 10;
    /// `HVMOP_set_evtchn_upcall_vector`
    pub const SET_EVTCHN_UPCALL_VECTOR: u32 = 23;
}

abi_struct! {
    /// `xen_hvm_param`
    Param {
        /// Whose (`DOMID_SELF`).
        domid: u16,
        /// Padding.
        pad: u16,
        /// `HVM_PARAM_*`
        index: u32,
        /// IN or OUT.
        value: u64,
    }
}
layout!(Param, size 16, index @ 4, value @ 8);

abi_struct! {
    /// `xen_hvm_evtchn_upcall_vector`
    EvtchnUpcallVector {
        /// Which vCPU.
        vcpu: u32,
        /// Its vector, 0x10 to 0xff.
        vector: u8,
        /// Padding.
        pad: [u8; 3],
    }
}
layout!(EvtchnUpcallVector, size 8, vector @ 4);
