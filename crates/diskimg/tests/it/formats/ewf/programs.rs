//! Images of libewf's programs, compared with what they and libewf's Python module read.

use super::{findings, our_bytes};
use diskimg::{Check, Image, OpenOptions};
use diskimg_testkit::disk::{Disk, Fill, Run};
use diskimg_testkit::ewf::Ewf;
use diskimg_testkit::oracles::{Oracle, Verdict};
use diskimg_testkit::tool::{run, sample};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The formats of `ewfacquire`, and the extensions of their segments.
const FORMATS: &[(&str, &str)] = &[
    ("ewf", "e01"),
    ("smart", "s01"),
    ("ftk", "E01"),
    ("encase2", "E01"),
    ("encase3", "E01"),
    ("encase4", "E01"),
    ("encase5", "E01"),
    ("encase6", "E01"),
    ("encase7", "E01"),
    ("linen5", "E01"),
    ("linen6", "E01"),
    ("linen7", "E01"),
    ("ewfx", "e01"),
];

/// A disk of which some chunks compress well, some do not, and some are zeros.
fn disk(size: u64) -> Disk {
    let fifth = size / 5 / 512 * 512 + 512;
    let run = |n: u64, fill| Run { at: n * fifth, len: fifth, fill };
    let runs = vec![run(0, Fill::Words(3)), run(1, Fill::Noise(5)), run(3, Fill::Byte(9))];
    Disk { size, runs }
}

/// Acquires `raw` and returns the path of the first segment.
fn acquire(raw: &Path, format: (&str, &str), options: &[&str]) -> PathBuf {
    let dir = raw.parent().unwrap();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.file_stem().is_some_and(|stem| stem == "image") {
            fs::remove_file(path).unwrap();
        }
    }
    let target = dir.join("image");
    let mut args = vec!["-u", "-q", "-f", format.0, "-t", target.to_str().unwrap()];
    args.extend(options);
    args.push(raw.to_str().unwrap());
    run("ewfacquire", args);
    let path = target.with_extension(format.1);
    assert!(path.exists(), "{format:?} {options:?}");
    path
}

#[test]
fn every_format_and_compression_of_libewf_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("disk.raw");
    let cases = FORMATS.iter().flat_map(|format| {
        ["none", "fast", "empty-block", "best"].map(|compression| (*format, compression))
    });
    for (number, (format, compression)) in sample(cases, 5).enumerate() {
        // Of one segment, or of several.
        let disk = disk([3 << 20, 700 * 512, 512][number % 3]);
        disk.write(&raw);
        let sectors = ["16", "64", "1024"][number / 3 % 3];
        let options = ["-c", compression, "-b", sectors, "-S", "1MiB", "-d", "sha1"];
        let path = acquire(&raw, format, &options);
        let what = format!("{format:?} {options:?}");
        assert!(our_bytes(&path) == disk.bytes(), "{what}");
        assert_eq!(findings(&path), [""; 0], "{what}");
        let image = Image::open(&path).unwrap();
        assert_eq!(image.warnings().count(), 0, "{what}");
        // Of some formats, libewf records the SHA-1 as well.
        let report = Check::new(&image).run(&mut |found| panic!("{what}: {found:?}")).unwrap();
        let report = report.unwrap();
        assert!(matches!(report.recorded_digests, Some(1..=3)), "{what}: {report:?}");
        assert_eq!(report.recorded_digests, Some(report.verified_digests), "{what}");
        let verdict = Oracle::Libyal.compare("ewf", &path, &disk);
        assert!(matches!(verdict, Verdict::Same | Verdict::NotInstalled), "{what}: {verdict}");
    }
}

#[test]
fn what_ewfexport_reads_of_a_stream_is_what_we_read() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("disk.raw");
    let disk = disk(2 << 20);
    disk.write(&raw);
    let target = dir.path().join("image");
    let status = Command::new("ewfacquirestream")
        .args(["-q", "-c", "fast", "-C", "case 5", "-t"])
        .arg(&target)
        .stdin(File::open(&raw).unwrap())
        .stdout(Stdio::null())
        .status();
    assert!(status.unwrap().success());
    let path = target.with_extension("E01");
    let exported = dir.path().join("exported");
    let args = ["-u", "-q", "-f", "raw", "-t"].map(str::to_owned).into_iter();
    let files = [&exported, &path].map(|path| path.to_str().unwrap().to_owned());
    run("ewfexport", args.chain(files).collect::<Vec<_>>());
    assert!(our_bytes(&path) == fs::read(exported.with_extension("raw")).unwrap());
    assert!(our_bytes(&path) == disk.bytes());
    let info = OpenOptions::new().open(&path).unwrap().info(0).unwrap();
    let specific = info.format_specific.unwrap().data;
    assert!(specific.contains(&("case-number", "case 5".into())), "{specific:?}");
    assert!(run("ewfverify", ["-q", path.to_str().unwrap()]).contains("SUCCESS"));
}

/// The testkit's images are those of libewf, too.
#[test]
fn libewf_reads_what_the_tests_build() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(2 << 20);
    let image = Ewf { table_chunks: 7, segment_tables: 4, ..Ewf::new(disk.bytes()) };
    let path = super::write(dir.path(), "disk", &image.build());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    assert!(our_bytes(&path) == disk.bytes());
    let verdict = Oracle::Libyal.compare("ewf", &path, &disk);
    assert!(matches!(verdict, Verdict::Same | Verdict::NotInstalled), "{verdict}");
    let info = run("ewfinfo", [path.to_str().unwrap()]);
    assert!(info.contains("33323130-3534-3736-3839-616263646566"), "{info}");
}
