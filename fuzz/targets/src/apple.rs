//! Apple's sparse images.

use crate::exercise;
use crate::scatter::Scatter;
use diskimg::Format;
use diskimg_testkit::asif::Asif;
use diskimg_testkit::sparsebundle::SparseBundle;
use diskimg_testkit::sparseimage::SparseImage;

/// Input: a file.
pub(crate) fn sparseimage(input: &[u8]) {
    exercise::image(input.to_vec(), Format::Sparseimage);
}

pub(crate) fn sparseimage_seeds() -> Vec<Vec<u8>> {
    let small = || SparseImage::new(20 * 1024 + 512, 2);
    let mut with_node = SparseImage::new(1100 * 512, 1);
    for index in 0..1010 {
        with_node = with_node.band(1050 - index, index as u8);
    }
    vec![
        small().band(3, 3).band(1, 1).unused().band(20, 2).build(),
        small().band(3, 3).band(3, 4).band(21, 5).build(),
        SparseImage { sectors: 1 << 53, ..small() }.band(7, 7).build(),
        with_node.build(),
    ]
}

/// Input: the property list. There are no bands, because that is the only file.
pub(crate) fn sparsebundle(input: &[u8]) {
    exercise::image(input.to_vec(), Format::Sparsebundle);
}

pub(crate) fn sparsebundle_seeds() -> Vec<Vec<u8>> {
    let plist = SparseBundle::new(1 << 30, 8 << 20).plist();
    let other = plist.replace("<!DOCTYPE", "<!-- -->\n<!DOCTYPE").replace('\n', "\r\n");
    let marked = format!("\u{feff}{plist}\0");
    vec![plist.into_bytes(), other.into_bytes(), marked.into_bytes()]
}

/// The smallest chunks of which one has room for a group.
const CHUNK: usize = 32 << 10;

/// The header, the directories, the first entries of the table, that of the bitmap, and the start
/// of the bitmap.
const SECTORS: Scatter<'static> = Scatter {
    sector_bytes: 128,
    sectors: &[0, 4, 8, CHUNK / 128, CHUNK / 128 + 128, 4 * CHUNK / 128],
};

fn asif_image() -> Asif {
    let new = Asif { chunk_bytes: CHUNK as u32, ..Asif::new(10 * CHUNK as u64 - 512) };
    new.full(3, 3).partial(0, &[0, 1, 5, 63], 1, 0xee).full(9, 9)
}

/// Input: what of an image is not data.
pub(crate) fn asif(input: &[u8]) {
    exercise::image(SECTORS.put(&asif_image().build(), input), Format::Asif);
}

pub(crate) fn asif_seeds() -> Vec<Vec<u8>> {
    let with = |entry: u64| asif_image().entry(5, entry);
    let images = [
        asif_image(),
        with(1 << 62 | 2),
        with(2 << 62 | 3),
        with(1 << 62 | 1 << 50),
        Asif { sequences: [7, 7], ..asif_image() },
        Asif { states: [(2, 2)].into(), ..asif_image() },
    ];
    images.iter().map(|image| SECTORS.take(&image.build())).collect()
}
