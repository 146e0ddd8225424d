//! Whether an untrusted appliance is safe to accept: everything is in the archive, uncompressed,
//! and each of its disks is safe. So is every other image in the archive: programs and people who
//! unpack it go by the names of the files, not by the descriptor.

use super::archive::{Archive, Member, Packing, is_mac_metadata};
use super::disk_image::{claim_of_uri, decide, is_image_name};
use super::envelope::{Capacity, Disk, File};
use super::files::PackageFileName;
use super::package::Package;
use super::{descriptor_rules, tar_rules};
use crate::formats::inspect::{self, Inspect, Subject};
use crate::model::format::Format;
use crate::report::finding::Severity;
use crate::report::inspection::{Code, Finding, Inspection, Role};
use std::collections::BTreeSet;
use std::sync::Arc;

pub(super) const INSPECT: Inspect = Inspect { also_matches: |_| false, examine };

/// Maximum number of disks that are examined.
const MAX_DISKS: usize = 256;

/// Maximum number of other sparse members that are examined. Of each, holes are examined as well,
/// which are not stored.
const MAX_SPARSE: usize = 1024;

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
    descriptor_rules::apply(&package, found);
    if let Some(archive) = package.files().archive() {
        let max_extension = subject.limits.archive_header_bytes;
        if let Err(error) = tar_rules::apply(&**subject.source, max_extension, found) {
            found.unreadable(&error);
        }
        Others::of(&package, archive).examine(subject, found);
    }
}

/// The members of the archive that are not the images of its disks.
struct Others<'a> {
    archive: &'a Archive,
    members: Vec<&'a Member>,
    /// Paths of the members that the descriptor lists.
    listed: BTreeSet<&'a str>,
}

impl<'a> Others<'a> {
    fn of(package: &'a Package, archive: &'a Archive) -> Self {
        let files = package.files();
        let path = |name: &PackageFileName| files.member(name.as_str()).map(|m| &*m.name);
        let of_disks = package.disks().iter().take(MAX_DISKS);
        let of_disks = of_disks.filter_map(|disk| package.names(package.file_of(disk)?).ok());
        let disks: BTreeSet<_> = of_disks.flatten().filter_map(|name| path(&name)).collect();
        let texts = [package.descriptor(), package.manifest()].into_iter().flatten();
        let texts: BTreeSet<_> = texts.map(|file| file.path.as_str()).collect();
        let members = archive.members().iter();
        let members = members.filter(|m| !disks.contains(&*m.name) && !texts.contains(&*m.name));
        let members = members.chain(archive.ignored());
        let listed = package.listed().iter().filter_map(|href| path(&files.name(href).ok()?));
        Self { archive, members: members.collect(), listed: listed.collect() }
    }

    /// Examines those that are images, by their contents or names.
    fn examine(&self, subject: &Subject<'_>, found: &mut Inspection) {
        let (mut images, mut sparse) = (0, 0);
        for member in &self.members {
            sparse += usize::from(member.pieces.is_some());
            if sparse > MAX_SPARSE {
                let message = format!("more sparse members; at most {MAX_SPARSE} are examined");
                let finding = Finding::new(Code::Unreadable, Code::Unreadable.severity(), message);
                found.findings.push(Finding { path: Some(member.name.to_string()), ..finding });
                return;
            }
            let of_member =
                |finding: Finding| Finding { path: Some(member.name.to_string()), ..finding };
            let add = |found: &mut Inspection, code: Code, message: String| {
                found.findings.push(of_member(Finding::new(code, code.severity(), message)));
            };
            let inner = self.archive.open_member(member).and_then(|source| {
                inspect::examine(&source, member.name.to_string(), subject.limits, 0)
            });
            let inner = match inner {
                Ok(inner) => inner,
                Err(error) => {
                    add(found, Code::Unreadable, error.without_remedy());
                    continue;
                }
            };
            // The metadata files of macOS have the names of other files.
            let named = is_image_name(&member.name) && !is_mac_metadata(&member.name);
            if !named && !inspect::is_image(inner.format) {
                continue;
            }
            images += 1;
            if images > MAX_DISKS {
                let message = format!("more images; at most {MAX_DISKS} are examined");
                return add(found, Code::Unreadable, message);
            }
            if !self.listed.contains(&*member.name) {
                let message = "the descriptor does not list this image";
                add(found, Code::UnlistedImage, message.to_owned());
            }
            found.encrypted |= inner.encrypted;
            for reference in &inner.references {
                found.add_reference(reference.role, &reference.name, reference.format.as_deref());
            }
            found.findings.extend(inner.findings.into_iter().map(of_member));
        }
    }
}

/// Examines the image of one disk and returns its size in guest bytes: the larger one if the
/// descriptor and the image state different sizes.
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
    let image = package.chunks(file).and_then(|chunks| {
        let stored = chunks.iter().map(|chunk| chunk.source.len()).sum();
        if let Some(message) = file.wrong_size(stored) {
            add(found, file, Code::Descriptor, message);
            // Some writers state an estimate, and most readers ignore it.
            found.findings.last_mut().into_iter().for_each(|f| f.severity = Severity::Warning);
        }
        package.image(file, &chunks)
    });
    let inner = image.and_then(|image| {
        let inner = inspect::examine(&image, file.href.clone(), subject.limits, 0)?;
        Ok((image, inner))
    });
    let (image, mut inner) = match inner {
        Ok(inner) => inner,
        Err(error) => {
            add(found, file, Code::Unreadable, error.without_remedy());
            return None;
        }
    };
    let is_raw = claim_of_uri(&disk.format) == Some(Format::Raw.name());
    if is_raw && inner.format != "raw" {
        let message =
            format!("the descriptor says raw, but the contents look like {}", inner.format);
        add(found, file, Code::FormatMismatch, message);
    } else if let Err(error) = decide(disk, file, &*image) {
        add(found, file, Code::FormatMismatch, error.without_remedy());
    }
    if is_raw && inner.format == "raw" {
        inner.accept_archives();
    }
    found.encrypted |= inner.encrypted;
    for reference in &inner.references {
        found.add_reference(reference.role, &reference.name, reference.format.as_deref());
    }
    let of_member = |finding| Finding { path: Some(file.href.clone()), ..finding };
    found.findings.extend(inner.findings.into_iter().map(of_member));
    compare_capacity(disk, file, inner.virtual_size, found)
}

/// Compares the capacity that the descriptor states with the size of the image, and returns the
/// larger one. Some programs create the disk with that capacity, others with that size. Writers
/// round the capacity up, to GiB at most.
fn compare_capacity(
    disk: &Disk,
    file: &File,
    size: Option<u64>,
    found: &mut Inspection,
) -> Option<u64> {
    const SECTOR: u64 = 512;
    const LARGEST_UNIT: u64 = 1 << 30;
    let capacity = match &disk.capacity {
        Capacity::Unknown => return size,
        Capacity::AtDeployment => return None,
        Capacity::Invalid(why) => {
            add(found, file, Code::CapacityMismatch, why.clone());
            return None;
        }
        Capacity::Bytes(bytes) => *bytes,
    };
    let size = size?;
    let unit = LARGEST_UNIT.min(1 << capacity.trailing_zeros().min(63)).max(SECTOR);
    if capacity < size || capacity - size >= unit {
        let message = format!("its image has {size} bytes, but the descriptor says {capacity}");
        add(found, file, Code::CapacityMismatch, message);
    }
    Some(capacity.max(size))
}

fn add(found: &mut Inspection, file: &File, code: Code, message: String) {
    found.add(code, None, message);
    if let Some(last) = found.findings.last_mut() {
        last.path = Some(file.href.clone());
    }
}
