//! Whether an untrusted image of Bochs is safe to accept. OpenStack does not know the format, and
//! QEMU recognizes it: no image is accepted unless the caller allows it.

use super::header::{Header, is_growing};
use crate::formats::inspect::{Inspect, Subject};
use crate::model::format::Format;
use crate::report::inspection::{Code, Inspection};

pub(super) const INSPECT: Inspect = Inspect { also_matches: |_| false, examine };

fn examine(subject: &Subject<'_>, found: &mut Inspection) {
    let message = "a Bochs image, which OpenStack treats as a raw disk";
    found.add(Code::RejectedFormat, 0, message);
    let header = match Header::read(&**subject.source, subject.limits) {
        Ok(header) => header,
        Err(error) => return found.unreadable(&error),
    };
    found.virtual_size = Some(header.size());
    if header.size() == 0 {
        found.add(Code::Empty, None, "the disk is empty");
    }
    if header.rest() != 0 {
        found.add(Code::PartialSector, None, "programs round the size down to whole sectors");
    }
    if !is_growing(subject.head) {
        found.add(Code::Subformat, None, "QEMU does not recognize the image");
    }
    subject.check(Format::Bochs, found);
}
