//! Inspection of ISO images. As a disk an ISO image is raw, or the data in raw sectors; the volume
//! descriptor tells whether it is complete.

use crate::error::Error;
use crate::formats::inspect::{self, Inspect, Subject};
use crate::iso::read::sectors;
use crate::iso::{IsoImage, IsoOptions};
use crate::open::external_files::ExternalFiles;
use crate::report::finding::Severity;
use crate::report::inspection::{Code, Finding, Inspection};
use crate::storage::source::{Source, read_if_inside};
use std::sync::Arc;

pub(super) const INSPECT: Inspect = Inspect { also_matches: |_| false, examine };

/// Offset of the first volume descriptor.
const FIRST_DESCRIPTOR: u64 = 32 << 10;

fn examine(subject: &Subject<'_>, found: &mut Inspection) {
    let image = match sectors::cooked(Arc::clone(subject.source)) {
        Ok(image) => image,
        Err(error) => return found.unreadable(&error),
    };
    let len = image.len();
    found.virtual_size = Some(len);
    if !Arc::ptr_eq(&image, subject.source) {
        let message = format!(
            "raw CD sectors: the disk is the {len} bytes of data in them; QEMU reads all bytes"
        );
        found.add(Code::RawSectors, 0, message);
        inspect::examine_sector_data(subject, &image, found);
    }
    if let Err(error) = compare_trees(&image, subject, found) {
        found.unreadable(&error);
    }
    // ECMA-119, 8.4: the primary volume descriptor, volume space size, logical block size.
    let mut descriptor = [0; 2048];
    match read_if_inside(&*image, &mut descriptor, FIRST_DESCRIPTOR) {
        Ok(true) => {}
        Ok(false) => {
            found.add(Code::Truncated, len, "the file ends within its volume descriptors");
            return;
        }
        Err(error) => return found.unreadable(&Error::io("cannot read it", error)),
    }
    if !descriptor.starts_with(b"\x01CD001") {
        return;
    }
    let blocks = u32::from_le_bytes([80, 81, 82, 83].map(|i| descriptor[i]));
    let block = u16::from_le_bytes([descriptor[128], descriptor[129]]);
    let volume = u64::from(blocks) * u64::from(block);
    if volume > len {
        let message = format!("the volume has {volume} bytes, but the file only {len}");
        found.add(Code::Truncated, FIRST_DESCRIPTOR + 80, message);
    }
}

/// Compares the directory trees: each program reads one of them.
fn compare_trees(
    image: &Arc<dyn Source>,
    subject: &Subject<'_>,
    found: &mut Inspection,
) -> crate::Result<()> {
    let options = IsoOptions {
        external_files: ExternalFiles::None,
        limits: subject.limits.clone(),
        ..IsoOptions::default()
    };
    let differences = match IsoImage::open(Arc::clone(image), &options) {
        Ok(image) => image.tree_differences()?,
        Err(error) if error.is_storage_failure() => return Err(error),
        Err(error) => {
            let error = error.without_remedy();
            let message = format!("its directory trees cannot be compared: {error}");
            let code = Code::TreesDiffer;
            found.findings.push(Finding::new(code, Severity::Error, message));
            return Ok(());
        }
    };
    for difference in differences {
        let finding = Finding::new(Code::TreesDiffer, difference.severity, difference.message);
        let path = difference.path.as_deref();
        found.findings.push(path.into_iter().fold(finding, Finding::of));
    }
    Ok(())
}
