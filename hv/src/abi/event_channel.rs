//! `public/event_channel.h`. Every structure is laid out alike in both widths.

use super::{abi_struct, layout};

/// `EVTCHNOP_*`
pub mod op {
    /// `EVTCHNOP_bind_interdomain`
    pub const BIND_INTERDOMAIN: u32 = 0;
    /// `EVTCHNOP_bind_virq`
    pub const BIND_VIRQ: u32 = 1;
    /// `EVTCHNOP_bind_pirq`
    pub const BIND_PIRQ: u32 = 2;
    /// `EVTCHNOP_close`
    pub const CLOSE: u32 = 3;
    /// `EVTCHNOP_send`
    pub const SEND: u32 = 4;
    /// `EVTCHNOP_status`
    pub const STATUS: u32 = 5;
    /// `EVTCHNOP_alloc_unbound`
    pub const ALLOC_UNBOUND: u32 = 6;
    /// `EVTCHNOP_bind_ipi`
    pub const BIND_IPI: u32 = 7;
    /// `EVTCHNOP_bind_vcpu`
    pub const BIND_VCPU: u32 = 8;
    /// `EVTCHNOP_unmask`
    pub const UNMASK: u32 = 9;
    /// `EVTCHNOP_reset`
    pub const RESET: u32 = 10;
    /// `EVTCHNOP_init_control`
    pub const INIT_CONTROL: u32 = 11;
    /// `EVTCHNOP_expand_array`
    pub const EXPAND_ARRAY: u32 = 12;
    /// `EVTCHNOP_set_priority`
    pub const SET_PRIORITY: u32 = 13;
    /// `EVTCHNOP_reset_cont`: internal to a continuation, refused from a guest.
    pub const RESET_CONT: u32 = 14;
}

/// The FIFO interface: bits of an event word, and the control block.
pub mod fifo {
    /// `EVTCHN_FIFO_PENDING`
    pub const PENDING: u32 = 1 << 31;
    /// `EVTCHN_FIFO_MASKED`
    pub const MASKED: u32 = 1 << 30;
    /// `EVTCHN_FIFO_LINKED`
    pub const LINKED: u32 = 1 << 29;
    /// `EVTCHN_FIFO_BUSY`
    pub const BUSY: u32 = 1 << 28;
    /// `EVTCHN_FIFO_LINK_BITS`
    pub const LINK_BITS: u8 = 17;
    /// `EVTCHN_FIFO_LINK_MASK`
    pub const LINK_MASK: u32 = (1 << LINK_BITS) - 1;
    /// `EVTCHN_FIFO_PRIORITY_DEFAULT`
    pub const PRIORITY_DEFAULT: u32 = 7;
    /// `EVTCHN_FIFO_PRIORITY_MIN`
    pub const PRIORITY_MIN: u32 = 15;
    /// Offset of the heads in `evtchn_fifo_control_block`, whose first word says which queues are ready.
    pub const CONTROL_HEAD: usize = 8;
    /// Its size.
    pub const CONTROL_SIZE: usize = 72;
}

/// `EVTCHNSTAT_*`
pub mod stat {
    /// `EVTCHNSTAT_closed`
    pub const CLOSED: u32 = 0;
    /// `EVTCHNSTAT_unbound`
    pub const UNBOUND: u32 = 1;
    /// `EVTCHNSTAT_interdomain`
    pub const INTERDOMAIN: u32 = 2;
    /// `EVTCHNSTAT_pirq`
    pub const PIRQ: u32 = 3;
    /// `EVTCHNSTAT_virq`
    pub const VIRQ: u32 = 4;
    /// `EVTCHNSTAT_ipi`
    pub const IPI: u32 = 5;
}

abi_struct! {
    /// `evtchn_alloc_unbound`
    AllocUnbound {
        /// The domain that gets the port (`DOMID_SELF`).
        dom: u16,
        /// The domain that may bind to it.
        remote_dom: u16,
        /// OUT.
        port: u32,
    }
}
layout!(AllocUnbound, size 8, port @ 4);

abi_struct! {
    /// `evtchn_bind_interdomain`
    BindInterdomain {
        /// The other side.
        remote_dom: u16,
        /// Padding.
        pad: u16,
        /// Its unbound port.
        remote_port: u32,
        /// OUT.
        local_port: u32,
    }
}
layout!(BindInterdomain, size 12, local_port @ 8);

abi_struct! {
    /// `evtchn_bind_virq`
    BindVirq {
        /// `VIRQ_*`
        virq: u32,
        /// Which vCPU.
        vcpu: u32,
        /// OUT.
        port: u32,
    }
}
layout!(BindVirq, size 12, port @ 8);

abi_struct! {
    /// `evtchn_bind_ipi`
    BindIpi {
        /// Which vCPU.
        vcpu: u32,
        /// OUT.
        port: u32,
    }
}
layout!(BindIpi, size 8, port @ 4);

abi_struct! {
    /// `evtchn_close`, `evtchn_send` and `evtchn_unmask`: one port.
    Port {
        /// The caller's port.
        port: u32,
    }
}
layout!(Port, size 4);

abi_struct! {
    /// `evtchn_status`
    Status {
        /// Whose port.
        dom: u16,
        /// Padding.
        pad0: u16,
        /// Which port.
        port: u32,
        /// OUT: `EVTCHNSTAT_*`.
        status: u32,
        /// OUT: the vCPU it notifies.
        vcpu: u32,
        /// OUT: unbound and interdomain: the other domain in the low half of the first word; interdomain:
        /// its port in the second; virq and pirq: the number in the first.
        u: [u32; 2],
    }
}
layout!(Status, size 24, port @ 4, status @ 8, vcpu @ 12, u @ 16);

abi_struct! {
    /// `evtchn_bind_vcpu`
    BindVcpu {
        /// The caller's port.
        port: u32,
        /// The vCPU it shall notify.
        vcpu: u32,
    }
}
layout!(BindVcpu, size 8, vcpu @ 4);

abi_struct! {
    /// `evtchn_init_control`
    InitControl {
        /// Guest frame of the control block.
        control_gfn: u64,
        /// Where in it.
        offset: u32,
        /// Whose it is.
        vcpu: u32,
        /// OUT: bits of a link.
        link_bits: u8,
        /// Padding.
        pad: [u8; 7],
    }
}
layout!(InitControl, size 24, offset @ 8, vcpu @ 12, link_bits @ 16);

abi_struct! {
    /// `evtchn_expand_array`
    ExpandArray {
        /// Guest frame of the next page of event words.
        array_gfn: u64,
    }
}
layout!(ExpandArray, size 8);

abi_struct! {
    /// `evtchn_set_priority`
    SetPriority {
        /// The caller's port.
        port: u32,
        /// 0, the highest, to 15.
        priority: u32,
    }
}
layout!(SetPriority, size 8, priority @ 4);

abi_struct! {
    /// `evtchn_reset`
    Reset {
        /// Whose ports (`DOMID_SELF`).
        dom: u16,
    }
}
layout!(Reset, size 2);
