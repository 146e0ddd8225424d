//! Tests of cloop.

use diskimg::inspection::Code;
use diskimg::{Convert, ErrorKind, Format, Image, InspectOptions, Limits, OpenOptions, inspect};
use diskimg_testkit::cloop::{Cloop, SCRIPT, TABLE_AT, set_entry};
use diskimg_testkit::disk::{Disk, Fill, Run, noise};
use diskimg_testkit::oracles::{Oracle, Verdict};
use diskimg_testkit::tool::{qemu_bytes, run, try_run};
use std::fs;
use std::path::{Path, PathBuf};

fn our_bytes(path: &Path) -> Vec<u8> {
    let image = crate::verified::open(&OpenOptions::new(), path);
    let mut bytes = vec![1; image.size() as usize];
    image.read_at(&mut bytes, 0).unwrap();
    bytes
}

fn error(path: &Path) -> diskimg::Error {
    let read = Image::open(path).and_then(|image| {
        let mut bytes = vec![0; image.size() as usize];
        image.read_at(&mut bytes, 0)
    });
    read.unwrap_err()
}

fn findings(path: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let image = Image::open(path).unwrap();
    image.check(&mut |finding| found.push(finding.message)).unwrap();
    found
}

fn codes(path: &Path) -> Vec<Code> {
    let found = inspect(path, &InspectOptions::new()).unwrap();
    found.findings.iter().map(|finding| finding.code).collect()
}

fn write(dir: &Path, bytes: &[u8]) -> PathBuf {
    let path = dir.join("disk.cloop");
    fs::write(&path, bytes).unwrap();
    path
}

fn sample(size: u64) -> Disk {
    let third = size / 3;
    let run = |n: u64, fill| Run { at: n * third, len: third, fill };
    Disk { size, runs: vec![run(0, Fill::Words(3)), run(1, Fill::Noise(5))] }
}

/// Debian's create_compressed_fs, which pads the last block.
#[test]
fn images_of_create_compressed_fs_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, path) = (dir.path().join("raw"), dir.path().join("disk.cloop"));
    for (size, block) in
        [(1 << 20, "65536"), (1 << 20, "131072"), (700_416, "65536"), (409_600, "512")]
    {
        let disk = sample(size);
        fs::write(&raw, disk.bytes()).unwrap();
        let args = ["-q", "-B", block, raw.to_str().unwrap(), path.to_str().unwrap()];
        run("create_compressed_fs", args);
        let padded = Disk { size: size.next_multiple_of(block.parse().unwrap()), ..disk };
        assert!(our_bytes(&path) == padded.bytes(), "{size} {block}");
        assert_eq!(Oracle::QemuImg.compare("cloop", &path, &padded), Verdict::Same);
        assert_eq!((findings(&path), codes(&path)), (vec![], vec![Code::RejectedFormat]));
    }
}

#[test]
fn blocks_of_every_size_are_read_as_by_qemu() {
    let dir = tempfile::tempdir().unwrap();
    for (block_bytes, size, gap) in [
        (512, 5000, 0),
        (1024 * 3, 100_000, 77),
        (4096 + 512, 20_000, 0),
        (64 << 10, 1 << 20, 1 << 16),
        (64 << 20, 1 << 20, 0),
    ] {
        let disk = sample(size);
        let image = Cloop { gap, ..Cloop::new(block_bytes, disk.bytes()) };
        let path = write(dir.path(), &image.build());
        let padded = Disk { size: size.next_multiple_of(block_bytes.into()), ..disk };
        assert!(our_bytes(&path) == padded.bytes(), "{block_bytes}");
        assert!(qemu_bytes(&path, "cloop") == padded.bytes(), "{block_bytes}");
        assert_eq!(findings(&path), [""; 0]);
        let image = Image::open(&path).unwrap();
        let layout = image.disk_layout();
        assert!(layout.cluster_size.is_power_of_two());
        assert_eq!(u64::from(block_bytes) % layout.cluster_size, 0);
    }
}

#[test]
fn converted_images_are_those_of_qemu_and_writing_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let disk = sample(3 << 20);
    let path = write(dir.path(), &Cloop::new(96 << 10, disk.bytes()).build());
    let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));
    Convert::new(Image::open(&path).unwrap()).threads(4).run(&ours).unwrap();
    let args = ["convert", "-O", "raw", path.to_str().unwrap(), theirs.to_str().unwrap()];
    run("qemu-img", args);
    assert!(fs::read(&ours).unwrap() == fs::read(&theirs).unwrap());
    let convert = Convert::new(Image::open(&path).unwrap()).format(Format::Cloop);
    let found = convert.run(dir.path().join("new")).unwrap_err();
    assert_eq!(found.kind(), ErrorKind::Unsupported);
}

/// QEMU recognizes only the script of version 2.0 as a whole.
#[test]
fn the_script_is_recognized_by_its_second_line() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = sample(9000).bytes();
    let image = |script: &str| Cloop { script: script.into(), ..Cloop::new(512, bytes.clone()) };
    let path = write(dir.path(), &image("#!/bin/sh\n#V2.0 Format\nother\n").build());
    assert_eq!(our_bytes(&path)[..9000], bytes);
    assert_eq!(codes(&path), [Code::RejectedFormat, Code::Subformat]);
    let theirs = run("qemu-img", ["info", path.to_str().unwrap()]);
    assert!(theirs.contains("file format: raw"), "{theirs}");
    for version in ["1.0", "3.0", "4.0"] {
        let script = SCRIPT.replace("2.0", version);
        let path = write(dir.path(), &image(&script).build());
        let found = error(&path);
        assert_eq!(found.kind(), ErrorKind::Unsupported);
        assert!(found.to_string().contains(&format!("version {version}")), "{found}");
    }
    for script in ["#!/bin/sh\n#V2.0 Formats\n", "#!/bin/sh\n", "#!/bin/sh\n#Vx.0 Format\n"] {
        let path = write(dir.path(), &image(script).build());
        assert_eq!(Image::open(&path).unwrap().format(), Format::Raw, "{script}");
    }
}

/// The cases of QEMU's iotest 075.
#[test]
fn each_invalid_field_is_an_error_as_in_qemu() {
    let dir = tempfile::tempdir().unwrap();
    let file = Cloop::new(1024, sample(9000).bytes()).build();
    let with = |at: usize, value: u32| {
        let mut file = file.clone();
        file[at..at + 4].copy_from_slice(&value.to_be_bytes());
        file
    };
    let entry = |index: usize, value: u64| {
        let mut file = file.clone();
        set_entry(&mut file, index, value);
        file
    };
    for (damaged, kind, text) in [
        (with(128, 0), ErrorKind::Corrupt, "blocks of 0 bytes"),
        (with(128, 513), ErrorKind::Corrupt, "blocks of 513 bytes"),
        (with(128, (64 << 20) + 512), ErrorKind::Corrupt, "blocks of 67109376 bytes"),
        (with(128, 0xffff_fe00), ErrorKind::Corrupt, "blocks of 4294966784 bytes"),
        (with(132, u32::MAX), ErrorKind::Limit, "table of 4294967295 blocks"),
        (with(132, 0x2000_0000), ErrorKind::Limit, "table of 536870912 blocks"),
        (with(132, 1 << 20), ErrorKind::Corrupt, "table of 1048576 blocks"),
        (entry(3, 0), ErrorKind::Corrupt, "block 2 at"),
        (entry(0, 140), ErrorKind::Corrupt, "block 0 at 0x8c overlaps the table"),
        (entry(9, u64::MAX), ErrorKind::Corrupt, "beyond the end of the file"),
        (entry(1, u64::MAX), ErrorKind::Corrupt, "beyond the end of the file"),
        (file[..file.len() - 1].to_vec(), ErrorKind::Corrupt, "beyond the end of the file"),
        (file[..TABLE_AT + 8].to_vec(), ErrorKind::Corrupt, "beyond the end of the file"),
        (file[..100].to_vec(), ErrorKind::Corrupt, "beyond the end of the file"),
    ] {
        let path = write(dir.path(), &damaged);
        let found = error(&path);
        assert_eq!(found.kind(), kind, "{found}");
        assert!(found.to_string().contains(text), "{text}: {found}");
        let out = dir.path().join("out");
        let args =
            ["convert", "-f", "cloop", "-O", "raw", path.to_str().unwrap(), out.to_str().unwrap()];
        assert!(!try_run("qemu-img", args).status.success(), "{text}");
    }
}

#[test]
fn a_block_that_is_not_a_whole_stream_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let image = Cloop::new(1024, sample(9000).bytes());
    let file = image.build();
    let first = u64::from_be_bytes(file[TABLE_AT..TABLE_AT + 8].try_into().unwrap()) as usize;
    let mut damaged = file.clone();
    damaged[first + 10] ^= 0xff;
    assert_eq!(error(&write(dir.path(), &damaged)).kind(), ErrorKind::Corrupt);
    // A block that is too short.
    let mut short = Cloop::new(512, noise(1, 512)).build();
    short[128..132].copy_from_slice(&1024u32.to_be_bytes());
    let found = error(&write(dir.path(), &short));
    assert!(found.to_string().contains("cannot decompress"), "{found}");
}

/// A table may have millions of entries, of which few are needed.
#[test]
fn a_large_table_is_not_in_memory_and_small_units_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.cloop");
    let blocks: u32 = 20_000_000;
    let file = fs::File::create(&path).unwrap();
    let table_end = TABLE_AT as u64 + (u64::from(blocks) + 1) * 8;
    file.set_len(table_end + 4096).unwrap();
    let stored = diskimg_testkit::ewf::zlib(&[7; 512]);
    let mut head = SCRIPT.as_bytes().to_vec();
    head.resize(128, 0);
    head.extend([512u32.to_be_bytes(), blocks.to_be_bytes()].concat());
    let write_at = |bytes: &[u8], at: u64| {
        use std::io::{Seek, SeekFrom, Write};
        let mut file = &file;
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(bytes).unwrap();
    };
    write_at(&head, 0);
    let entry_at = TABLE_AT as u64 + u64::from(blocks - 1) * 8;
    write_at(&table_end.to_be_bytes(), entry_at);
    write_at(&(table_end + stored.len() as u64).to_be_bytes(), entry_at + 8);
    write_at(&stored, table_end);
    // The table has 160 MB, far more than the limit of tables in memory.
    let image = Image::open(&path).unwrap();
    let mut found = [0; 512];
    image.read_at(&mut found, u64::from(blocks - 1) * 512).unwrap();
    assert_eq!(found, [7; 512]);
    let mut limits = Limits::default();
    limits.set("unit_bytes", 511).unwrap();
    let found = OpenOptions::new().limits(limits).open(&path).unwrap_err();
    assert_eq!(found.exceeded(), Some("unit_bytes"));
}

#[test]
fn blocks_that_share_stored_bytes_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = Cloop::new(512, noise(3, 512 * 100)).build();
    let at = (TABLE_AT + 8 * 101) as u64;
    for index in 0..=100 {
        // All blocks begin at nearly the same place.
        set_entry(&mut file, index, at + index as u64);
    }
    assert_eq!(error(&write(dir.path(), &file)).kind(), ErrorKind::Corrupt);
}
