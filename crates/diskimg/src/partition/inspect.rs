//! How a raw disk is divided: the rules that an MBR keeps, and the GPT behind it.
//!
//! ```text
//!   446 ┌──────┬───────────┬──────┬─────────┬───────────┬─────────┐  × 4
//!       │ boot │ first CHS │ type │ last CHS│ first LBA │ sectors │
//!   510 └──────┴───────────┴──────┴─────────┴───────────┴─────────┘  55 aa
//! ```
//!
//! UEFI specification, 5.2 ("LBA 0 Format"): the boot flag is 0 or 0x80; a protective MBR has one
//! partition, the first, of type 0xEE, which begins at cylinder 0, head 0, sector 2 and LBA 1.

use crate::formats::inspect::Subject;
use crate::partition::{Gpt, Mbr};
use crate::report::inspection::{Code, Inspection, PartitionTable};
use crate::storage::number::to_u64;

/// Where the table is, and the length of its entries.
const TABLE: usize = 446;
const ENTRY: usize = 16;

/// The type of the partition that protects a GPT.
const PROTECTIVE: u8 = 0xee;

/// The media descriptor of a fixed disk in a FAT's boot sector.
const FIXED_DISK: u8 = 0xf8;

/// Whether the first sector is a master boot record, and not the boot sector of a FAT, which has
/// the same signature: two FATs on a fixed disk.
pub(crate) fn is_divided(subject: &Subject<'_>) -> bool {
    let Some(sector) = subject.head.first_chunk::<512>() else { return false };
    let is_fat = sector[0x10] == 2 && sector[0x15] == FIXED_DISK;
    sector[510..] == [0x55, 0xaa] && !is_fat
}

/// Looks at the table. Call it if the disk [`is_divided`].
pub(crate) fn examine(subject: &Subject<'_>, found: &mut Inspection) {
    let Some(sector) = subject.head.first_chunk::<512>() else { return };
    let entries: Vec<&[u8]> = sector[TABLE..TABLE + 4 * ENTRY].chunks_exact(ENTRY).collect();
    let used: Vec<usize> = (0..4).filter(|&i| entries[i][4] != 0).collect();
    let protective = entries.iter().any(|entry| entry[4] == PROTECTIVE);
    let mut refuse = |i: usize, message: String| {
        found.add(Code::PartitionTable, to_u64(TABLE + ENTRY * i), message);
    };
    for (i, entry) in entries.iter().enumerate() {
        let number = i + 1;
        if !matches!(entry[0], 0 | 0x80) {
            let flag = entry[0];
            refuse(i, format!("partition {number}: the boot flag is {flag:#04x}, not 0 or 0x80"));
        }
        if entry[4] == PROTECTIVE && entry[1..4] != [0, 2, 0] {
            let chs = &entry[1..4];
            refuse(i, format!("partition {number} protects a GPT and begins at CHS {chs:02x?}"));
        }
        if entry[4] == PROTECTIVE && entry[8..12] != [1, 0, 0, 0] {
            refuse(i, format!("partition {number} protects a GPT and does not begin at sector 1"));
        }
    }
    if protective && used != [0] {
        refuse(0, "an MBR that protects a GPT has other partitions, or not in its place".into());
    }
    if used.is_empty() {
        refuse(0, "a master boot record without partitions".into());
    }
    found.partition_table =
        Some(if protective { PartitionTable::Gpt } else { PartitionTable::Mbr });
    beyond(subject, sector, protective, found);
}

/// What is odd without being dangerous: partitions behind the end, a GPT that is damaged.
fn beyond(subject: &Subject<'_>, sector: &[u8; 512], protective: bool, found: &mut Inspection) {
    let mut oddities = Vec::new();
    Mbr::parse(sector, subject.len(), &mut oddities);
    // The flag has a finding of its own.
    oddities.retain(|oddity| !oddity.message.contains("status"));
    match Gpt::read(&**subject.source, &mut oddities) {
        Ok(Some(_)) if !protective => {
            found.add(Code::Partitions, 512, "a GPT that no protective MBR speaks of");
        }
        Ok(None) if protective => {
            found.add(Code::Partitions, 512, "the GPT that the MBR protects is not there");
        }
        Ok(_) => {}
        Err(error) => found.add(Code::Partitions, 512, format!("the GPT: {error}")),
    }
    /// Enough to see what is the matter.
    const MOST: usize = 8;
    for oddity in oddities.into_iter().take(MOST) {
        found.add(Code::Partitions, oddity.offset, oddity.message);
    }
}
