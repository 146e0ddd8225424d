//! Raw disks written to compressed files.

use diskimg::storage::output::Output;
use diskimg::{Convert, Create, ErrorKind, Format, Image, OpenOptions, Options};
use diskimg_testkit::disk::{Disk, Fill, Run};
use diskimg_testkit::tool::run;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

const SUBFORMATS: [&str; 2] = ["gzip", "zstd"];

fn options(text: &str) -> Options {
    Options::parse(text).unwrap()
}

fn source(disk: &Disk, dir: &Path) -> Image {
    let raw = dir.join("source.raw");
    disk.write(&raw);
    OpenOptions::new().format(Format::Raw).open(&raw).unwrap()
}

fn write(image: &Image, subformat: &str, threads: usize, path: &Path) {
    let options = options(&format!("subformat={subformat}"));
    Convert::new(image.clone()).options(options).threads(threads).verify(true).run(path).unwrap();
}

/// Decompresses a file with the program that defines its format.
fn unpacked(subformat: &str, path: &Path) -> Vec<u8> {
    let program = if subformat == "zstd" { "zstd" } else { "gzip" };
    let stored = std::fs::File::open(path).unwrap();
    let output = Command::new(program).args(["-d", "-c"]).stdin(stored).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Disks of which every kind of content begins and ends within parts and at their borders.
fn disks() -> Vec<Disk> {
    let run = |at, len, fill| Run { at, len, fill };
    vec![
        Disk { size: 1, runs: vec![run(0, 1, Fill::Noise(1))] },
        Disk { size: 65_535, runs: vec![run(0, 65_535, Fill::Noise(2))] },
        Disk { size: 65_536, runs: vec![run(0, 65_536, Fill::Noise(3))] },
        Disk { size: 3 << 20, runs: vec![] },
        Disk { size: (3 << 20) + 777, runs: vec![run(3 << 20, 777, Fill::Words(4))] },
        Disk {
            size: (9 << 20) + 512,
            runs: vec![
                run(0, 65_537, Fill::Words(5)),
                run((1 << 20) - 100, 200, Fill::Noise(6)),
                run(2 << 20, (3 << 20) + 12_345, Fill::Noise(7)),
                run(8 << 20, 1 << 20, Fill::Words(8)),
            ],
        },
    ]
}

#[test]
fn every_program_for_the_compression_reads_what_is_written() {
    for disk in disks() {
        for subformat in SUBFORMATS {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("packed");
            write(&source(&disk, dir.path()), subformat, 3, &path);
            assert!(unpacked(subformat, &path) == disk.bytes(), "{subformat}, {}", disk.size);
            if subformat == "gzip" {
                run("bgzip", ["-t", path.to_str().unwrap()]);
            }
        }
    }
}

/// A writer whose bytes can be read later.
#[derive(Clone, Default)]
struct Pipe(Arc<Mutex<Vec<u8>>>);

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Zeros between data must not be written before the data.
#[test]
fn a_pipe_gets_the_same_bytes_as_a_file() {
    for disk in disks() {
        for subformat in ["gzip", "zstd", "gce"] {
            let dir = tempfile::tempdir().unwrap();
            let image = source(&disk, dir.path());
            // Units of 2 MiB, which are longer than a part.
            let qcow2 = dir.path().join("source.qcow2");
            let convert = Convert::new(image.clone()).format(Format::Qcow2).compress(true);
            convert.options(options("cluster_size=2M")).run(&qcow2).unwrap();
            let path = dir.path().join("packed");
            write(&image, subformat, 2, &path);
            for image in [image, Image::open(&qcow2).unwrap()] {
                let pipe = Pipe::default();
                let options = options(&format!("subformat={subformat},size={}", disk.size));
                let convert = Convert::new(image).options(options).threads(2);
                // A qcow2 image has whole sectors.
                if disk.size.is_multiple_of(512) {
                    convert.run_to(Output::writer(pipe.clone())).unwrap();
                    let written = pipe.0.lock().unwrap();
                    assert!(
                        *written == std::fs::read(&path).unwrap(),
                        "{subformat}, {}",
                        disk.size
                    );
                }
            }
        }
    }
}

/// The ratio of zeros exceeds any limit for what is decompressed to a temporary file.
#[test]
fn a_disk_of_many_zeros_can_be_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.zst");
    let create = Create::new(Format::Raw).size(8 << 30).options(options("subformat=zstd"));
    create.run(&path).unwrap();
    let len = std::fs::metadata(&path).unwrap().len();
    assert!(len * diskimg::Limits::default().expansion < 8 << 30, "{len}");
    let image = Image::open(&path).unwrap();
    assert_eq!(image.size(), 8 << 30);
    let mut end = [1; 512];
    image.read_at(&mut end, (8 << 30) - 512).unwrap();
    assert_eq!(end, [0; 512]);
}

#[test]
fn what_is_written_is_read_in_place() {
    let disk = disks().pop().unwrap();
    for subformat in SUBFORMATS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("packed");
        write(&source(&disk, dir.path()), subformat, 2, &path);
        let image = OpenOptions::new().open(&path).unwrap();
        let mut bytes = vec![0; disk.size as usize];
        image.read_at(&mut bytes, 0).unwrap();
        assert!(bytes == disk.bytes(), "{subformat}");
        // In place, the end is read without what is before it, which may be damaged.
        let mut stored = std::fs::read(&path).unwrap();
        let middle = stored.len() / 2;
        stored[middle] ^= 0xff;
        std::fs::write(&path, stored).unwrap();
        let image = OpenOptions::new().open(&path).unwrap();
        image.read_at(&mut bytes[..4096], 8 << 20).unwrap();
        assert!(bytes[..4096] == disk.bytes()[8 << 20..][..4096], "{subformat}");
        let error = image.read_at(&mut bytes, 0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{subformat}: {error}");
    }
}

#[test]
fn the_number_of_threads_and_the_source_format_do_not_change_the_output() {
    let disk = disks().pop().unwrap();
    for subformat in ["gzip", "zstd"] {
        let dir = tempfile::tempdir().unwrap();
        let raw = source(&disk, dir.path());
        let qcow2 = dir.path().join("source.qcow2");
        Convert::new(raw.clone()).format(Format::Qcow2).run(&qcow2).unwrap();
        let qcow2 = OpenOptions::new().open(&qcow2).unwrap();
        let path = |name: &str| dir.path().join(name);
        write(&raw, subformat, 1, &path("a"));
        write(&raw, subformat, 4, &path("b"));
        write(&qcow2, subformat, 2, &path("c"));
        let [a, b, c] = ["a", "b", "c"].map(|name| std::fs::read(path(name)).unwrap());
        assert!(a == b && a == c, "{subformat}");
    }
}

#[test]
fn the_archive_for_google_compute_engine_contains_one_file_of_whole_gibibytes() {
    let disk = disks().pop().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.tar.gz");
    write(&source(&disk, dir.path()), "gce", 2, &path);
    let text = path.to_str().unwrap();
    let list = run("tar", ["-tvzf", text]);
    let expected = "-rw-r--r-- 0/0      1073741824 1970-01-01 00:00 disk.raw\n";
    assert_eq!(list.replace("01:00", "00:00"), expected);
    // The old GNU format, as the documentation of Google Compute Engine requires.
    let magic =
        run("sh", ["-c", "gzip -dc \"$1\" 2>/dev/null | head -c 265 | tail -c 8", "sh", text]);
    assert_eq!(magic, "ustar  \0");
    let extracted = dir.path().join("extracted");
    std::fs::create_dir(&extracted).unwrap();
    run("tar", ["-xzSf", text, "-C", extracted.to_str().unwrap()]);
    let file = std::fs::File::open(extracted.join("disk.raw")).unwrap();
    let mut bytes = vec![0; disk.size as usize];
    (&file).read_exact(&mut bytes).unwrap();
    assert!(bytes == disk.bytes());
    assert_eq!(file.metadata().unwrap().len(), 1 << 30);
    let mut rest = Vec::new();
    (&file).take(1 << 20).read_to_end(&mut rest).unwrap();
    assert!(rest.iter().all(|&byte| byte == 0));
    // It is read as an appliance with one disk.
    assert_eq!(Image::open(&path).unwrap().size(), 1 << 30);
}

#[test]
fn an_empty_disk_is_written_compressed() {
    for subformat in SUBFORMATS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("packed");
        let created = Create::new(Format::Raw)
            .size(200 << 20)
            .options(options(&format!("subformat={subformat}")));
        created.run(&path).unwrap();
        assert!(std::fs::metadata(&path).unwrap().len() < 1 << 20, "{subformat}");
        assert!(unpacked(subformat, &path) == vec![0; 200 << 20], "{subformat}");
    }
}

#[test]
fn the_compression_level_is_applied_and_checked() {
    let disk =
        Disk { size: 2 << 20, runs: vec![Run { at: 0, len: 2 << 20, fill: Fill::Words(9) }] };
    let dir = tempfile::tempdir().unwrap();
    let image = source(&disk, dir.path());
    let convert = |text: &str| {
        let path = dir.path().join("packed");
        let result = Convert::new(image.clone()).options(options(text)).run(&path);
        result.map(|_| std::fs::metadata(&path).unwrap().len())
    };
    for subformat in SUBFORMATS {
        let fast = convert(&format!("subformat={subformat},compression_level=1")).unwrap();
        let small = convert(&format!("subformat={subformat},compression_level=9")).unwrap();
        assert!(small < fast, "{subformat}: {small}, {fast}");
    }
    convert("subformat=zstd,compression_level=19").unwrap();
    for (text, kind, message) in [
        ("subformat=gzip,compression_level=10", ErrorKind::Invalid, "between 1 and 9"),
        ("subformat=zstd,compression_level=20", ErrorKind::Invalid, "between 1 and 19"),
        ("compression_level=3", ErrorKind::Invalid, "requires compression"),
        ("subformat=lzma", ErrorKind::Invalid, "unknown subformat 'lzma'"),
        ("subformat=gzip,preallocation=full", ErrorKind::Unsupported, "preallocation mode"),
    ] {
        let error = convert(text).unwrap_err();
        assert_eq!(error.kind(), kind, "{text}: {error}");
        assert!(error.to_string().contains(message), "{text}: {error}");
    }
}

#[test]
fn a_new_file_with_the_name_of_a_compressed_one_is_not_silently_a_raw_disk() {
    for name in ["disk.raw.gz", "disk.tar.GZ", "disk.zst", "disk.qcow2.xz"] {
        let error = Format::of_new_file(&PathBuf::from(name)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{name}");
        assert!(error.hint_text().unwrap().contains("subformat=gzip"), "{name}");
    }
}
