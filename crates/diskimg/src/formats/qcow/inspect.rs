//! Whether an untrusted QCOW version 1 image is safe to accept. OpenStack rejects every version
//! before 2: no such image is accepted unless the caller allows it.

use super::header::RawHeader;
use crate::formats::inspect::{Inspect, Subject};
use crate::model::format::Format;
use crate::report::check::Finding;
use crate::report::inspection::{Code, Inspection, Role};

pub(super) const INSPECT: Inspect = Inspect { also_matches: |_| false, examine };

fn examine(subject: &Subject<'_>, found: &mut Inspection) {
    found.add(Code::RejectedFormat, 4, "a QCOW version 1 image: OpenStack rejects the version");
    // A truncated header is examined too: missing fields are zero.
    let mut bytes = [0; RawHeader::BYTES];
    let len = subject.head.len().min(bytes.len());
    bytes[..len].copy_from_slice(&subject.head[..len]);
    let raw: RawHeader = zerocopy::transmute!(bytes);
    found.virtual_size = Some(raw.size.get());
    if raw.backing_file_offset.get() != 0 {
        found.add(Code::BackingFile, 8, "the image has a backing file");
    }
    if raw.crypt_method.get() != 0 {
        found.encrypted = true;
        let method = raw.crypt_method.get();
        found.add(Code::Encrypted, 36, format!("the image is encrypted (method {method})"));
    }
    let layer = match subject.open(Format::Qcow) {
        Ok(layer) => layer,
        Err(error) => return found.unreadable(&error),
    };
    if let Some(parent) = layer.parent() {
        found.add_reference(Role::BackingFile, &parent.name, None);
    }
    let mut first = None;
    let checked = layer.check(&mut |finding: Finding| {
        first.get_or_insert(finding.message);
    });
    match (checked, first) {
        (Err(error), _) => found.unreadable(&error),
        (Ok(_), Some(message)) => found.add(Code::Unreadable, None, message),
        (Ok(_), None) => {}
    }
}
