//! VHDX: the virtual hard disk of Hyper-V since Windows Server 2012.
//!
//! All numbers are little endian, and all checksums CRC-32C. A block has 1 to 256 MiB; everything
//! behind the first MiB starts at a multiple of 1 MiB.
//!
//! ```text
//!   0        64 KiB  128 KiB 192 KiB 256 KiB       1 MiB
//!   ┌────────┬───────┬───────┬───────┬───────┬─────┬─────┬──────────┬─────┬───────┬───┐
//!   │vhdxfile│ header│ header│ region│ region│     │ log │ metadata │ BAT │ block │ … │
//!   │        │       │       │ table │ table │     │     │          │     │       │   │
//!   └────────┴───┬───┴───────┴───┬───┴───────┴─────┴─────┴──────────┴─────┴───────┴───┘
//!                └──► log        └──► metadata: size, block size, sectors, parent
//!                                └──► BAT: [ state, offset of a block, … ]
//! ```
//!
//! A differencing disk (`.avhdx` for a checkpoint) has a bitmap for each chunk of 2^23 sectors; the
//! entry of a bitmap follows those of the chunk's blocks in the BAT.
//!
//! Changes to metadata are written to the log first. What is in it and not yet in its place is read
//! from the log; the file is not changed.
//!
//! Specification: *[MS-VHDX]: Virtual Hard Disk v2 (VHDX) File Format*.

mod bat;
mod bits;
mod blocks;
mod check;
mod edit;
mod guid;
mod header;
#[cfg(feature = "inspect")]
mod inspect;
mod layer;
mod locator;
mod log;
mod metadata;
mod parent;
mod places;
mod region;
mod repair;
mod write;

use crate::error::{Error, Result};
use crate::model::options::{EXTENT_SIZE_HINT, NOCOW, OptionKind, OptionSpec};
use crate::open::driver::{Driver, NodeKeys};
use crate::open::probe::ProbeBuffer;
use crate::storage::number::to_u64;
use crate::storage::source::Source;

pub(crate) use layer::Vhdx;

const KIB: u64 = 1 << 10;

/// The unit of host offsets.
const MIB: u64 = 1 << 20;

pub(crate) static DRIVER: Driver = Driver {
    probe,
    probe_like_qemu: probe,
    sector: 512,
    open: |source, context| {
        context.refuse_snapshot(crate::Format::Vhdx)?;
        Ok(std::sync::Arc::new(Vhdx::open(source, context)?))
    },
    require: None,
    create: Some(write::create),
    open_mutable: Some(edit::open),
    locks_further_files: false,
    repair: Some(repair::repair),
    amend: None,
    options: &[
        OptionSpec::new("size", OptionKind::Size, "Virtual disk size; max of 64TB."),
        OptionSpec::new("backing_file", OptionKind::Text, "File name of a base image"),
        OptionSpec::new("backing_fmt", OptionKind::Text, "Must be 'vhdx' if present"),
        OptionSpec::new("log_size", OptionKind::Size, "Log size; min 1MB."),
        OptionSpec::new(
            "block_size",
            OptionKind::Size,
            "Block Size; min 1MB, max 256MB. 0 means auto-calculate based on image size.",
        ),
        OptionSpec::new(
            "subformat",
            OptionKind::Text,
            "VHDX format type, can be either 'dynamic' or 'fixed'. Default is 'dynamic'.",
        ),
        OptionSpec::new(
            "block_state_zero",
            OptionKind::Switch,
            "Force use of payload blocks of type 'ZERO', not of blocks that were never written",
        )
        .default("on"),
        OptionSpec::new(
            "logical_sector_size",
            OptionKind::Size,
            "Sector size that the guest sees: 512 or 4096",
        )
        .default("512"),
        OptionSpec::new(
            "physical_sector_size",
            OptionKind::Size,
            "Physical sector size that the guest sees: 512 or 4096",
        )
        .default("4096")
        .qemu_default("512"),
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

fn probe(buffer: &ProbeBuffer<'_>) -> bool {
    buffer.head.starts_with(&header::FILE_SIGNATURE)
}

/// Returns the checksum of a structure, computed as if the checksum itself, at `at`, were zero.
fn checksum(bytes: &[u8], at: usize) -> u32 {
    let (before, rest) = bytes.split_at(at);
    let after = rest.get(4..).unwrap_or_default();
    let sum = crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]);
    crc32c::crc32c_append(sum, after)
}

/// Requires that the checksum at `checksum_at` of a structure at host offset `at` is right.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) if it is not.
fn require_checksum(
    structure: &'static str,
    bytes: &[u8],
    at: u64,
    checksum_at: usize,
) -> Result<()> {
    let computed = checksum(bytes, checksum_at);
    let stored = bytes.get(checksum_at..).and_then(|rest| rest.first_chunk::<4>());
    let stored = stored.map_or(0, |bytes| u32::from_le_bytes(*bytes));
    if stored == computed {
        return Ok(());
    }
    let message = format!("its checksum is {stored:#010x}, but its bytes give {computed:#010x}");
    Err(Error::corrupt(structure, message).at(at.saturating_add(to_u64(checksum_at))))
}

/// Fills `buf` with metadata from host offset `at`.
fn read(source: &dyn Source, buf: &mut [u8], at: u64, structure: &'static str) -> Result<()> {
    source
        .read_exact_at(buf, at)
        .map_err(|e| Error::io("cannot read it", e).in_structure(structure).at(at))
}
