//! Parallels: the disks of Parallels Desktop and Virtuozzo, which OpenStack calls `ploop`.
//!
//! An expandable image is one file, usually named `.hds`. All numbers are little endian.
//!
//! ```text
//!   0        64                  data offset                        extension offset
//!   ┌────────┬──────────────────┬─────────┬─────────┬───┬─────────┬───────────┐
//!   │ header │ block allocation │ cluster │ cluster │ … │ cluster │ format    │
//!   │        │ table (BAT)      │         │         │   │         │ extension │
//!   └────────┴──────────────────┴─────────┴─────────┴───┴─────────┴───────────┘
//!
//!   magic WithoutFreeSpace    an entry of the BAT is a sector
//!   magic WithouFreSpacExt    an entry of the BAT is a cluster, counted from the start of the file
//!   entry 0                   zeros or, in an overlay, the bytes of the image below
//! ```
//!
//! The products store a disk as a directory, a *bundle*. Its descriptor lists the images: a disk may
//! be split into storages, and each storage is a chain of images, one for each snapshot.
//!
//! ```text
//!   disk.hdd/
//!     DiskDescriptor.xml ─┬─► storage: sectors 0 to n       ─► top ─► snapshot ─► root
//!     disk.hdd (empty)    └─► storage: sectors n to the end ─► top ─► snapshot ─► root
//!     disk.hdd.0.{…}.hds      expandable ("Compressed") or raw ("Plain")
//! ```
//!
//! Specifications: *Parallels Expandable Image File Format* and *Parallels Disk Format*, which are
//! part of QEMU's documentation (`docs/interop/parallels.rst` and `prl-xml.rst`).

mod bundle;
mod check;
mod clusters;
mod descriptor;
mod edit;
mod extension;
mod header;
#[cfg(feature = "inspect")]
mod inspect;
mod layer;
mod repair;
mod write;

use crate::error::{Error, Result};
use crate::model::options::{EXTENT_SIZE_HINT, NOCOW, OptionKind, OptionSpec};
use crate::open::driver::{Driver, NodeKeys};
use crate::storage::source::Source;

pub(crate) use bundle::file_of_bundle;

/// The unit of sizes and offsets in the header and in descriptors.
const SECTOR: u64 = 512;

pub(crate) static DRIVER: Driver = Driver {
    probe: |buffer| {
        header::Magic::of(buffer.head).is_some() || descriptor::looks_like_one(buffer.head)
    },
    probe_like_qemu: |buffer| {
        let version = buffer.head.get(16..20);
        header::Magic::of(buffer.head).is_some() && version == Some(&header::VERSION.to_le_bytes())
    },
    sector: SECTOR,
    open: |source, context| Ok(std::sync::Arc::new(layer::Parallels::open(source, context)?)),
    require: None,
    create: Some(write::create),
    open_mutable: Some(edit::open),
    locks_further_files: false,
    repair: Some(repair::repair),
    amend: None,
    options: &[
        OptionSpec::new("size", OptionKind::Size, "Virtual disk size"),
        OptionSpec::new("cluster_size", OptionKind::Size, "Parallels image cluster size")
            .default("1048576"),
        NOCOW,
        OptionSpec::new(
            "preallocation",
            OptionKind::Text,
            "Preallocation mode (allowed values: off, falloc, full)",
        ),
        EXTENT_SIZE_HINT,
    ],
    measure: Some(write::measure),
    #[cfg(feature = "inspect")]
    inspect: inspect::INSPECT,
    appliance: None,
    node: NodeKeys::NONE,
};

/// Fills `buf` with metadata from host offset `at`.
fn read(source: &dyn Source, buf: &mut [u8], at: u64, structure: &'static str) -> Result<()> {
    source
        .read_exact_at(buf, at)
        .map_err(|e| Error::io("cannot read it", e).in_structure(structure).at(at))
}
