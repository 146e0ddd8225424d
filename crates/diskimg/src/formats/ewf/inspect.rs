//! Whether an untrusted EWF image is safe to accept. OpenStack and QEMU do not know the format: no
//! image is accepted unless the caller allows it.

use super::segments::ends_with_next;
use crate::formats::inspect::{Inspect, Subject};
use crate::model::format::Format;
use crate::report::inspection::{Code, Inspection};

pub(super) const INSPECT: Inspect = Inspect { also_matches: |_| false, examine };

fn examine(subject: &Subject<'_>, found: &mut Inspection) {
    let message = "an EWF image, which OpenStack and QEMU treat as a raw disk";
    found.add(Code::RejectedFormat, 0, message);
    let layer = match subject.open(Format::Ewf) {
        Ok(layer) => layer,
        Err(error) => return found.unreadable(&error),
    };
    let size = layer.disk_layout().size;
    found.virtual_size = Some(size);
    if size == 0 {
        found.add(Code::Empty, None, "the disk is empty");
    }
    if ends_with_next(&**subject.source) {
        found.add(Code::Extents, None, "the other segments of the disk are other files");
    }
    subject.check(Format::Ewf, found);
}
