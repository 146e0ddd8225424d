//! DMG: Apple's disk image in the Universal Disk Image Format (UDIF). All numbers are big endian.
//!
//! ```text
//!   0                                                                    last 512 bytes
//!   ┌───────────────────────────────────┬──────────────────┬─────────────┬─────────┐
//!   │ data fork: chunks as stored       │ XML property list│ (resource   │ trailer │
//!   │ zlib │ raw │ bzip2 │ xz │ LZFSE … │ or, in old files,│  fork)      │ koly    │
//!   └───────────────────────────────────┴──────────────────┴─────────────┴─────────┘
//!                                         │
//!                 resource-fork / blkx: a table of chunks (mish) for each partition
//!
//!   chunk: type, first sector, sectors, offset in the data fork, stored length
//! ```
//!
//! The trailer says where the other parts are. The tables of chunks are resources of the type `blkx`,
//! in a property list (`plist.rs`) or in a resource fork (`resource_fork.rs`). A chunk is zeros, bytes
//! as they are, or compressed as a unit. Sectors that no chunk has are zeros. Some very old files
//! have the trailer at the start.
//!
//! There is no specification of Apple's. The description in the documentation of libmodi ("Mac OS disk
//! image types") is the best one; it has wrong offsets of the number and the list of chunks, which
//! are at 200 and 204. What the checksums cover is what 7-Zip computes.
//!
//! A disk image of Apple's that is not compressed (UDRW, UDTO) may have no trailer: it is a raw disk.

mod check;
mod chunks;
mod digests;
#[cfg(feature = "inspect")]
mod inspect;
mod layer;
mod plist;
mod resource_fork;
mod table;
mod trailer;

use crate::error::{Error, Result};
use crate::open::driver::Driver;
use crate::open::probe::ProbeBuffer;
use crate::storage::number::to_u64;
use crate::storage::source::Source;

pub(crate) use layer::Dmg;

/// The unit of sizes and offsets of the disk.
const SECTOR: u64 = 512;

pub(crate) static DRIVER: Driver = Driver {
    probe: |buffer| trailer::find(buffer.tail).is_some() || trailer::is_at_start(buffer.head),
    probe_like_qemu,
    sector: SECTOR,
    open: |source, context| {
        context.refuse_snapshot(crate::Format::Dmg)?;
        Ok(std::sync::Arc::new(Dmg::open(source, context)?))
    },
    #[cfg(feature = "inspect")]
    inspect: inspect::INSPECT,
    ..Driver::READ_ONLY
};

/// QEMU recognizes a DMG by its name. It cannot open one without a trailer, which is a raw disk.
fn probe_like_qemu(buffer: &ProbeBuffer<'_>) -> bool {
    let is_named = |path: &std::path::Path| path.as_os_str().as_encoded_bytes().ends_with(b".dmg");
    buffer.path.is_some_and(is_named) && (DRIVER.probe)(buffer)
}

/// Reads `len` bytes of metadata at host offset `at`.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) if they are not within the file,
/// [`Limit`](crate::ErrorKind::Limit) if they exceed `table_bytes`, [`Io`](crate::ErrorKind::Io).
fn read(
    source: &dyn Source,
    at: u64,
    len: u64,
    max: u64,
    structure: &'static str,
) -> Result<Vec<u8>> {
    if at.checked_add(len).is_none_or(|end| end > source.len()) {
        let message = format!("its {len} bytes extend beyond the end of the file");
        let error = Error::corrupt(structure, message).at(at);
        return Err(error.hint("the file is probably truncated"));
    }
    if len > max {
        let found = format!("{len} bytes");
        return Err(Error::over_limit("table_bytes", found, max).in_structure(structure).at(at));
    }
    let mut bytes = vec![0; crate::storage::number::to_usize(len)];
    source
        .read_exact_at(&mut bytes, at)
        .map_err(|e| Error::io("cannot read it", e).in_structure(structure).at(at))?;
    debug_assert_eq!(to_u64(bytes.len()), len);
    Ok(bytes)
}
