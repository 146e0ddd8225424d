//! Creating a VDI: from options to a dynamic, static or differencing image.
//!
//! ```text
//!   0        4096                            n MiB
//!   ┌────────┬─────────────────────────────┬─┬─────────┬─────────┬───┐
//!   │ header │ block map                   │ │ 1 MiB   │ 1 MiB   │ … │
//!   └────────┴─────────────────────────────┴─┴─────────┴─────────┴───┘
//! ```
//!
//! The data starts at a multiple of 1 MiB, as in VirtualBox's own images, so that blocks are aligned
//! in every file system and on every disk. QEMU requires blocks of 1 MiB.

mod dynamic;
mod fixed;

use super::SECTOR;
use super::header::{Header, ImageType, Places};
use super::parent::split_content_id;
use crate::error::{Error, Result};
use crate::formats::uuid::Uuid;
use crate::model::backing::Backing;
use crate::model::flat::{FlatFile, Preallocation};
use crate::model::options::Options;
use crate::model::target::{CreateRequest, Measure, MeasureRequest, Target, TargetSpec};
use crate::remedy::Remedy;
use crate::storage::number::to_u32;
use crate::storage::output::Output;
use crate::storage::sink::Sink;
use dynamic::DynamicTarget;
use fixed::StaticTarget;

/// Guest bytes of a block.
const BLOCK: u64 = 1 << 20;

/// Host offset of the block map.
const MAP_AT: u64 = 4096;

/// Maximum size of a disk in bytes, as in QEMU: the block map has less than 2 GiB.
const MAX_SIZE: u64 = 0x1fff_ff80 * BLOCK;

/// A new image.
#[derive(Debug, Clone)]
struct VdiSpec {
    /// Size of the disk in bytes.
    size: u64,
    is_static: bool,
    uuid: Option<Uuid>,
    parent: Option<NewParent>,
    preallocation: Preallocation,
}

/// The parent of a new differencing image.
#[derive(Debug, Clone, Copy)]
struct NewParent {
    uuid: Uuid,
    modification: Uuid,
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
    if options.get("backing_fmt").is_some_and(|format| format != "vdi") {
        return Err(Error::invalid("backing_file must be a VDI image"));
    }
    if backing.is_none() && options.get("backing_file").is_some_and(|b| !b.is_empty()) {
        return Err(Error::invalid("the backing_file option was given, but no backing image"));
    }
    let (is_static, preallocation) = kind(options)?;
    if is_static && backing.is_some() {
        return Err(
            Error::unsupported("a static image cannot have a backing file").hint("use static=off")
        );
    }
    let uuid = options.get("uuid").map(|text| {
        Uuid::parse(text).ok_or_else(|| Error::invalid(format!("'{text}' is not a UUID")))
    });
    let uuid = uuid.transpose()?;
    let size = disk_size(size)?;
    let parent = backing.as_ref().map(parent).transpose()?;
    Ok(Box::new(VdiSpec { size, is_static, uuid, parent, preallocation }))
}

/// Returns whether the image is static, and how its space is allocated.
fn kind(options: &Options) -> Result<(bool, Preallocation)> {
    let mode = options.get("preallocation");
    let is_static = options.switch("static")?.unwrap_or(false) || mode == Some("metadata");
    let preallocation = match mode {
        Some("metadata") => Preallocation::Off,
        Some(mode) if mode != "off" && !is_static => {
            let message = format!("Unsupported preallocation mode '{mode}' for dynamic images");
            return Err(Error::unsupported(message).hint("static=on can be preallocated"));
        }
        mode => Preallocation::parse(mode, "vdi")?,
    };
    Ok((is_static, preallocation))
}

/// Returns the size of a disk of at least `size` bytes.
fn disk_size(size: u64) -> Result<u64> {
    match size.checked_next_multiple_of(SECTOR) {
        Some(size) if size <= MAX_SIZE => Ok(size),
        _ => Err(Error::limit(format!(
            "Unsupported VDI image size (size is {size:#x}, max supported is {MAX_SIZE:#x})"
        ))),
    }
}

fn parent(backing: &Backing) -> Result<NewParent> {
    if let Some(format) = backing.format.as_deref().filter(|&format| format != "vdi") {
        let message = format!("the parent of a differencing VDI must be a VDI, not {format}");
        return Err(Error::invalid(message));
    }
    let parse = || {
        let (uuid, modification) = split_content_id(backing.content_id.as_deref()?);
        let uuid = Uuid::parse(uuid).filter(|uuid| !uuid.is_nil())?;
        Some(NewParent { uuid, modification: Uuid::parse(modification?)? })
    };
    parse().ok_or_else(|| {
        Error::invalid("a differencing VDI records its parent's UUID, which is not known")
            .hint("backing_file must be a VDI image that can be opened")
            .with_remedy(Remedy::OpenBackingFile)
    })
}

/// Where everything is in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    /// Number of blocks of the disk.
    blocks: u64,
    /// Host offset of the first block.
    data_at: u64,
}

impl Layout {
    fn new(size: u64) -> Self {
        let blocks = size.div_ceil(BLOCK);
        Self { blocks, data_at: (MAP_AT + blocks * 4).next_multiple_of(BLOCK) }
    }

    /// Returns the host offset of a block, counted in the order of the file. For the number of all
    /// blocks, it is the length of the file.
    fn block_at(&self, number: u64) -> u64 {
        self.data_at + number * BLOCK
    }
}

impl VdiSpec {
    /// Returns the header of an image with `allocated` blocks whose guest bytes have this digest.
    fn header(&self, allocated: u64, digest: u64) -> Header {
        let layout = Layout::new(self.size);
        let nil = Uuid([0; 16]);
        let image_type = match (self.is_static, &self.parent) {
            (true, _) => ImageType::Static,
            (false, None) => ImageType::Dynamic,
            (false, Some(_)) => ImageType::Differencing,
        };
        Header {
            image_type,
            size: self.size,
            block_bytes: BLOCK,
            block_extra: 0,
            blocks: to_u32(layout.blocks),
            allocated: to_u32(allocated),
            map_at: MAP_AT,
            data_at: layout.data_at,
            uuid: self.uuid.unwrap_or_else(|| self.new_uuid(digest, false)),
            modification: self.new_uuid(digest, true),
            parent: self.parent.map_or(nil, |parent| parent.uuid),
            parent_modification: self.parent.map_or(nil, |parent| parent.modification),
            places: Places::CURRENT,
        }
    }

    /// Returns a UUID: the same for the same contents, but a new one for an image that is created
    /// empty, because it will have other contents, and children refer to it by its UUIDs.
    fn new_uuid(&self, digest: u64, is_modification: bool) -> Uuid {
        if digest == 0 {
            return Uuid::random();
        }
        let kind = u128::from(self.is_static) << 1 | u128::from(is_modification);
        let shown = u128::from(digest) << 64 | u128::from(self.size / SECTOR) << 2 | kind;
        // A child may show the same disk as its parent, whose UUID is made of the same digest: if
        // it were not rotated, the two would cancel out, and all such children have the same UUID.
        let parent = self.parent.map_or(0, |parent| u128::from_be_bytes(parent.uuid.0));
        Uuid::of_digest(shown ^ parent.rotate_left(1))
    }
}

impl TargetSpec for VdiSpec {
    fn size(&self) -> u64 {
        self.size
    }

    /// A block of a child hides all bytes of the parent's.
    fn quantum(&self) -> u64 {
        if self.parent.is_some() { BLOCK } else { FlatFile::BLOCK }
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
            return Err(Error::unsupported("a VDI cannot be written to a pipe"));
        }
        let layout = Layout::new(self.size);
        Ok(match self.is_static {
            true => Box::new(StaticTarget::start(sink, self, layout)?),
            false => Box::new(DynamicTarget::start(sink, self, layout)?),
        })
    }
}

/// Number of entries of the block map that are written together.
const MAP_CHUNK: usize = 1 << 18;

/// Writes the block map and, last, the header, so that an unfinished image has none.
fn write_metadata(sink: &dyn Sink, map: impl Iterator<Item = u32>, header: &Header) -> Result<()> {
    let write = |bytes: &[u8], at: u64, what: &'static str| {
        let written = sink.write_all_at(bytes, at);
        written.map_err(|e| Error::io(format!("cannot write {what}"), e).at(at))
    };
    let (mut map, mut at) = (map.peekable(), MAP_AT);
    while map.peek().is_some() {
        let bytes: Vec<u8> = map.by_ref().take(MAP_CHUNK).flat_map(u32::to_le_bytes).collect();
        write(&bytes, at, "the block map")?;
        at += crate::storage::number::to_u64(bytes.len());
    }
    write(&header.encode(), 0, "the header")
}

/// Makes `len` bytes at `at` read as zeros.
fn write_zeros(sink: &dyn Sink, at: u64, len: u64) -> Result<()> {
    sink.write_zeros_at(at, len).map_err(|e| Error::io("cannot write zeros", e).at(at))
}

/// Computes the size of a new image.
///
/// # Errors
/// As [`create`], and the errors of the request's data.
pub(super) fn measure(request: &mut MeasureRequest<'_>) -> Result<Measure> {
    let layout = Layout::new(disk_size(request.size)?);
    let fully_allocated = layout.block_at(layout.blocks);
    let (is_static, _) = kind(request.options)?;
    if is_static {
        return Ok(Measure { required: fully_allocated, fully_allocated, bitmaps: None });
    }
    let (mut blocks, mut next) = (0, 0);
    (request.data)(&mut |range| {
        let (first, end) = ((range.start / BLOCK).max(next), range.end.div_ceil(BLOCK));
        blocks += end.saturating_sub(first);
        next = next.max(end);
    })?;
    Ok(Measure { required: layout.block_at(blocks), fully_allocated, bitmaps: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unchanged_children_of_different_parents_have_different_uuids() {
        let spec = |parent: Option<&VdiSpec>, digest| VdiSpec {
            size: 3 << 20,
            is_static: false,
            uuid: None,
            parent: parent.map(|parent| NewParent {
                uuid: parent.new_uuid(digest, false),
                modification: parent.new_uuid(digest, true),
            }),
            preallocation: Preallocation::Off,
        };
        let mut seen = std::collections::HashSet::new();
        for digest in [0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321] {
            let base = spec(None, digest);
            let child = spec(Some(&base), digest);
            let grandchild = spec(Some(&child), digest);
            for image in [&base, &child, &grandchild] {
                assert!(seen.insert(image.new_uuid(digest, false)), "{image:?}");
                assert!(seen.insert(image.new_uuid(digest, true)), "{image:?}");
            }
        }
    }

    #[test]
    fn the_data_starts_after_the_map_at_a_multiple_of_a_block() {
        for (size, data_at) in
            [(0, 1), (512, 1), (255 << 30, 1), (255 << 30 | 512, 2), (MAX_SIZE, 2049)]
        {
            let layout = Layout::new(size);
            assert_eq!(layout.data_at, data_at * BLOCK, "{size}");
            assert!(MAP_AT + layout.blocks * 4 <= layout.data_at);
            assert!(u32::try_from(layout.data_at).is_ok(), "the header has 32 bits for it");
        }
        assert_eq!(disk_size(MAX_SIZE).ok(), Some(MAX_SIZE));
        assert!(disk_size(MAX_SIZE + 1).is_err() && disk_size(u64::MAX).is_err());
    }
}
