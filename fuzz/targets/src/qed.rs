//! QED.

use crate::exercise;
use diskimg::Format;
use diskimg_testkit::qed::{BACKING_FILE, Cluster, Qed};

/// Input: a file.
pub(crate) fn qed(input: &[u8]) {
    exercise::image(input.to_vec(), Format::Qed);
}

pub(crate) fn qed_seeds() -> Vec<Vec<u8>> {
    let image = Qed::new(5 * 4096 + 512)
        .cluster(0, Cluster::Data(0x11))
        .cluster(2, Cluster::Zero)
        .cluster(5, Cluster::Data(0x55));
    let overlay = Qed { features: BACKING_FILE, backing: "base".into(), ..image.clone() };
    let two = Qed { table_size: 2, size: 1025 * 4096, ..image.clone() };
    vec![
        image.build(),
        overlay.build(),
        two.cluster(1024, Cluster::Data(0x66)).build(),
        Qed::new(4096).build(),
    ]
}
