//! Writing a dynamic or differencing disk.
//!
//! Blocks are appended in guest order. Between two of them is space, so that the data of each is
//! aligned to 4 KiB: the specification requires 512 bytes, but file systems share aligned blocks
//! only, and disks write them faster.
//!
//! In a dynamic disk, all bits of a block's bitmap are set, because QEMU does not read it. In a
//! differencing disk, they tell which sectors hide those of the parent. One bitmap is in memory at a
//! time.

use super::{NewParent, VhdSpec};
use crate::error::{Error, Result};
use crate::formats::uuid::Uuid;
use crate::formats::vhd::SECTOR;
use crate::formats::vhd::blocks::{FREE, bitmap_bytes, set_bits};
use crate::formats::vhd::footer::FOOTER_BYTES;
use crate::formats::vhd::header::{HEADER_BYTES, Header, Locator};
use crate::model::flat::FlatFile;
use crate::model::target::{Allocate, Slot, Target};
use crate::storage::number::{to_u32, to_usize};
use crate::storage::sink::Sink;
use std::ops::Range;
use std::sync::Arc;

/// Guest bytes of a block, as all other programs write it by default.
pub(super) const BLOCK: u64 = 2 << 20;

/// Host offset of the dynamic header.
const HEADER_AT: u64 = FOOTER_BYTES;

/// Host offset of the first parent locator's name.
const NAMES_AT: u64 = HEADER_AT + HEADER_BYTES;

/// Where everything is in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    /// Number of blocks of the disk.
    entries: u64,
    /// Host offset of the block allocation table.
    table_at: u64,
}

impl Layout {
    /// Host bytes of a block with its bitmap and the space after it.
    const STRIDE: u64 = BLOCK + FlatFile::BLOCK;

    /// Returns the layout of a disk of `size` bytes with these names of its parent.
    pub(super) fn new(size: u64, names: &[Name]) -> Self {
        let names_end = names.last().map_or(NAMES_AT, Name::end);
        Self { entries: size.div_ceil(BLOCK), table_at: names_end }
    }

    /// Returns the number of blocks of the disk.
    pub(super) fn entries(&self) -> u64 {
        self.entries
    }

    /// Returns the length of the table in bytes, which fills whole sectors.
    fn table_bytes(&self) -> u64 {
        (self.entries * 4).next_multiple_of(SECTOR)
    }

    /// Returns the host offset of the bitmap of a block, counted in the order of the file.
    fn block_at(&self, number: u64) -> u64 {
        let table_end = self.table_at + self.table_bytes();
        let data = (table_end + bitmap_bytes(BLOCK)).next_multiple_of(FlatFile::BLOCK);
        data - bitmap_bytes(BLOCK) + number * Self::STRIDE
    }

    /// Returns the host offset of the footer of a file with this number of blocks.
    fn footer_at(&self, blocks: u64) -> u64 {
        match blocks.checked_sub(1) {
            Some(last) => self.block_at(last) + bitmap_bytes(BLOCK) + BLOCK,
            None => self.table_at + self.table_bytes(),
        }
    }

    /// Returns the length of a file with this number of blocks.
    pub(super) fn len(&self, blocks: u64) -> u64 {
        self.footer_at(blocks) + FOOTER_BYTES
    }
}

/// A name of the parent and where it is stored.
#[derive(Debug, Clone)]
pub(super) struct Name {
    locator: Locator,
    bytes: Vec<u8>,
}

impl Name {
    /// Returns the end of the sectors that the name takes.
    fn end(&self) -> u64 {
        self.locator.offset + u64::from(self.locator.len).next_multiple_of(SECTOR)
    }

    /// Returns the name of the parent in the notation of Windows.
    fn of(parent: &NewParent) -> Self {
        let path = parent.name.replace('/', "\\");
        let (code, path) = match path.starts_with('\\') {
            true => (Locator::ABSOLUTE, path),
            false => (Locator::RELATIVE, format!(".\\{path}")),
        };
        let bytes: Vec<u8> = path.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let locator = Locator { code, len: to_u32(bytes.len()), offset: NAMES_AT };
        Self { locator, bytes }
    }
}

/// A dynamic or differencing disk being written.
#[derive(Debug)]
pub(super) struct DynamicTarget {
    files: [Arc<dyn Sink>; 1],
    spec: VhdSpec,
    names: Vec<Name>,
    layout: Layout,
    /// The first sector of each block.
    table: Vec<u32>,
    /// Number of blocks that are allocated.
    allocated: u64,
    /// The block that was allocated last, and its bitmap.
    current: Option<(u64, Vec<u8>)>,
    digest: u64,
}

impl DynamicTarget {
    /// Starts a disk.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for a pipe, [`Io`](crate::ErrorKind::Io) if
    /// writing fails.
    pub(super) fn start(sink: Arc<dyn Sink>, spec: &VhdSpec) -> Result<Self> {
        if sink.is_sequential() {
            return Err(Error::unsupported("a dynamic VHD cannot be written to a pipe")
                .hint("subformat=fixed can"));
        }
        let names: Vec<_> = spec.parent.iter().map(Name::of).collect();
        let layout = Layout::new(spec.size, &names);
        let target = Self {
            files: [sink],
            spec: spec.clone(),
            names,
            layout,
            table: vec![FREE; to_usize(layout.entries)],
            allocated: 0,
            current: None,
            digest: 0,
        };
        if !target.sink().is_zeroed() {
            target.zero(0, layout.block_at(0))?;
        }
        Ok(target)
    }

    fn sink(&self) -> &dyn Sink {
        &*self.files[0]
    }

    fn zero(&self, at: u64, len: u64) -> Result<()> {
        let written = self.sink().write_zeros_at(at, len);
        written.map_err(|e| Error::io("cannot write zeros", e).at(at))
    }

    fn write(&self, bytes: &[u8], at: u64, what: &'static str) -> Result<()> {
        let written = self.sink().write_all_at(bytes, at);
        written.map_err(|e| Error::io(format!("cannot write {what}"), e).at(at))
    }

    /// Allocates the space for the guest bytes at the start of `range`, up to the end of their
    /// block. Returns their host offset and length.
    fn allocate(&mut self, range: &Range<u64>) -> Result<(u64, u64)> {
        let block = range.start / BLOCK;
        let len = range.end.min((block + 1) * BLOCK) - range.start;
        let within = range.start % BLOCK;
        if self.current.as_ref().is_none_or(|(current, _)| *current != block) {
            self.write_bitmap()?;
            let at = self.layout.block_at(self.allocated);
            if !self.sink().is_zeroed() {
                self.zero(at, Layout::STRIDE)?;
            }
            // At most 2 TiB, because the size of the disk is limited.
            self.table[to_usize(block)] = to_u32(at / SECTOR);
            let bits = if self.spec.parent.is_some() { 0 } else { 0xff };
            self.current = Some((block, vec![bits; to_usize(bitmap_bytes(BLOCK))]));
            self.allocated += 1;
        }
        if let Some((_, bitmap)) = &mut self.current {
            set_bits(bitmap, within / SECTOR..(within + len).div_ceil(SECTOR));
        }
        let start = u64::from(self.table[to_usize(block)]) * SECTOR;
        Ok((start + bitmap_bytes(BLOCK) + within, len))
    }

    /// Writes the bitmap in memory.
    fn write_bitmap(&mut self) -> Result<()> {
        let Some((block, bitmap)) = self.current.take() else { return Ok(()) };
        let at = u64::from(self.table[to_usize(block)]) * SECTOR;
        self.write(&bitmap, at, "a sector bitmap")
    }

    fn header(&self) -> Header {
        let parent = self.spec.parent.as_ref();
        let name = parent.map_or("", |p| p.name.rsplit('/').next().unwrap_or(&p.name));
        Header {
            table_at: self.layout.table_at,
            entries: to_u32(self.layout.entries),
            block_bytes: BLOCK,
            parent_uuid: parent.map_or(Uuid([0; 16]), |parent| parent.uuid),
            parent_timestamp: 0,
            parent_name: name.to_owned(),
            locators: self.names.iter().map(|name| name.locator).collect(),
        }
    }
}

impl Target for DynamicTarget {
    fn files(&self) -> &[Arc<dyn Sink>] {
        &self.files
    }

    fn place(&mut self, at: u64, unit: Allocate) -> Result<Option<Slot>> {
        match unit {
            // Zeros are stored only if they hide the parent's data.
            Allocate::Zero { .. } if self.spec.parent.is_none() => Ok(None),
            Allocate::Zero { len } => {
                let mut range = at..at + len;
                while !range.is_empty() {
                    // New blocks read as zeros.
                    range.start += self.allocate(&range)?.1;
                }
                Ok(None)
            }
            Allocate::Backed { .. } => Ok(None),
            Allocate::Data { len } => {
                let (offset, len) = self.allocate(&(at..at + len))?;
                Ok(Some(Slot { file: 0, offset, len, is_zeroed: true }))
            }
            Allocate::Compressed { .. } => {
                Err(Error::invalid("a VHD cannot store compressed units"))
            }
        }
    }

    fn take_digest(&mut self, digest: u64) {
        self.digest = digest;
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.write_bitmap()?;
        let len = self.layout.len(self.allocated);
        self.sink()
            .set_len(len)
            .map_err(|e| Error::io(format!("cannot set the length to {len}"), e))?;
        let mut table: Vec<u8> = self.table.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        table.resize(to_usize(self.layout.table_bytes()), 0xff);
        self.write(&table, self.layout.table_at, "the block allocation table")?;
        for name in &self.names {
            self.write(&name.bytes, name.locator.offset, "the parent's name")?;
        }
        self.write(&self.header().encode(), HEADER_AT, "the dynamic header")?;
        // The footers come last, so that an unfinished disk has none.
        let footer = self.spec.footer(self.digest, Some(HEADER_AT)).encode();
        self.write(&footer, len - FOOTER_BYTES, "the footer")?;
        self.write(&footer, 0, "the copy of the footer")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_of_all_blocks_is_aligned() {
        for size in [SECTOR, BLOCK, 3 * BLOCK + SECTOR, 200 << 30] {
            let layout = Layout::new(size, &[]);
            let table_end = layout.table_at + layout.table_bytes();
            for number in [0, 1, 7] {
                let at = layout.block_at(number);
                assert!(at >= table_end && (at + SECTOR).is_multiple_of(FlatFile::BLOCK), "{at}");
            }
            assert_eq!(layout.len(0), table_end + FOOTER_BYTES);
            assert_eq!(layout.len(2), layout.block_at(1) + SECTOR + BLOCK + FOOTER_BYTES);
        }
    }
}
