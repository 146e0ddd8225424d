//! OVA and OVF: virtual appliances, read one disk at a time.
//!
//! A descriptor (XML) names the package's files, disks among them; a manifest
//! has their digests. An OVA is the package in one tar archive, the descriptor
//! first; an `.ovf` is the descriptor with the rest beside it.
//!
//! ```text
//!   ┌────────┬─────────────┬────────┬────────────┬────────┬───────────────────┬─┬──────
//!   │ header │ x.ovf: XML  │ header │ x.mf:      │ header │ x-disk1.vmdk:     │…│ two
//!   │ x.ovf  │ File ◄ Disk │ x.mf   │ SHA256(…)= │ x-disk1│ streamOptimized   │ │ zero
//!   │        │             │        │            │ .vmdk  │ VMDK, as it is    │ │ blocks
//!   └────────┴─────────────┴────────┴────────────┴────────┴───────────────────┴─┴──────
//!     512      padded to 512 …                              read in place
//! ```
//!
//! A disk's image is in a format of its own, to which reading is left. What is
//! packed once more (an OVA in gzip or zip, a file in gzip) is unpacked into a
//! temporary file when its bytes are wanted, and not before.
//!
//! Specification: DMTF DSP0243, *Open Virtualization Format Specification*
//! (1.1.0 and 2.1.1). What it leaves open is done as VMware's, VirtualBox's and
//! oVirt's tools do it.

mod archive;
mod check;
mod disk_image;
mod envelope;
mod files;
mod guest_os;
mod inspect;
mod layer;
mod manifest;
mod markup;
mod member_sink;
mod new_envelope;
mod options;
mod package;
mod tar_members;
mod target;
mod unpack;
mod zip_members;

use crate::open::driver::{Appliance, Driver};
use crate::open::probe::ProbeBuffer;
use archive::Packing;
use package::has_extension;
use std::path::Path;
use std::sync::Arc;
use tar_members::Beginning;

pub(crate) use layer::Ova;

/// Guest bytes of a grain.
const GRAIN: u64 = 64 << 10;

/// Disks being written stand this far apart: at what one grain table speaks for.
/// A table is written when its grains are; the engine hands over runs of grains
/// that end at such borders, and no run may belong to two tables or disks.
const ALIGNMENT: u64 = 512 * GRAIN;

pub(crate) static DRIVER: Driver = Driver {
    probe,
    sector: 512,
    open: |source, context| Ok(Arc::new(Ova::open(source, context)?)),
    require: None,
    create: target::create,
    options: options::OPTIONS,
    measure: None,
    inspect: inspect::INSPECT,
    appliance: Some(Appliance { create: target::create_disks, alignment: ALIGNMENT }),
};

/// What is called so, whatever is in it: opening says what is wrong. Under any
/// other name a tar whose first file is a descriptor. A guest can write that into
/// a raw disk: so it shows bytes of that same file alone, and nothing is unpacked.
fn probe(head: &ProbeBuffer<'_>) -> bool {
    if head.path.is_some_and(|path| is_called_so(path, head.bytes)) {
        return true;
    }
    tar_members::beginning(head.bytes).is_some_and(|Beginning { magic, name }| {
        magic && name.is_some_and(|name| has_extension(&name, "ovf"))
    })
}

/// True if the name is that of an appliance; of a packed one if it is packed.
fn is_called_so(path: &Path, head: &[u8]) -> bool {
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
