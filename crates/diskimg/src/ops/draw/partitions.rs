//! The partitions of a disk, and what they occupy.

use crate::error::{Error, Result};
use crate::model::image::Image;
use crate::partition::inspect::has_mbr;
use crate::partition::{Apm, Gpt, Mbr, MbrPartition, kinds, logical};
use crate::report::picture::{Partition, PartitionTable, State, Totals};
use crate::storage::source::Source;
use std::ops::Range;

/// Maximum number of partitions that are listed.
const MAX_PARTITIONS: usize = 128;

/// Number of bytes at the start of the disk in which an MBR and an Apple partition map are looked
/// for.
const HEAD: u64 = 64 << 10;

/// Sector size in bytes.
const SECTOR: u64 = 512;

/// A partition as its table says: number, type, name, first byte, and length.
type Found = (u32, String, String, u64, u64);

/// The partitions, while extents are added.
pub(super) struct Occupied {
    table: PartitionTable,
    /// The number of partitions that all end before the extents that follow.
    passed: usize,
}

impl Occupied {
    /// Reads the partition table. Returns `None` if there is none.
    ///
    /// # Errors
    /// Returns the errors of reading the disk.
    pub(super) fn read(image: &Image) -> Result<Option<Self>> {
        let mut head = vec![0; image.size().min(HEAD) as usize];
        image.read_at(&mut head, 0)?;
        let Some((kind, found)) = table(image, &head)? else { return Ok(None) };
        let count = found.len();
        let mut partitions: Vec<_> =
            found.into_iter().filter_map(|found| within(found, image.size())).collect();
        partitions.sort_by_key(|partition| (partition.start, partition.number));
        partitions.truncate(MAX_PARTITIONS);
        let omitted = count - partitions.len();
        let table = PartitionTable { kind, partitions, omitted };
        Ok(Some(Self { table, passed: 0 }))
    }

    /// Adds an extent that follows those before.
    pub(super) fn add(&mut self, guest: &Range<u64>, state: State) {
        let partitions = &mut self.table.partitions;
        let end = |partition: &Partition| partition.start + partition.length;
        while partitions.get(self.passed).is_some_and(|partition| end(partition) <= guest.start) {
            self.passed += 1;
        }
        let overlapping = partitions[self.passed..].iter_mut();
        for partition in overlapping.take_while(|partition| partition.start < guest.end) {
            let common = guest.start.max(partition.start)..guest.end.min(end(partition));
            if !common.is_empty() {
                partition.totals.add(state, common.end - common.start);
            }
        }
    }

    pub(super) fn finish(self) -> PartitionTable {
        self.table
    }
}

/// Returns the partition, cut at the end of the disk; `None` if nothing of it is within the disk.
fn within((number, kind, name, start, length): Found, size: u64) -> Option<Partition> {
    let length = length.min(size.saturating_sub(start));
    let totals = Totals::default();
    (length > 0).then_some(Partition { number, kind, name, start, length, totals })
}

/// Returns the kind of the partition table and its partitions. A GPT is preferred to an MBR, and
/// that to an Apple partition map: an ISO image may have all three.
fn table(image: &Image, head: &[u8]) -> Result<Option<(&'static str, Vec<Found>)>> {
    let mut oddities = Vec::new();
    let sectors = |n: u64| n.saturating_mul(SECTOR);
    if let Some(gpt) = Gpt::read(image, &mut oddities)?
        && !gpt.partitions.is_empty()
    {
        let found = gpt.partitions.into_iter().map(|p| {
            let length = p.last_sector.saturating_sub(p.first_sector).saturating_add(1);
            (p.number, kinds::gpt(p.kind), p.name, sectors(p.first_sector), sectors(length))
        });
        return Ok(Some(("GPT", found.collect())));
    }
    let sector = head.first_chunk::<512>().filter(|_| has_mbr(head));
    let mbr = sector.and_then(|sector| Mbr::parse(sector, image.size(), &mut oddities));
    if let Some(mbr) = mbr
        && mbr.partitions.iter().any(|partition| partition.kind != 0)
    {
        let used = mbr.partitions.iter().filter(|partition| partition.kind != 0);
        let found = |p: &MbrPartition| {
            let (start, length) = (sectors(p.first_sector.into()), sectors(p.sectors.into()));
            (p.number.into(), kinds::mbr(p.kind), String::new(), start, length)
        };
        let mut all: Vec<_> = used.clone().map(found).collect();
        let read = |at: u64| read_sector(image, at);
        for extended in used.filter(|partition| logical::is_extended(partition.kind)) {
            for p in logical::read(extended, read)? {
                let (start, length) = (sectors(p.first_sector), sectors(p.sectors));
                all.push((p.number, kinds::mbr(p.kind), String::new(), start, length));
            }
        }
        return Ok(Some(("MBR", all)));
    }
    let Some(apm) = Apm::parse(head, &mut oddities) else { return Ok(None) };
    let blocks = |n: u32| u64::from(n) * u64::from(apm.block_bytes);
    let found = apm.partitions.iter().map(|p| {
        (p.number, p.kind.clone(), p.name.clone(), blocks(p.first_block), blocks(p.blocks))
    });
    Ok(Some(("Apple partition map", found.collect())))
}

/// Reads a sector; `None` if it is beyond the end of the disk.
fn read_sector(image: &Image, number: u64) -> Result<Option<[u8; 512]>> {
    let Some(at) = number.checked_mul(SECTOR).filter(|at| at + SECTOR <= image.size()) else {
        return Ok(None);
    };
    let mut sector = [0; 512];
    let read = image.read_exact_at(&mut sector, at);
    read.map_err(|e| Error::io("cannot read", e).in_structure("extended partition").at(at))?;
    Ok(Some(sector))
}
