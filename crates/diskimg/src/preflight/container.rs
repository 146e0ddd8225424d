//! The rules about the file: its format, its features, and the size of the disk in it.

use super::Consumer;
use super::consumer::{Accepted, MAX_VHD, size_text};
use crate::error::{Error, Result};
use crate::model::image::Image;
use crate::ops::{InspectOptions, inspect_source};
use crate::report::finding::Severity;
use crate::report::info::{Info, Value};
use crate::report::preflight::{Code, Preflight};
use crate::storage::number::to_u64;
use byteorder::{ByteOrder, LittleEndian};
use std::sync::Arc;

/// Adds the findings about the file.
pub(super) fn check(image: &Image, found: &mut Preflight) -> Result<()> {
    let info = image.info(0)?;
    let consumer = found.consumer;
    let formats = consumer.requirements().formats;
    match formats.iter().find(|accepted| accepted.format == found.format) {
        None => {
            let (title, texts) = (consumer.title(), consumer.accepted());
            let format = found.format;
            let message = format!("{title} does not accept the format {format}, but {texts}");
            found.add(Code::Format, message);
        }
        Some(accepted) => check_variant(&info, accepted, found),
    }
    check_files(image, &info, found)?;
    check_features(&info, found);
    check_size(found);
    match consumer {
        Consumer::Vsphere | Consumer::Aws => check_vmdk_version(image, &info, found)?,
        Consumer::Hyperv => check_holes(image, found)?,
        Consumer::Glance => check_safety(image, found)?,
        _ => {}
    }
    Ok(())
}

/// Returns the layout of a VMDK, or the kind of a VHD or VHDX.
fn variant(info: &Info) -> Option<&str> {
    let values = &info.format_specific.as_ref()?.data;
    let of = |key| values.iter().find(|(name, _)| *name == key).map(|(_, value)| value);
    match of("create-type").or_else(|| of("subformat")) {
        Some(Value::Text(text)) => Some(text),
        _ => None,
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

/// Everything must be in the file, unless the files of the image are those of an accepted layout.
fn check_files(image: &Image, info: &Info, found: &mut Preflight) -> Result<()> {
    if let Some(backing) = &info.backing_filename {
        let message = format!("the image needs the backing file '{backing}'; convert the image");
        found.add(Code::BackingFile, message);
    }
    let Some(layer) = image.layers().next() else { return Ok(()) };
    let several = layer.files().len();
    let is_split = matches!(found.format, "vmdk" | "parallels")
        && matches!(
            found.consumer,
            Consumer::Esxi | Consumer::Proxmox | Consumer::VirtualBox | Consumer::Workstation
        );
    if several > 1 && !is_split {
        let message = format!("the disk is in {several} files, not in one; convert the image");
        found.add(Code::ExternalFile, message);
    }
    Ok(())
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
        let message = format!("the image has {count} internal snapshots, which may be lost");
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

/// Glance inspects what is uploaded.
fn check_safety(image: &Image, found: &mut Preflight) -> Result<()> {
    let Some(file) = image.layers().next().and_then(|layer| layer.files().first().cloned()) else {
        return Ok(());
    };
    let options = InspectOptions::new().limits(image.limits(0).clone());
    let inspection = inspect_source(Arc::clone(&file), found.filename.clone(), &options)?;
    for finding in inspection.findings.iter().filter(|f| f.severity == Severity::Error) {
        let message = format!("{} ({})", finding.message, finding.code);
        found.add(Code::Unsafe, message);
    }
    Ok(())
}
