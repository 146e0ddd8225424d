//! What makes an appliance of a stranger safe to let in: all of it is in the archive, as it is,
//! and each of its disks is safe by itself.

use super::archive::Packing;
use super::disk_image::claim_of_uri;
use super::envelope::{Disk, File};
use super::package::Package;
use crate::formats::inspect::{Inspect, Subject, look};
use crate::model::format::Format;
use crate::report::inspection::{Code, Finding, Inspection, Role};
use std::sync::Arc;

pub(super) const INSPECT: Inspect = Inspect { also_matches: |_| false, examine };

/// Disks that are looked at; appliances have a few.
const MAX_DISKS: usize = 256;

fn examine(subject: &Subject<'_>, found: &mut Inspection) {
    if Packing::of(subject.head) != Packing::None {
        let message = "the appliance is packed: it shows only when it is unpacked";
        return found.add(Code::Packed, 0, message);
    }
    let package = match Package::open(Arc::clone(subject.source), &subject.context()) {
        Ok(package) => package,
        Err(error) => return found.unreadable(&error),
    };
    if package.files().archive().is_none() {
        found.add(Code::Extents, None, "a descriptor alone, whose disks are in other files");
        for disk in package.disks() {
            if let Some(file) = package.file_of(disk) {
                found.name(Role::File, &file.href, None);
            }
        }
        return;
    }
    if package.disks().len() > MAX_DISKS {
        let message = format!("{} disks; at most {MAX_DISKS} are looked at", package.disks().len());
        found.add(Code::Unreadable, None, message);
    }
    let mut size = Some(0u64);
    for disk in package.disks().iter().take(MAX_DISKS) {
        let of_disk = match package.file_of(disk) {
            Some(file) => examine_disk(&package, disk, file, subject, found),
            // It starts out empty.
            None => disk.capacity.bytes(),
        };
        size = size.zip(of_disk).and_then(|(sum, of_disk)| sum.checked_add(of_disk));
    }
    found.virtual_size = size;
}

/// Looks at the image of one disk; gives its guest bytes.
fn examine_disk(
    package: &Package,
    disk: &Disk,
    file: &File,
    subject: &Subject<'_>,
    found: &mut Inspection,
) -> Option<u64> {
    if let Some(parent) = &disk.parent {
        let message = format!("the disk builds on the disk '{parent}'");
        add(found, file, Code::Parent, message);
    }
    if !package.in_place(file) {
        let unclear = package.parts(file).err().filter(|_| !file.gzip);
        match unclear {
            Some(error) => add(found, file, Code::Unreadable, error.to_string()),
            None => add(found, file, Code::Packed, "the disk is packed once more".into()),
        }
        return None;
    }
    let image = package.parts(file).and_then(|parts| package.image(file, &parts));
    let inner = image.and_then(|image| look(&image, file.href.clone(), subject.limits, 0));
    let inner = match inner {
        Ok(inner) => inner,
        Err(error) => {
            add(found, file, Code::Unreadable, error.to_string());
            return None;
        }
    };
    if claim_of_uri(&disk.format) == Some(Format::Raw.name()) && inner.format != "raw" {
        let message = format!("the descriptor says raw; it is {} by its bytes", inner.format);
        add(found, file, Code::FormatMismatch, message);
    }
    found.encrypted |= inner.encrypted;
    for reference in &inner.references {
        found.name(reference.role, &reference.name, reference.format.as_deref());
    }
    let of_member = |finding| Finding { member: Some(file.href.clone()), ..finding };
    found.findings.extend(inner.findings.into_iter().map(of_member));
    inner.virtual_size
}

fn add(found: &mut Inspection, file: &File, code: Code, message: String) {
    found.add(code, None, message);
    if let Some(last) = found.findings.last_mut() {
        last.member = Some(file.href.clone());
    }
}
