//! Creating a VHDX: from options to a fixed, dynamic or differencing disk.
//!
//! ```text
//!   0          1 MiB  log_at+log_size   + 1 MiB
//!   ┌─────────┬──────┬─────────────────┬──────┬────────────────────────────────
//!   │ headers │ log  │ metadata        │ BAT  │ blocks, in the order of the disk
//!   └─────────┴──────┴─────────────────┴──────┴────────────────────────────────
//! ```
//!
//! The log is empty: a new file is not used before it is complete. The headers are written last, so
//! that an unfinished file has none.
//!
//! Hyper-V accepts these files: all offsets are multiples of 1 MiB, entries of blocks without space
//! have no offset, and the file contains each block as a whole.

mod dynamic;
mod fixed;
mod table;

use super::MIB;
use super::bat::{BatLayout, ENTRY_BYTES};
use super::guid::Guid;
use super::header::{self, HEADERS_AT, Header};
use super::locator::{ABSOLUTE, LINKAGE, Locator, RELATIVE};
use super::metadata::{MAX_SIZE, Metadata};
use super::region::{self, BAT, METADATA, Region, TABLES_AT};
use crate::error::{Error, Result};
use crate::model::backing::Backing;
use crate::model::flat::{FlatFile, Preallocation};
use crate::model::options::Options;
use crate::model::target::{CreateRequest, Measure, MeasureRequest, Target, TargetSpec};
use crate::open::external_files::plain_path;
use crate::remedy::Remedy;
use crate::storage::number::to_u64;
use crate::storage::output::Output;
use crate::storage::sink::Sink;
use dynamic::DynamicTarget;
use fixed::FixedTarget;
use std::path::Path;
use std::sync::Arc;

/// Host offset of the log.
const LOG_AT: u64 = MIB;

/// Length in bytes of the metadata region.
const METADATA_BYTES: u64 = MIB;

/// Guest bytes of a block of a differencing disk by default, as Hyper-V has it.
const CHILD_BLOCK: u64 = 2 * MIB;

/// Maximum number of guest bytes of a block.
const MAX_BLOCK: u64 = 256 * MIB;

/// Name of the program that created a file.
const CREATOR: &str = concat!("diskimg ", env!("CARGO_PKG_VERSION"));

/// A new image.
#[derive(Debug, Clone)]
struct VhdxSpec {
    fixed: bool,
    /// Without an identifier of the disk, unless it is the parent's.
    metadata: Metadata,
    layout: Layout,
    /// Blocks without data are recorded as zeros, not as never written.
    zero_state: bool,
    preallocation: Preallocation,
}

/// Where everything is in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    table: BatLayout,
    block_bytes: u64,
    log_bytes: u64,
}

impl Layout {
    fn metadata_at(&self) -> u64 {
        LOG_AT + self.log_bytes
    }

    fn table_at(&self) -> u64 {
        self.metadata_at() + METADATA_BYTES
    }

    /// Returns the length in bytes of the region of the table.
    fn table_bytes(&self) -> u64 {
        self.table.bytes().next_multiple_of(MIB).max(MIB)
    }

    /// Returns the host offset of the first block.
    fn blocks_at(&self) -> u64 {
        self.table_at() + self.table_bytes()
    }

    /// Returns the length of a file with this number of blocks.
    fn len(&self, blocks: u64) -> u64 {
        self.blocks_at() + blocks * self.block_bytes
    }
}

/// What the options and the size say, but for the parent.
struct Parameters {
    size: u64,
    block_bytes: u64,
    logical: u64,
    physical: u64,
    log_bytes: u64,
    fixed: bool,
}

impl Parameters {
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) for values that the format does not support,
    /// [`Limit`](crate::ErrorKind::Limit) if the disk is too large.
    fn new(size: u64, options: &Options, backing: Option<&Backing>) -> Result<Self> {
        let fixed = match options.get("subformat") {
            None | Some("dynamic") => false,
            Some("fixed") => true,
            Some(other) => {
                return Err(Error::invalid(format!("Invalid subformat '{other}'"))
                    .hint("valid subformats: dynamic, fixed"));
            }
        };
        let parents = backing.and_then(|backing| backing.sector_sizes);
        let [default_logical, default_physical] = parents.unwrap_or([512, 4096]);
        let logical = sector_size("logical_sector_size", options)?.unwrap_or(default_logical);
        let physical = sector_size("physical_sector_size", options)?.unwrap_or(default_physical);
        if parents.is_some() && logical != default_logical {
            let message = format!("the parent has logical sectors of {default_logical} bytes");
            return Err(Error::invalid(message).hint("leave out logical_sector_size"));
        }
        if physical < logical {
            return Err(Error::invalid("physical sectors must not be smaller than logical ones"));
        }
        let size = size.checked_next_multiple_of(logical).filter(|&size| size <= MAX_SIZE);
        let Some(size) = size else {
            return Err(Error::limit("Image size too large; max of 64TB")
                .hint("use another format, such as qcow2"));
        };
        let block_bytes = block_size(size, options, backing.is_some())?;
        Ok(Self { size, block_bytes, logical, physical, log_bytes: log_size(options)?, fixed })
    }

    fn layout(&self, has_parent: bool) -> Layout {
        Layout {
            table: BatLayout::new(self.size, self.block_bytes, self.logical, has_parent),
            block_bytes: self.block_bytes,
            log_bytes: self.log_bytes,
        }
    }
}

fn sector_size(option: &str, options: &Options) -> Result<Option<u64>> {
    match options.size(option)? {
        Some(size) if ![512, 4096].contains(&size) => {
            Err(Error::invalid(format!("Invalid {option} '{size}'; expected 512 or 4096")))
        }
        size => Ok(size),
    }
}

/// Returns the length of the log. QEMU rounds it up to 1 MiB as well.
fn log_size(options: &Options) -> Result<u64> {
    match options.size("log_size")? {
        None => Ok(MIB),
        Some(0) => Err(Error::invalid("Log size must be a multiple of 1 MB")),
        Some(size) if size > u64::from(u32::MAX) => {
            Err(Error::invalid("Log size must be smaller than 4 GB"))
        }
        Some(size) => {
            let size = size.next_multiple_of(MIB);
            match size <= header::MAX_LOG {
                true => Ok(size),
                false => Err(Error::limit("a log of more than 1 GiB")),
            }
        }
    }
}

/// Returns the guest bytes of a block: the option, which QEMU rounds in this way as well, or what
/// QEMU chooses by the size of the disk.
fn block_size(size: u64, options: &Options, has_parent: bool) -> Result<u64> {
    const GIB: u64 = 1 << 30;
    let given = options.size("block_size")?.filter(|&size| size > 0);
    let block = match given {
        Some(block) => block.checked_next_multiple_of(MIB).unwrap_or(MAX_BLOCK).min(MAX_BLOCK),
        None if has_parent => CHILD_BLOCK,
        None if size > 32 << 40 => 64 * MIB,
        None if size > 100 * GIB => 32 * MIB,
        None if size > GIB => 16 * MIB,
        None => 8 * MIB,
    };
    match block.is_power_of_two() {
        true => Ok(block),
        false => Err(Error::invalid("Block size must be a power of two")),
    }
}

/// Specifies a new image.
///
/// # Errors
/// [`Invalid`](crate::ErrorKind::Invalid) or [`Unsupported`](crate::ErrorKind::Unsupported) for
/// options that the format does not support, [`Limit`](crate::ErrorKind::Limit) if the disk is too
/// large.
pub(super) fn create(request: CreateRequest<'_>) -> Result<Box<dyn TargetSpec>> {
    let CreateRequest { size, options, backing, compress } = request;
    if compress {
        return Err(Error::invalid("Compression not supported for this file format"));
    }
    if options.get("backing_fmt").is_some_and(|format| format != "vhdx") {
        return Err(Error::invalid("backing_file must be a VHDX image"));
    }
    if backing.is_none() && options.get("backing_file").is_some_and(|b| !b.is_empty()) {
        return Err(Error::invalid("the backing_file option was given, but no backing image"));
    }
    let parameters = Parameters::new(size, options, backing.as_ref())?;
    if parameters.fixed && backing.is_some() {
        return Err(Error::unsupported("a fixed disk cannot have a backing file")
            .hint("use subformat=dynamic"));
    }
    let preallocation = match options.get("preallocation") {
        Some(mode) if mode != "off" && !parameters.fixed => {
            let message = format!("Unsupported preallocation mode '{mode}' for dynamic disks");
            return Err(Error::unsupported(message).hint("subformat=fixed can be preallocated"));
        }
        mode => Preallocation::parse(mode, "vhdx")?,
    };
    let layout = parameters.layout(backing.is_some());
    let Parameters { size, block_bytes, logical, physical, fixed, .. } = parameters;
    let metadata = Metadata {
        block_bytes,
        leaves_blocks_allocated: fixed,
        size,
        disk_id: parent_disk_id(backing.as_ref()),
        logical,
        physical,
        parent: backing.as_ref().map(locator).transpose()?,
    };
    let zero_state = options.switch("block_state_zero")?.unwrap_or(true);
    Ok(Box::new(VhdxSpec { fixed, metadata, layout, zero_state, preallocation }))
}

/// Returns the identifier that a guest sees, which a child has in common with its parent.
fn parent_disk_id(backing: Option<&Backing>) -> Guid {
    let id = backing.and_then(|backing| backing.disk_id.as_deref());
    id.and_then(Guid::parse).unwrap_or(Guid::NIL)
}

/// Returns the locator of the parent: the GUID of its contents, and its name as Windows spells it.
fn locator(backing: &Backing) -> Result<Locator> {
    if let Some(format) = backing.format.as_deref().filter(|&format| format != "vhdx") {
        let message = format!("the parent of a differencing VHDX must be a VHDX, not {format}");
        return Err(Error::invalid(message));
    }
    let guid = backing.content_id.as_deref().and_then(Guid::parse);
    let guid = guid.filter(|guid| !guid.is_nil()).ok_or_else(|| {
        Error::invalid("a differencing VHDX records its parent's GUID, which is not known")
            .hint("backing_file must be a VHDX image that can be opened")
            .with_remedy(Remedy::OpenBackingFile)
    })?;
    // Windows separates directories by backslashes, and has no prefix `file:`.
    let name = plain_path(&backing.name).and_then(Path::to_str);
    // A text in the locator has at most 64 KiB.
    let is_valid = |name: &&str| !name.contains('\\') && name.len() < 16 << 10;
    let Some(name) = name.filter(is_valid) else {
        let message = format!("the backing file's name {:?} cannot be recorded", backing.name);
        return Err(Error::invalid(message));
    };
    let path = name.replace('/', "\\");
    let path = match path.starts_with('\\') || path.get(1..2) == Some(":") {
        true => (ABSOLUTE.to_owned(), path),
        false => (RELATIVE.to_owned(), format!(".\\{path}")),
    };
    // In lower case, as in the specification's example.
    let linkage = format!("{{{}}}", guid.to_string().to_lowercase());
    Ok(Locator { entries: vec![(LINKAGE.to_owned(), linkage), path] })
}

/// The GUIDs of a new file.
#[derive(Debug, Clone, Copy)]
struct NewGuids {
    file_write: Guid,
    data_write: Guid,
    disk_id: Guid,
}

impl VhdxSpec {
    fn size(&self) -> u64 {
        self.metadata.size
    }

    /// Returns the GUIDs of a disk: the same for the same contents, but new ones for a disk that is
    /// created empty, because it will have other contents, and children refer to it by its GUID.
    fn new_guids(&self, digest: Option<u64>) -> NewGuids {
        let guid = |number: u64| {
            let Some(digest) = digest else { return Guid::random() };
            // The size is a multiple of 512: nine bits are free.
            let has_parent = u64::from(self.metadata.parent.is_some());
            let low = self.size() | has_parent << 3 | u64::from(self.fixed) << 2 | number;
            Guid::of_digest(u128::from(digest) << 64 | u128::from(low))
        };
        NewGuids { file_write: guid(0), data_write: guid(1), disk_id: guid(2) }
    }

    /// Writes everything but the table and the blocks.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if writing fails.
    fn write_headers(&self, sink: &dyn Sink, digest: Option<u64>) -> Result<()> {
        let layout = &self.layout;
        let guids = self.new_guids(digest);
        let mut metadata = self.metadata.clone();
        if metadata.disk_id.is_nil() {
            metadata.disk_id = guids.disk_id;
        }
        write(sink, &metadata.encode(), layout.metadata_at(), "the metadata")?;
        let (table_at, table_bytes) = (layout.table_at(), layout.table_bytes());
        let regions = region::encode(&[
            Region { guid: BAT, range: table_at..table_at + table_bytes, required: true },
            Region { guid: METADATA, range: layout.metadata_at()..table_at, required: true },
        ]);
        for at in TABLES_AT {
            write(sink, &*regions, at, "the region table")?;
        }
        for (sequence, at) in (1..).zip(HEADERS_AT) {
            let header = Header {
                sequence,
                file_write: guids.file_write,
                data_write: guids.data_write,
                log: Guid::NIL,
                log_version: 0,
                log_range: LOG_AT..LOG_AT + layout.log_bytes,
            };
            write(sink, &header.encode(), at, "the header")?;
        }
        write(sink, &header::encode_identifier(CREATOR), 0, "the file type identifier")
    }
}

fn write(sink: &dyn Sink, bytes: &[u8], at: u64, what: &'static str) -> Result<()> {
    let written = sink.write_all_at(bytes, at);
    written.map_err(|e| Error::io(format!("cannot write {what}"), e).at(at))
}

impl TargetSpec for VhdxSpec {
    fn size(&self) -> u64 {
        self.metadata.size
    }

    /// Not the size of a block, which may be 256 MiB.
    fn quantum(&self) -> u64 {
        FlatFile::BLOCK
    }

    fn alignment(&self) -> u64 {
        FlatFile::BLOCK
    }

    fn wants_digest(&self) -> bool {
        true
    }

    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) if the output is a pipe,
    /// [`Io`](crate::ErrorKind::Io) if writing fails.
    fn start(&self, output: &mut Output) -> Result<Box<dyn Target>> {
        let sink = output.sink();
        if sink.is_sequential() {
            return Err(Error::unsupported("a VHDX cannot be written to a pipe")
                .hint("its headers are at the start, and are known last"));
        }
        Ok(match self.fixed {
            true => Box::new(FixedTarget::start(sink, self)?),
            false => Box::new(DynamicTarget::start(sink, self)?),
        })
    }
}

/// Computes the size of a new image.
///
/// # Errors
/// As [`create`], and the errors of the request's data.
pub(super) fn measure(request: &mut MeasureRequest<'_>) -> Result<Measure> {
    let parameters = Parameters::new(request.size, request.options, None)?;
    let (layout, block) = (parameters.layout(false), parameters.block_bytes);
    let fully_allocated = layout.len(layout.table.blocks);
    if parameters.fixed {
        return Ok(Measure { required: fully_allocated, fully_allocated, bitmaps: None });
    }
    let (mut blocks, mut next) = (0, 0);
    (request.data)(&mut |range| {
        let (first, end) = ((range.start / block).max(next), range.end.div_ceil(block));
        blocks += end.saturating_sub(first);
        next = next.max(end);
    })?;
    Ok(Measure { required: layout.len(blocks), fully_allocated, bitmaps: None })
}

/// The sink of a new image, and what is in it.
#[derive(Debug)]
struct NewFile([Arc<dyn Sink>; 1]);

impl NewFile {
    fn sink(&self) -> &dyn Sink {
        &*self.0[0]
    }

    fn zero(&self, at: u64, len: u64) -> Result<()> {
        let written = self.sink().write_zeros_at(at, len);
        written.map_err(|e| Error::io("cannot write zeros", e).at(at))
    }

    fn set_len(&self, len: u64) -> Result<()> {
        let set = self.sink().set_len(len);
        set.map_err(|e| Error::io(format!("cannot set the length to {len}"), e))
    }
}

const _: () = assert!(ENTRY_BYTES == 8 && to_u64(header::HEADER_BYTES) < MIB);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_sizes_are_those_of_qemu() {
        let options = |text: &str| Options::parse(text).expect("parses");
        let auto = |size| block_size(size, &options(""), false).expect("a block size");
        for (size, block) in
            [(0, 8), (1 << 30, 8), ((1 << 30) + 1, 16), ((100 << 30) + 1, 32), ((32 << 40) + 1, 64)]
        {
            assert_eq!(auto(size), block * MIB, "{size}");
        }
        for (text, block) in [("0", 8), ("1", 1), ("100k", 1), ("1500k", 2), ("300M", 256)] {
            let options = options(&format!("block_size={text}"));
            assert_eq!(block_size(512, &options, false).expect("valid"), block * MIB, "{text}");
        }
        assert!(block_size(512, &options("block_size=3M"), false).is_err());
    }

    #[test]
    fn logs_have_whole_megabytes() {
        let log = |text: &str| log_size(&Options::parse(text).expect("parses"));
        assert_eq!(log("").expect("valid"), MIB);
        assert_eq!(log("log_size=1500k").expect("valid"), 2 * MIB);
        for wrong in ["0", "4G", "2G"] {
            assert!(log(&format!("log_size={wrong}")).is_err(), "{wrong}");
        }
    }
}
