//! VMDK: VMware's virtual disk format.
//!
//! A disk consists of a descriptor (text) and extents. In the two layouts drawn here both are in
//! one file; [`write`] lists the others. All offsets and sizes are in sectors of 512 bytes. A grain
//! is usually 64 KiB and a grain table usually has 512 entries, so that one table covers 32 MiB.
//!
//! ```text
//! monolithicSparse: uncompressed grains, preceded by two copies of the tables
//!
//!   0        1            21                               overHead
//!   ┌────────┬────────────┬───────────────┬───────────────┬───────┬───────┬──
//!   │ header │ descriptor │ redundant     │ grain         │ grain │ grain │ …
//!   │ KDMV   │            │ directory     │ directory     │       │       │
//!   │        │            │ and tables    │ and tables    │       │       │
//!   └────────┴────────────┴───────────────┴───────────────┴───────┴───────┴──
//!     gdOffset ─────────────────────────────▲ [ table, 0, table, … ]
//!                                               └► [ 0, grain, 1 = zeros, … ]
//!
//! streamOptimized: compressed grains, written in one pass without seeking back
//!
//!   0        1                128
//!   ┌────────┬────────────┬───┬───┬─────────┬───┬─────────┬───┬────────────┬──
//!   │ header │ descriptor │ 0 │lba│ zlib    │lba│ zlib    │ 1 │ grain      │ …
//!   │ gd: -1 │            │   │len│         │len│         │   │ table      │
//!   └────────┴────────────┴───┴───┴─────────┴───┴─────────┴───┴────────────┴──
//!   ──┬───┬───────────┬───┬────────────┬─────┐
//!   … │ 2 │ grain     │ 3 │ footer: the│  0  │   marker types: 1 grain table,
//!     │   │ directory │   │ header, gd │ EOS │   2 grain directory, 3 footer,
//!   ──┴───┴───────────┴───┴────────────┴─────┘   0 end of stream
//! ```
//!
//! Specification: *Virtual Disk Format 5.0* (VMware technical note). Its names for the structures
//! are used throughout.

mod check;
mod cowd;
mod descriptor;
#[cfg(feature = "inspect")]
mod descriptor_rules;
mod descriptor_source;
mod edit;
mod extent;
mod extent_line;
mod header;
#[cfg(feature = "inspect")]
mod inspect;
mod layer;
mod parent;
mod qemu_rules;
mod repair;
mod scan;
mod sesparse;
mod sparse;
mod stream;
#[cfg(feature = "inspect")]
mod table_copies;
#[cfg(test)]
mod tests;
mod write;

use crate::error::{Error, Result};
use crate::model::options::{COMPRESSION_LEVEL, EXTENT_SIZE_HINT, NOCOW, OptionKind, OptionSpec};
use crate::open::driver::{Driver, NodeKeys};
use crate::open::probe::ProbeBuffer;
use crate::storage::number::to_usize;
use crate::storage::source::Source;

pub(crate) use extent_line::descriptor_name;
pub(crate) use layer::Vmdk;

/// The unit of every offset and size.
const SECTOR: u64 = 512;

/// The first bytes of the older sparse extent (VMware 3, ESX snapshots).
const COWD_MAGIC: [u8; 4] = *b"COWD";

/// The first bytes of an seSparse extent (`0xcafebabe`, little endian).
const SESPARSE_MAGIC: [u8; 8] = [0xbe, 0xba, 0xfe, 0xca, 0, 0, 0, 0];

pub(crate) static DRIVER: Driver = Driver {
    probe,
    probe_like_qemu: probe,
    sector: SECTOR,
    open: |source, context| {
        context.refuse_snapshot(crate::Format::Vmdk)?;
        Ok(std::sync::Arc::new(Vmdk::open(source, context)?))
    },
    require: None,
    create: Some(write::create),
    open_mutable: Some(edit::open),
    locks_further_files: true,
    repair: Some(repair::repair),
    amend: None,
    // In the order in which `qemu-img create -o help` lists them.
    options: &[
        OptionSpec::new("size", OptionKind::Size, "Virtual disk size"),
        OptionSpec::new(
            "adapter_type",
            OptionKind::Text,
            "Virtual adapter type, can be one of ide (default), lsilogic, buslogic or legacyESX",
        ),
        OptionSpec::new("backing_file", OptionKind::Text, "File name of a base image"),
        OptionSpec::new("backing_fmt", OptionKind::Text, "Must be 'vmdk' if present"),
        OptionSpec::new("compat6", OptionKind::Switch, "VMDK version 6 image").default("off"),
        OptionSpec::new("hwversion", OptionKind::Text, "VMDK hardware version")
            .default("undefined"),
        OptionSpec::new("toolsversion", OptionKind::Text, "VMware guest tools version"),
        OptionSpec::new(
            "subformat",
            OptionKind::Text,
            "VMDK layout, can be one of {monolithicSparse (default) | monolithicFlat | \
             twoGbMaxExtentSparse | twoGbMaxExtentFlat | streamOptimized (default with \
             compression) | vmfs}",
        ),
        OptionSpec::new(
            "zeroed_grain",
            OptionKind::Switch,
            "Enable efficient zero writes using the zeroed-grain GTE feature",
        ),
        COMPRESSION_LEVEL,
        NOCOW,
        OptionSpec::new(
            "preallocation",
            OptionKind::Text,
            "Preallocation mode (allowed values: off; flat layouts: off, falloc, full)",
        ),
        EXTENT_SIZE_HINT,
    ],
    measure: None,
    #[cfg(feature = "inspect")]
    inspect: inspect::INSPECT,
    appliance: None,
    node: NodeKeys::NONE,
};

fn probe(buffer: &ProbeBuffer<'_>) -> bool {
    let magics: [&[u8]; 3] = [&header::MAGIC, &COWD_MAGIC, &SESPARSE_MAGIC];
    magics.iter().any(|magic| buffer.head.starts_with(magic))
        || descriptor::looks_like_one(buffer.head)
        || qemu_rules::is_probed(buffer.head)
}

/// Converts sectors to bytes; `None` if the result does not fit in 63 bits.
fn sectors_to_bytes(sectors: u64) -> Option<u64> {
    sectors.checked_mul(SECTOR).filter(|&bytes| bytes <= i64::MAX.cast_unsigned())
}

/// Reads the metadata sector at host offset `at`.
fn read_sector(source: &dyn Source, at: u64, structure: &'static str) -> Result<[u8; 512]> {
    let mut sector = [0; to_usize(SECTOR)];
    read(source, &mut sector, at, structure)?;
    Ok(sector)
}

/// Fills `buf` with metadata from host offset `at`.
fn read(source: &dyn Source, buf: &mut [u8], at: u64, structure: &'static str) -> Result<()> {
    source
        .read_exact_at(buf, at)
        .map_err(|e| Error::io("cannot read it", e).in_structure(structure).at(at))
}
