//! Compressed units that are copied to the target as the source stores them.

use super::input::InputRun;
use crate::model::extent::{Encoded, Kind};
use crate::model::target::UnitEncoder;

/// The granularity in which a source may record the length of a compressed unit (qcow2 does).
const SECTOR: u64 = 512;

/// Returns the compressed unit that `run` consists of, if `encoder` accepts it as stored. The unit
/// must coincide with one cluster of the target, which has `cluster_size` bytes.
pub(super) fn passing<'s>(
    run: &'s InputRun,
    cluster_size: u64,
    encoder: &dyn UnitEncoder,
) -> Option<&'s Encoded> {
    let Kind::Encoded(encoded) = &run.extent.kind else { return None };
    let whole = run.at.start.is_multiple_of(cluster_size)
        && run.at.end - run.at.start == cluster_size
        && run.extent.guest == encoded.unit;
    (whole && encoder.passes(encoded)).then_some(encoded)
}

/// Sets the length of a compressed unit to its true length where the next unit starts in its last
/// sector. Otherwise up to a sector of the next unit would be copied with it, and the image would
/// grow with every conversion.
pub(super) fn trim_lengths(runs: &mut [InputRun]) {
    for i in 1..runs.len() {
        let (before, after) = runs.split_at_mut(i);
        let (Some(InputRun { image, extent, .. }), [next, ..]) = (before.last_mut(), after) else {
            continue;
        };
        let (Kind::Encoded(unit), Kind::Encoded(following)) = (&mut extent.kind, &next.extent.kind)
        else {
            continue;
        };
        let same_file = *image == next.image
            && extent.depth == next.extent.depth
            && unit.host.file == following.host.file;
        let len = following.host.offset.saturating_sub(unit.host.offset);
        let stored = u64::from(unit.stored);
        if same_file && len > 0 && len < stored && stored - len < SECTOR {
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
            host: HostOffset { file: 0, offset },
            stored,
            least_stored: 0,
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
    fn a_unit_is_trimmed_where_the_next_one_starts_in_its_last_sector() {
        let mut runs = [encoded(0, 1000, 536), encoded(1, 1100, 436), encoded(2, 5000, 120)];
        trim_lengths(&mut runs);
        assert_eq!(lengths(&runs), [100, 436, 120], "the third unit is not adjacent to the second");
    }

    #[test]
    fn a_unit_that_overlaps_the_next_by_more_than_a_sector_is_not_trimmed() {
        let mut runs = [encoded(0, 1000, 2072), encoded(1, 1100, 1972), encoded(2, 1100, 1972)];
        trim_lengths(&mut runs);
        assert_eq!(lengths(&runs), [2072, 1972, 1972]);
    }

    #[test]
    fn units_in_different_files_are_not_trimmed() {
        let mut other = encoded(1, 1100, 436);
        other.image = Some(1);
        let mut runs = [encoded(0, 1000, 536), other];
        trim_lengths(&mut runs);
        assert_eq!(lengths(&runs), [536, 436]);
    }
}
