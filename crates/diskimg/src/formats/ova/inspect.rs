//! Whether an untrusted appliance is safe to accept: everything is in the archive, uncompressed,
//! and each of its disks is safe.

use super::archive::Packing;
use super::disk_image::claim_of_uri;
use super::envelope::{Disk, File};
use super::package::Package;
use crate::formats::inspect::{self, Inspect, Subject};
use crate::model::format::Format;
use crate::report::inspection::{Code, Finding, Inspection, Role};
use std::sync::Arc;

pub(super) const INSPECT: Inspect = Inspect { also_matches: |_| false, examine };

/// Maximum number of disks that are examined.
const MAX_DISKS: usize = 256;

fn examine(subject: &Subject<'_>, found: &mut Inspection) {
    if Packing::of(subject.head) != Packing::None {
        let message = "the appliance is compressed; it can be examined only after decompression";
        return found.add(Code::Packed, 0, message);
    }
    let package = match Package::open(Arc::clone(subject.source), &subject.context()) {
        Ok(package) => package,
        Err(error) => return found.unreadable(&error),
    };
    if package.files().archive().is_none() {
        found.add(Code::Extents, None, "a descriptor whose disks are other files");
        for disk in package.disks() {
            if let Some(file) = package.file_of(disk) {
                found.add_reference(Role::File, &file.href, None);
            }
        }
        return;
    }
    if package.disks().len() > MAX_DISKS {
        let message = format!("{} disks; at most {MAX_DISKS} are examined", package.disks().len());
        found.add(Code::Unreadable, None, message);
    }
    let mut size = Some(0u64);
    for disk in package.disks().iter().take(MAX_DISKS) {
        let of_disk = match package.file_of(disk) {
            Some(file) => examine_disk(&package, disk, file, subject, found),
            // A disk without a file is empty.
            None => disk.capacity.bytes(),
        };
        size = size.zip(of_disk).and_then(|(sum, of_disk)| sum.checked_add(of_disk));
    }
    found.virtual_size = size;
}

/// Examines the image of one disk and returns its size in guest bytes.
fn examine_disk(
    package: &Package,
    disk: &Disk,
    file: &File,
    subject: &Subject<'_>,
    found: &mut Inspection,
) -> Option<u64> {
    if let Some(parent) = &disk.parent {
        let message = format!("the disk has the parent disk '{parent}'");
        add(found, file, Code::Parent, message);
    }
    if !package.in_place(file) {
        let unreadable = package.chunks(file).err().filter(|_| !file.gzip);
        match unreadable {
            Some(error) => add(found, file, Code::Unreadable, error.without_remedy()),
            None => add(found, file, Code::Packed, "the disk's file is compressed".into()),
        }
        return None;
    }
    let image = package.chunks(file).and_then(|chunks| package.image(file, &chunks));
    let inner =
        image.and_then(|image| inspect::examine(&image, file.href.clone(), subject.limits, 0));
    let inner = match inner {
        Ok(inner) => inner,
        Err(error) => {
            add(found, file, Code::Unreadable, error.without_remedy());
            return None;
        }
    };
    if claim_of_uri(&disk.format) == Some(Format::Raw.name()) && inner.format != "raw" {
        let message =
            format!("the descriptor says raw, but the contents look like {}", inner.format);
        add(found, file, Code::FormatMismatch, message);
    }
    found.encrypted |= inner.encrypted;
    for reference in &inner.references {
        found.add_reference(reference.role, &reference.name, reference.format.as_deref());
    }
    let of_member = |finding| Finding { path: Some(file.href.clone()), ..finding };
    found.findings.extend(inner.findings.into_iter().map(of_member));
    inner.virtual_size
}

fn add(found: &mut Inspection, file: &File, code: Code, message: String) {
    found.add(code, None, message);
    if let Some(last) = found.findings.last_mut() {
        last.path = Some(file.href.clone());
    }
}
