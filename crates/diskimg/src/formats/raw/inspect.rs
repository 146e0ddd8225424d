//! Inspection of raw images. There is no metadata, only the partition table can be examined.

use crate::formats::inspect::{Inspect, Subject};
use crate::partition::inspect as partition;
use crate::report::inspection::{Code, Inspection};

pub(super) const INSPECT: Inspect = Inspect { also_matches: |_| false, examine };

fn examine(subject: &Subject<'_>, found: &mut Inspection) {
    let len = subject.len();
    found.virtual_size = Some(len);
    if len == 0 {
        found.add(Code::Empty, None, "the file is empty");
    }
    if !len.is_multiple_of(512) {
        let message = format!("its length of {len} bytes is not a multiple of 512");
        found.add(Code::PartialSector, None, message);
    }
    if partition::has_mbr(subject.head) {
        partition::examine(subject.head, &**subject.source, found);
    }
}
