//! Encoded units that the target takes as the source stores them.

use super::input::InputRun;
use crate::model::extent::{Encoded, Kind};
use crate::model::target::UnitEncoder;

/// A source may tell where an encoded unit ends in sectors only (qcow2 does).
const SECTOR: u64 = 512;

/// The encoded unit that a run consists of, if `encoder` takes it as it is: a whole unit of
/// `unit` bytes, where the target has one too.
pub(super) fn passing<'s>(
    run: &'s InputRun,
    unit: u64,
    encoder: &dyn UnitEncoder,
) -> Option<&'s Encoded> {
    let Kind::Encoded(encoded) = &run.extent.kind else { return None };
    let whole = run.at.start.is_multiple_of(unit)
        && run.at.end - run.at.start == unit
        && run.extent.guest == encoded.unit;
    (whole && encoder.passes(encoded)).then_some(encoded)
}

/// Gives encoded units their true length where the next one begins in their last sector.
/// Otherwise each would take along up to a sector of its neighbour, and the image grow with
/// every conversion.
pub(super) fn tighten(runs: &mut [InputRun]) {
    for i in 1..runs.len() {
        let (before, after) = runs.split_at_mut(i);
        let (Some(InputRun { image, extent, .. }), [next, ..]) = (before.last_mut(), after) else {
            continue;
        };
        let (Kind::Encoded(unit), Kind::Encoded(behind)) = (&mut extent.kind, &next.extent.kind)
        else {
            continue;
        };
        let one_file = *image == next.image
            && extent.depth == next.extent.depth
            && unit.place.file == behind.place.file;
        let len = behind.place.offset.saturating_sub(unit.place.offset);
        let stored = u64::from(unit.stored);
        if one_file && len > 0 && len < stored && stored - len < SECTOR {
            unit.stored = len as u32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::extent::{ChainExtent, HostOffset};
    use crate::storage::codec::Codec;

    const UNIT: u64 = 65536;

    fn encoded(index: u64, offset: u64, stored: u32) -> InputRun {
        let guest = index * UNIT..(index + 1) * UNIT;
        let unit = Encoded {
            place: HostOffset { file: 0, offset },
            stored,
            unit: guest.clone(),
            codec: Codec::Deflate,
        };
        let extent = ChainExtent { guest: guest.clone(), depth: 0, kind: Kind::Encoded(unit) };
        InputRun { at: guest, image: Some(0), extent }
    }

    fn lengths(runs: &[InputRun]) -> Vec<u32> {
        let stored = |run: &InputRun| match &run.extent.kind {
            Kind::Encoded(unit) => unit.stored,
            _ => 0,
        };
        runs.iter().map(stored).collect()
    }

    #[test]
    fn a_unit_ends_where_the_next_one_begins_in_its_last_sector() {
        let mut runs = [encoded(0, 1000, 536), encoded(1, 1100, 436), encoded(2, 5000, 120)];
        tighten(&mut runs);
        assert_eq!(lengths(&runs), [100, 436, 120], "the second one's neighbour is far off");
    }

    #[test]
    fn a_unit_that_overlaps_its_neighbour_by_more_than_a_sector_is_left_alone() {
        let mut runs = [encoded(0, 1000, 2072), encoded(1, 1100, 1972), encoded(2, 1100, 1972)];
        tighten(&mut runs);
        assert_eq!(lengths(&runs), [2072, 1972, 1972]);
    }

    #[test]
    fn units_of_other_files_are_no_neighbours() {
        let mut other = encoded(1, 1100, 436);
        other.image = Some(1);
        let mut runs = [encoded(0, 1000, 536), other];
        tighten(&mut runs);
        assert_eq!(lengths(&runs), [536, 436]);
    }
}
