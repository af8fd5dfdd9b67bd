//! `public/hvm/params.h`: `HVM_PARAM_*`.

/// `HVM_PARAM_CALLBACK_IRQ`: how an event is announced; the kind is in bits 56 to 63.
pub const CALLBACK_IRQ: u32 = 0;
/// `HVM_PARAM_STORE_PFN`
pub const STORE_PFN: u32 = 1;
/// `HVM_PARAM_STORE_EVTCHN`
pub const STORE_EVTCHN: u32 = 2;
/// `HVM_PARAM_PAE_ENABLED`
pub const PAE_ENABLED: u32 = 4;
/// `HVM_PARAM_CONSOLE_PFN`
pub const CONSOLE_PFN: u32 = 17;
/// `HVM_PARAM_CONSOLE_EVTCHN`
pub const CONSOLE_EVTCHN: u32 = 18;
/// `HVM_NR_PARAMS` at the level of 4.17.
pub const NR_PARAMS: u32 = 39;

/// `HVM_PARAM_CALLBACK_TYPE_GSI`
pub const CALLBACK_TYPE_GSI: u64 = 0;
/// `HVM_PARAM_CALLBACK_TYPE_PCI_INTX`
pub const CALLBACK_TYPE_PCI_INTX: u64 = 1;
/// `HVM_PARAM_CALLBACK_TYPE_VECTOR`
pub const CALLBACK_TYPE_VECTOR: u64 = 2;
/// Where the kind stands in the value.
pub const CALLBACK_TYPE_SHIFT: u32 = 56;
