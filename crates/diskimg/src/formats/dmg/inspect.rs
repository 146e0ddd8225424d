//! Whether an untrusted DMG is safe to accept: the whole disk is in it, and every program reads it in
//! the same way.

use super::trailer::{self, TRAILER, Trailer};
use crate::formats::inspect::{Inspect, Subject};
use crate::model::format::Format;
use crate::report::check::Finding;
use crate::report::finding::Severity;
use crate::report::inspection::{Code, Inspection};
use crate::storage::number::to_u64;

pub(super) const INSPECT: Inspect = Inspect { also_matches, examine };

/// Number of last bytes of a file in which QEMU finds four bytes that it takes for a trailer.
const QEMU_TAIL: usize = 1023;

/// QEMU compares the first word of the trailer only, where the file's name ends with `.dmg`.
fn also_matches(subject: &Subject<'_>) -> bool {
    let tail = &subject.tail[subject.tail.len().saturating_sub(QEMU_TAIL)..];
    tail.windows(4).any(|bytes| bytes == b"koly")
}

fn examine(subject: &Subject<'_>, found: &mut Inspection) {
    let trailer = match Trailer::read(&**subject.source) {
        Ok(trailer) => trailer,
        Err(error) => return found.unreadable(&error),
    };
    examine_place(subject, &trailer, found);
    let layer = match subject.open(Format::Dmg) {
        Ok(layer) => layer,
        Err(error) => return found.unreadable(&error),
    };
    let size = layer.disk_layout().size;
    found.virtual_size = Some(size);
    if trailer.sectors * super::SECTOR != size {
        let message = format!("{TRAILER}: the size differs from that of the tables");
        found.add(Code::CopiesDiffer, trailer.at, message);
    }
    if size == 0 {
        found.add(Code::Empty, None, "the disk is empty");
    }
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

/// Reports a trailer that programs do not find, or of which they find another one.
fn examine_place(subject: &Subject<'_>, trailer: &Trailer, found: &mut Inspection) {
    let end = trailer.at + to_u64(trailer::LEN);
    let others = subject.tail.windows(4).filter(|bytes| bytes == b"koly").count();
    if trailer.at != 0 && (end != subject.len() || others > 1) {
        let message = "programs look for the trailer in different places";
        found.add(Code::Footer, trailer.at, message);
    }
}
