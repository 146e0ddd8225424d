//! VHD: the virtual hard disk of Virtual PC, Hyper-V and Azure. QEMU calls it `vpc`.
//!
//! All offsets in tables are in sectors of 512 bytes, and all numbers are big endian. A block is
//! usually 2 MiB; its bitmap has one bit per sector.
//!
//! ```text
//! fixed: the guest's bytes
//!
//!   ┌────────────────────────────────────────┬────────┐
//!   │ the disk                               │ footer │
//!   └────────────────────────────────────────┴────────┘
//!
//! dynamic, differencing
//!
//!   0        512       1536    table                                        
//!   ┌────────┬─────────┬───────┬──────────────┬────────┬───────┬───┬────────┐
//!   │ copy of│ dynamic │ names │ block        │ bitmap │ block │ … │ footer │
//!   │ footer │ header  │ of the│ allocation   │        │       │   │        │
//!   │        │         │ parent│ table        │        │       │   │        │
//!   └────────┴─────────┴───────┴──────────────┴────────┴───────┴───┴────────┘
//!     data offset ▲      ▲ parent locators
//!                table offset ──► [ sector of a bitmap, ffffffff, … ]
//! ```
//!
//! Specification: *Virtual Hard Disk Image Format Specification 1.0* (Microsoft, 2006). The
//! allocation of zeros that hide a parent's data is not in it: they are stored.

mod blocks;
mod check;
mod edit;
mod footer;
mod geometry;
mod header;
#[cfg(feature = "inspect")]
mod inspect;
mod layer;
mod parent;
mod repair;
mod write;

use crate::error::{Error, Result};
use crate::model::options::{EXTENT_SIZE_HINT, NOCOW, OptionKind, OptionSpec};
use crate::open::driver::{Driver, NodeKeys};
use crate::open::probe::ProbeBuffer;
use crate::storage::number::to_u64;
use crate::storage::source::Source;

pub(crate) use layer::Vhd;

/// Maximum size of a disk in bytes: 2040 GiB, the most that sector numbers of 32 bits leave room for.
const MAX_SIZE: u64 = 0xff00_0000 * SECTOR;

/// The unit of offsets in tables, and of the bitmaps.
const SECTOR: u64 = 512;

/// The first bytes of a footer.
const COOKIE: [u8; 8] = *b"conectix";

/// Version 1.0 of the format.
const VERSION: u32 = 0x0001_0000;

pub(crate) static DRIVER: Driver = Driver {
    probe,
    probe_like_qemu: |buffer| buffer.head.starts_with(&COOKIE),
    sector: SECTOR,
    open: |source, context| {
        context.refuse_snapshot(crate::Format::Vhd)?;
        Ok(std::sync::Arc::new(Vhd::open(source, context)?))
    },
    require: None,
    create: Some(write::create),
    open_mutable: Some(edit::open),
    locks_further_files: false,
    repair: Some(repair::repair),
    amend: None,
    options: &[
        OptionSpec::new("size", OptionKind::Size, "Virtual disk size"),
        OptionSpec::new("backing_file", OptionKind::Text, "File name of a base image"),
        OptionSpec::new("backing_fmt", OptionKind::Text, "Must be 'vpc' if present"),
        OptionSpec::new(
            "subformat",
            OptionKind::Text,
            "Type of virtual hard disk format. Supported formats are {dynamic (default) | fixed}",
        ),
        OptionSpec::new(
            "force_size",
            OptionKind::Switch,
            "Force disk size calculation to use the actual size specified, rather than using the \
             nearest CHS-based calculation",
        )
        .default("on")
        .qemu_default("off"),
        OptionSpec::new("uuid", OptionKind::Text, "UUID of the disk"),
        NOCOW,
        OptionSpec::new(
            "preallocation",
            OptionKind::Text,
            "Preallocation mode (allowed values: off; fixed disks: off, falloc, full)",
        ),
        EXTENT_SIZE_HINT,
    ],
    measure: Some(write::measure),
    #[cfg(feature = "inspect")]
    inspect: inspect::INSPECT,
    appliance: None,
    node: NodeKeys::NONE,
};

/// A fixed disk has only the footer at the end of the file. A guest can write one there, but it is
/// recognized only if it is complete.
fn probe(buffer: &ProbeBuffer<'_>) -> bool {
    if buffer.head.starts_with(&COOKIE) {
        return true;
    }
    let ends = [512, 511].map(|len| buffer.tail.len().checked_sub(len));
    ends.into_iter().flatten().any(|start| {
        let mut footer = [0; 512];
        footer[..buffer.tail.len() - start].copy_from_slice(&buffer.tail[start..]);
        footer::Footer::parse(&footer, 0).is_ok()
    })
}

/// Returns the checksum of a structure: the complement of the sum of its bytes, without those of the
/// checksum itself, which is at `at`.
fn checksum(bytes: &[u8], at: usize) -> u32 {
    let (before, rest) = bytes.split_at(at);
    let after = rest.get(4..).unwrap_or_default();
    let sum = |bytes: &[u8]| bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>();
    !(sum(before) + sum(after))
}

/// Requires that the checksum of a structure at host offset `at` and its version are right.
///
/// # Errors
/// Returns [`Corrupt`](crate::ErrorKind::Corrupt) for a wrong checksum, and
/// [`Unsupported`](crate::ErrorKind::Unsupported) for another version.
fn require_valid(
    structure: &'static str,
    bytes: &[u8],
    at: u64,
    checksum_at: usize,
    version: u32,
) -> Result<()> {
    let computed = checksum(bytes, checksum_at);
    let stored = bytes.get(checksum_at..).and_then(|rest| rest.first_chunk::<4>());
    let stored = stored.map_or(0, |bytes| u32::from_be_bytes(*bytes));
    if stored != computed {
        let message =
            format!("its checksum is {stored:#010x}, but its bytes give {computed:#010x}");
        let at = at.saturating_add(to_u64(checksum_at));
        return Err(Error::corrupt(structure, message).at(at));
    }
    if version >> 16 != VERSION >> 16 {
        let message = format!("version {}.{} of the format", version >> 16, version & 0xffff);
        return Err(Error::unsupported(message).in_structure(structure).at(at));
    }
    Ok(())
}

/// Fills `buf` with metadata from host offset `at`.
fn read(source: &dyn Source, buf: &mut [u8], at: u64, structure: &'static str) -> Result<()> {
    source
        .read_exact_at(buf, at)
        .map_err(|e| Error::io("cannot read it", e).in_structure(structure).at(at))
}
