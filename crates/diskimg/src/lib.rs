//! Read, write and convert disk images: qcow2, VMDK, VHD, VHDX, VDI, QED, QCOW, Parallels, DMG, OVA,
//! ISO, raw.
//!
//! A disk image is a map from **guest bytes** (what the virtual machine sees) to **host offsets**
//! (where those bytes are stored). [`Image`] reads guest bytes and maps them to host offsets;
//! [`Convert`] converts an image to another format.
//!
//! ```
//! use diskimg::{Convert, Format, Image};
//!
//! # fn main() -> Result<(), diskimg::Error> {
//! # let dir = tempfile::tempdir().unwrap();
//! # let (input, output) = (dir.path().join("disk.img"), dir.path().join("disk.qcow2"));
//! # let mut disk = vec![0; 8 << 20];
//! # disk[1080..1082].copy_from_slice(&[0x53, 0xef]);
//! # std::fs::write(&input, disk).unwrap();
//! let image = Image::open(&input)?;
//! assert_eq!(image.format(), Format::Raw);
//!
//! // Read the ext4 magic number, without converting the image.
//! let mut magic = [0; 2];
//! image.read_at(&mut magic, 1080)?;
//! assert_eq!(magic, [0x53, 0xef]);
//!
//! let report = Convert::new(image).format(Format::Qcow2).run(&output)?;
//! assert_eq!(report.guest_bytes, 8 << 20);
//! # Ok(())
//! # }
//! ```
//!
//! # Untrusted images
//!
//! Images are treated as untrusted: all numbers are checked before they are used, and any input
//! results in a value or an [`Error`], never in a panic. Files that an image references (backing
//! files, data files) are opened only if [`ExternalFiles`] allows it: by default, if they are in
//! the image's directory. Specify the format with [`OpenOptions::format`] if you know it, because a
//! guest can write any header into a raw disk.
//!
//! # Zero-copy access
//!
//! [`Image::slices`] borrows stored bytes that are in memory, for images in a buffer and for
//! memory-mapped images ([`OpenOptions::memory_map`], which is `unsafe`). Files are not mapped
//! otherwise.
//!
//! # Guarantees of a conversion
//!
//! The output appears under its name when it is complete and on stable storage, or not at all. Its
//! bytes depend on the source, on the options, and on whether the file system
//! [shares](Reflink) data between source and output, but not on the number of threads.
//!
//! # Layers
//!
//! Each layer uses only the layers after it: operations ([`Convert`], [`Create`], [`Compare`],
//! [`Check`], [`map()`], [`measure()`]) → [`formats`] → [`open`] → model ([`Image`], [`Layer`],
//! [`extent`]) → [`storage`]. See `ARCHITECTURE.md` in the repository.

// docs.rs: items say which feature they need.
#![cfg_attr(docsrs, feature(doc_cfg))]
// Without some formats, some shared code is unused.
#![cfg_attr(
    not(all(
        feature = "qcow2",
        feature = "vmdk",
        feature = "vhd",
        feature = "vhdx",
        feature = "vdi",
        feature = "qed",
        feature = "qcow",
        feature = "parallels",
        feature = "sparseimage",
        feature = "sparsebundle",
        feature = "asif",
        feature = "ewf",
        feature = "cloop",
        feature = "bochs",
        feature = "dmg",
        feature = "ova",
        feature = "iso",
        feature = "inspect"
    )),
    allow(dead_code, unused_imports)
)]

pub mod conformance;
mod error;
#[cfg(feature = "files")]
pub mod files;
pub mod formats;
#[cfg(feature = "iso")]
pub mod iso;
mod model;
pub mod open;
mod ops;
#[cfg(feature = "partition")]
pub mod partition;
#[cfg(feature = "preflight")]
pub mod preflight;
mod remedy;
mod report;
pub mod storage;
mod words;

pub use error::{Error, ErrorKind, Result};
pub use model::backing::Backing;
pub use model::bitmap::DirtyBitmap;
pub use model::extent;
pub use model::extents::Extents;
pub use model::fetch::Fetcher;
pub use model::flat::Preallocation;
pub use model::format::Format;
pub use model::image::Image;
pub use model::layer::{DiskLayout, Layer, ParentLocator, ParentReference};
pub use model::mutable::Amended;
pub use model::options::{OptionKind, OptionSpec, Options, parse_size};
pub use model::reader::Reader;
pub use model::slices::{Slice, Slices};
pub use model::target::Measure;
pub use open::external_files::ExternalFiles;
pub use open::limits::{Limit, Limits};
pub use open::probe::Probing;
pub use open::secrets::Secrets;
pub use open::{OpenOptions, SnapshotSelector};
#[cfg(feature = "picture")]
pub use ops::Draw;
pub use ops::{
    Amend, Bench, Callback, Check, Commit, Committed, Compare, CompareError, CompareStage,
    Comparison, Convert, Create, Created, DigestAlgorithm, Digests, FileDigest, GuestWriter,
    MapEntries, MapEntry, NewSize, Plan, Progress, Rebase, Rebased, Reflink, Repair, Repaired,
    Report, Resize, Resized, Salvaged, Sparse, map, measure, measure_size,
};
#[cfg(feature = "inspect")]
pub use ops::{InspectOptions, inspect, inspect_source};
pub use remedy::Remedy;
pub use report::finding::{Finding, Severity};
#[cfg(feature = "inspect")]
pub use report::inspection;
#[cfg(feature = "inspect")]
pub use report::inspection::Inspection;
#[cfg(feature = "picture")]
pub use report::picture;
pub use report::printable::printable;
pub use report::{check, info};
pub use storage::caching::Caching;
pub use storage::output::{Durability, FileAction, Output, PlannedFile};
pub use storage::source::Source;

/// Runs the examples of README.md, which is docs/rust.md, as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
