//! Parallels.

use crate::exercise;
use diskimg::Format;
use diskimg_testkit::parallels::{Bundle, Feature, IN_USE, NIL, Parallels, TOP, md5};

/// Input: a file, in which the digest of the format extension is corrected; or a descriptor.
pub(crate) fn parallels(input: &[u8]) {
    let mut file = input.to_vec();
    let number = |at: usize, len: usize| {
        let mut bytes = [0; 8];
        bytes[..len].copy_from_slice(file.get(at..at + len)?);
        usize::try_from(u64::from_le_bytes(bytes).checked_mul(512)?).ok()
    };
    if let (Some(cluster), Some(at)) = (number(28, 4), number(56, 8))
        && let Some(end) = at.checked_add(cluster)
        && let Some(extension) = file.get_mut(at..end).filter(|cluster| cluster.len() > 24)
    {
        let digest = md5(&extension[24..]);
        extension[8..24].copy_from_slice(&digest);
    }
    exercise::image(file, Format::Parallels);
}

pub(crate) fn parallels_seeds() -> Vec<Vec<u8>> {
    let features = vec![
        Feature::bitmap(40, 8, [7; 16]),
        Feature { magic: 5, flags: 3, data: b"unknown".to_vec() },
    ];
    let small = |image: Parallels| Parallels { cluster_sectors: 1, ..image };
    let bundle = Bundle::new(40).storage(0, 40, &[(TOP, "Compressed", "a.hds")]).shot(TOP, NIL);
    vec![
        small(Parallels::new(9)).cluster(8, 8).cluster(1, 1).build(),
        small(Parallels { in_use: IN_USE, ..Parallels::old(9, 1) }).cluster(3, 3).build(),
        Parallels::old(130, 63).cluster(2, 2).build(),
        small(Parallels { features: Some(features), ..Parallels::new(40) }).cluster(5, 5).build(),
        bundle.descriptor().into_bytes(),
    ]
}
