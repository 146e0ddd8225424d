//! Images with raw sectors.

use diskimg::iso::{IsoImage, IsoOptions};
use diskimg::storage::source::MemorySource;
use diskimg::{Convert, Format, Image, InspectOptions, OpenOptions, inspect};
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

#[test]
fn a_copy_of_a_disc_in_raw_sectors_converts_to_the_image_in_them() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), [7; 50_000]).unwrap();
    let (iso, file) = (dir.path().join("image.iso"), dir.path().join("file"));
    run("genisoimage", ["-quiet", "-R", "-o", iso.to_str().unwrap(), file.to_str().unwrap()]);
    let plain = std::fs::read(&iso).unwrap();
    for (mode, skip, len) in [(1, 0, 2352), (2, 0, 2352), (1, 0, 2448), (2, 16, 2352)] {
        let of_sector = |sector| {
            let mut raw = raw(sector, mode);
            raw.resize(len, 0);
            raw.split_off(skip)
        };
        let mut bytes: Vec<u8> = plain.chunks(2048).flat_map(of_sector).collect();
        if skip == 0 {
            // An audio track.
            bytes.resize(bytes.len() + 20 * len, 0x33);
        }
        let bin = dir.path().join("disc.bin");
        std::fs::write(&bin, bytes).unwrap();
        let image = Image::open(&bin).unwrap();
        assert_eq!((image.format(), image.size()), (Format::Iso, plain.len() as u64));
        let json = serde_json::to_string(&image.info(0).unwrap()).unwrap();
        assert!(json.contains(&format!("\"raw-sectors\":\"{} bytes", len - skip)), "{json}");
        let out = dir.path().join("out.iso");
        Convert::new(image).format(Format::Iso).run(&out).unwrap();
        assert!(std::fs::read(&out).unwrap() == plain, "mode {mode}, {len} bytes");
        let found = inspect(&bin, &InspectOptions::new()).unwrap();
        assert_eq!((found.format, found.virtual_size), ("iso", Some(plain.len() as u64)));
        assert!(found.is_safe(), "{:?}", found.findings);
        let error = Convert::new(Image::open(&bin).unwrap()).run(&bin).unwrap_err();
        assert!(error.to_string().contains("own files"), "{error}");
        let raw = OpenOptions::new().format(Format::Raw).open(&bin).unwrap();
        assert_eq!(raw.size(), std::fs::metadata(&bin).unwrap().len());
    }
}

#[test]
fn a_truncated_image_is_read_with_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a"), [7; 50_000]).unwrap();
    std::fs::write(dir.path().join("z"), [8; 50_000]).unwrap();
    let iso = dir.path().join("image.iso");
    let files = ["a", "z"].map(|name| dir.path().join(name).to_str().unwrap().to_owned());
    let args =
        ["-quiet", "-R", "-udf", "-no-pad", "-o", iso.to_str().unwrap(), &files[0], &files[1]];
    run("genisoimage", args);
    let whole = std::fs::read(&iso).unwrap();
    let image = Image::open(&iso).unwrap();
    assert_eq!(image.warnings().count(), 0);
    std::fs::write(&iso, &whole[..whole.len() - 30_000]).unwrap();
    let image = Image::open(&iso).unwrap();
    let warnings: Vec<_> = image.warnings().collect();
    assert!(warnings.len() == 1 && warnings[0].contains("it is truncated"), "{warnings:?}");
    assert!(image.info(0).unwrap().notes.iter().any(|note| note.contains("it is truncated")));
    let report = Convert::new(image).run(dir.path().join("out")).unwrap();
    assert_eq!(report.warnings.len(), 1);
    let source = Arc::new(MemorySource::new(whole[..whole.len() - 30_000].to_vec()));
    let image = IsoImage::open(source, &IsoOptions::default()).unwrap();
    assert!(image.truncated().unwrap().message.contains("it is truncated"));
    let contents = image.contents(&image.lookup(b"a").unwrap()).unwrap();
    contents.read_exact_at(&mut [0; 50_000], 0).unwrap();
}
