//! Inspection of a raw disk's partition tables: the rules for an MBR, and the GPT.
//!
//! ```text
//!   446 ┌──────┬───────────┬──────┬─────────┬───────────┬─────────┐  × 4
//!       │ boot │ first CHS │ type │ last CHS│ first LBA │ sectors │
//!   510 └──────┴───────────┴──────┴─────────┴───────────┴─────────┘  55 aa
//! ```
//!
//! UEFI specification, 5.2 ("LBA 0 Format"): the boot flag is 0 or 0x80; a protective MBR has one
//! partition, the first, of type 0xEE, which starts at cylinder 0, head 0, sector 2 and LBA 1.

use crate::partition::{Gpt, Mbr};
use crate::report::inspection::{Code, Inspection, PartitionTable};
use crate::storage::number::to_u64;
use crate::storage::source::Source;

/// Offset of the partition entries.
const TABLE: usize = 446;

/// Length of a partition entry in bytes.
const ENTRY: usize = 16;

/// Type of the partition that protects a GPT.
const PROTECTIVE: u8 = 0xee;

/// Media descriptor of a fixed disk in the boot sector of a FAT file system.
const FIXED_DISK: u8 = 0xf8;

/// Returns true if `head`, the first bytes of a disk, is an MBR and not the boot sector of a FAT
/// file system, which has the same signature. A FAT boot sector is recognized by two FATs and a
/// fixed disk.
pub(crate) fn has_mbr(head: &[u8]) -> bool {
    let Some(sector) = head.first_chunk::<512>() else { return false };
    let is_fat = sector[0x10] == 2 && sector[0x15] == FIXED_DISK;
    sector[510..] == [0x55, 0xaa] && !is_fat
}

/// Inspects the partition tables. The disk must have an MBR (see [`has_mbr`]).
pub(crate) fn examine(head: &[u8], source: &dyn Source, found: &mut Inspection) {
    let Some(sector) = head.first_chunk::<512>() else { return };
    let entries: Vec<&[u8]> = sector[TABLE..TABLE + 4 * ENTRY].chunks_exact(ENTRY).collect();
    let used: Vec<usize> = (0..4).filter(|&i| entries[i][4] != 0).collect();
    let protective = entries.iter().any(|entry| entry[4] == PROTECTIVE);
    let mut add = |i: usize, message: String| {
        found.add(Code::PartitionTable, to_u64(TABLE + ENTRY * i), message);
    };
    for (i, entry) in entries.iter().enumerate() {
        let number = i + 1;
        if !matches!(entry[0], 0 | 0x80) {
            let flag = entry[0];
            add(i, format!("partition {number}: boot flag {flag:#04x}, not 0 or 0x80"));
        }
        if entry[4] == PROTECTIVE && entry[1..4] != [0, 2, 0] {
            let chs = &entry[1..4];
            let message = format!("protective partition {number}: starts at CHS {chs:02x?}");
            add(i, format!("{message}, not [00, 02, 00]"));
        }
        if entry[4] == PROTECTIVE && entry[8..12] != [1, 0, 0, 0] {
            add(i, format!("protective partition {number} does not start at sector 1"));
        }
    }
    if protective && used != [0] {
        add(0, "a protective MBR must have a single partition, in the first entry".into());
    }
    if used.is_empty() {
        add(0, "the MBR has no partitions".into());
    }
    found.partition_table =
        Some(if protective { PartitionTable::Gpt } else { PartitionTable::Mbr });
    add_warnings(source, sector, protective, found);
}

/// Adds findings that are not dangerous: partitions past the end of the disk, a damaged GPT.
fn add_warnings(source: &dyn Source, sector: &[u8; 512], protective: bool, found: &mut Inspection) {
    let mut oddities = Vec::new();
    Mbr::parse(sector, source.len(), &mut oddities);
    // `examine` reports the boot flag.
    oddities.retain(|oddity| !oddity.message.contains("status"));
    match Gpt::read(source, &mut oddities) {
        Ok(Some(_)) if !protective => {
            found.add(Code::Partitions, 512, "a GPT without a protective MBR");
        }
        Ok(None) if protective => {
            found.add(Code::Partitions, 512, "a protective MBR without a GPT");
        }
        Ok(_) => {}
        Err(error) => {
            found.add(Code::Partitions, 512, format!("the GPT: {}", error.without_remedy()))
        }
    }
    const MAX_FINDINGS: usize = 8;
    for oddity in oddities.into_iter().take(MAX_FINDINGS) {
        found.add(Code::Partitions, oddity.offset, oddity.message);
    }
}
