//! Logical partitions: a linked list of sectors in an extended partition of an MBR.
//!
//! ```text
//!   extended partition ──► sector   entry 1   a logical partition, relative to this sector
//!                                   entry 2   the next sector, relative to the extended partition
//! ```

use super::le32;
use super::mbr::{MbrPartition, TABLE};
use crate::error::Result;
use crate::storage::number::to_u32;

/// Maximum number of logical partitions; also ends a list that is a loop.
const MAX_LOGICAL: usize = 128;

/// Number of the first logical partition.
const FIRST_NUMBER: usize = 5;

/// A logical partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogicalPartition {
    /// Number, from 5.
    pub(crate) number: u32,
    /// Type, as in an MBR.
    pub(crate) kind: u8,
    /// First sector, in sectors of 512 bytes from the start of the disk.
    pub(crate) first_sector: u64,
    /// Length in sectors of 512 bytes.
    pub(crate) sectors: u64,
}

/// Returns true if a partition of this type contains logical partitions.
pub(crate) fn is_extended(kind: u8) -> bool {
    matches!(kind, 0x05 | 0x0f | 0x85)
}

/// Returns the logical partitions of an extended partition. `read` returns a sector, or `None` if
/// it is beyond the end of the disk.
///
/// # Errors
/// Returns the errors of `read`.
pub(crate) fn read(
    extended: &MbrPartition,
    read: impl Fn(u64) -> Result<Option<[u8; 512]>>,
) -> Result<Vec<LogicalPartition>> {
    let base = u64::from(extended.first_sector);
    let (mut at, mut found) = (base, Vec::new());
    for number in FIRST_NUMBER..FIRST_NUMBER + MAX_LOGICAL {
        let Some(sector) = read(at)?.filter(|sector| sector[510..] == [0x55, 0xaa]) else { break };
        let entry = |n: usize| &sector[TABLE + 16 * n..TABLE + 16 * (n + 1)];
        let (first, next) = (entry(0), entry(1));
        if first[4] != 0 && le32(first, 12) > 0 {
            found.push(LogicalPartition {
                number: to_u32(number),
                kind: first[4],
                first_sector: at + u64::from(le32(first, 8)),
                sectors: le32(first, 12).into(),
            });
        }
        if !is_extended(next[4]) || le32(next, 8) == 0 {
            break;
        }
        at = base + u64::from(le32(next, 8));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXTENDED: MbrPartition =
        MbrPartition { number: 4, active: false, kind: 5, first_sector: 1000, sectors: 5000 };

    /// A sector with a partition of type 0x83, and the next sector.
    fn sector(next: u32) -> [u8; 512] {
        let mut sector = [0; 512];
        let mut entry = |n: usize, kind: u8, first: u32, sectors: u32| {
            let at = TABLE + 16 * n;
            sector[at + 4] = kind;
            sector[at + 8..at + 12].copy_from_slice(&first.to_le_bytes());
            sector[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
        };
        entry(0, 0x83, 63, 100);
        if next > 0 {
            entry(1, 5, next, 1);
        }
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        sector
    }

    #[test]
    fn the_list_is_followed() {
        let disk = |at| Ok(Some(sector(if at == 1000 { 300 } else { 0 })));
        let found = read(&EXTENDED, disk).expect("reads");
        let starts: Vec<_> = found.iter().map(|p| (p.number, p.first_sector, p.sectors)).collect();
        assert_eq!(starts, [(5, 1063, 100), (6, 1363, 100)]);
    }

    #[test]
    fn a_loop_and_a_missing_sector_end_it() {
        let found = read(&EXTENDED, |_| Ok(Some(sector(300)))).expect("reads");
        assert_eq!(found.len(), MAX_LOGICAL);
        assert_eq!(read(&EXTENDED, |_| Ok(None)).expect("reads"), []);
        assert_eq!(read(&EXTENDED, |_| Ok(Some([0; 512]))).expect("reads"), []);
    }
}
