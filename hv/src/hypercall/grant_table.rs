//! `grant_table_op`: the grant table of the house's own crate, tied to this hypervisor.

use gnttab_fast::types::{DomId, Mfn};

use super::{Call, Outcome};
use crate::abi::errno::Errno;
use crate::domain::{Domain, GrantLimits};

/// A domain's grant table and maptrack.
#[derive(Debug)]
pub struct GrantTable {}

impl GrantTable {
    /// The table of a new domain.
    ///
    /// # Errors
    /// No memory.
    pub fn new(domain: DomId, limits: &GrantLimits) -> Result<Self, Errno> {
        let _ = (domain, limits);
        todo!()
    }
}

/// The hypercall.
pub fn op(call: &mut Call<'_>) -> Outcome {
    let _ = call;
    todo!()
}

/// The frame `XENMEM_add_to_physmap` names in `XENMAPSPACE_grant_table` (grows the table where the ABI says
/// so). Owned by the domain.
///
/// # Errors
/// As the ABI has them.
pub fn physmap_frame(domain: &Domain, index: u64) -> Result<Mfn, Errno> {
    let _ = (domain, index);
    todo!()
}

/// One bounded step of taking back what a dying domain has mapped and granted; true when all is back.
pub fn release_step(domain: &Domain) -> bool {
    let _ = domain;
    todo!()
}
