//! What makes raw bytes of a stranger safe to let in: there is nothing to them but what the guest
//! will see, and how the disk is divided.

use crate::formats::inspect::{Inspect, Subject};
use crate::partition::inspect as partition;
use crate::report::inspection::{Code, Inspection};

pub(super) const INSPECT: Inspect = Inspect { also_matches: |_| false, examine };

/// First bytes of what is no disk, most likely: a name and its signature.
const ARCHIVES: [(&str, &[u8]); 6] = [
    ("gzip", &[0x1f, 0x8b, 8]),
    ("xz", &[0xfd, b'7', b'z', b'X', b'Z', 0]),
    ("bzip2", b"BZh"),
    ("zstd", &[0x28, 0xb5, 0x2f, 0xfd]),
    ("zip", b"PK\x03\x04"),
    ("7z", &[b'7', b'z', 0xbc, 0xaf, 0x27, 0x1c]),
];

fn examine(subject: &Subject<'_>, found: &mut Inspection) {
    let len = subject.len();
    found.virtual_size = Some(len);
    if len == 0 {
        found.add(Code::Empty, None, "there is not a single byte");
    }
    if !len.is_multiple_of(512) {
        let message = format!("its {len} bytes are no whole number of sectors");
        found.add(Code::PartialSector, None, message);
    }
    let tar = (subject.head.get(257..262) == Some(b"ustar")).then_some("tar");
    let packed = ARCHIVES.iter().find(|(_, start)| subject.head.starts_with(start));
    if let Some(name) = tar.or(packed.map(|(name, _)| *name)) {
        let message = format!("it begins as a {name} file does, and counts as a raw disk");
        found.add(Code::Archive, 0, message);
    }
    if partition::is_divided(subject) {
        partition::examine(subject, found);
    }
}
