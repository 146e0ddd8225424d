//! Whether an untrusted sparse image is safe to accept: every reader finds the same disk in it.

use super::header::{FLAGS, Header};
use crate::formats::inspect::{Inspect, Subject};
use crate::model::format::Format;
use crate::report::inspection::{Code, Inspection};

pub(super) const INSPECT: Inspect = Inspect { also_matches: |_| false, examine };

fn examine(subject: &Subject<'_>, found: &mut Inspection) {
    let (header, slots) = match Header::read(&**subject.source) {
        Ok(read) => read,
        Err(error) => return found.unreadable(&error),
    };
    found.virtual_size = Some(header.size);
    if header.flags != FLAGS {
        found.add(Code::UnknownFeatures, 12, format!("the unknown flags {:#x}", header.flags));
    }
    if slots.next_node != 0 {
        let message = "index nodes, which are not documented and which few readers support";
        found.add(Code::Subformat, 20, message);
    }
    if header.size == 0 {
        found.add(Code::Empty, None, "the disk is empty");
    }
    subject.check(Format::Sparseimage, found);
}
