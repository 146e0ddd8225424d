//! Images in compressed files.

use diskimg::{Convert, ErrorKind, Format, Image, Limits, OpenOptions, Probing, Remedy};
use diskimg_testkit::disk::{Disk, Fill, Run};
use diskimg_testkit::tool::run;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Commands that compress `$1` to `$2`, and whether the blocks of the result can be decoded where
/// they are needed.
const COMMANDS: [(&str, bool); 13] = [
    ("gzip -c \"$1\" > \"$2\"", false),
    ("pigz -c -b 128 \"$1\" > \"$2\"", false),
    ("split -b 1M --filter 'gzip -c' \"$1\" > \"$2\"", false),
    ("bgzip -c \"$1\" > \"$2\"", true),
    ("bzip2 -c \"$1\" > \"$2\"", false),
    ("pbzip2 -c \"$1\" > \"$2\"", false),
    ("xz -T1 -c \"$1\" > \"$2\"", false),
    ("xz -T2 --block-size=1MiB -C sha256 -c \"$1\" > \"$2\"", true),
    ("pixz -f 0.1 < \"$1\" > \"$2\"", true),
    ("split -b 1M --filter 'xz -c' \"$1\" > \"$2\" && printf '\\0\\0\\0\\0' >> \"$2\"", true),
    ("zstd -q -c \"$1\" > \"$2\"", false),
    ("pzstd -q -c \"$1\" > \"$2\"", false),
    // Each part is compressed with its size.
    (
        "d=$(mktemp -d) && split -b 1M \"$1\" $d/ && zstd -q $d/* && cat $d/*.zst > \"$2\" && \
         rm -r $d",
        true,
    ),
];

fn compress(command: &str, from: &Path, to: &Path) {
    let paths = [from, to].map(|path| path.to_str().unwrap());
    run("sh", ["-ec", command, "sh", paths[0], paths[1]]);
}

/// A disk of several MiB.
struct Sample {
    dir: TempDir,
    raw: PathBuf,
    bytes: Vec<u8>,
}

impl Sample {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let raw = dir.path().join("disk.raw");
        let run = |at, len, fill| Run { at, len, fill };
        // Text that compresses, noise that does not, and zeros between them.
        let runs = vec![
            run(4096, 2 << 20, Fill::Words(1)),
            run(3 << 20, 1 << 20, Fill::Noise(2)),
            run(5 << 20, 1 << 20, Fill::Words(3)),
        ];
        let disk = Disk { size: (6 << 20) + 512, runs };
        disk.write(&raw);
        Self { dir, raw, bytes: disk.bytes() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Returns the path of the disk in a format.
    fn image(&self, format: Format) -> PathBuf {
        if format == Format::Raw {
            return self.raw.clone();
        }
        let path = self.path(&format!("disk.{format}"));
        let disk = OpenOptions::new().format(Format::Raw).open(&self.raw).unwrap();
        Convert::new(disk).format(format).run(&path).unwrap();
        path
    }

    fn compressed(&self, format: Format, command: &str) -> PathBuf {
        let path = self.path("compressed");
        compress(command, &self.image(format), &path);
        path
    }
}

/// Returns the bytes of the disk, converted by several threads and read at once.
fn contents(image: &Image) -> Vec<u8> {
    let mut bytes = vec![0; image.size() as usize];
    image.read_at(&mut bytes, 0).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("raw");
    Convert::new(image.clone()).threads(4).run(&path).unwrap();
    assert!(std::fs::read(&path).unwrap() == bytes, "converting and reading differ");
    bytes
}

#[test]
fn images_in_files_of_every_compression_are_read() {
    let sample = Sample::new();
    for format in [Format::Raw, Format::Qcow2, Format::Vmdk] {
        for (command, _) in COMMANDS {
            let path = sample.compressed(format, command);
            let image = Image::open(&path).unwrap_or_else(|e| panic!("{command}: {e}"));
            assert_eq!(image.format(), format, "{command}");
            assert!(contents(&image) == sample.bytes, "{format}, {command}");
            let notes = image.info(0).unwrap().notes;
            assert!(notes.iter().any(|note| note.contains("compressed by")), "{notes:?}");
        }
    }
}

#[test]
fn a_list_of_frames_at_the_end_of_a_zstd_file_is_used() {
    let sample = Sample::new();
    let path = sample.path("seekable.zst");
    let mut file = Vec::new();
    let mut list = Vec::new();
    let parts: Vec<&[u8]> = sample.bytes.chunks(1 << 20).collect();
    for part in &parts {
        // Of a pipe, zstd does not know the length.
        std::fs::write(sample.path("part"), part).unwrap();
        compress("cat \"$1\" | zstd -q -c > \"$2\"", &sample.path("part"), &sample.path("frame"));
        let frame = std::fs::read(sample.path("frame")).unwrap();
        list.extend((frame.len() as u32).to_le_bytes());
        list.extend((part.len() as u32).to_le_bytes());
        file.extend(frame);
    }
    let whole_frames = file.len();
    file.extend(0x184d_2a5e_u32.to_le_bytes());
    file.extend((list.len() as u32 + 9).to_le_bytes());
    file.extend(list);
    file.extend((parts.len() as u32).to_le_bytes());
    file.push(0);
    file.extend(0x8f92_eab1_u32.to_le_bytes());
    std::fs::write(&path, &file).unwrap();
    // zstd itself decodes the same.
    compress("zstd -q -d -c \"$1\" > \"$2\"", &path, &sample.path("decoded"));
    assert!(std::fs::read(sample.path("decoded")).unwrap() == sample.bytes);
    let image = Image::open(&path).unwrap();
    assert!(contents(&image) == sample.bytes);

    // The last frame is not decoded to open the image, as it would be without the list.
    file[whole_frames - 1000..whole_frames - 100].fill(0x55);
    std::fs::write(&path, &file).unwrap();
    let image = Image::open(&path).unwrap();
    let mut start = vec![0; 1 << 20];
    image.read_at(&mut start, 0).unwrap();
    assert!(start == sample.bytes[..1 << 20]);
    let error = image.read_at(&mut [0; 512], image.size() - 1024).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}

#[test]
fn damage_in_one_block_leaves_the_others_readable() {
    let sample = Sample::new();
    for (command, in_blocks) in COMMANDS {
        let path = sample.compressed(Format::Raw, command);
        let mut bytes = std::fs::read(&path).unwrap();
        // In the middle of the noise.
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let opened = Image::open(&path);
        if !in_blocks {
            let error = opened.expect_err(command);
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{command}: {error}");
            assert!(error.to_string().contains("decompress"), "{command}: {error}");
            continue;
        }
        let image = opened.unwrap_or_else(|e| panic!("{command}: {e}"));
        for (from, to) in [(0, 2 << 20), (5 << 20, image.size())] {
            let mut found = vec![1; (to - from) as usize];
            image.read_at(&mut found, from).unwrap_or_else(|e| panic!("{command}: {e}"));
            assert!(found == sample.bytes[from as usize..to as usize], "{command}");
        }
        let mut all = vec![0; image.size() as usize];
        let error = image.read_at(&mut all, 0).expect_err(command);
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{command}: {error}");
        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        assert!(cause.contains("compressed block at offset"), "{command}: {error}: {cause}");
    }
}

#[test]
fn a_file_that_is_cut_off_is_damaged() {
    let sample = Sample::new();
    for (command, _) in COMMANDS {
        let path = sample.compressed(Format::Qcow2, command);
        let bytes = std::fs::read(&path).unwrap();
        for len in [bytes.len() - 1, bytes.len() * 2 / 3, 40] {
            std::fs::write(&path, &bytes[..len]).unwrap();
            let read = Image::open(&path)
                .and_then(|image| image.read_at(&mut vec![0; image.size() as usize], 0));
            let error = read.expect_err(command);
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{command}, {len} bytes: {error}");
        }
    }
}

/// Tapes and devices are padded with zeros. xz has padding of its own.
#[test]
fn zeros_after_the_end_are_ignored() {
    let sample = Sample::new();
    for (command, _) in COMMANDS.iter().filter(|(command, _)| command.contains("gzip")) {
        let path = sample.compressed(Format::Qcow2, command);
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_len(file.metadata().unwrap().len().next_multiple_of(10_240) + 10_240).unwrap();
        assert!(contents(&Image::open(&path).unwrap()) == sample.bytes, "{command}");
    }
    let path = sample.compressed(Format::Qcow2, "xz -c \"$1\" > \"$2\"");
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    let len = file.metadata().unwrap().len();
    file.set_len(len + (60 << 10)).unwrap();
    assert!(contents(&Image::open(&path).unwrap()) == sample.bytes);
    // Nobody writes so many, and reading them would take time.
    file.set_len(len + (1 << 40)).unwrap();
    let error = Image::open(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}

#[test]
fn a_file_that_is_stated_to_be_raw_is_not_decompressed() {
    let sample = Sample::new();
    for (command, _) in COMMANDS {
        let path = sample.compressed(Format::Qcow2, command);
        let image = OpenOptions::new().format(Format::Raw).open(&path).unwrap();
        assert!(contents(&image) == std::fs::read(&path).unwrap(), "{command}");
        // A format that is stated is that of the contents.
        let image = OpenOptions::new().format(Format::Qcow2).open(&path).unwrap();
        assert!(contents(&image) == sample.bytes, "{command}");
        let error = OpenOptions::new().format(Format::Vmdk).open(&path).expect_err(command);
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{command}: {error}");
    }
}

#[test]
fn qemu_does_not_decompress() {
    let sample = Sample::new();
    for (command, _) in COMMANDS {
        let path = sample.compressed(Format::Qcow2, command);
        let error = OpenOptions::new().probing(Probing::LikeQemu).open(&path).expect_err(command);
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{command}: {error}");
    }
}

#[test]
fn what_is_compressed_twice_is_not_decompressed_twice() {
    let sample = Sample::new();
    let once = sample.compressed(Format::Qcow2, "gzip -c \"$1\" > \"$2\"");
    let twice = sample.path("twice.gz");
    compress("xz -c \"$1\" > \"$2\"", &once, &twice);
    let error = Image::open(&twice).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("gzip"), "{error}");
}

#[test]
fn the_disk_in_a_compressed_tar_archive_is_read() {
    let sample = Sample::new();
    for (name, flag) in [
        ("a.tar.gz", "-z"),
        ("a.tgz", "-z"),
        ("a.tar.xz", "-J"),
        ("a.txz", "-J"),
        ("a.tar.bz2", "-j"),
        ("a.tar.zst", "--zstd"),
        ("a.tar", "--format=oldgnu"),
    ] {
        let path = sample.path(name);
        let dir = sample.dir.path().to_str().unwrap();
        run("tar", ["-C", dir, flag, "-S", "-cf", path.to_str().unwrap(), "disk.raw"]);
        let image = Image::open(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(contents(&image) == sample.bytes, "{name}");
    }
}

#[test]
fn names_in_a_compressed_image_are_relative_to_its_file() {
    let sample = Sample::new();
    let overlay = sample.path("overlay.qcow2");
    let path = overlay.to_str().unwrap();
    run("qemu-img", ["create", "-q", "-f", "qcow2", "-b", "disk.raw", "-F", "raw", path]);
    run("gzip", [path]);
    let image = Image::open(sample.path("overlay.qcow2.gz")).unwrap();
    assert!(contents(&image) == sample.bytes);
    // A backing file is not decompressed: its overlay refers to the bytes of the file.
    run("gzip", [sample.raw.to_str().unwrap()]);
    std::fs::rename(sample.path("disk.raw.gz"), &sample.raw).unwrap();
    let image = Image::open(sample.path("overlay.qcow2.gz")).unwrap();
    let compressed = std::fs::read(&sample.raw).unwrap();
    let mut found = vec![0; compressed.len()];
    image.read_at(&mut found, 0).unwrap();
    assert!(found == compressed);
}

#[test]
fn a_compressed_file_is_not_overwritten_with_its_contents() {
    let sample = Sample::new();
    for (command, _) in COMMANDS {
        let path = sample.compressed(Format::Qcow2, command);
        let before = std::fs::read(&path).unwrap();
        let error = Convert::new(Image::open(&path).unwrap()).run(&path).expect_err(command);
        assert_eq!(error.kind(), ErrorKind::Refused, "{command}: {error}");
        assert!(std::fs::read(&path).unwrap() == before, "{command}");
    }
}

#[test]
fn what_a_file_decompresses_to_is_limited() {
    let dir = tempfile::tempdir().unwrap();
    let (zeros, path) = (dir.path().join("zeros"), dir.path().join("compressed"));
    std::fs::File::create(&zeros).unwrap().set_len(64 << 20).unwrap();
    for (command, _) in COMMANDS {
        compress(command, &zeros, &path);
        let mut limits = Limits::default();
        limits.unpacked_bytes = 10 << 20;
        let error = OpenOptions::new().limits(limits).open(&path).expect_err(command);
        assert_eq!(error.kind(), ErrorKind::Limit, "{command}: {error}");
        assert_eq!(error.remedy(), Some(Remedy::RaiseLimit("unpacked_bytes")), "{command}");
        Image::open(&path).unwrap_or_else(|e| panic!("{command}: {e}"));
    }
    // Above 1 GiB, the ratio is limited as well.
    std::fs::File::options().write(true).open(&zeros).unwrap().set_len(2 << 30).unwrap();
    compress("zstd -q -T2 -c \"$1\" > \"$2\"", &zeros, &path);
    let error = Image::open(&path).unwrap_err();
    assert_eq!(error.remedy(), Some(Remedy::RaiseLimit("expansion")), "{error}");
    let mut limits = Limits::default();
    limits.expansion = 1 << 20;
    let image = OpenOptions::new().limits(limits).open(&path).unwrap();
    assert_eq!(image.size(), 2 << 30);
}
