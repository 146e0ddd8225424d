//! Whether an untrusted QED image is safe to accept. Few programs read QED, and OpenStack rejects
//! it: no QED image is accepted unless the caller allows it.

use super::header::{Features, MAGIC, RawHeader};
use crate::formats::inspect::{Inspect, Subject};
use crate::model::format::Format;
use crate::report::check::{Code as CheckCode, Finding};
use crate::report::inspection::{Code, Inspection, Role};

pub(super) const INSPECT: Inspect = Inspect { also_matches: |_| false, examine };

fn examine(subject: &Subject<'_>, found: &mut Inspection) {
    found.add(Code::RejectedFormat, 0, "a QED image: OpenStack rejects the format");
    // A truncated header is examined too: missing fields are zero.
    let mut bytes = [0; RawHeader::BYTES];
    let len = subject.head.len().min(bytes.len());
    bytes[..len].copy_from_slice(&subject.head[..len]);
    let raw: RawHeader = zerocopy::transmute!(bytes);
    debug_assert!(raw.magic == MAGIC);
    found.virtual_size = Some(raw.image_size.get());
    let features = raw.features.get();
    let has = |feature: Features| features & feature.bits() != 0;
    let unknown = features & !Features::all().bits();
    if has(Features::BACKING_FILE) {
        found.add(Code::BackingFile, 16, "the image has a backing file");
    }
    if has(Features::NEED_CHECK) {
        found.add(Code::Dirty, 16, "the image was not closed properly");
    }
    if unknown != 0 {
        let message = format!("unknown incompatible features {unknown:#x}");
        return found.add(Code::UnknownFeatures, 16, message);
    }
    let others =
        [("compatible", 24, raw.compat_features), ("autoclear", 32, raw.autoclear_features)];
    for (kind, at, bits) in others {
        if bits.get() != 0 {
            let message = format!("unknown {kind} features {:#x}", bits.get());
            found.add(Code::UnknownCompatibleFeatures, at, message);
        }
    }
    let layer = match subject.open(Format::Qed) {
        Ok(layer) => layer,
        Err(error) => return found.unreadable(&error),
    };
    if let Some(parent) = layer.parent() {
        found.add_reference(Role::BackingFile, &parent.name, parent.format.as_deref());
    }
    let mut first = None;
    let checked = layer.check(&mut |finding: Finding| {
        if finding.code != CheckCode::Leak {
            first.get_or_insert(finding.message);
        }
    });
    match (checked, first) {
        (Err(error), _) => found.unreadable(&error),
        (Ok(_), Some(message)) => found.add(Code::Unreadable, None, message),
        (Ok(_), None) => {}
    }
}
