//! Boot sectors whose addresses are not known: those of computers other than PCs and Macs.

use crate::iso::boot::SystemArea;
use crate::partition::mbr;
use crate::storage::number::{to_index, to_u64, to_usize};

/// Returns the name of the boot sector if it is one with addresses that are not updated. Source:
/// libisofs, doc/boot_sectors.txt.
pub(super) fn boot_sector(area: &[u8]) -> Option<&'static str> {
    let at = |offset: usize, bytes: &[u8]| {
        area.get(offset..offset + bytes.len()).is_some_and(|found| found == bytes)
    };
    if at(508, &[0xda, 0xbe]) {
        Some("SUN disk label")
    } else if at(0, &[0x0b, 0xe5, 0xa9, 0x41]) {
        Some("MIPS volume header")
    } else if at(8, &[0x7a, 0x75, 0x02, 0x00]) {
        Some("DEC boot block")
    } else if at(2, b"PALO") {
        Some("HP-PA boot sector")
    } else if at(0, b"Linux/Alpha aboot") {
        Some("DEC Alpha boot sector")
    } else {
        None
    }
}

/// Returns true if `rest`, the system area after its first 512 bytes, contains anything but
/// partition tables.
pub(super) fn has_code(rest: &[u8], area: &SystemArea) -> bool {
    let gpt = area.gpt.as_ref().map(|gpt| (1..2, gpt.placement().entries()));
    let apm = area.apm.as_ref().map(|apm| {
        let blocks = 1 + apm.partitions.len();
        to_u64(to_index(apm.block_bytes) * blocks).div_ceil(mbr::SECTOR)
    });
    let sectors = rest.chunks(to_usize(mbr::SECTOR)).zip(1u64..);
    sectors.into_iter().any(|(bytes, sector)| {
        let in_gpt = gpt
            .as_ref()
            .is_some_and(|(header, entries)| header.contains(&sector) || entries.contains(&sector));
        let in_apm = apm.is_some_and(|end| sector < end);
        !in_gpt && !in_apm && bytes.iter().any(|&byte| byte != 0)
    })
}
