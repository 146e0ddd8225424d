//! Verification (`verify`), which reads the output back before it is renamed, and digests.

use diskimg::storage::source::{MemorySource, Segment, SourceError};
use diskimg::{
    Backing, Convert, DigestAlgorithm, ErrorKind, Format, Image, OpenOptions, Options, Output,
    Report, Source,
};
use diskimg_testkit::disk::{Disk, Fill, Run};
use diskimg_testkit::tool::run;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Text and noise with zeros between them, and an incomplete last sector.
fn sample() -> Disk {
    let run = |at, len, fill| Run { at, len, fill };
    Disk {
        size: (3 << 20) + 700,
        runs: vec![
            run(100, 300_000, Fill::Words(1)),
            run(1 << 20, 200_000, Fill::Noise(2)),
            run((3 << 20) - 5000, 5700, Fill::Words(3)),
        ],
    }
}

/// Format, create options, compressed.
const TARGETS: [(Format, &str, bool); 15] = [
    (Format::Raw, "", false),
    (Format::Raw, "preallocation=full", false),
    (Format::Qcow2, "", false),
    (Format::Qcow2, "compat=0.10,cluster_size=512", false),
    (Format::Qcow2, "extended_l2=on,cluster_size=16k", false),
    (Format::Qcow2, "", true),
    (Format::Qcow2, "compression_type=zstd", true),
    (Format::Qcow2, "data_file=guest.bin", false),
    (Format::Vmdk, "subformat=monolithicSparse", false),
    (Format::Vmdk, "subformat=monolithicFlat", false),
    (Format::Vmdk, "subformat=twoGbMaxExtentSparse", false),
    (Format::Vmdk, "subformat=twoGbMaxExtentFlat", false),
    (Format::Vmdk, "subformat=streamOptimized", false),
    (Format::Vmdk, "subformat=vmfs", false),
    (Format::Ova, "", false),
];

fn raw(path: &Path) -> Image {
    OpenOptions::new().format(Format::Raw).open(path).unwrap()
}

fn converted(image: Image, (format, options, compress): (Format, &str, bool)) -> Convert<'static> {
    let options = Options::parse(options).unwrap();
    Convert::new(image).format(format).options(options).compress(compress)
}

/// Returns the digest that sha256sum prints.
fn sha256(path: &Path) -> String {
    run("sha256sum", [path])[..64].to_owned()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn every_output_verifies_and_has_the_digests_that_sha256sum_prints() {
    for target in TARGETS {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        sample().write(&path("a"));
        // Existing files must not be mistaken for the output.
        std::fs::write(path("guest.bin"), "old").unwrap();
        std::fs::write(path("b-flat.vmdk"), "old").unwrap();
        let convert = converted(raw(&path("a")), target);
        let report = convert.verify(true).digest(DigestAlgorithm::Sha256).run(path("b.vmdk"));
        let report: Report = report.unwrap_or_else(|e| panic!("{target:?}: {e}"));
        assert!(report.verified);
        let digests = report.digests.unwrap();
        let mut padded = sample().bytes();
        if target.0 != Format::Raw {
            padded.resize(padded.len().next_multiple_of(512), 0);
        }
        std::fs::write(path("guest"), padded).unwrap();
        assert_eq!(digests.guest, sha256(&path("guest")), "{target:?}");
        assert_eq!(digests.files[0].path, path("b.vmdk"));
        for file in &digests.files {
            assert_eq!(file.digest, sha256(&file.path), "{target:?}: {file:?}");
        }
        let several = target.1.contains("data_file")
            || target.1.contains("Flat")
            || target.1.contains("twoGb")
            || target.1.contains("vmfs");
        assert_eq!(digests.files.len() > 1, several, "{target:?}");
    }
}

#[test]
fn damage_on_the_way_to_the_disk_is_found_and_replaces_no_file() {
    for target in TARGETS {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        sample().write(&path("a"));
        std::fs::write(path("b.vmdk"), "the old one").unwrap();
        let before = names(dir.path());
        // Damages the temporary files after everything is written and before they are renamed:
        // progress is complete for the first time when all data is placed, for the second time when
        // it is flushed.
        let completions = AtomicU64::new(0);
        let damage = |progress: diskimg::Progress| {
            if progress.done < progress.total || completions.fetch_add(1, Ordering::Relaxed) != 1 {
                return ControlFlow::Continue(());
            }
            for name in names(dir.path()).iter().filter(|name| name.ends_with("-tmp")) {
                let file =
                    std::fs::File::options().read(true).write(true).open(path(name)).unwrap();
                let bytes = std::fs::read(path(name)).unwrap();
                // Within data, not in holes or padding.
                let data = (bytes.len() / 64..bytes.len())
                    .filter(|&at| bytes[at..].iter().take(32).all(|&byte| byte != 0));
                for at in data.step_by(5003) {
                    file.write_all_at(&[!bytes[at]], at as u64).unwrap();
                }
            }
            ControlFlow::Continue(())
        };
        let convert = || converted(raw(&path("a")), target);
        let error = convert().verify(true).progress(&damage).run(path("b.vmdk")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{target:?}: {error}");
        assert!(error.to_string().contains("b.vmdk"), "{error}");
        assert_eq!(names(dir.path()), before, "{target:?}");
        assert_eq!(std::fs::read(path("b.vmdk")).unwrap(), b"the old one");
        completions.store(0, Ordering::Relaxed);
        convert()
            .progress(&damage)
            .run(path("b.vmdk"))
            .expect("unverified output is not read back");
    }
}

#[test]
fn chains_joined_images_appliances_and_existing_targets_verify_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::create_dir(path("elsewhere")).unwrap();
    sample().write(&path("a"));
    let mut base = sample();
    base.runs.remove(1);
    base.write(&path("base"));
    converted(raw(&path("base")), (Format::Qcow2, "", false))
        .run(path("elsewhere/base.qcow2"))
        .unwrap();
    let a = || Convert::new(raw(&path("a")));
    // The default policy would refuse this backing file when the output is opened.
    let backing = Backing::new(path("elsewhere/base.qcow2").to_str().unwrap()).with_format("qcow2");
    let over = a().format(Format::Qcow2).backing(backing).verify(true).run(path("b")).unwrap();
    assert!(over.verified && over.stored_bytes < 300_000, "{over:?}");

    let joined = a().append(raw(&path("base"))).format(Format::Qcow2);
    assert!(joined.verify(true).run(path("b")).unwrap().verified);
    let disks = a().append(raw(&path("base"))).format(Format::Ova);
    assert!(disks.verify(true).run(path("b.ova")).unwrap().verified);

    std::fs::write(path("large"), vec![7; 4 << 20]).unwrap();
    assert!(a().verify(true).run_existing(path("large")).unwrap().verified);
    run("qemu-img", ["create", "-q", "-f", "qcow2", path("q").to_str().unwrap(), "5M"]);
    let exists = a().format(Format::Qcow2).verify(true).run_existing(path("q"));
    assert!(exists.unwrap().verified);
}

#[test]
fn verifying_output_to_a_pipe_is_an_error() {
    let image = OpenOptions::new().open_source(Arc::new(MemorySource::new([1; 4096])), "a");
    let convert = Convert::new(image.unwrap()).verify(true);
    let error = convert.run_to(Output::writer(io::sink())).unwrap_err();
    assert_eq!(error.io_error().unwrap().kind(), io::ErrorKind::Unsupported);
    assert!(format!("{error:#}").contains("cannot be read again"), "{error:#}");
}

#[test]
fn output_to_a_pipe_has_a_guest_digest_but_no_file_digests() {
    let image = OpenOptions::new().open_source(Arc::new(MemorySource::new(*b"abc")), "a");
    let convert = Convert::new(image.unwrap()).digest(DigestAlgorithm::Sha256);
    let digests = convert.run_to(Output::writer(io::sink())).unwrap().digests.unwrap();
    assert!(digests.guest.starts_with("ba7816bf8f01cfea"), "{digests:?}");
    assert_eq!(digests.files, []);
}

/// A source whose bytes from an offset on cannot be read.
#[derive(Debug)]
struct PartlyUnreadable(MemorySource, u64);

impl Source for PartlyUnreadable {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), SourceError> {
        if offset + buf.len() as u64 > self.1 {
            return Err(io::Error::other("bad sector").into());
        }
        self.0.read_exact_at(buf, offset)
    }
}

#[test]
fn a_salvaged_disk_verifies_except_for_the_lost_ranges() {
    let dir = tempfile::tempdir().unwrap();
    let source = PartlyUnreadable(MemorySource::new(sample().bytes()), (1 << 20) + 12_345);
    let image = OpenOptions::new().format(Format::Raw).open_source(Arc::new(source), "damaged");
    let convert = Convert::new(image.unwrap()).format(Format::Qcow2).salvage(true).verify(true);
    let report = convert.run(dir.path().join("b")).unwrap();
    assert!(report.verified && !report.salvaged.is_empty());
}

/// A source that returns different bytes on every read.
#[derive(Debug)]
struct Changing(AtomicU64);

impl Source for Changing {
    fn len(&self) -> u64 {
        65536
    }

    fn read_exact_at(&self, buf: &mut [u8], _: u64) -> Result<(), SourceError> {
        buf.fill(self.0.fetch_add(1, Ordering::Relaxed) as u8);
        Ok(())
    }

    fn segment_at(&self, _: u64) -> Result<Segment, SourceError> {
        Ok(Segment { end: 65536, hole: false })
    }
}

#[test]
fn a_source_that_changes_during_the_conversion_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let image = OpenOptions::new()
        .format(Format::Raw)
        .open_source(Arc::new(Changing(2.into())), "changing");
    let convert = Convert::new(image.unwrap()).threads(1).verify(true);
    let error = convert.run(dir.path().join("b")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert_eq!(names(dir.path()), <[&str; 0]>::default());
}

#[test]
fn the_guest_digest_does_not_depend_on_how_the_bytes_are_copied() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    // Large enough that a part is copied by the kernel and that there is a large hole.
    let run = |at, len, fill| Run { at, len, fill };
    let mut disk = sample();
    disk.size = 200 << 20;
    disk.runs.push(run(150 << 20, 3 << 20, Fill::Words(4)));
    disk.write(&path("a"));
    let compressed = (Format::Qcow2, "", true);
    converted(raw(&path("a")), compressed).run(path("c")).unwrap();
    let expected = blake3::hash(&disk.bytes()).to_hex().to_string();
    let packed = || OpenOptions::new().format(Format::Qcow2).open(path("c")).unwrap();
    let passing = converted(packed(), compressed).digest(DigestAlgorithm::Blake3);
    let passing = passing.run(path("b")).unwrap();
    assert!(passing.passed_bytes > 0);
    let plain = || Convert::new(raw(&path("a"))).digest(DigestAlgorithm::Blake3);
    let digest = |report: Report| report.digests.unwrap().guest;
    let reports = [
        digest(passing),
        digest(plain().threads(1).run(path("b")).unwrap()),
        digest(plain().threads(5).run(path("b")).unwrap()),
        // Copied by the kernel without being read.
        digest(plain().offload(true).run(path("b")).unwrap()),
        digest(plain().sparse(diskimg::Sparse::Off).run(path("b")).unwrap()),
    ];
    assert!(reports.iter().all(|digest| *digest == expected), "{reports:?}");
}
