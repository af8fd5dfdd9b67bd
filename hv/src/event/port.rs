//! What a port is bound to, in one word.
#![forbid(unsafe_code)]

use gnttab_fast::types::DomId;

/// One port: what it is bound to and the vCPU it notifies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Port {
    /// The other end.
    pub binding: Binding,
    /// The vCPU of this domain that gets its events.
    pub vcpu: u16,
}

/// The other end of a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Binding {
    /// Not in use.
    Closed,
    /// That domain may bind to it.
    Unbound(DomId),
    /// A port of another domain, or of this one.
    Interdomain(DomId, u32),
    /// A virtual interrupt.
    Virq(u32),
    /// Another vCPU of the domain.
    Ipi,
    /// The hypervisor, as the other end of the console ring.
    Console,
}

const VCPU_SHIFT: u32 = 4;
const DOMID_SHIFT: u32 = 16;
const DETAIL_SHIFT: u32 = 32;

impl Port {
    /// Not in use.
    pub const CLOSED: Self = Self { binding: Binding::Closed, vcpu: 0 };

    /// The word: kind in bits 0 to 3, vCPU in 4 to 15, domain in 16 to 31, port or interrupt above.
    #[must_use]
    pub const fn word(self) -> u64 {
        let (kind, domid, detail) = match self.binding {
            Binding::Closed => return 0,
            Binding::Unbound(domid) => (1, domid.0, 0),
            Binding::Interdomain(domid, port) => (2, domid.0, port),
            Binding::Virq(virq) => (3, 0, virq),
            Binding::Ipi => (4, 0, 0),
            Binding::Console => (5, 0, 0),
        };
        kind | ((self.vcpu as u64 & 0xfff) << VCPU_SHIFT)
            | ((domid as u64) << DOMID_SHIFT)
            | ((detail as u64) << DETAIL_SHIFT)
    }

    /// From a word.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "fields are cut out of the word")]
    pub const fn from_word(word: u64) -> Self {
        let domid = DomId((word >> DOMID_SHIFT) as u16);
        let detail = (word >> DETAIL_SHIFT) as u32;
        let binding = match word & 0xf {
            1 => Binding::Unbound(domid),
            2 => Binding::Interdomain(domid, detail),
            3 => Binding::Virq(detail),
            4 => Binding::Ipi,
            5 => Binding::Console,
            _ => return Self::CLOSED,
        };
        Self { binding, vcpu: ((word >> VCPU_SHIFT) & 0xfff) as u16 }
    }

    /// Is it in use?
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.binding != Binding::Closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_keeps_everything() {
        for binding in [
            Binding::Unbound(DomId(7)),
            Binding::Interdomain(DomId(0x7fef), 4095),
            Binding::Virq(23),
            Binding::Ipi,
            Binding::Console,
        ] {
            let port = Port { binding, vcpu: 127 };
            assert_eq!(Port::from_word(port.word()), port);
        }
        assert_eq!(Port::from_word(0), Port::CLOSED);
        assert_eq!(Port::CLOSED.word(), 0);
    }
}
