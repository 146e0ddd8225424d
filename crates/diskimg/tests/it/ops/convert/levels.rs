//! Compression levels.

use diskimg::{Convert, ErrorKind, Format, OpenOptions, Options};
use diskimg_testkit::disk::{Disk, Fill, Run};
use diskimg_testkit::tool::{assert_qemu_check, assert_qemu_same};
use std::path::Path;

/// Different texts, in which a longer search for matches saves space, and incompressible noise.
fn sample() -> Disk {
    let run = |i: u64| {
        let fill = if i.is_multiple_of(8) { Fill::Noise(i) } else { Fill::Words(i) };
        Run { at: i * 40_000, len: 30_000, fill }
    };
    Disk { size: 4 << 20, runs: (0..100).map(run).collect() }
}

fn compressed(raw: &Path, out: &Path, format: Format, options: &str) -> diskimg::Result<u64> {
    let image = OpenOptions::new().format(Format::Raw).open(raw)?;
    let convert = Convert::new(image).format(format).options(Options::parse(options)?);
    Ok(convert.compress(true).run(out)?.stored_bytes)
}

#[test]
fn every_level_of_every_codec_decodes_to_the_same_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, out) = (dir.path().join("raw"), dir.path().join("out"));
    sample().write(&raw);
    for (format, options, max) in [
        (Format::Qcow2, "compression_type=zlib", 9),
        (Format::Qcow2, "compression_type=zstd", 19),
        (Format::Vmdk, "subformat=streamOptimized", 9),
    ] {
        let mut sizes = Vec::new();
        for level in 1..=max {
            let options = format!("{options},compression_level={level}");
            sizes.push(compressed(&raw, &out, format, &options).unwrap());
            assert_qemu_same(&raw, "raw", &out, format.name());
            if format == Format::Qcow2 {
                assert_qemu_check(&out, "qcow2");
            }
        }
        assert!(sizes.last() < sizes.first(), "{options}: {sizes:?}");
        let default = compressed(&raw, &out, format, options).unwrap();
        assert!(sizes.contains(&default), "{options}: {default} is not in {sizes:?}");
    }
}

#[test]
fn levels_out_of_range_or_without_compression_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, out) = (dir.path().join("raw"), dir.path().join("out"));
    sample().write(&raw);
    for (format, options) in [
        (Format::Qcow2, "compression_level=0"),
        (Format::Qcow2, "compression_level=10"),
        (Format::Qcow2, "compression_type=zstd,compression_level=20"),
        (Format::Qcow2, "compression_level=fast"),
        (Format::Vmdk, "compression_level=10"),
        (Format::Vmdk, "subformat=monolithicSparse,compression_level=1"),
        (Format::Ova, "compression_level=0"),
    ] {
        let error = compressed(&raw, &out, format, options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{options}: {error}");
        assert!(!out.exists(), "{options}");
    }
    let image = OpenOptions::new().format(Format::Raw).open(&raw).unwrap();
    let options = Options::parse("compression_level=1").unwrap();
    let error = Convert::new(image).format(Format::Qcow2).options(options).run(&out).unwrap_err();
    assert!(error.to_string().contains("compression_level requires compression"), "{error}");
}
