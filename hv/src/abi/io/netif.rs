//! `public/io/netif.h`: one ring for each direction, 256 slots each.

use crate::abi::{abi_struct, layout};

/// Slots of a ring of one page, in both directions.
pub const RING_SLOTS: u32 = 256;
/// `NETTXF_csum_blank`
pub const TXF_CSUM_BLANK: u16 = 1;
/// `NETTXF_data_validated`
pub const TXF_DATA_VALIDATED: u16 = 2;
/// `NETTXF_more_data`: the packet goes on in the next slot.
pub const TXF_MORE_DATA: u16 = 4;
/// `NETTXF_extra_info`: an extra-info slot follows.
pub const TXF_EXTRA_INFO: u16 = 8;
/// `NETRXF_data_validated`
pub const RXF_DATA_VALIDATED: u16 = 1;
/// `NETRXF_csum_blank`
pub const RXF_CSUM_BLANK: u16 = 2;
/// `NETRXF_more_data`
pub const RXF_MORE_DATA: u16 = 4;
/// `NETRXF_extra_info`
pub const RXF_EXTRA_INFO: u16 = 8;
/// `XEN_NETIF_EXTRA_TYPE_GSO`
pub const EXTRA_TYPE_GSO: u8 = 1;
/// `XEN_NETIF_EXTRA_FLAG_MORE`
pub const EXTRA_FLAG_MORE: u8 = 1;
/// `XEN_NETIF_GSO_TYPE_TCPV4`
pub const GSO_TYPE_TCPV4: u8 = 1;
/// `XEN_NETIF_GSO_TYPE_TCPV6`
pub const GSO_TYPE_TCPV6: u8 = 2;
/// `NETIF_RSP_DROPPED`
pub const RSP_DROPPED: i16 = -2;
/// `NETIF_RSP_ERROR`
pub const RSP_ERROR: i16 = -1;
/// `NETIF_RSP_OKAY`
pub const RSP_OKAY: i16 = 0;
/// `NETIF_RSP_NULL`: the answer to an extra-info slot.
pub const RSP_NULL: i16 = 1;
/// `XEN_NETIF_NR_SLOTS_MIN`: slots of one packet every backend takes.
pub const NR_SLOTS_MIN: u32 = 18;

abi_struct! {
    /// `netif_tx_request`
    TxRequest {
        /// Grant of the buffer.
        gref: u32,
        /// Offset in it.
        offset: u16,
        /// `NETTXF_*`
        flags: u16,
        /// Echoed in the response.
        id: u16,
        /// First slot: bytes of the whole packet; others: of this slot.
        size: u16,
    }
}
layout!(TxRequest, size 12, offset @ 4, flags @ 6, id @ 8, size @ 10);

abi_struct! {
    /// `netif_extra_info` of the GSO kind; it stands in a slot of either ring.
    ExtraGso {
        /// `XEN_NETIF_EXTRA_TYPE_*`
        kind: u8,
        /// `XEN_NETIF_EXTRA_FLAG_*`
        flags: u8,
        /// Payload bytes of each segment.
        size: u16,
        /// `XEN_NETIF_GSO_TYPE_*`
        gso_type: u8,
        /// Zero.
        pad: u8,
        /// Zero.
        features: u16,
    }
}
layout!(ExtraGso, size 8, size @ 2, gso_type @ 4, features @ 6);

abi_struct! {
    /// `netif_tx_response`
    TxResponse {
        /// Of the request.
        id: u16,
        /// `NETIF_RSP_*`
        status: i16,
    }
}
layout!(TxResponse, size 4);

abi_struct! {
    /// `netif_rx_request`
    RxRequest {
        /// Echoed in the response.
        id: u16,
        /// Zero.
        pad: u16,
        /// Grant of a whole writable page.
        gref: u32,
    }
}
layout!(RxRequest, size 8, gref @ 4);

abi_struct! {
    /// `netif_rx_response`
    RxResponse {
        /// Of the request.
        id: u16,
        /// Where the data start in the page.
        offset: u16,
        /// `NETRXF_*`
        flags: u16,
        /// Bytes, or `NETIF_RSP_*` if negative.
        status: i16,
    }
}
layout!(RxResponse, size 8, offset @ 2, flags @ 4, status @ 6);
