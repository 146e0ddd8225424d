//! EWF: the Expert Witness Compression Format of EnCase, FTK Imager and other forensic programs
//! (`.E01`), and that of SMART (`.s01`).
//!
//! ```text
//!   disk.E01   ┌─────────────┬────────┬────────┬─────────┬───────┬────────┬───┬──────┐
//!              │ file header │ header │ volume │ sectors │ table │ table2 │ … │ next │
//!              └─────────────┴────────┴────────┴─────────┴───────┴────────┴───┴──────┘
//!                                                chunks    where they are
//!   disk.E02   ┌─────────────┬──────┬─────────┬───────┬────────┬───┬──────┬──────┐
//!              │ file header │ data │ sectors │ table │ table2 │ … │ hash │ done │
//!              └─────────────┴──────┴─────────┴───────┴────────┴───┴──────┴──────┘
//! ```
//!
//! An image is one or more segment files (`segments.rs`), and each is a list of sections
//! (`section.rs`). The disk is divided into chunks, usually 32 KiB, each compressed by zlib or
//! stored with its checksum. The tables have an entry for each chunk, in order (`table.rs`).
//!
//! The specification is Joachim Metz, "Expert Witness Compression Format specification", a part of
//! libewf. Its second version (`.Ex01`) is another format.

mod check;
mod header;
#[cfg(feature = "inspect")]
mod inspect;
mod layer;
mod section;
mod segments;
mod table;
mod text;
mod volume;

use crate::error::Error;
use crate::formats::metadata::read;
use crate::open::driver::Driver;
use crate::open::probe::ProbeBuffer;

pub(crate) use layer::Ewf;

/// The unit of the size of a disk.
const SECTOR: u64 = 512;

pub(crate) static DRIVER: Driver = Driver {
    probe,
    // QEMU has no driver for the format.
    probe_like_qemu: |_| false,
    sector: SECTOR,
    open: |source, context| {
        context.refuse_snapshot(crate::Format::Ewf)?;
        Ok(std::sync::Arc::new(Ewf::open(source, context)?))
    },
    #[cfg(feature = "inspect")]
    inspect: inspect::INSPECT,
    ..Driver::READ_ONLY
};

fn probe(buffer: &ProbeBuffer<'_>) -> bool {
    buffer.head.starts_with(&header::SIGNATURE)
}

/// Returns the error for a structure whose checksum is wrong.
fn wrong_checksum(structure: &'static str, at: u64, found: u32, recorded: u32) -> Error {
    let message = format!("the Adler-32 is {found:#010x}, but {recorded:#010x} is recorded");
    Error::corrupt(structure, message).at(at)
}
