//! The header: what kind of image the file contains, its size, where its block map is, and which
//! image it is.
//!
//! ```text
//!   offset     0                 64         72
//!             ┌─────────────────┬──────────┬────────────────────────────────────────────────┐
//!             │ text, free form │ signature│ version 0.2: 348 bytes, map and data follow    │
//!             │                 │ version  │ version 1.1: 384 or 400 bytes, offsets of both │
//!             └─────────────────┴──────────┴────────────────────────────────────────────────┘
//! ```
//!
//! All numbers are little endian. Programs write different texts, so it is not read.

use super::{SECTOR, read};
use crate::error::{Error, Result};
use crate::formats::uuid::Uuid;
use crate::open::limits::Limits;
use crate::storage::number::{to_u32, to_usize};
use crate::storage::source::Source;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Offset of the signature in the file.
pub(super) const SIGNATURE_AT: usize = 64;

/// The signature.
pub(super) const SIGNATURE: [u8; 4] = 0xbeda_107f_u32.to_le_bytes();

/// The text before the signature of new images.
const TEXT: &[u8] = b"<<< diskimg virtual disk image >>>\n";

/// Version 0.2, the only one of the old header that VirtualBox has written.
const VERSION_0: u32 = 0x0000_0002;

/// Version 1.1.
const VERSION_1: u32 = 0x0001_0001;

/// Length in bytes of what precedes the header: text, signature and version.
const PREFIX_BYTES: u64 = 72;

/// Length in bytes of the header of version 0.2.
const HEADER_0_BYTES: u64 = 348;

/// Minimum length in bytes of the header of version 1.1, without the geometry at its end.
const HEADER_1_BYTES: u32 = 384;

/// Length in bytes of the header of new images, with the geometry.
const NEW_HEADER_BYTES: u32 = 400;

/// Maximum size of a block in bytes. VirtualBox reads blocks of 128 KiB to 128 MiB.
const MAX_BLOCK: u32 = 1 << 30;

/// How messages call the header.
pub(super) const HEADER: &str = "VDI header";

/// The kind of image that a file contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ImageType {
    /// Blocks that are allocated when they are written.
    Dynamic,
    /// All blocks are allocated.
    Static,
    /// As [`Differencing`](Self::Differencing), for changes that are to be discarded.
    Undo,
    /// The blocks that differ from a parent's.
    Differencing,
}

impl ImageType {
    /// Returns the name of the type in messages and in `info`.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Dynamic => "dynamic",
            Self::Static => "static",
            Self::Undo => "undo",
            Self::Differencing => "differencing",
        }
    }

    /// Returns true if blocks that are not allocated are the parent's.
    pub(super) const fn has_parent(self) -> bool {
        matches!(self, Self::Undo | Self::Differencing)
    }

    const fn parse(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Dynamic,
            2 => Self::Static,
            3 => Self::Undo,
            4 => Self::Differencing,
            _ => return None,
        })
    }

    const fn number(self) -> u32 {
        match self {
            Self::Dynamic => 1,
            Self::Static => 2,
            Self::Undo => 3,
            Self::Differencing => 4,
        }
    }
}

/// Cylinders, heads, sectors and bytes of a sector.
type RawGeometry = [U32; 4];

/// The header of version 0.2 on disk.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawHeader0 {
    text: [u8; 64],
    signature: [u8; 4],
    version: U32,
    image_type: U32,
    flags: U32,
    comment: [u8; 256],
    geometry: RawGeometry,
    size: U64,
    block_bytes: U32,
    blocks: U32,
    allocated: U32,
    uuid: [u8; 16],
    modification: [u8; 16],
    parent: [u8; 16],
}

/// The header of version 1.1 on disk, with the geometry that the header of 384 bytes lacks.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawHeader1 {
    text: [u8; 64],
    signature: [u8; 4],
    version: U32,
    header_bytes: U32,
    image_type: U32,
    flags: U32,
    comment: [u8; 256],
    map_at: U32,
    data_at: U32,
    old_geometry: RawGeometry,
    reserved: U32,
    size: U64,
    block_bytes: U32,
    block_extra: U32,
    blocks: U32,
    allocated: U32,
    uuid: [u8; 16],
    modification: [u8; 16],
    parent: [u8; 16],
    parent_modification: [u8; 16],
    geometry: RawGeometry,
}

const _: () = assert!(size_of::<RawHeader0>() == 420 && size_of::<RawHeader1>() == 472);

/// Host offset of the number of allocated blocks, and of the UUID that changes with the contents:
/// both are in the first sector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Places {
    pub(super) allocated: u64,
    pub(super) modification: u64,
}

impl Places {
    /// In version 1.1.
    pub(super) const CURRENT: Self = Self { allocated: 388, modification: 408 };

    /// Returns the host offset of the UUID of the parent.
    pub(super) const fn parent(self) -> u64 {
        self.modification + 16
    }
}

/// A valid header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) image_type: ImageType,
    /// Size of the disk in bytes, as recorded: not always a multiple of 512.
    pub(super) size: u64,
    /// Guest bytes of a block, a power of two.
    pub(super) block_bytes: u64,
    /// Bytes that precede the guest's in each block of the file, for the program's use.
    pub(super) block_extra: u64,
    /// Number of entries of the block map. The disk may need fewer.
    pub(super) blocks: u32,
    /// Number of blocks that are allocated, according to the header.
    pub(super) allocated: u32,
    /// Host offset of the block map.
    pub(super) map_at: u64,
    /// Host offset of the block with index 0.
    pub(super) data_at: u64,
    /// The identity of the image.
    pub(super) uuid: Uuid,
    /// Changes whenever the image is written.
    pub(super) modification: Uuid,
    /// The parent's [`uuid`](Self::uuid); all zeros without one.
    pub(super) parent: Uuid,
    /// The parent's [`modification`](Self::modification); all zeros if it is not recorded.
    pub(super) parent_modification: Uuid,
    /// Where the values are that change when the image is written.
    pub(super) places: Places,
}

impl Header {
    /// Reads the header.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if the file is too short or a value is invalid,
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for another version,
    /// [`Io`](crate::ErrorKind::Io) if it cannot be read.
    pub(super) fn read(source: &dyn Source) -> Result<Self> {
        let mut bytes = [0; size_of::<RawHeader1>()];
        let prefix = to_usize(PREFIX_BYTES);
        read(source, &mut bytes[..prefix], 0, HEADER)?;
        if bytes[SIGNATURE_AT..SIGNATURE_AT + 4] != SIGNATURE {
            let at = SIGNATURE_AT.try_into().unwrap_or(u64::MAX);
            return Err(Error::corrupt(HEADER, "expected the signature 0xbeda107f").at(at));
        }
        let version = u32::from_le_bytes([bytes[68], bytes[69], bytes[70], bytes[71]]);
        match version {
            VERSION_0 => {
                let mut bytes = [0; size_of::<RawHeader0>()];
                read(source, &mut bytes, 0, HEADER)?;
                Self::parse_0(&zerocopy::transmute!(bytes))
            }
            // VirtualBox reads every minor version in the same way.
            _ if version >> 16 == 1 => {
                let end = to_usize(PREFIX_BYTES) + to_usize(HEADER_1_BYTES.into());
                read(source, &mut bytes[..end], 0, HEADER)?;
                Self::parse_1(&zerocopy::transmute!(bytes))
            }
            _ => {
                let message =
                    format!("version {}.{} of the format", version >> 16, version & 0xffff);
                Err(Error::unsupported(message)
                    .in_structure(HEADER)
                    .at(68)
                    .hint("versions 0.2 and 1.1 are supported"))
            }
        }
    }

    fn parse_0(raw: &RawHeader0) -> Result<Self> {
        let map_at = PREFIX_BYTES + HEADER_0_BYTES;
        let header = Self {
            image_type: image_type(raw.image_type.get(), 72)?,
            size: raw.size.get(),
            block_bytes: raw.block_bytes.get().into(),
            block_extra: 0,
            blocks: raw.blocks.get(),
            allocated: raw.allocated.get(),
            map_at,
            data_at: map_at + u64::from(raw.blocks.get()) * 4,
            uuid: Uuid(Uuid::swapped(raw.uuid)),
            modification: Uuid(Uuid::swapped(raw.modification)),
            parent: Uuid(Uuid::swapped(raw.parent)),
            parent_modification: Uuid([0; 16]),
            places: Places { allocated: 368, modification: 388 },
        };
        header.validate(360)
    }

    fn parse_1(raw: &RawHeader1) -> Result<Self> {
        let header_bytes = raw.header_bytes.get();
        if header_bytes < HEADER_1_BYTES {
            let message = format!("a header of {header_bytes} bytes; version 1.1 has at least 384");
            return Err(Error::corrupt(HEADER, message).at(PREFIX_BYTES));
        }
        let map_at = raw.map_at.get();
        if u64::from(map_at) < PREFIX_BYTES + u64::from(HEADER_1_BYTES) {
            let message = format!("the block map at {map_at:#x} overlaps the header");
            return Err(Error::corrupt(HEADER, message).at(340));
        }
        let header = Self {
            image_type: image_type(raw.image_type.get(), 76)?,
            size: raw.size.get(),
            block_bytes: raw.block_bytes.get().into(),
            block_extra: raw.block_extra.get().into(),
            blocks: raw.blocks.get(),
            allocated: raw.allocated.get(),
            map_at: map_at.into(),
            data_at: raw.data_at.get().into(),
            uuid: Uuid(Uuid::swapped(raw.uuid)),
            modification: Uuid(Uuid::swapped(raw.modification)),
            parent: Uuid(Uuid::swapped(raw.parent)),
            parent_modification: Uuid(Uuid::swapped(raw.parent_modification)),
            places: Places::CURRENT,
        };
        header.validate(376)
    }

    /// Verifies the values. `block_bytes_at` is the offset of the size of a block.
    fn validate(self, block_bytes_at: u64) -> Result<Self> {
        let corrupt = |at: u64, message: String| Err(Error::corrupt(HEADER, message).at(at));
        let block = self.block_bytes;
        if !block.is_power_of_two() || block < SECTOR || block > MAX_BLOCK.into() {
            return corrupt(
                block_bytes_at,
                format!("blocks of {block} bytes; expected a power of two from 512 to {MAX_BLOCK}"),
            );
        }
        if self.block_extra != 0 && !self.block_extra.is_power_of_two() {
            let message =
                format!("{} extra bytes per block; expected a power of two", self.block_extra);
            return corrupt(380, message);
        }
        if self.data_at < self.map_at + self.map_bytes() {
            let message = format!(
                "the data at {:#x} overlaps the block map of {} bytes at {:#x}",
                self.data_at,
                self.map_bytes(),
                self.map_at
            );
            return corrupt(344, message);
        }
        let blocks = self.size.div_ceil(block);
        if blocks > self.blocks.into() {
            let message = format!(
                "the disk has {blocks} blocks of {block} bytes, but the block map has {} entries",
                self.blocks
            );
            return corrupt(block_bytes_at - 8, message);
        }
        Ok(self)
    }

    /// Returns the length of the block map in bytes.
    pub(super) fn map_bytes(&self) -> u64 {
        u64::from(self.blocks) * 4
    }

    /// Returns the number of blocks that the disk needs.
    ///
    /// # Errors
    /// [`Limit`](crate::ErrorKind::Limit) if their table is too large.
    pub(super) fn needed_blocks(&self, limits: &Limits) -> Result<u64> {
        let blocks = self.size.div_ceil(self.block_bytes);
        if blocks * 4 > limits.table_bytes {
            let found = format!("a block map of {} bytes", blocks * 4);
            return Err(Error::over_limit("table_bytes", found, limits.table_bytes));
        }
        Ok(blocks)
    }

    /// Returns the size of the disk in bytes, in whole sectors, so that no byte is lost. (VirtualBox
    /// rounds it down, QEMU up.)
    pub(super) fn disk_size(&self) -> u64 {
        // At most 2^32 blocks of 2^30 bytes.
        self.size.next_multiple_of(SECTOR)
    }

    /// Returns the host bytes of a block.
    pub(super) fn stride(&self) -> u64 {
        self.block_extra + self.block_bytes
    }

    /// Stores the size, the locations and the number of blocks, of which `allocated` are in use, in
    /// the first sector of a file of version 1.1.
    pub(super) fn store_layout(&self, sector: &mut [u8], allocated: u32) {
        let Ok((raw, _)) = RawHeader1::mut_from_prefix(sector) else { return };
        raw.size = self.size.into();
        raw.map_at = to_u32(self.map_at).into();
        raw.data_at = to_u32(self.data_at).into();
        raw.blocks = self.blocks.into();
        raw.allocated = allocated.into();
    }

    /// Returns the header's bytes as version 1.1, from the start of the file.
    pub(super) fn encode(&self) -> Vec<u8> {
        // Programs calculate the geometry. They require the size of a sector.
        let geometry = [0.into(), 0.into(), 0.into(), to_u32(SECTOR).into()];
        let mut text = [0; SIGNATURE_AT];
        text[..TEXT.len()].copy_from_slice(TEXT);
        let raw = RawHeader1 {
            text,
            signature: SIGNATURE,
            version: VERSION_1.into(),
            header_bytes: NEW_HEADER_BYTES.into(),
            image_type: self.image_type.number().into(),
            flags: 0.into(),
            comment: [0; 256],
            map_at: to_u32(self.map_at).into(),
            data_at: to_u32(self.data_at).into(),
            old_geometry: geometry,
            reserved: 0.into(),
            size: self.size.into(),
            block_bytes: to_u32(self.block_bytes).into(),
            block_extra: to_u32(self.block_extra).into(),
            blocks: self.blocks.into(),
            allocated: self.allocated.into(),
            uuid: Uuid::swapped(self.uuid.0),
            modification: Uuid::swapped(self.modification.0),
            parent: Uuid::swapped(self.parent.0),
            parent_modification: Uuid::swapped(self.parent_modification.0),
            geometry,
        };
        raw.as_bytes().to_vec()
    }
}

/// Returns the type of the image with this number, which is at `at`.
fn image_type(number: u32, at: u64) -> Result<ImageType> {
    ImageType::parse(number).ok_or_else(|| {
        let message = format!(
            "image type {number}; expected 1 (dynamic), 2 (static), 3 (undo) or 4 (differencing)"
        );
        Error::corrupt(HEADER, message).at(at)
    })
}
