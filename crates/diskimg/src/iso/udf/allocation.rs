//! Allocation descriptors: where a file's bytes are (4/12, 4/14.14).

use super::partition::BlockAddress;
use super::raw::{self, LongAllocation, ShortAllocation, id};
use super::tag;
use super::volume::UdfVolume;
use crate::error::{Error, Result};
use crate::iso::node::FileExtent;
use crate::storage::number::{to_index, to_u64};
use std::collections::HashSet;

/// What an allocation descriptor's two upper bits say (4/14.14.1.1).
mod kind {
    pub(super) const RECORDED: u32 = 0;
    pub(super) const NEXT: u32 = 3;
}

/// The form of a file's allocation descriptors: the ICB's flags, bits 0 to 2 (4/14.6.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Short,
    Long,
}

/// One allocation descriptor.
struct Descriptor {
    kind: u32,
    len: u32,
    place: BlockAddress,
}

/// Extents as they come in, within a limit on their number, adjacent ones joined.
#[derive(Debug)]
pub(super) struct Extents {
    pub(super) list: Vec<FileExtent>,
    pub(super) len: u64,
    /// Descriptors and extents so far: what the list has cost.
    seen: usize,
    /// Blocks of further descriptors that were read.
    continued: HashSet<BlockAddress>,
    limit: u64,
    /// Bytes that are left of the last block.
    slack: u64,
}

impl Extents {
    pub(super) fn new(limit: u64) -> Self {
        Self { list: Vec::new(), len: 0, seen: 0, continued: HashSet::new(), limit, slack: 0 }
    }

    fn count(&mut self) -> Result<()> {
        self.seen += 1;
        match to_u64(self.seen) > self.limit {
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

    /// Adds bytes that the last descriptor does not count, in a block that it does. Linux's driver
    /// leaves it so where a file grows within its last block.
    fn grow(&mut self, len: u64) {
        let missing = len.saturating_sub(self.len);
        if missing <= self.slack
            && let Some(last) = self.list.last_mut()
        {
            last.len += missing;
            self.len += missing;
        }
    }

    /// Cuts what is allocated behind the file's end.
    pub(super) fn cut(&mut self, len: u64) {
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

/// The extents that the descriptors in `bytes` give, as many as the file's `size` needs.
/// `partition` is the one that short descriptors are of: the ICB's. `cost` grows by the bytes that
/// they take in memory, and by the blocks that were read for them.
pub(super) fn extents(
    volume: &UdfVolume,
    bytes: &[u8],
    form: Form,
    partition: u16,
    size: u64,
    cost: &mut u64,
) -> Result<Extents> {
    let mut extents = Extents::new(volume.limits.file_sections);
    let found = follow(volume, bytes, form, partition, size, &mut extents);
    *cost += to_u64(extents.seen.saturating_sub(1)) * to_u64(size_of::<FileExtent>());
    *cost += to_u64(extents.continued.len()) * u64::from(volume.partitions.block_size);
    found?;
    extents.grow(size);
    if extents.len < size {
        let what = format!("it has {size} bytes, and {} of them have a place", extents.len);
        return Err(Error::corrupt("allocation descriptors", what));
    }
    extents.cut(size);
    Ok(extents)
}

/// Reads one area of descriptors after the other.
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
            let what = "they go on in a block that they have been in";
            return Err(Error::corrupt("allocation descriptors", what));
        }
        bytes = continuation(volume, next)?;
    }
    Ok(())
}

/// Reads one area of descriptors; gives where the next is, if there is one.
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
        // A length of 0 ends the descriptors (4/12); so does the end of the file.
        if descriptor.len == 0 || extents.len >= size {
            return Ok(None);
        }
        let len = u64::from(descriptor.len);
        extents.slack = len.next_multiple_of(volume.partitions.block_size.into()) - len;
        match descriptor.kind {
            kind::RECORDED => volume.partitions.map(descriptor.place, len, |e| extents.push(e))?,
            kind::NEXT => return Ok(Some(descriptor.place)),
            // Allocated or not: nothing is recorded.
            _ => extents.push(FileExtent { offset: None, len })?,
        }
    }
    Ok(None)
}

fn parse(bytes: &[u8], form: Form, partition: u16) -> Option<(Descriptor, &[u8])> {
    let (length, place, rest) = match form {
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
    Some((Descriptor { kind, len, place }, rest))
}

/// The descriptors in an allocation extent (4/14.5). It is no longer than a block (UDF, 2.3.11).
fn continuation(volume: &UdfVolume, place: BlockAddress) -> Result<Vec<u8>> {
    const NAME: &str = "allocation extent descriptor";
    let (offset, block) = volume.read_block(place, NAME)?;
    let place = Some(place.block);
    tag::check(NAME, &block, &[id::ALLOCATION_EXTENT], offset, place, &volume.notes)?;
    let too_short = || Error::corrupt(NAME, "its descriptors leave the block").at(offset);
    let (head, rest) = raw::read::<raw::AllocationExtent>(&block).ok_or_else(too_short)?;
    let used = rest.get(..to_index(head.length.get())).ok_or_else(too_short)?;
    Ok(used.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_joined_counted_and_cut() {
        let mut extents = Extents::new(4);
        let mut push = |offset, len| extents.push(FileExtent { offset, len });
        push(Some(0), 10).expect("one");
        push(Some(10), 5).expect("two");
        push(None, 5).expect("three");
        push(None, 5).expect("four");
        push(Some(15), 1).expect_err("one too many");
        assert_eq!((extents.list.len(), extents.len), (2, 25));
        extents.grow(26);
        assert_eq!(extents.len, 25, "nothing is left of the last block");
        extents.slack = 5;
        extents.grow(26);
        assert_eq!(extents.len, 26);
        extents.cut(18);
        let last = FileExtent { offset: None, len: 3 };
        assert_eq!((extents.list.last(), extents.len), (Some(&last), 18));
        extents.cut(15);
        assert_eq!(extents.list, [FileExtent { offset: Some(0), len: 15 }]);
    }
}
