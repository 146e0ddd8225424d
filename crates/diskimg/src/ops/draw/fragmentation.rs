//! Counts the runs of stored data.

use crate::model::extent::{ChainExtent, HostOffset, Kind};
use crate::report::picture::{Fragmentation, Lengths};

/// Maximum number of bytes between two extents of a run: a marker, padding, or a small table.
const MAX_GAP: u64 = 4096;

/// Size in bytes of the units of formats without clusters.
const DEFAULT_UNIT: u64 = 64 << 10;

/// An extent that is stored in a file.
pub(super) struct Stored<'a> {
    pub(super) piece: &'a ChainExtent,
    pub(super) host: HostOffset,
    /// Number of bytes in the file.
    pub(super) length: u64,
}

/// The runs so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Runs {
    counts: Fragmentation,
    last: Option<Last>,
    /// Length of the current run.
    length: u64,
}

/// The last extent.
#[derive(Debug, Clone)]
struct Last {
    file: (usize, usize),
    guest: u64,
    host: u64,
    end: u64,
    /// Guest offset of the compressed unit that it is a part of.
    unit: Option<u64>,
}

impl Runs {
    /// Adds the extent that follows in guest order.
    pub(super) fn add(&mut self, stored: &Stored<'_>) {
        let Stored { piece, host, length } = *stored;
        let file = (piece.depth, host.file);
        let unit = match &piece.kind {
            Kind::Encoded(encoded) => Some(encoded.unit.start),
            _ => None,
        };
        let guest = piece.guest.start;
        if let Some(last) = &self.last {
            if last.file == file && unit.is_some() && last.unit == unit {
                // Another part of the same unit, which is stored once.
                return;
            }
            let in_place = last.host.checked_sub(last.guest) == host.offset.checked_sub(guest)
                && last.guest.checked_sub(last.host) == guest.checked_sub(host.offset);
            // The padding of compressed data may overlap what follows.
            let follows = host.offset <= last.end.saturating_add(MAX_GAP)
                && (host.offset >= last.end || last.unit.is_some() && host.offset > last.host);
            if last.file != file || !(in_place || follows) {
                let backward = last.file == file && host.offset < last.end;
                self.counts.backward += u64::from(backward);
                self.end_run();
            }
        }
        self.length = self.length.saturating_add(length);
        let end = host.offset.saturating_add(length);
        self.last = Some(Last { file, guest, host: host.offset, end, unit });
    }

    fn end_run(&mut self) {
        let length = std::mem::take(&mut self.length);
        let counts = &mut self.counts;
        counts.runs += 1;
        counts.stored = counts.stored.saturating_add(length);
        let class = length.max(1).ilog2() as usize;
        if counts.lengths.len() <= class {
            counts.lengths.resize(class + 1, Lengths::default());
        }
        counts.lengths[class].runs += 1;
        counts.lengths[class].bytes = counts.lengths[class].bytes.saturating_add(length);
    }

    /// Returns the counts. `guest` is the number of stored guest bytes.
    pub(super) fn finish(mut self, guest: u64, cluster_size: u64) -> Fragmentation {
        if self.last.is_some() {
            self.end_run();
        }
        let unit = if cluster_size > 1 { cluster_size } else { DEFAULT_UNIT };
        self.counts.units = guest.div_ceil(unit);
        self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::extent::Encoded;
    use crate::storage::codec::Codec;

    const K: u64 = 1 << 10;

    fn data(guest: u64, file: usize, offset: u64) -> ChainExtent {
        let kind = Kind::Data(HostOffset { file, offset });
        ChainExtent { guest: guest..guest + 64 * K, depth: 0, kind }
    }

    fn counted(extents: &[ChainExtent]) -> Fragmentation {
        let mut runs = Runs::default();
        let mut guest = 0;
        for piece in extents {
            let (host, length) = match &piece.kind {
                Kind::Data(host) => (*host, piece.len()),
                Kind::Encoded(encoded) => (encoded.host, encoded.stored.into()),
                other => panic!("{other:?}"),
            };
            guest += piece.len();
            runs.add(&Stored { piece, host, length });
        }
        runs.finish(guest, 64 * K)
    }

    #[test]
    fn extents_that_follow_each_other_are_a_run() {
        let found = counted(&[data(0, 0, 0), data(64 * K, 0, 64 * K), data(900 * K, 0, 128 * K)]);
        assert_eq!((found.runs, found.backward, found.stored), (1, 0, 192 * K));
        assert_eq!((found.mean_run(), found.sequential()), (192 * K, Some(10_000)));
        assert_eq!(found.lengths[17], Lengths { runs: 1, bytes: 192 * K });
    }

    #[test]
    fn a_raw_file_with_holes_is_a_run() {
        let found =
            counted(&[data(0, 0, 0), data(500 * K, 0, 500 * K), data(9000 * K, 0, 9000 * K)]);
        assert_eq!(found.runs, 1);
    }

    #[test]
    fn jumps_and_other_files_begin_runs() {
        let extents = [data(0, 0, 1000 * K), data(64 * K, 0, 500 * K), data(128 * K, 0, 900 * K)];
        let found = counted(&extents);
        assert_eq!((found.runs, found.backward, found.units), (3, 1, 3));
        assert_eq!(found.sequential(), Some(0));
        let found = counted(&[data(0, 0, 0), data(64 * K, 1, 64 * K)]);
        assert_eq!((found.runs, found.backward), (2, 0));
    }

    #[test]
    fn compressed_units_are_packed_and_counted_once() {
        let unit = |guest: u64, offset: u64| {
            let encoded = Encoded {
                host: HostOffset { file: 0, offset },
                stored: 1024,
                least_stored: 1,
                unit: guest..guest + 64 * K,
                codec: Codec::Deflate,
            };
            ChainExtent { guest: guest..guest + 64 * K, depth: 0, kind: Kind::Encoded(encoded) }
        };
        let whole = unit(64 * K, 700);
        let halves = [whole.clip(&(64 * K..96 * K)), whole.clip(&(96 * K..128 * K))];
        let [a, b] = halves;
        let found = counted(&[unit(0, 0), a, b, unit(128 * K, 1600)]);
        assert_eq!((found.runs, found.stored), (1, 3072));
    }

    #[test]
    fn nothing_stored_is_no_run() {
        let found = counted(&[]);
        assert_eq!((found.runs, found.mean_run(), found.sequential()), (0, 0, None));
    }
}
