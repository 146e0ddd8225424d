//! cloop.

use crate::exercise;
use diskimg::Format;
use diskimg_testkit::cloop::{Cloop, set_entry};

/// Input: a file.
pub(crate) fn cloop(input: &[u8]) {
    exercise::image(input.to_vec(), Format::Cloop);
}

pub(crate) fn cloop_seeds() -> Vec<Vec<u8>> {
    let disk: Vec<u8> = (0..10_000u32).map(|at| (at / 96 * (at % 5)) as u8).collect();
    let mut overlapping = Cloop::new(1024, disk.clone()).build();
    set_entry(&mut overlapping, 3, 200);
    vec![
        Cloop::new(1024, disk.clone()).build(),
        Cloop { gap: 100, ..Cloop::new(512 * 3, disk.clone()) }.build(),
        Cloop { script: "#!/bin/sh\n#V2.0 Format\nother".into(), ..Cloop::new(4096, disk) }.build(),
        Cloop::new(512, Vec::new()).build(),
        overlapping,
    ]
}
