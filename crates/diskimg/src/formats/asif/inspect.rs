//! Whether an untrusted ASIF image is safe to accept: every reader finds the same disk in it.

use super::chunks::Chunks;
use crate::formats::inspect::{Inspect, Subject};
use crate::model::format::Format;
use crate::report::inspection::{Code, Inspection};
use std::sync::Arc;

pub(super) const INSPECT: Inspect = Inspect { also_matches: |_| false, examine };

fn examine(subject: &Subject<'_>, found: &mut Inspection) {
    let chunks = match Chunks::open(Arc::clone(subject.source), subject.limits) {
        Ok(chunks) => chunks,
        Err(error) => return found.unreadable(&error),
    };
    let header = &chunks.header;
    found.virtual_size = Some(header.size);
    if header.flags != 0 {
        found.add(Code::UnknownFeatures, 12, format!("the unknown flags {:#x}", header.flags));
    }
    if header.size == 0 {
        found.add(Code::Empty, None, "the disk is empty");
    }
    subject.check(Format::Asif, found);
}
