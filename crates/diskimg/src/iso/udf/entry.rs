//! File entries (4/14.9, 4/14.17) in information control blocks (ICB, 4/8.10).

use super::allocation::{self, Cost, Extents, Form};
use super::partition::BlockAddress;
use super::raw::{self, EntryHead, ExtendedEntryTail, FileEntryTail, Stamp, file_type, id};
use super::volume::UdfVolume;
use super::{tag, text};
use crate::error::{Error, Result};
use crate::iso::content::ExtentSource;
use crate::iso::node::{Attributes, Content, FileExtent, FileType, Node};
use crate::storage::number::{to_index, to_u64, to_usize};
use crate::storage::source::Source;
use std::ops::Range;

const NAME: &str = "file entry";

/// Maximum number of indirect entries that are followed for one file.
const MAX_INDIRECT: usize = 32;

/// A file entry, and the ranges of its variable-length fields in the block.
#[derive(Debug)]
pub(super) struct Icb {
    block: Vec<u8>,
    /// Byte offset of the block in the image.
    pub(super) offset: u64,
    address: BlockAddress,
    head: EntryHead,
    tail: Tail,
    attributes: Range<usize>,
    allocations: Range<usize>,
}

/// The fields whose position differs between file entries and extended file entries.
#[derive(Debug)]
struct Tail {
    accessed: Stamp,
    modified: Stamp,
    changed: Stamp,
    created: Option<Stamp>,
}

/// Reads the current file entry of the ICB at `address`. With strategy 4096 (UDF, 2.3.5.1), it is
/// the last one in the chain of indirect entries.
pub(super) fn read(volume: &UdfVolume, mut address: BlockAddress, cost: &mut Cost) -> Result<Icb> {
    let mut icb = read_one(volume, address, cost)?;
    for _ in 0..MAX_INDIRECT {
        if icb.head.icb_tag.strategy.get() != 4096 {
            return Ok(icb);
        }
        let Some(next) = indirect(volume, address, cost)? else { return Ok(icb) };
        address = next;
        icb = read_one(volume, address, cost)?;
    }
    let what = format!("a chain of more than {MAX_INDIRECT} indirect entries");
    Err(Error::limit(what).in_structure(NAME).at(icb.offset))
}

/// Returns the target of the indirect entry in the block after `address`, if there is one.
fn indirect(
    volume: &UdfVolume,
    address: BlockAddress,
    cost: &mut Cost,
) -> Result<Option<BlockAddress>> {
    let Some(block) = address.block.checked_add(1) else { return Ok(None) };
    cost.owned += u64::from(volume.partitions.block_size);
    let Ok((_, bytes)) = volume.read_block(BlockAddress { block, ..address }, NAME) else {
        return Ok(None);
    };
    let recorded = tag::tag(&bytes).is_some_and(|tag| tag.id.get() == id::INDIRECT_ENTRY);
    let entry = raw::read::<raw::IndirectEntry>(&bytes).filter(|_| recorded);
    let entry = entry.filter(|(entry, _)| entry.icb.length.get() > 0);
    Ok(entry.map(|(entry, _)| BlockAddress::from(&entry.icb.address)))
}

/// Reads the file entry at `address`.
pub(super) fn read_one(volume: &UdfVolume, address: BlockAddress, cost: &mut Cost) -> Result<Icb> {
    cost.entries += u64::from(volume.partitions.block_size);
    let (offset, block) = volume.read_block(address, NAME)?;
    let ids = [id::FILE_ENTRY, id::EXTENDED_FILE_ENTRY];
    let id = tag::check(NAME, &block, &ids, offset, Some(address.block), &volume.notes)?;
    let too_short = || Error::corrupt(NAME, "it extends beyond its block").at(offset);
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
    Ok(Icb { block, offset, address, head, tail, attributes, allocations })
}

/// Reads the file entry at `address` as a node. Adds to `cost` the memory that the node takes
/// beyond that for a file of one extent, and what was read.
pub(super) fn node(volume: &UdfVolume, address: BlockAddress, cost: &mut Cost) -> Result<Node> {
    let icb = read(volume, address, cost)?;
    let file_type = icb.posix_type()?;
    let extents = icb.extents(volume, cost)?;
    let link_target = match file_type {
        FileType::Symlink => {
            // A component has a header of four bytes, and up to two bytes per character.
            let limit = volume.limits.link_bytes;
            let too_long = |bytes| {
                let found = format!("a symbolic link target of {bytes} bytes");
                Error::over_limit("link_bytes", found, limit).at(icb.offset)
            };
            if extents.len > limit.saturating_mul(4) {
                return Err(too_long(extents.len));
            }
            cost.owned += extents.len;
            let target =
                text::path(&icb.read_extents(volume, &extents)?).map_err(|e| e.at(icb.offset))?;
            if to_u64(target.len()) > limit {
                return Err(too_long(to_u64(target.len())));
            }
            cost.memory += to_u64(target.len());
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
    /// Returns the recorded file type (4/14.6.6).
    pub(super) fn file_type(&self) -> u8 {
        self.head.icb_tag.file_type
    }

    fn posix_type(&self) -> Result<FileType> {
        Ok(match self.file_type() {
            file_type::DIRECTORY => FileType::Directory,
            // 0 means unspecified. 249 is a real-time file, which is read like any other.
            0 | file_type::REGULAR | 249 => FileType::Regular,
            file_type::BLOCK_DEVICE => FileType::BlockDevice,
            file_type::CHARACTER_DEVICE => FileType::CharacterDevice,
            file_type::FIFO => FileType::Fifo,
            file_type::SOCKET => FileType::Socket,
            file_type::SYMLINK => FileType::Symlink,
            other => {
                let what = format!("file type {other} in a directory");
                return Err(Error::unsupported(what).in_structure(NAME).at(self.offset));
            }
        })
    }

    /// Returns the extents of the file. Adds to `cost` the memory and the blocks read for that.
    pub(super) fn extents(&self, volume: &UdfVolume, cost: &mut Cost) -> Result<Extents> {
        let size = self.head.information_length.get();
        let bytes = &self.block[self.allocations.clone()];
        let form = match self.head.icb_tag.flags.get() & 7 {
            0 => Form::Short,
            1 => Form::Long,
            // The contents are embedded in place of the allocation descriptors.
            3 if size <= to_u64(bytes.len()) => {
                let mut extents = Extents::new(1);
                let offset = Some(self.offset + to_u64(self.allocations.start));
                extents.push(FileExtent { offset, len: size })?;
                return Ok(extents);
            }
            3 => {
                let what = format!(
                    "the file has {size} bytes, but only {} are embedded in its entry",
                    bytes.len()
                );
                return Err(Error::corrupt(NAME, what).at(self.offset));
            }
            other => {
                let what = format!("allocation descriptors of type {other}");
                return Err(Error::unsupported(what).in_structure(NAME).at(self.offset));
            }
        };
        allocation::extents(volume, bytes, form, self.address.partition, size, cost)
            .map_err(|e| e.at(self.offset))
    }

    /// Reads the contents of the file, within the limit for directories.
    pub(super) fn contents(&self, volume: &UdfVolume, extents: &Extents) -> Result<Vec<u8>> {
        self.read_extents(volume, extents)
    }

    fn read_extents(&self, volume: &UdfVolume, extents: &Extents) -> Result<Vec<u8>> {
        read_all(volume, &extents.list).map_err(|e| e.at(self.offset))
    }

    fn attributes(&self, serial: Option<u32>) -> Attributes {
        let head = &self.head;
        // All ones means unspecified (UDF, 2.3.6.1).
        let known = |id: u32| (id != u32::MAX).then_some(id);
        Attributes {
            mode: Some(mode(head.permissions.get(), head.icb_tag.flags.get())),
            uid: known(head.uid.get()),
            gid: known(head.gid.get()),
            links: Some(head.links.get().into()),
            serial,
            device: self.device(),
            modified: self.tail.modified.timestamp(),
            accessed: self.tail.accessed.timestamp(),
            changed: self.tail.changed.timestamp(),
            created: self.tail.created.and_then(|created| created.timestamp()),
        }
    }

    /// Returns major and minor number of a device from the device specification extended attribute
    /// (4/14.10.7).
    fn device(&self) -> Option<(u32, u32)> {
        if !matches!(self.file_type(), file_type::BLOCK_DEVICE | file_type::CHARACTER_DEVICE) {
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

/// Reads the bytes of `extents`. Their total length must not exceed the limit for directories, nor
/// the length of the image.
pub(super) fn read_all(volume: &UdfVolume, extents: &[FileExtent]) -> Result<Vec<u8>> {
    let cannot_read = |e| Error::io("cannot read", e);
    let source = ExtentSource::new(volume.source.clone(), extents)?;
    let found = || format!("a directory or table of {} bytes", source.len());
    let limit = volume.limits.directory_bytes;
    if source.len() > limit {
        return Err(Error::over_limit("directory_bytes", found(), limit));
    }
    if source.len() > volume.source.len() {
        return Err(Error::limit(found() + ", longer than the image"));
    }
    let mut bytes = vec![0; to_usize(source.len())];
    source.read_exact_at(&mut bytes, 0).map_err(cannot_read)?;
    Ok(bytes)
}

/// Converts permissions (4/14.9.5) and ICB flags (4/14.6.8) to the low twelve bits of the POSIX
/// mode.
fn mode(permissions: u32, flags: u16) -> u32 {
    let class = |shift: u32| permissions >> shift & 7;
    let special = u32::from(flags >> 6 & 7);
    // The lowest bit is set-user-ID in UDF, the sticky bit in POSIX.
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
    fn permissions_and_flags_are_converted_to_a_mode() {
        // The delete and change-attributes bits have no equivalent in POSIX.
        assert_eq!(mode(0b11101_11101_11100, 0), 0o554);
        assert_eq!(mode(0b00111_00101_00001, 1 << 6), 0o4751);
        assert_eq!(mode(0b00111_00111_00111, 1 << 7 | 1 << 8), 0o3777);
    }
}
