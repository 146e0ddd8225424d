//! The partition maps of a logical volume (3/10.7): its partitions and their kinds.

use super::allocation::Cost;
use super::entry;
use super::partition::{BlockAddress, BlockRange, ExtentList, Partition};
use super::raw;
use super::sequence::Sequence;
use super::virtual_table;
use super::volume::{UdfVolume, note};
use super::{UdfPartition, tag};
use crate::error::{Error, Result};
use crate::storage::number::{to_index, to_u16};
use byteorder::{ByteOrder, LittleEndian};

/// Maximum number of partition maps. No revision of UDF uses more than three.
const MAX_MAPS: u32 = 8;

/// A partition map.
#[derive(Debug, Clone, Copy)]
pub(super) struct Map {
    /// Number of the partition descriptor.
    number: u16,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Plain,
    Virtual,
    Sparable { packet: u16, tables: u8, table_length: u32, locations: [u32; 4] },
    Metadata { file: u32, mirror: u32 },
}

/// Parses the maps in `bytes`, which follow the fixed part of the logical volume descriptor.
pub(super) fn parse(logical: &raw::LogicalVolume, bytes: &[u8]) -> Result<Vec<Map>> {
    let corrupt = |what: &'static str| Error::corrupt("partition map", what);
    let count = logical.maps.get();
    if count == 0 || count > MAX_MAPS {
        return Err(Error::corrupt(
            "partition map",
            format!("there are {count} maps; expected 1 to {MAX_MAPS}"),
        ));
    }
    let mut left = bytes
        .get(..to_index(logical.maps_length.get()))
        .ok_or_else(|| corrupt("the maps extend beyond the logical volume descriptor"))?;
    let mut maps = Vec::new();
    for _ in 0..count {
        let length = usize::from(*left.get(1).ok_or_else(|| corrupt("it is truncated"))?);
        let (map, rest) =
            left.split_at_checked(length).ok_or_else(|| corrupt("it is truncated"))?;
        left = rest;
        maps.push(match (map.first(), length) {
            (Some(1), 6) => Map { number: LittleEndian::read_u16(&map[4..]), kind: Kind::Plain },
            (Some(2), 64) => type_2(map)?,
            _ => return Err(corrupt("unknown type")),
        });
    }
    Ok(maps)
}

fn type_2(map: &[u8]) -> Result<Map> {
    let too_short = || Error::corrupt("partition map", "it is truncated");
    let (map, _) = raw::read::<raw::Map2>(map).ok_or_else(too_short)?;
    let kind = if map.identifier.is(b"*UDF Virtual Partition") {
        Kind::Virtual
    } else if map.identifier.is(b"*UDF Sparable Partition") {
        let (rest, _) = raw::read::<raw::SparableMap>(&map.rest).ok_or_else(too_short)?;
        Kind::Sparable {
            packet: rest.packet.get(),
            tables: rest.tables,
            table_length: rest.table_length.get(),
            locations: rest.locations.map(|location| location.get()),
        }
    } else if map.identifier.is(b"*UDF Metadata Partition") {
        let (rest, _) = raw::read::<raw::MetadataMap>(&map.rest).ok_or_else(too_short)?;
        Kind::Metadata { file: rest.file.get(), mirror: rest.mirror.get() }
    } else {
        let name = String::from_utf8_lossy(&map.identifier.identifier).into_owned();
        let what = format!("a partition map of type {:?}", name.trim_end_matches('\0'));
        return Err(Error::unsupported(what).in_structure("partition map"));
    };
    Ok(Map { number: map.partition.get(), kind })
}

/// Returns the partitions as shown by `info`.
pub(super) fn describe(maps: &[Map], found: &Sequence) -> Vec<UdfPartition> {
    let described = maps.iter().filter_map(|map| {
        let (range, access) = partition_range(map.number, found).ok()?;
        let kind = match map.kind {
            Kind::Plain => "plain",
            Kind::Virtual => "virtual",
            Kind::Sparable { .. } => "sparable",
            Kind::Metadata { .. } => "metadata",
        };
        let access = match access {
            1 => "read-only",
            2 => "write-once",
            3 => "rewritable",
            4 => "overwritable",
            _ => "unknown",
        };
        Some(UdfPartition { kind, access, start_sector: range.start, blocks: range.blocks })
    });
    described.collect()
}

/// Adds the partitions to the volume: first those that virtual and metadata partitions are stored
/// in, then the latter.
pub(super) fn build(volume: &mut UdfVolume, maps: &[Map], found: &Sequence) -> Result<()> {
    for map in maps {
        let (range, _) = partition_range(map.number, found)?;
        let partition = match map.kind {
            Kind::Sparable { .. } => sparable(volume, map.kind, range)?,
            _ => Partition::Plain(range),
        };
        volume.partitions.all.push(partition);
    }
    for (index, map) in maps.iter().enumerate() {
        let (range, _) = partition_range(map.number, found)?;
        let partition = match map.kind {
            Kind::Plain | Kind::Sparable { .. } => continue,
            // Several virtual partitions would each have a table in memory.
            Kind::Virtual if maps[..index].iter().any(|m| matches!(m.kind, Kind::Virtual)) => {
                let what = "there is more than one virtual partition";
                return Err(Error::corrupt("partition map", what));
            }
            Kind::Virtual => {
                let table = virtual_table::read(volume, base(maps, map.number)?, range)?;
                Partition::Virtual { range, table }
            }
            Kind::Metadata { file, mirror } => {
                let base = base(maps, map.number)?;
                Partition::Metadata(metadata(volume, base, [file, mirror])?)
            }
        };
        volume.set_partition(index, partition);
    }
    Ok(())
}

/// Returns the blocks and the access type of a partition.
fn partition_range(number: u16, found: &Sequence) -> Result<(BlockRange, u32)> {
    let missing =
        || Error::corrupt("partition map", format!("partition {number} has no descriptor"));
    let described = found.partitions.iter().find(|(other, _)| *other == number);
    let (_, recorded) = described.ok_or_else(missing)?;
    let (partition, _) = raw::read::<raw::Partition>(&recorded.bytes).ok_or_else(missing)?;
    let range = BlockRange { start: partition.start.get(), blocks: partition.length.get() };
    Ok((range, partition.access.get()))
}

/// Returns the index of the map of the partition that contains a virtual or metadata partition.
fn base(maps: &[Map], number: u16) -> Result<u16> {
    let is_base =
        |map: &Map| map.number == number && matches!(map.kind, Kind::Plain | Kind::Sparable { .. });
    let missing = || {
        let what = format!("no plain or sparable partition map has the number {number}");
        Error::corrupt("partition map", what)
    };
    maps.iter().position(is_base).map(to_u16).ok_or_else(missing)
}

/// Reads the first valid sparing table (UDF, 2.2.12).
fn sparable(volume: &UdfVolume, kind: Kind, range: BlockRange) -> Result<Partition> {
    const NAME: &str = "sparing table";
    let Kind::Sparable { packet, tables, table_length, locations } = kind else {
        return Ok(Partition::Plain(range));
    };
    if packet == 0 {
        return Err(Error::corrupt("partition map", "the packet length is 0"));
    }
    let limit = volume.limits.directory_bytes;
    if u64::from(table_length) > limit {
        let found = format!("{table_length} bytes");
        return Err(Error::over_limit("directory_bytes", found, limit).in_structure(NAME));
    }
    let mut spared = None;
    for location in locations.into_iter().take(tables.into()) {
        let offset = u64::from(location) * u64::from(volume.partitions.block_size);
        match sparing_entries(volume, offset, table_length) {
            Ok(entries) => {
                spared = Some(entries);
                break;
            }
            Err(error) => volume.notes.add(offset, error.without_remedy()),
        }
    }
    let spared = spared.ok_or_else(|| Error::corrupt(NAME, "no copy can be read"))?;
    Ok(Partition::Sparable { range, packet: packet.into(), spared })
}

fn sparing_entries(volume: &UdfVolume, offset: u64, length: u32) -> Result<Vec<(u32, u32)>> {
    const NAME: &str = "sparing table";
    let corrupt = |what: &'static str| Error::corrupt(NAME, what).at(offset);
    let end = offset.checked_add(length.into());
    if end.is_none_or(|end| end > volume.source.len()) {
        return Err(corrupt("it is not within the image"));
    }
    // The number of entries has 16 bits.
    let longest = size_of::<raw::SparingTable>() + 0xffff * size_of::<raw::SparingEntry>();
    let mut bytes = vec![0; to_index(length).min(longest)];
    let cannot_read = |e| Error::io("cannot read", e).in_structure(NAME).at(offset);
    volume.source.read_exact_at(&mut bytes, offset).map_err(cannot_read)?;
    let (head, mut rest) =
        raw::read::<raw::SparingTable>(&bytes).ok_or_else(|| corrupt("it is truncated"))?;
    // The tag identifier is 0 (UDF, 2.2.12).
    if tag::tag(&bytes[..16]).is_none() && bytes[..2] != [0; 2]
        || !head.identifier.is(b"*UDF Sparing Table")
    {
        return Err(corrupt("the identifier is not \"*UDF Sparing Table\""));
    }
    let mut spared = Vec::new();
    for _ in 0..head.entries.get() {
        let (entry, more) = raw::read::<raw::SparingEntry>(rest)
            .ok_or_else(|| corrupt("its entries do not fit in it"))?;
        rest = more;
        // The highest numbers mark packets that are available or defective.
        if entry.original.get() < 0xffff_fff0 {
            spared.push((entry.original.get(), entry.mapped.get()));
        }
    }
    spared.sort_unstable();
    Ok(spared)
}

/// Returns the extents of a metadata partition: those of the metadata file, or of its mirror.
fn metadata(volume: &UdfVolume, base: u16, files: [u32; 2]) -> Result<ExtentList> {
    let mut first_error = None;
    for block in files {
        let address = BlockAddress { partition: base, block };
        let cost = &mut Cost::default();
        match entry::read(volume, address, cost).and_then(|icb| icb.extents(volume, cost)) {
            Ok(extents) => return Ok(ExtentList::new(extents.list)),
            Err(error) => {
                volume.notes.add(0, format!("metadata file: {}", error.without_remedy()));
                note(&mut first_error, error);
            }
        }
    }
    Err(first_error.unwrap_or_else(|| Error::corrupt("metadata file", "missing")))
}
