//! Encoding of path tables (ECMA-119, 9.4): all directories, by level.

use super::directory::Shift;
use super::hierarchy::Hierarchy;
use crate::storage::number::{to_u8, to_u16, to_u64, to_usize};

/// Returns the length of a path table in bytes.
pub(super) fn len(hierarchy: &Hierarchy) -> u64 {
    let len = |name: &[u8]| 8 + to_u64(name.len().next_multiple_of(2));
    hierarchy.dirs.iter().map(|dir| len(hierarchy.dir_name(dir))).sum()
}

/// Encodes a path table with little-endian (type L) or big-endian (type M) numbers.
pub(super) fn table(hierarchy: &Hierarchy, big: bool, shift: Shift) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(to_usize(len(hierarchy)));
    for dir in &hierarchy.dirs {
        let name = hierarchy.dir_name(dir);
        // `Hierarchy::new` ensures that numbers fit in 16 bits.
        let parent = to_u16(dir.parent) + 1;
        let lba = shift.directory(dir.lba);
        bytes.extend_from_slice(&[to_u8(name.len()), 0]);
        if big {
            bytes.extend_from_slice(&lba.to_be_bytes());
            bytes.extend_from_slice(&parent.to_be_bytes());
        } else {
            bytes.extend_from_slice(&lba.to_le_bytes());
            bytes.extend_from_slice(&parent.to_le_bytes());
        }
        bytes.extend_from_slice(name);
        if !name.len().is_multiple_of(2) {
            bytes.push(0);
        }
    }
    bytes
}
