//! Images with raw sectors.

use diskimg::iso::{IsoImage, IsoOptions};
use diskimg::storage::source::MemorySource;
use diskimg_testkit::tool::run;
use std::sync::Arc;

/// Returns a raw sector with sync and header, in mode 1 or mode 2 form 1, without checksums.
fn raw(sector: &[u8], mode: u8) -> Vec<u8> {
    let mut raw = [&[0][..], &[255; 10], &[0, 0, 2, 0, mode]].concat();
    if mode == 2 {
        raw.extend([0, 0, 8, 0, 0, 0, 8, 0]);
    }
    raw.extend(sector);
    raw.resize(2352, 0);
    raw
}

#[test]
fn an_image_with_raw_sectors_has_the_same_files() {
    let dir = tempfile::tempdir().unwrap();
    let bytes: Vec<u8> = (0..100_001u32).map(|n| (n / 11) as u8).collect();
    std::fs::write(dir.path().join("file"), &bytes).unwrap();
    let (image, file) = (dir.path().join("image.iso"), dir.path().join("file"));
    run("genisoimage", ["-quiet", "-R", "-o", image.to_str().unwrap(), file.to_str().unwrap()]);
    let plain = std::fs::read(&image).unwrap();
    for mode in [1, 2] {
        let raw: Vec<u8> = plain.chunks(2048).flat_map(|sector| raw(sector, mode)).collect();
        let source = Arc::new(MemorySource::new(raw));
        let image = IsoImage::open(source, &IsoOptions::default()).unwrap();
        let contents = image.contents(&image.lookup(b"file").unwrap()).unwrap();
        let mut read = vec![0; bytes.len()];
        contents.read_exact_at(&mut read, 0).unwrap();
        assert!(read == bytes, "mode {mode}");
    }
}
