//! File entries (4/14.9, 4/14.17), found by way of information control blocks (4/8.10).

use super::allocation::{self, Extents, Form};
use super::partition::BlockAddress;
use super::raw::{self, EntryHead, ExtendedEntryTail, FileEntryTail, Stamp, id};
use super::volume::UdfVolume;
use super::{tag, text};
use crate::error::{Error, Result};
use crate::iso::content::ExtentSource;
use crate::iso::node::{Attributes, Content, FileExtent, FileType, Node};
use crate::storage::number::{to_index, to_u64, to_usize};
use crate::storage::source::Source;
use std::ops::Range;

const NAME: &str = "file entry";

/// Indirect entries that lead to one file.
const MAX_INDIRECT: usize = 32;

/// A file entry, and where its parts are in the block.
#[derive(Debug)]
pub(super) struct Icb {
    block: Vec<u8>,
    /// Where the block is in the image.
    pub(super) offset: u64,
    place: BlockAddress,
    head: EntryHead,
    tail: Tail,
    attributes: Range<usize>,
    allocations: Range<usize>,
}

/// What the two kinds of file entry tell in different places.
#[derive(Debug)]
struct Tail {
    accessed: Stamp,
    modified: Stamp,
    changed: Stamp,
    created: Option<Stamp>,
}

/// Reads the file entry that prevails at `place`: with strategy 4096 (UDF, 2.3.5.1), the last of
/// those that lead from one to the next.
pub(super) fn read(volume: &UdfVolume, mut place: BlockAddress) -> Result<Icb> {
    let mut icb = read_one(volume, place)?;
    for _ in 0..MAX_INDIRECT {
        if icb.head.icb_tag.strategy.get() != 4096 {
            return Ok(icb);
        }
        let Some(next) = indirect(volume, place)? else { return Ok(icb) };
        place = next;
        icb = read_one(volume, place)?;
    }
    let what = "it is reached by more than 32 indirect entries";
    Err(Error::limit(what).in_structure(NAME).at(icb.offset))
}

/// Where the indirect entry in the block behind `place` leads.
fn indirect(volume: &UdfVolume, place: BlockAddress) -> Result<Option<BlockAddress>> {
    let Some(block) = place.block.checked_add(1) else { return Ok(None) };
    let Ok((_, bytes)) = volume.read_block(BlockAddress { block, ..place }, NAME) else {
        return Ok(None);
    };
    let recorded = tag::tag(&bytes).is_some_and(|tag| tag.id.get() == id::INDIRECT_ENTRY);
    let entry = raw::read::<raw::IndirectEntry>(&bytes).filter(|_| recorded);
    let leads = entry.filter(|(entry, _)| entry.icb.length.get() > 0);
    Ok(leads.map(|(entry, _)| BlockAddress::from(&entry.icb.address)))
}

/// Reads the file entry at `place`.
pub(super) fn read_one(volume: &UdfVolume, place: BlockAddress) -> Result<Icb> {
    let (offset, block) = volume.read_block(place, NAME)?;
    let ids = [id::FILE_ENTRY, id::EXTENDED_FILE_ENTRY];
    let id = tag::check(NAME, &block, &ids, offset, Some(place.block), &volume.notes)?;
    let too_short = || Error::corrupt(NAME, "it leaves its block").at(offset);
    let (head, rest) = raw::read::<EntryHead>(&block).ok_or_else(too_short)?;
    let (tail, attributes, allocations) = match id {
        id::FILE_ENTRY => raw::read::<FileEntryTail>(rest).map(|(tail, _)| {
            let start = size_of::<EntryHead>() + size_of::<FileEntryTail>();
            (Tail::from(tail), (start, tail.attributes_length), tail.allocations_length)
        }),
        _ => raw::read::<ExtendedEntryTail>(rest).map(|(tail, _)| {
            let start = size_of::<EntryHead>() + size_of::<ExtendedEntryTail>();
            (Tail::from(tail), (start, tail.attributes_length), tail.allocations_length)
        }),
    }
    .ok_or_else(too_short)?;
    let (start, attributes) = attributes;
    let middle = start.checked_add(to_index(attributes.get())).ok_or_else(too_short)?;
    let end = middle.checked_add(to_index(allocations.get())).ok_or_else(too_short)?;
    if end > block.len() {
        return Err(too_short());
    }
    let head = *head;
    let (attributes, allocations) = (start..middle, middle..end);
    Ok(Icb { block, offset, place, head, tail, attributes, allocations })
}

/// The file at `place` as a node. `cost` grows by what it takes in memory beyond a usual file.
pub(super) fn node(volume: &UdfVolume, place: BlockAddress, cost: &mut u64) -> Result<Node> {
    let icb = read(volume, place)?;
    let file_type = icb.posix_type()?;
    let extents = icb.extents(volume, cost)?;
    let link_target = match file_type {
        FileType::Symlink => {
            // Every component has a head of four bytes, and names have up to two a character.
            let most = volume.limits.link_bytes;
            let too_long = |bytes| {
                let found = format!("a symbolic link's target of {bytes} bytes");
                Error::over_limit("link_bytes", found, most).at(icb.offset)
            };
            if extents.len > most.saturating_mul(4) {
                return Err(too_long(extents.len));
            }
            let target =
                text::path(&icb.read_extents(volume, &extents)?).map_err(|e| e.at(icb.offset))?;
            if to_u64(target.len()) > most {
                return Err(too_long(to_u64(target.len())));
            }
            *cost += to_u64(target.len());
            Some(target)
        }
        _ => None,
    };
    let block = icb.offset / u64::from(volume.partitions.block_size);
    Ok(Node {
        file_type,
        size: icb.head.information_length.get(),
        attributes: icb.attributes(u32::try_from(block).ok()),
        link_target,
        content: Content::Extents(extents.list),
        location: icb.offset,
    })
}

impl Icb {
    /// The file type as recorded (4/14.6.6).
    pub(super) fn file_type(&self) -> u8 {
        self.head.icb_tag.file_type
    }

    fn posix_type(&self) -> Result<FileType> {
        Ok(match self.file_type() {
            4 => FileType::Directory,
            // 0 is "not told"; 249, a file for real-time recording, has bytes as any other.
            0 | 5 | 249 => FileType::Regular,
            6 => FileType::BlockDevice,
            7 => FileType::CharacterDevice,
            9 => FileType::Fifo,
            10 => FileType::Socket,
            12 => FileType::Symlink,
            other => {
                let what = format!("a file of type {other} among those with names");
                return Err(Error::unsupported(what).in_structure(NAME).at(self.offset));
            }
        })
    }

    /// Where the file's bytes are. `cost` grows by what it takes to find them.
    pub(super) fn extents(&self, volume: &UdfVolume, cost: &mut u64) -> Result<Extents> {
        let size = self.head.information_length.get();
        let bytes = &self.block[self.allocations.clone()];
        let form = match self.head.icb_tag.flags.get() & 7 {
            0 => Form::Short,
            1 => Form::Long,
            // The bytes themselves stand where the descriptors would.
            3 if size <= to_u64(bytes.len()) => {
                let mut extents = Extents::new(1);
                let offset = Some(self.offset + to_u64(self.allocations.start));
                extents.push(FileExtent { offset, len: size })?;
                return Ok(extents);
            }
            3 => {
                let what = format!("its {size} bytes are not all in it");
                return Err(Error::corrupt(NAME, what).at(self.offset));
            }
            other => {
                let what = format!("allocation descriptors of form {other}");
                return Err(Error::unsupported(what).in_structure(NAME).at(self.offset));
            }
        };
        allocation::extents(volume, bytes, form, self.place.partition, size, cost)
            .map_err(|e| e.at(self.offset))
    }

    /// All the file's bytes, as those of a directory.
    pub(super) fn contents(&self, volume: &UdfVolume) -> Result<Vec<u8>> {
        self.read_extents(volume, &self.extents(volume, &mut 0)?)
    }

    fn read_extents(&self, volume: &UdfVolume, extents: &Extents) -> Result<Vec<u8>> {
        read_all(volume, &extents.list).map_err(|e| e.at(self.offset))
    }

    fn attributes(&self, serial: Option<u32>) -> Attributes {
        let head = &self.head;
        // All ones: not told (UDF, 2.3.6.1).
        let known = |id: u32| (id != u32::MAX).then_some(id);
        Attributes {
            mode: Some(mode(head.permissions.get(), head.icb_tag.flags.get())),
            uid: known(head.uid.get()),
            gid: known(head.gid.get()),
            links: Some(head.links.get().into()),
            serial,
            device: self.device(),
            modified: self.tail.modified.moment(),
            accessed: self.tail.accessed.moment(),
            changed: self.tail.changed.moment(),
            created: self.tail.created.and_then(|created| created.moment()),
        }
    }

    /// A device's numbers, from the extended attribute that tells them (4/14.10.7).
    fn device(&self) -> Option<(u32, u32)> {
        if !matches!(self.file_type(), 6 | 7) {
            return None;
        }
        let bytes = &self.block[self.attributes.clone()];
        let tag = tag::tag(bytes)?;
        let (_, mut rest) = raw::read::<raw::AttributeHeader>(bytes)?;
        if tag.id.get() != id::ATTRIBUTE_HEADER {
            return None;
        }
        while let Some((attribute, body)) = raw::read::<raw::Attribute>(rest) {
            if attribute.kind.get() == raw::DEVICE_SPECIFICATION {
                let (device, _) = raw::read::<raw::DeviceSpecification>(body)?;
                return Some((device.major.get(), device.minor.get()));
            }
            let length = to_index(attribute.length.get());
            rest = rest.get(length.max(size_of::<raw::Attribute>())..)?;
        }
        None
    }
}

/// All bytes of these stretches, which must be no more than a directory may have, nor than the image.
pub(super) fn read_all(volume: &UdfVolume, extents: &[FileExtent]) -> Result<Vec<u8>> {
    let failed = |e| Error::io("cannot read", e);
    let source = ExtentSource::new(volume.source.clone(), extents).map_err(failed)?;
    let found = || format!("a directory or table of {} bytes", source.len());
    let most = volume.limits.directory_bytes;
    if source.len() > most {
        return Err(Error::over_limit("directory_bytes", found(), most));
    }
    if source.len() > volume.source.len() {
        return Err(Error::limit(found() + ", more than the image has"));
    }
    let mut bytes = vec![0; to_usize(source.len())];
    source.read_exact_at(&mut bytes, 0).map_err(failed)?;
    Ok(bytes)
}

/// Permissions (4/14.9.5) and flags (4/14.6.8) as the low twelve bits of POSIX's mode.
fn mode(permissions: u32, flags: u16) -> u32 {
    let class = |shift: u32| permissions >> shift & 7;
    let special = u32::from(flags >> 6 & 7);
    // UDF has set-uid lowest, POSIX the sticky bit.
    let special = (special & 1) << 2 | special & 2 | special >> 2;
    special << 9 | class(10) << 6 | class(5) << 3 | class(0)
}

impl From<&FileEntryTail> for Tail {
    fn from(tail: &FileEntryTail) -> Self {
        let FileEntryTail { accessed, modified, changed, .. } = *tail;
        Self { accessed, modified, changed, created: None }
    }
}

impl From<&ExtendedEntryTail> for Tail {
    fn from(tail: &ExtendedEntryTail) -> Self {
        let ExtendedEntryTail { accessed, modified, changed, created, .. } = *tail;
        Self { accessed, modified, changed, created: Some(created) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_of_three_classes_and_three_flags_become_a_mode() {
        // Delete and change-attribute bits say nothing in POSIX.
        assert_eq!(mode(0b11101_11101_11100, 0), 0o554);
        assert_eq!(mode(0b00111_00101_00001, 1 << 6), 0o4751);
        assert_eq!(mode(0b00111_00111_00111, 1 << 7 | 1 << 8), 0o3777);
    }
}
