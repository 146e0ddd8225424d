//! The rules about the file: its format, its features, and the size of the disk in it.

use super::Consumer;
use super::consumer::{Accepted, MAX_VHD, size_text};
use crate::error::{Error, Result};
use crate::inspection::{self, Inspection};
use crate::model::image::Image;
use crate::ops::{InspectOptions, inspect_source};
use crate::report::finding::Severity;
use crate::report::info::{Info, Value};
use crate::report::preflight::{Code, Preflight};
use crate::storage::number::to_u64;
use byteorder::{ByteOrder, LittleEndian};

/// Adds the findings about the file.
pub(super) fn check(image: &Image, found: &mut Preflight) -> Result<()> {
    let info = image.info(0)?;
    let consumer = found.consumer;
    let formats = consumer.requirements().formats;
    match formats.iter().find(|accepted| accepted.format == found.format) {
        _ if is_archive(&info, found) => check_archive(found),
        None => {
            let (title, texts) = (consumer.title(), consumer.accepted());
            let format = found.format;
            let message = format!("{title} does not accept the format {format}, but {texts}");
            found.add(Code::Format, message);
        }
        Some(accepted) => check_variant(&info, accepted, found),
    }
    check_compression(image, found);
    check_files(image, &info, found);
    check_features(&info, found);
    if found.format != "iso" {
        check_size(found);
    }
    check_inspection(image, found)?;
    match consumer {
        Consumer::Vsphere => check_vmdk_version(image, &info, found),
        Consumer::Hyperv => check_holes(image, found),
        _ => Ok(()),
    }
}

/// Returns a text that the format shows about the image.
fn shown<'i>(info: &'i Info, key: &str) -> Option<&'i str> {
    let values = &info.format_specific.as_ref()?.data;
    match values.iter().find(|(name, _)| *name == key) {
        Some((_, Value::Text(text))) => Some(text),
        _ => None,
    }
}

/// Returns the layout of a VMDK, or the kind of a VHD or VHDX.
fn variant(info: &Info) -> Option<&str> {
    shown(info, "create-type").or_else(|| shown(info, "subformat"))
}

/// Returns true for an archive of disk images, which is no appliance.
fn is_archive(info: &Info, found: &Preflight) -> bool {
    found.format == "ova" && shown(info, "descriptor").is_none()
}

/// Only Compute Engine is given an archive of a disk.
fn check_archive(found: &mut Preflight) {
    let is_tar_gz = found.filename.ends_with(".tar.gz") || found.filename.ends_with(".tgz");
    if found.consumer != Consumer::Gcp || !is_tar_gz {
        let (title, texts) = (found.consumer.title(), found.consumer.accepted());
        let message = format!("{title} does not accept an archive of disk images, but {texts}");
        found.add(Code::Format, message);
    }
}

fn check_variant(info: &Info, accepted: &Accepted, found: &mut Preflight) {
    let Some(variant) = variant(info).filter(|_| !accepted.variants.is_empty()) else { return };
    if !accepted.variants.contains(&variant) {
        let (title, format, text) = (found.consumer.title(), found.format, accepted.text);
        found.add(
            Code::Variant,
            format!("{title} does not accept a {variant} {format}, but {text}; convert the image"),
        );
    }
}

/// No consumer decompresses files.
fn check_compression(image: &Image, found: &mut Preflight) {
    let Some(compression) = image.compression_at(0) else { return };
    let title = found.consumer.title();
    let message = format!("the file is compressed by {compression}, which {title} does not undo");
    found.add(Code::Compressed, message);
}

/// Everything must be in the file, unless the files of the image are those of an accepted layout.
fn check_files(image: &Image, info: &Info, found: &mut Preflight) {
    if let Some(backing) = &info.backing_filename {
        let message = format!("the image needs the backing file '{backing}'; convert the image");
        found.add(Code::BackingFile, message);
    }
    let several = image.layers().next().map_or(0, |layer| layer.files().len());
    let is_usual = match found.format {
        // The files are in the archive.
        "ova" => true,
        "vmdk" => matches!(
            found.consumer,
            Consumer::Esxi | Consumer::Proxmox | Consumer::VirtualBox | Consumer::Workstation
        ),
        _ => false,
    };
    if several > 1 && !is_usual {
        let message = format!("the disk is in {several} files, not in one; convert the image");
        found.add(Code::ExternalFile, message);
    }
}

fn check_features(info: &Info, found: &mut Preflight) {
    let title = found.consumer.title();
    if info.encrypted {
        let message = format!("the disk is encrypted: {title} has no key; convert the image");
        found.add(Code::Encrypted, message);
    }
    if info.dirty_flag {
        let message = "the image was not closed properly; check it, and repair it if necessary";
        found.add(Code::Dirty, message);
    }
    if !info.snapshots.is_empty() {
        let count = info.snapshots.len();
        let noun = if count == 1 { "snapshot" } else { "snapshots" };
        let message = format!("the image has {count} internal {noun}, which may be lost");
        found.add(Code::Snapshots, message);
    }
}

fn check_size(found: &mut Preflight) {
    let requirements = found.consumer.requirements();
    let (title, size) = (found.consumer.title(), found.virtual_size);
    if !size.is_multiple_of(requirements.multiple) {
        let (multiple, next) =
            (size_text(requirements.multiple), size.next_multiple_of(requirements.multiple));
        found.add(
            Code::SizeMultiple,
            format!(
                "the disk has {size} bytes, not a multiple of {multiple}, which {title} requires; \
                 resize the image to {next} bytes"
            ),
        );
    }
    let (least, mut most) = requirements.sizes;
    if found.format == "vpc" && found.consumer == Consumer::Hyperv {
        most = most.min(MAX_VHD);
    }
    let message = if size < least {
        format!("the disk has {size} bytes; {title} requires at least {}", size_text(least))
    } else if size > most {
        format!("the disk has {size} bytes; {title} accepts at most {}", size_text(most))
    } else {
        return;
    };
    found.add(Code::SizeRange, message);
}

/// A streamOptimized VMDK must have version 3, as VMware's own programs write it: vSphere says
/// "sparse VMDK version too old" of others.
fn check_vmdk_version(image: &Image, info: &Info, found: &mut Preflight) -> Result<()> {
    const REQUIRED: u32 = 3;
    if found.format != "vmdk" || variant(info) != Some("streamOptimized") {
        return Ok(());
    }
    let Some(file) = image.layers().next().and_then(|layer| layer.files().first().cloned()) else {
        return Ok(());
    };
    let mut header = [0; 8];
    if file.len() < to_u64(header.len()) {
        return Ok(());
    }
    file.read_exact_at(&mut header, 0).map_err(|e| Error::io("cannot read the header", e))?;
    let version = LittleEndian::read_u32(&header[4..]);
    if header.starts_with(b"KDMV") && version != REQUIRED {
        let title = found.consumer.title();
        found.add(
            Code::Version,
            format!(
                "the streamOptimized VMDK has version {version}, but {title} requires {REQUIRED}; \
                 convert the image"
            ),
        );
    }
    Ok(())
}

/// Hyper-V refuses files that are sparse (error 0xC03A001A).
fn check_holes(image: &Image, found: &mut Preflight) -> Result<()> {
    /// File systems allocate what is stored elsewhere, such as the blocks of a file's map.
    const SLACK: u64 = 64 << 10;
    for file in image.layers().next().map(|layer| layer.files()).unwrap_or_default() {
        let allocated = file.allocated_bytes();
        let allocated = allocated.map_err(|e| Error::io("cannot get the allocated size", e))?;
        if allocated.is_some_and(|bytes| bytes.saturating_add(SLACK) < file.len()) {
            found.add(
                Code::SparseFile,
                "the file has holes, and Hyper-V refuses files that are sparse on its own file \
                 system: copy it with a program that writes all bytes",
            );
            return Ok(());
        }
    }
    Ok(())
}

/// Adds the findings of `inspect`: Glance refuses what is unsafe, and no consumer can use an image that
/// is damaged or not complete.
fn check_inspection(image: &Image, found: &mut Preflight) -> Result<()> {
    // The files of an appliance are parts of it.
    if found.format == "ova" {
        return Ok(());
    }
    let Some(file) = image.layers().next().and_then(|layer| layer.files().first().cloned()) else {
        return Ok(());
    };
    let options = InspectOptions::new().limits(image.limits(0).clone());
    let Inspection { findings, .. } = inspect_source(file, found.filename.clone(), &options)?;
    for finding in findings {
        let is_damage = matches!(
            finding.code,
            inspection::Code::Unreadable
                | inspection::Code::Footer
                | inspection::Code::MarkedCorrupt
                | inspection::Code::TableOutside
                | inspection::Code::Truncated
        );
        let code = match finding.severity {
            _ if is_damage => Code::Damaged,
            Severity::Error if found.consumer == Consumer::Glance => Code::Unsafe,
            _ => continue,
        };
        found.add(code, format!("{} ({})", finding.message, finding.code));
    }
    Ok(())
}
