//! The partitions of a disk, and what they occupy.

use crate::error::Result;
use crate::model::image::Image;
use crate::partition::{self, Scheme};
use crate::report::picture::{Partition, PartitionTable, State, Totals};
use std::ops::Range;

/// Maximum number of partitions that are listed.
const MAX_PARTITIONS: usize = 128;

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
        let Some(found) = partition::table(image, None)? else { return Ok(None) };
        let kind = match found.scheme {
            Scheme::Mbr => "MBR",
            Scheme::Gpt => "GPT",
            Scheme::Apm => "Apple partition map",
        };
        let found = found.partitions;
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
fn within(found: partition::Partition, size: u64) -> Option<Partition> {
    let partition::Partition { number, start, length, .. } = found;
    let length = length.min(size.saturating_sub(start));
    let kind = found.kind_name.map_or(found.kind, str::to_owned);
    let name = found.name.unwrap_or_default();
    let totals = Totals::default();
    (length > 0).then_some(Partition { number, kind, name, start, length, totals })
}
