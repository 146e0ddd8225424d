//! QCOW version 1.

use crate::exercise;
use diskimg::Format;
use diskimg_testkit::qcow::{Cluster, Qcow};

/// Input: a file.
pub(crate) fn qcow(input: &[u8]) {
    exercise::image(input.to_vec(), Format::Qcow);
}

pub(crate) fn qcow_seeds() -> Vec<Vec<u8>> {
    let small = Qcow { cluster_bits: 9, l2_bits: 6, ..Qcow::new(70 * 512) };
    let image = small
        .cluster(0, Cluster::Data(0x11))
        .cluster(2, Cluster::Compressed(0x22))
        .cluster(69, Cluster::Compressed(0x69));
    let overlay = Qcow { backing: "base".into(), ..image.clone() };
    vec![image.build().file, overlay.build().file, Qcow::new(4096).build().file]
}
