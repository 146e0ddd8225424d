//! Whether an untrusted VDI is safe to accept: one file with the whole disk, which every program
//! reads in the same way.

use super::header::{HEADER, Header};
use crate::formats::inspect::{Inspect, Subject};
use crate::model::format::Format;
use crate::report::check::Finding;
use crate::report::finding::Severity;
use crate::report::inspection::{Code, Inspection, Role};

pub(super) const INSPECT: Inspect = Inspect { also_matches: |_| false, examine };

fn examine(subject: &Subject<'_>, found: &mut Inspection) {
    let header = match Header::read(&**subject.source) {
        Ok(header) => header,
        Err(error) => return found.unreadable(&error),
    };
    found.virtual_size = Some(header.disk_size());
    examine_header(&header, found);
    match subject.open(Format::Vdi) {
        Ok(layer) => {
            let mut first = None;
            let checked = layer.check(&mut |finding: Finding| {
                if finding.severity == Severity::Error {
                    first.get_or_insert(finding.message);
                }
            });
            match (checked, first) {
                (Err(error), _) => found.unreadable(&error),
                (Ok(_), Some(message)) => found.add(Code::Unreadable, None, message),
                (Ok(_), None) => {}
            }
        }
        Err(error) => found.unreadable(&error),
    }
}

fn examine_header(header: &Header, found: &mut Inspection) {
    if header.image_type.has_parent() {
        found.add_reference(Role::Parent, &format!("UUID {}", header.parent), Some("vdi"));
        let message = format!("a {} image, which needs its parent", header.image_type.name());
        found.add(Code::Parent, None, message);
    } else if !header.parent.is_nil() {
        let message = "it records the UUID of a parent, but is not a differencing image";
        found.add(Code::Subformat, header.places.parent(), format!("{HEADER}: {message}"));
    }
    if header.block_extra != 0 {
        let message =
            "QEMU and other programs ignore the extra bytes of blocks and read other data";
        found.add(Code::Subformat, 380, message);
    }
    if header.size != header.disk_size() {
        found.add(Code::PartialSector, 368, "programs round the size up or down to whole sectors");
    }
    if header.size == 0 {
        found.add(Code::Empty, None, "the disk is empty");
    }
}
