//! `Convert::max_size` and `Limits::output_bytes`: an output that would take more is an error, and
//! nothing is left behind.

use diskimg::{
    Convert, Create, Error, ErrorKind, Format, Image, Limits, OpenOptions, Options, Output, Remedy,
    Report, Result,
};
use diskimg_testkit::disk::{Disk, Fill, Run};
use std::path::Path;

const DATA: u64 = 1 << 20;

/// A disk of 8 MiB with 1 MiB of data.
fn source(dir: &Path) -> Image {
    let path = dir.join("source.raw");
    let run = Run { at: 3 << 20, len: DATA, fill: Fill::Noise(5) };
    Disk { size: 8 << 20, runs: vec![run] }.write(&path);
    OpenOptions::new().format(Format::Raw).open(&path).unwrap()
}

fn options(pairs: &[(&str, &str)]) -> Options {
    let mut options = Options::default();
    for (name, value) in pairs {
        options.set(*name, *value);
    }
    options
}

#[track_caller]
fn assert_too_large(outcome: Result<Report>) {
    let error = outcome.expect_err("too large");
    assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
    assert_eq!(error.remedy(), Some(Remedy::RaiseMaxSize), "{error}");
}

#[test]
fn every_output_has_a_maximum_size() {
    let dir = tempfile::tempdir().unwrap();
    let image = source(dir.path());
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("out");
    // Metadata takes less than 1 MiB, and all of the disk 8 MiB.
    let whole = 8 << 20;
    for (format, pairs, needed) in [
        (Format::Raw, &[][..], DATA),
        (Format::Raw, &[("preallocation", "falloc")], whole),
        (Format::Raw, &[("preallocation", "full")], whole),
        (Format::Qcow2, &[], DATA),
        (Format::Qcow2, &[("data_file", "data.bin")], DATA),
        (Format::Qcow2, &[("preallocation", "full")], whole),
        (Format::Vmdk, &[], DATA),
        (Format::Vmdk, &[("subformat", "twoGbMaxExtentSparse")], DATA),
        (Format::Vmdk, &[("subformat", "streamOptimized")], DATA),
        (Format::Ova, &[], DATA),
    ] {
        let convert = |max| {
            let convert = Convert::new(image.clone()).format(format).options(options(pairs));
            convert.reflink(diskimg::Reflink::Never).max_size(max)
        };
        for max in [0, needed / 2, needed - 1] {
            assert_too_large(convert(max).run(&path));
            assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0, "{format} {pairs:?}");
        }
        convert(needed + (1 << 20))
            .run(&path)
            .unwrap_or_else(|e| panic!("{format} {pairs:?}: {e}"));
        for entry in std::fs::read_dir(out.path()).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
    }
}

#[test]
fn every_byte_of_a_pipe_counts_and_only_data_in_an_existing_image() {
    let dir = tempfile::tempdir().unwrap();
    let image = source(dir.path());
    let to_pipe = |max| {
        let convert = Convert::new(image.clone()).max_size(max);
        convert.run_to(Output::writer(std::io::sink()))
    };
    to_pipe(image.size()).unwrap();
    assert_too_large(to_pipe(image.size() - 1));
    for (format, name) in [(Format::Raw, "a.raw"), (Format::Qcow2, "a.qcow2"), (Format::Vmdk, "a")]
    {
        let path = dir.path().join(name);
        Create::new(format).size(image.size()).run(&path).unwrap();
        let existing = |max| {
            let convert = Convert::new(image.clone()).format(format).target_is_zero(true);
            convert.max_size(max).run_existing(&path)
        };
        assert_too_large(existing(DATA - 1));
        existing(DATA).unwrap_or_else(|e| panic!("{format}: {e}"));
    }
}

#[test]
fn reserved_space_counts_when_an_image_is_created() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.qcow2");
    let create = |mode, max| {
        let create = Create::new(Format::Qcow2).size(8 << 20).max_size(max);
        create.options(options(&[("preallocation", mode)])).run(&path)
    };
    for mode in ["falloc", "full"] {
        let error = create(mode, 1 << 20).expect_err("too large");
        assert_eq!(error.remedy(), Some(Remedy::RaiseMaxSize), "{error}");
        assert!(!path.exists());
        create(mode, 9 << 20).unwrap();
        std::fs::remove_file(&path).unwrap();
    }
    create("off", 1 << 20).unwrap();
}

#[test]
fn the_limit_of_the_source_applies_to_the_output() {
    let dir = tempfile::tempdir().unwrap();
    source(dir.path());
    let mut limits = Limits::default();
    limits.output_bytes = DATA - 1;
    let options = OpenOptions::new().format(Format::Raw).limits(limits);
    let image = options.open(dir.path().join("source.raw")).unwrap();
    let refused = |convert: Convert<'_>| -> Error {
        convert.reflink(diskimg::Reflink::Never).run(dir.path().join("out")).expect_err("too large")
    };
    let error = refused(Convert::new(image.clone()));
    assert_eq!(error.exceeded(), Some("output_bytes"), "{error}");
    let error = refused(Convert::new(image.clone()).max_size(5));
    assert_eq!(error.remedy(), Some(Remedy::RaiseMaxSize), "the smaller one counts");
    let error = refused(Convert::new(image).max_size(DATA));
    assert_eq!(error.exceeded(), Some("output_bytes"), "{error}");
}
