//! Inspection of ISO images. As a disk an ISO image is raw; the volume descriptor tells whether it
//! is complete.

use crate::formats::inspect::{Inspect, Subject};
use crate::report::inspection::{Code, Inspection};
use crate::storage::number::to_u64;

pub(super) const INSPECT: Inspect = Inspect { also_matches: |_| false, examine };

/// Offset of the first volume descriptor.
const FIRST_DESCRIPTOR: usize = 32 << 10;

fn examine(subject: &Subject<'_>, found: &mut Inspection) {
    let len = subject.len();
    found.virtual_size = Some(len);
    // ECMA-119, 8.4: the primary volume descriptor, volume space size, logical block size.
    let Some(descriptor) = subject.head.get(FIRST_DESCRIPTOR..FIRST_DESCRIPTOR + 2048) else {
        found.add(Code::Truncated, len, "the file ends within its volume descriptors");
        return;
    };
    if !descriptor.starts_with(b"\x01CD001") {
        return;
    }
    let blocks = u32::from_le_bytes([80, 81, 82, 83].map(|i| descriptor[i]));
    let block = u16::from_le_bytes([descriptor[128], descriptor[129]]);
    let volume = u64::from(blocks) * u64::from(block);
    if volume > len {
        let message = format!("the volume has {volume} bytes, but the file only {len}");
        found.add(Code::Truncated, to_u64(FIRST_DESCRIPTOR) + 80, message);
    }
}
