//! Whether an untrusted Parallels image is safe to accept: one file with the whole disk, which means
//! the same to every reader.

use super::bundle::Expandable;
use super::descriptor::{Descriptor, looks_like_one};
use super::header::FLAG_EMPTY;
use crate::formats::inspect::{Inspect, Subject};
use crate::model::format::Format;
use crate::report::check::Finding;
use crate::report::inspection::{Code, Inspection, Role};
use std::sync::Arc;

pub(super) const INSPECT: Inspect = Inspect { also_matches: |_| false, examine };

fn examine(subject: &Subject<'_>, found: &mut Inspection) {
    if looks_like_one(subject.head) {
        return examine_descriptor(subject, found);
    }
    let image = match Expandable::open(Arc::clone(subject.source), subject.limits) {
        Ok(image) => image,
        Err(error) => return found.unreadable(&error),
    };
    let (clusters, header) = (&image.clusters, &image.clusters.header);
    found.virtual_size = Some(header.size);
    if header.is_dirty() {
        found.add(Code::Dirty, 44, "the image was not closed properly");
    }
    if header.flags & FLAG_EMPTY != 0 && clusters.table.iter().any(|&entry| entry != 0) {
        let message = "the header says that the image is empty, but it has data";
        found.add(Code::CopiesDiffer, 52, message);
    }
    if let Ok(Some(extension)) = &image.extension {
        for feature in &extension.unknown {
            let code = match feature.is_necessary() {
                true => Code::UnknownFeatures,
                false => Code::UnknownCompatibleFeatures,
            };
            found.add(code, header.extension_at, format!("the unknown feature {feature}"));
        }
    }
    if header.size == 0 {
        found.add(Code::Empty, None, "the disk is empty");
    }
    check(subject, found);
}

/// Reports the first finding of a check other than the flag of an image that was not closed.
fn check(subject: &Subject<'_>, found: &mut Inspection) {
    let layer = match subject.open(Format::Parallels) {
        Ok(layer) => layer,
        Err(error) => return found.unreadable(&error),
    };
    let mut first = None;
    let checked = layer.check(&mut |finding: Finding| {
        let is_reported = finding.message.ends_with("not closed correctly")
            || finding.code == crate::report::check::Code::Leak;
        if !is_reported {
            first.get_or_insert(finding.message);
        }
    });
    match (checked, first) {
        (Err(error), _) => found.unreadable(&error),
        (Ok(_), Some(message)) => found.add(Code::Unreadable, None, message),
        (Ok(_), None) => {}
    }
}

/// Reports what the descriptor of a bundle names. The images are other files, which are not accessed.
fn examine_descriptor(subject: &Subject<'_>, found: &mut Inspection) {
    let descriptor = match Descriptor::read(&**subject.source, subject.limits) {
        Ok(descriptor) => descriptor,
        Err(error) => return found.unreadable(&error),
    };
    found.virtual_size = Some(descriptor.size);
    for image in descriptor.storages.iter().flat_map(|storage| &storage.images) {
        found.add_reference(Role::Extent, &image.file, None);
    }
    found.add(Code::Extents, None, "the images of the disk are other files");
    let snapshots = descriptor.snapshots().count();
    if snapshots > 0 {
        found.add(Code::Snapshots, None, format!("the bundle has {snapshots} snapshots"));
    }
}
