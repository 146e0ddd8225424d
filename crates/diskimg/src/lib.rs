//! Read, write and convert disk images: qcow2, VMDK, OVA, ISO, raw.
//!
//! A disk image is a map from **guest bytes** (what the virtual machine sees)
//! to **places** (where those bytes are kept). [`Image`] answers what the guest
//! sees and where it lies; [`Convert`] carries it into another format.
//!
//! ```
//! use diskimg::{Convert, Format, Image};
//!
//! # fn main() -> Result<(), diskimg::Error> {
//! # let dir = tempfile::tempdir().unwrap();
//! # let output = dir.path().join("disk.qcow2");
//! let image = Image::open("../../testdata/ext4-stream-qemu.vmdk")?;
//! assert_eq!(image.format(), Format::Vmdk);
//!
//! // The ext4 magic number, read without converting anything.
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
//! # Safety of hostile input
//!
//! An image is treated as hostile: every number in it is checked before it is
//! used, and whatever the bytes, the answer is a result or an [`Error`], never a
//! panic. Files that an image *names* (backing files, data files) are opened
//! only as far as [`ExternalFiles`] allows: by default within the image's own
//! directory. Say the format ([`OpenOptions::format`]) where you know it: a guest can
//! write any header into a raw disk.
//!
//! # Bytes without copies
//!
//! [`Image::slices`] lends stored bytes where they are, if they are in memory:
//! of an image that was opened from a buffer, or mapped
//! ([`OpenOptions::memory_map`], which is `unsafe` and says why). Nothing else
//! in the library maps a file.
//!
//! # Promises of a conversion
//!
//! The output appears under its name when it is complete and on stable
//! storage, and not at all otherwise. Its bytes depend on the source, the
//! options, and on whether the file system [shares](Reflink) data between the
//! two; not on the number of threads.
//!
//! # Floors
//!
//! Each module uses only what stands below it: `verbs` ([`Convert`],
//! [`Create`], [`compare()`], [`map()`], [`measure()`]) → [`formats`] → the
//! vocabulary ([`Image`], [`Layer`], [`extent`], [`target`]) → [`host`].
//! `ARCHITECTURE.md` in the repository is the map.

pub mod conformance;
mod error;
pub mod formats;
pub mod iso;
mod model;
pub mod open;
mod ops;
pub mod partition;
mod report;
pub mod storage;

pub use error::{Error, ErrorKind, Result};
pub use model::fetch::Fetcher;
pub use model::format::Format;
pub use model::image::{Image, Reader};
pub use model::layer::{DiskLayout, Layer, ParentLocator, ParentReference};
pub use model::options::{OptionKind, OptionSpec, Options, parse_size};
pub use model::slices::{Slice, Slices};
pub use model::{extent, target};
pub use open::external_files::ExternalFiles;
pub use open::limits::{Limit, Limits};
pub use open::{OpenOptions, SnapshotSelector};
pub use ops::{
    Callback, CompareError, CompareStage, Comparison, Convert, Create, Created, DigestAlgorithm,
    Digests, FileDigest, InspectOptions, MapEntry, Progress, Reflink, Report, Salvaged, Sparse,
    compare, inspect, inspect_source, map, measure, measure_size,
};
pub use report::inspection::Inspection;
pub use report::printable::printable;
pub use report::{check, info, inspection};
pub use storage::caching::Caching;
pub use storage::output::{Durability, Output};
pub use storage::source::Source;

/// The README's examples, run as tests.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
