//! The ACPI tables of a domain: which processors it has, and that there is nothing else.
//!
//! A kernel without device model learns from them its local APICs (MADT; no I/O APIC, no 8259), the same
//! processors as devices (DSDT), and that the hardware is of the reduced kind: no power management
//! registers, no PC legacy devices, no VGA, no CMOS clock (FADT). They lie in pages of their own at
//! [`layout::ACPI`], which the memory map tells as ACPI data; the start info points at the RSDP, the first of
//! them. ACPI specification 6.5, chapter 5.2.
#![forbid(unsafe_code)]

use alloc::{format, vec, vec::Vec};

use acpi_tables::{
    Aml,
    aml::{Device, Name, Path, Scope},
    fadt::{FADTBuilder, Flags, PmProfile},
    madt::{EnabledStatus, LocalInterruptController, MADT, ProcessorLocalApic},
    rsdp::Rsdp,
    sdt::Sdt,
    xsdt::XSDT,
};
use gnttab_fast::types::PAGE_SIZE;

use super::{MAX_VCPUS, layout};
use crate::dev::lapic;

const OEM: [u8; 6] = *b"TOLLGT";
const TABLE: [u8; 8] = *b"DOMAIN  ";
const REVISION: u32 = 1;
/// FADT `IAPC_BOOT_ARCH`: no VGA, no CMOS clock; and, as bits not set, no 8042 and no legacy devices.
const BOOT_ARCH: u16 = 1 << 2 | 1 << 5;
/// Tables begin at multiples of this.
const ALIGN: usize = 64;

/// The pages the tables of a domain of `vcpus` vCPUs take.
#[must_use]
pub fn pages(vcpus: u32) -> u64 {
    tables(vcpus).len().div_ceil(PAGE_SIZE) as u64
}

/// The tables as they stand at [`layout::ACPI`]: first the RSDP.
#[must_use]
pub fn tables(vcpus: u32) -> Vec<u8> {
    let mut out = vec![0; Rsdp::len().next_multiple_of(ALIGN)];
    let dsdt = append(&mut out, &dsdt(vcpus));
    let fadt = append(&mut out, &fadt(dsdt));
    let madt = append(&mut out, &madt(vcpus));
    let mut xsdt = XSDT::new(OEM, TABLE, REVISION);
    [fadt, madt].into_iter().for_each(|table| xsdt.add_entry(table));
    let xsdt = append(&mut out, &xsdt);
    let mut rsdp = Vec::new();
    Rsdp::new(OEM, xsdt).to_aml_bytes(&mut rsdp);
    out[..rsdp.len()].copy_from_slice(&rsdp);
    out
}

/// Adds a table; its guest-physical address.
fn append(out: &mut Vec<u8>, table: &dyn Aml) -> u64 {
    out.resize(out.len().next_multiple_of(ALIGN), 0);
    let at = layout::ACPI + out.len() as u64;
    table.to_aml_bytes(out);
    at
}

/// Every processor as a device (`ACPI0007`) whose unique id is its number, as in the MADT.
fn dsdt(vcpus: u32) -> Sdt {
    let mut processors = Vec::new();
    let hid = Name::new("_HID".into(), &"ACPI0007");
    for id in 0..vcpus.min(MAX_VCPUS) {
        let uid = Name::new("_UID".into(), &id);
        let path = Path::new(&format!("C{id:03X}"));
        Device::new(path, Vec::from([&hid as &dyn Aml, &uid])).to_aml_bytes(&mut processors);
    }
    let mut table = Sdt::new(*b"DSDT", 36, 2, OEM, TABLE, REVISION);
    table.append_slice(&Scope::raw("\\_SB_".into(), processors));
    table
}

fn fadt(dsdt: u64) -> impl Aml {
    let mut builder = FADTBuilder::new(OEM, TABLE, REVISION)
        .dsdt_64(dsdt)
        .preferred_pm_profile(PmProfile::Unspecified)
        .flag(Flags::Wbinvd)
        .flag(Flags::Headless)
        .flag(Flags::HwReducedAcpi);
    builder.iapc_boot_arch = BOOT_ARCH.into();
    builder.finalize()
}

fn madt(vcpus: u32) -> MADT {
    let mut madt = MADT::new(OEM, TABLE, REVISION, LocalInterruptController::Address(lapic::BASE));
    for id in 0..vcpus.min(MAX_VCPUS) {
        // 128 vCPUs have numbers to 127 and APIC ids to 254: the short kind of entry is enough.
        if let (Ok(uid), Ok(apic)) = (u8::try_from(id), u8::try_from(lapic::id_of(id))) {
            madt.add_structure(ProcessorLocalApic::new(uid, apic, EnabledStatus::Enabled));
        }
    }
    madt
}

#[cfg(test)]
mod tests {
    use super::*;

    fn u32_at(bytes: &[u8], at: usize) -> usize {
        let word = bytes[at..at + 4].try_into().expect("four bytes");
        usize::try_from(u32::from_le_bytes(word)).expect("fits")
    }

    fn u64_at(bytes: &[u8], at: usize) -> usize {
        usize::try_from(u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))).expect("fits")
    }

    fn table(bytes: &[u8], at: usize) -> &[u8] {
        let start = at - usize::try_from(layout::ACPI).expect("fits");
        let table = &bytes[start..start + u32_at(bytes, start + 4)];
        assert_eq!(table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0, "checksum");
        table
    }

    #[test]
    fn every_table_is_found_from_the_root_and_adds_up() {
        for vcpus in [1, 4, MAX_VCPUS] {
            let bytes = tables(vcpus);
            assert!(bytes.len() as u64 <= pages(vcpus) * PAGE_SIZE as u64);
            assert_eq!(&bytes[..8], b"RSD PTR ");
            let xsdt = table(&bytes, u64_at(&bytes, 24));
            assert_eq!((&xsdt[..4], xsdt.len()), (&b"XSDT"[..], 36 + 16));
            let fadt = table(&bytes, u64_at(xsdt, 36));
            assert_eq!(&fadt[..4], b"FACP");
            assert_ne!(u32_at(fadt, 112) & 1 << 20, 0, "reduced hardware");
            let dsdt = table(&bytes, u64_at(fadt, 140));
            assert_eq!(&dsdt[..4], b"DSDT");
            assert_eq!(dsdt.windows(8).filter(|name| name == b"ACPI0007").count(), vcpus as usize);
            let madt = table(&bytes, u64_at(xsdt, 44));
            assert_eq!((&madt[..4], madt.len()), (&b"APIC"[..], 44 + 8 * vcpus as usize));
            let last = &madt[madt.len() - 8..];
            assert_eq!((u32::from(last[2]), u32::from(last[3])), (vcpus - 1, 2 * (vcpus - 1)));
        }
    }
}
