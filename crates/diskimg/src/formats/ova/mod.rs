//! OVA and OVF: virtual appliances, of which one disk is read at a time.
//!
//! A descriptor (XML) lists the files and disks of a package, and a manifest lists the files'
//! digests. An OVA is a package in a tar archive, with the descriptor as the first member. An
//! `.ovf` is a descriptor whose package files are in the same directory.
//!
//! ```text
//!   ┌────────┬─────────────┬────────┬────────────┬────────┬───────────────────┬─┬──────
//!   │ header │ x.ovf: XML  │ header │ x.mf:      │ header │ x-disk1.vmdk:     │…│ two
//!   │ x.ovf  │ File ◄ Disk │ x.mf   │ SHA256(…)= │ x-disk1│ streamOptimized   │ │ zero
//!   │        │             │        │            │ .vmdk  │ VMDK, verbatim    │ │ blocks
//!   └────────┴─────────────┴────────┴────────────┴────────┴───────────────────┴─┴──────
//!     512      padded to 512 …                              read in place
//! ```
//!
//! An archive of disk images without a descriptor (a Vagrant box for libvirt, an image for Google
//! Cloud) is read as an appliance, too.
//!
//! A disk's image has a format of its own, whose driver reads it. Compressed data (an OVA in gzip
//! or zip, a file in gzip) is decompressed to a temporary file when it is first needed.
//!
//! Specification: DMTF DSP0243, *Open Virtualization Format Specification* (1.1.0 and 2.1.1). Where
//! it is silent, this module follows the tools of VMware, VirtualBox and oVirt.

mod archive;
mod box_metadata;
mod check;
#[cfg(feature = "inspect")]
mod descriptor_rules;
mod disk_archive;
mod disk_image;
mod elements;
mod envelope;
mod files;
mod guest_os;
#[cfg(feature = "inspect")]
mod inspect;
mod layer;
mod manifest;
mod markup;
mod member_sink;
mod new_envelope;
mod options;
mod package;
mod sparse_member;
mod spelling;
mod tar_members;
#[cfg(feature = "inspect")]
mod tar_rules;
mod target;
mod zip_members;

use crate::open::driver::{Appliance, Driver, NodeKeys};
use crate::open::probe::ProbeBuffer;
use crate::storage::number::to_usize;
use archive::Packing;
use flate2::read::GzDecoder;
use package::has_extension;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use tar_members::ArchiveStart;

pub(crate) use layer::Ova;

/// Size of a grain in bytes.
const GRAIN: u64 = 64 << 10;

/// Alignment of the disks of a new appliance in the guest address space: the size that one grain
/// table covers. The engine passes runs of grains that end at multiples of this size, so that no
/// run belongs to two tables or two disks.
const ALIGNMENT: u64 = 512 * GRAIN;

pub(crate) static DRIVER: Driver = Driver {
    probe,
    probe_like_qemu: probe,
    sector: 512,
    open: |source, context| Ok(Arc::new(Ova::open(source, context)?)),
    require: None,
    create: Some(target::create),
    open_mutable: None,
    locks_further_files: false,
    repair: None,
    amend: None,
    options: options::OPTIONS,
    measure: None,
    #[cfg(feature = "inspect")]
    inspect: inspect::INSPECT,
    appliance: Some(Appliance { create: target::create_disks, alignment: ALIGNMENT }),
    node: NodeKeys::NONE,
};

/// Accepts every file with the name of an appliance, so that opening it reports what is wrong with
/// its contents. With any other name, accepts a tar.gz, and a tar archive that is named so or whose
/// first file is a descriptor or that has Vagrant's metadata near its start. A guest can write such an archive to a
/// raw disk; therefore only bytes of this file are read then, and an uncompressed archive's members
/// are not decompressed.
fn probe(buffer: &ProbeBuffer<'_>) -> bool {
    if buffer.path.is_some_and(|path| has_appliance_name(path, buffer.head)) {
        return true;
    }
    let is_archive = || {
        let name = buffer.path.map(|path| path.to_string_lossy());
        name.is_some_and(|name| ["box", "tar"].iter().any(|known| has_extension(&name, known)))
    };
    let is_appliance = |names: &[Arc<str>]| {
        names.first().is_some_and(|name| has_extension(name, "ovf"))
            || names.iter().any(|name| **name == *disk_archive::METADATA)
    };
    match Packing::of(buffer.head) {
        Packing::Gzip => tar_gz_start(buffer.head).is_some_and(|start| start.magic),
        Packing::None => tar_members::archive_start(buffer.head)
            .is_some_and(|start| start.magic && (is_archive() || is_appliance(&start.names))),
        _ => false,
    }
}

/// Parses the start of a tar archive in a gzip file; `None` if `head` is not one.
fn tar_gz_start(head: &[u8]) -> Option<ArchiveStart> {
    let mut block = [0; to_usize(tar_members::BLOCK)];
    GzDecoder::new(head).read_exact(&mut block).ok()?;
    tar_members::archive_start(&block)
}

/// True if the extension is that of an appliance with the compression that `head` shows.
fn has_appliance_name(path: &Path, head: &[u8]) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let extensions: &[&str] = match Packing::of(head) {
        Packing::Gzip => &[".ova", ".ovf", ".ova.gz", ".tgz", ".tar.gz"],
        Packing::Xz => &[".ova", ".ovf", ".ova.xz", ".txz", ".tar.xz"],
        Packing::Bzip2 => &[".ova", ".ovf", ".ova.bz2", ".tbz2", ".tar.bz2"],
        Packing::Zip => &[".ova", ".ovf", ".ova.zip"],
        Packing::None => &[".ova", ".ovf"],
    };
    extensions.iter().any(|extension| name.ends_with(extension))
}
