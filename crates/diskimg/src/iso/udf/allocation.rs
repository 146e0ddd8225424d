//! Allocation descriptors: the extents of a file (4/12, 4/14.14).

use super::partition::BlockAddress;
use super::raw::{self, LongAllocation, ShortAllocation, id};
use super::tag;
use super::volume::UdfVolume;
use crate::error::{Error, Result};
use crate::iso::node::FileExtent;
use crate::iso::walk::MAX_COST_RATIO;
use crate::storage::number::{to_index, to_u64};
use std::collections::HashSet;

/// Extent types, in the two upper bits of the length of an allocation descriptor (4/14.14.1.1).
mod kind {
    pub(super) const RECORDED: u32 = 0;
    pub(super) const NEXT: u32 = 3;
}

/// Type of a file's allocation descriptors, from bits 0 to 2 of the ICB flags (4/14.6.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Short,
    Long,
}

/// An allocation descriptor.
struct Descriptor {
    kind: u32,
    len: u32,
    address: BlockAddress,
}

/// What reading files costs, besides one block of memory for each. Several names may refer to one
/// file entry, and several files to the same allocation extents.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cost {
    /// Memory for extents and targets of links, in bytes.
    pub(super) memory: u64,
    /// Bytes of file entries that were read. Each name refers to one.
    pub(super) entries: u64,
    /// Bytes of allocation extents, indirect entries and contents of links that were read. In a
    /// valid volume, no two files share them.
    pub(super) owned: u64,
}

/// How much more than file entries the structures that one file owns count.
const OWNED_WEIGHT: u64 = 16;

impl Cost {
    /// Returns the weighted number of bytes that were read.
    fn read(&self) -> u64 {
        self.owned.saturating_mul(OWNED_WEIGHT).saturating_add(self.entries)
    }

    /// Returns the cost as that of a directory (see [`Listing`](crate::iso::node::Listing)).
    pub(super) fn total(&self) -> u64 {
        self.read().saturating_add(self.memory)
    }

    /// Checks that a directory or a search for a table has not read more than an image in which
    /// nothing is shared has.
    ///
    /// # Errors
    /// Returns [`Limit`](crate::ErrorKind::Limit) otherwise.
    pub(super) fn require_within(&self, image_bytes: u64) -> Result<()> {
        match self.read() > image_bytes.saturating_mul(MAX_COST_RATIO) {
            true => Err(Error::limit(format!(
                "its files share their structures: file entries of {} bytes and allocation extents \
                 of {} bytes were read in an image of {image_bytes} bytes",
                self.entries, self.owned
            ))),
            false => Ok(()),
        }
    }
}

/// A list of extents with a limit on their number. Adjacent extents are merged.
#[derive(Debug)]
pub(super) struct Extents {
    pub(super) list: Vec<FileExtent>,
    /// Total length in bytes.
    pub(super) len: u64,
    /// Number of descriptors and extents added, before merging.
    added: usize,
    /// Allocation extents that were read.
    continued: HashSet<BlockAddress>,
    limit: u64,
    /// Number of bytes between the end of the last descriptor's extent and the end of its last
    /// block.
    slack: u64,
}

impl Extents {
    pub(super) fn new(limit: u64) -> Self {
        Self { list: Vec::new(), len: 0, added: 0, continued: HashSet::new(), limit, slack: 0 }
    }

    fn count(&mut self) -> Result<()> {
        self.added += 1;
        match to_u64(self.added) > self.limit {
            true => Err(Error::over_limit("file_sections", "a file of more extents", self.limit)),
            false => Ok(()),
        }
    }

    pub(super) fn push(&mut self, extent: FileExtent) -> Result<()> {
        self.count()?;
        self.len = self.len.saturating_add(extent.len);
        if let Some(last) = self.list.last_mut() {
            let follows = match (last.offset, extent.offset) {
                (Some(last_at), Some(at)) => last_at.checked_add(last.len) == Some(at),
                (None, None) => true,
                _ => false,
            };
            if follows {
                last.len = last.len.saturating_add(extent.len);
                return Ok(());
            }
        }
        self.list.push(extent);
        Ok(())
    }

    /// Extends the last extent to a file length of `len` if that is within its last block. The
    /// Linux driver does not update the descriptor when a file grows within its last block.
    fn grow(&mut self, len: u64) {
        let missing = len.saturating_sub(self.len);
        if missing <= self.slack
            && let Some(last) = self.list.last_mut()
        {
            last.len += missing;
            self.len += missing;
        }
    }

    /// Removes everything beyond the end of the file, which has `len` bytes.
    pub(super) fn truncate(&mut self, len: u64) {
        while let Some(last) = self.list.last_mut()
            && self.len > len
        {
            let surplus = self.len - len;
            if surplus < last.len {
                last.len -= surplus;
                self.len = len;
            } else {
                self.len -= last.len;
                self.list.pop();
            }
        }
    }
}

/// Returns the extents of a file of `size` bytes from the allocation descriptors in `bytes`.
/// `partition` is the partition of the ICB, which short descriptors refer to. Adds to `cost` the
/// memory that the extents take and the blocks read for them.
pub(super) fn extents(
    volume: &UdfVolume,
    bytes: &[u8],
    form: Form,
    partition: u16,
    size: u64,
    cost: &mut Cost,
) -> Result<Extents> {
    let mut extents = Extents::new(volume.limits.file_sections);
    let found = follow(volume, bytes, form, partition, size, &mut extents);
    cost.memory += to_u64(extents.added.saturating_sub(1)) * to_u64(size_of::<FileExtent>());
    cost.owned += to_u64(extents.continued.len()) * u64::from(volume.partitions.block_size);
    found?;
    extents.grow(size);
    if extents.len < size {
        let what = format!("the file has {size} bytes, but its extents only {}", extents.len);
        return Err(Error::corrupt("allocation descriptors", what));
    }
    extents.truncate(size);
    Ok(extents)
}

/// Reads the descriptors in `bytes` and in all allocation extents that continue them.
fn follow(
    volume: &UdfVolume,
    bytes: &[u8],
    form: Form,
    partition: u16,
    size: u64,
    extents: &mut Extents,
) -> Result<()> {
    let mut bytes = bytes.to_vec();
    while let Some(next) = read_area(volume, &bytes, form, partition, size, extents)? {
        extents.count()?;
        if !extents.continued.insert(next) {
            let what = "an allocation extent is continued by itself";
            return Err(Error::corrupt("allocation descriptors", what));
        }
        bytes = continuation(volume, next)?;
    }
    Ok(())
}

/// Reads one area of descriptors. Returns the location of the next one, if any.
fn read_area(
    volume: &UdfVolume,
    mut bytes: &[u8],
    form: Form,
    partition: u16,
    size: u64,
    extents: &mut Extents,
) -> Result<Option<BlockAddress>> {
    while let Some((descriptor, rest)) = parse(bytes, form, partition) {
        bytes = rest;
        // A length of 0 ends the descriptors (4/12). None are needed beyond the end of the file.
        if descriptor.len == 0 || extents.len >= size {
            return Ok(None);
        }
        let len = u64::from(descriptor.len);
        extents.slack = len.next_multiple_of(volume.partitions.block_size.into()) - len;
        match descriptor.kind {
            kind::RECORDED => {
                volume.partitions.map(descriptor.address, len, |e| extents.push(e))?
            }
            kind::NEXT => return Ok(Some(descriptor.address)),
            // Not recorded, whether allocated or not.
            _ => extents.push(FileExtent { offset: None, len })?,
        }
    }
    Ok(None)
}

fn parse(bytes: &[u8], form: Form, partition: u16) -> Option<(Descriptor, &[u8])> {
    let (length, address, rest) = match form {
        Form::Short => {
            let (ad, rest) = raw::read::<ShortAllocation>(bytes)?;
            (ad.length, BlockAddress { partition, block: ad.block.get() }, rest)
        }
        Form::Long => {
            let (ad, rest) = raw::read::<LongAllocation>(bytes)?;
            (ad.length, BlockAddress::from(&ad.address), rest)
        }
    };
    let (kind, len) = (length.get() >> 30, length.get() & 0x3fff_ffff);
    Some((Descriptor { kind, len, address }, rest))
}

/// Reads the descriptors in an allocation extent (4/14.5), which is at most one block long (UDF,
/// 2.3.11).
fn continuation(volume: &UdfVolume, address: BlockAddress) -> Result<Vec<u8>> {
    const NAME: &str = "allocation extent descriptor";
    let (offset, block) = volume.read_block(address, NAME)?;
    let address = Some(address.block);
    tag::check(NAME, &block, &[id::ALLOCATION_EXTENT], offset, address, &volume.notes)?;
    let too_short = || Error::corrupt(NAME, "its descriptors extend beyond the block").at(offset);
    let (head, rest) = raw::read::<raw::AllocationExtent>(&block).ok_or_else(too_short)?;
    let used = rest.get(..to_index(head.length.get())).ok_or_else(too_short)?;
    Ok(used.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adjacent_extents_are_merged_counted_and_truncated() {
        let mut extents = Extents::new(4);
        let mut push = |offset, len| extents.push(FileExtent { offset, len });
        push(Some(0), 10).expect("one");
        push(Some(10), 5).expect("two");
        push(None, 5).expect("three");
        push(None, 5).expect("four");
        push(Some(15), 1).expect_err("one too many");
        assert_eq!((extents.list.len(), extents.len), (2, 25));
        extents.grow(26);
        assert_eq!(extents.len, 25, "there is no slack");
        extents.slack = 5;
        extents.grow(26);
        assert_eq!(extents.len, 26);
        extents.truncate(18);
        let last = FileExtent { offset: None, len: 3 };
        assert_eq!((extents.list.last(), extents.len), (Some(&last), 18));
        extents.truncate(15);
        assert_eq!(extents.list, [FileExtent { offset: Some(0), len: 15 }]);
    }
}
