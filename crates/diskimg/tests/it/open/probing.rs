//! Probing: a file in a format that is recognized but not supported is never read as a raw disk.

use diskimg::{Convert, ErrorKind, Format, Image, OpenOptions, Options, Probing, Remedy};
use diskimg_testkit::dmg::{Chunk, Dmg, RAW, Table, ZLIB};
use diskimg_testkit::tool::{run, try_run};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A file, and the format that its error must name.
struct Case {
    path: PathBuf,
    name: &'static str,
    /// Compressed files and archives are never raw disks, not even to qemu-img's users.
    packed: bool,
}

/// Makes one file of each format, with other programs where one of them can.
fn cases(dir: &Path) -> Vec<Case> {
    let raw = dir.join("disk");
    let bytes: Vec<u8> = (0..200_000u32).flat_map(|i| (i / 50).to_le_bytes()).collect();
    std::fs::write(&raw, &bytes).unwrap();
    let mut cases = Vec::new();
    let mut add = |file: &str, name, packed| {
        cases.push(Case { path: dir.join(file), name, packed });
    };
    let path = |file: &str| dir.join(file).to_str().unwrap().to_owned();

    let options = "--object secret,id=key,data=x -f luks -o key-secret=key,iter-time=10";
    let arguments = format!("create -q {options} {} 1M", path("luks"));
    run("qemu-img", arguments.split(' ').collect::<Vec<_>>());
    add("luks", "LUKS", false);

    // No program here writes these.
    for (file, content, name) in [
        ("encrypted", with_start(b"encrcdsa\0\0\0\x02", 8192), "DMG"),
        ("aff", with_start(b"AFF10\r\n\0", 8192), "AFF"),
        ("wim", with_start(b"MSWIM\0\0\0", 8192), "WIM"),
        ("ex01", with_start(b"EVF2\x0d\x0a\x81\0\x02\x01", 8192), "Ex01"),
        ("l01", with_start(b"LVF\x09\x0d\x0a\xff\0\x01", 8192), "L01"),
        ("adcrypt", with_start(b"ADCRYPT\0", 8192), "AD encryption"),
        ("simg", with_start(&[0x3a, 0xff, 0x26, 0xed, 1, 0, 0, 0], 8192), "Android"),
    ] {
        std::fs::write(dir.join(file), content).unwrap();
        add(file, name, false);
    }
    let descriptor = "# Disk DescriptorFile\nversion=1\nCID=ffffffff\nparentCID=ffffffff\n";
    for (file, units) in [
        ("utf16le.vmdk", utf16(descriptor, u16::to_le_bytes)),
        ("utf16be.vmdk", utf16(descriptor, u16::to_be_bytes)),
        ("utf16bom.vmdk", utf16(&format!("\u{feff}{descriptor}"), u16::to_le_bytes)),
    ] {
        std::fs::write(dir.join(file), units).unwrap();
        add(file, "UTF-16", false);
    }

    for (file, kind, name) in [
        ("disk.gz", "gzip", "gzip"),
        ("disk.xz", "xz", "xz"),
        ("disk.bz2", "bzip2", "bzip2"),
        ("disk.zip", "zip", "zip"),
        ("disk.7z", "7z", "7z"),
        ("disk.gtar", "tar", "tar"),
    ] {
        run("7zz", ["a", "-bso0", &format!("-t{kind}"), &path(file), &path("disk")]);
        add(file, name, true);
    }
    let frame: Vec<u8> = [&[0x28, 0xb5, 0x2f, 0xfd][..], &[0; 100]].concat();
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4][..], &frame].concat();
    for (file, content, name) in [
        ("disk.zst", frame, "zstd"),
        ("disk.pzst", skippable, "zstd"),
        ("disk.lz4", with_start(&[0x04, 0x22, 0x4d, 0x18], 1000), "lz4"),
        ("disk.lz", with_start(b"LZIP\x01", 1000), "lzip"),
        ("disk.lzo", with_start(b"\x89LZO\0\x0d\x0a\x1a\x0a", 1000), "lzop"),
        ("disk.rar", with_start(b"Rar!\x1a\x07\x01\0", 1000), "RAR"),
        ("empty.zip", with_start(b"PK\x05\x06", 22), "zip"),
        ("empty.bz2", b"BZh9\x17\x72\x45\x38\x50\x90\0\0\0\0".to_vec(), "bzip2"),
    ] {
        std::fs::write(dir.join(file), content).unwrap();
        add(file, name, true);
    }
    cases
}

fn with_start(start: &[u8], len: usize) -> Vec<u8> {
    let mut bytes = start.to_vec();
    bytes.resize(len, 0);
    bytes
}

fn utf16(text: &str, encode: fn(u16) -> [u8; 2]) -> Vec<u8> {
    text.encode_utf16().flat_map(encode).collect()
}

#[test]
fn a_recognized_format_is_an_error_unless_raw_is_named() {
    let dir = TempDir::new().unwrap();
    for Case { path, name, .. } in cases(dir.path()) {
        // They are decompressed (`compressed.rs`).
        if ["gzip", "xz", "bzip2", "zstd"].contains(&name) {
            continue;
        }
        let error = Image::open(&path).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{text}");
        assert_eq!(error.remedy(), Some(Remedy::NameFormatRaw), "{text}");
        assert!(text.contains(name) && text.contains(path.to_str().unwrap()), "{text}");

        let image = OpenOptions::new().format(Format::Raw).open(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let out = dir.path().join("out");
        Convert::new(image).run(&out).unwrap();
        assert!(std::fs::read(&out).unwrap() == bytes, "{name}");
    }
}

#[test]
fn like_qemu_a_raw_disk_is_what_qemu_probes_as_raw_and_is_not_packed() {
    let dir = TempDir::new().unwrap();
    for Case { path, name, packed } in cases(dir.path()) {
        let output = try_run("qemu-img", ["info", "--output=json", path.to_str().unwrap()]);
        let info = String::from_utf8_lossy(&output.stdout).into_owned();
        let raw_to_qemu = info.contains("\"format\": \"raw\"");
        match OpenOptions::new().probing(Probing::LikeQemu).open(&path) {
            Ok(image) => {
                assert_eq!(image.format(), Format::Raw);
                assert!(raw_to_qemu && !packed, "{name}: {info}");
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
                assert!(!raw_to_qemu || packed, "{name}: {info}");
            }
        }
    }
}

#[test]
fn a_backing_file_of_unknown_format_is_probed_by_the_same_rules() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("base"), with_start(b"MSWIM\0\0\0", 8192)).unwrap();
    let top = path("top");
    run("qemu-img", ["create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "-u", &top, "1M"]);
    // Turns the header extension with the format into an unknown one, which readers ignore: old
    // programs record no format.
    let mut bytes = std::fs::read(&top).unwrap();
    let at = bytes.windows(4).position(|word| word == [0xe2, 0x79, 0x2a, 0xca]).unwrap();
    bytes[at..at + 4].fill(0x11);
    std::fs::write(&top, bytes).unwrap();
    let error = Image::open(path("top")).unwrap_err();
    assert!(error.to_string().contains("WIM"), "{error}");
    // Raw, as the format of the overlay, would be wrong.
    assert_eq!(error.remedy(), None, "{error}");
}

/// Bytes that only begin like a signature.
#[test]
fn raw_disks_are_not_mistaken_for_compressed_files() {
    let dir = TempDir::new().unwrap();
    for (name, start) in [
        ("gzip with another method", &[0x1f, 0x8b, 0][..]),
        ("bzip2 without a block", b"BZh9no block"),
        ("half a cookie", b"conect"),
        ("a name", b"shdwxx"),
        ("an empty file", b""),
    ] {
        let path = dir.path().join("disk");
        std::fs::write(&path, with_start(start, if start.is_empty() { 0 } else { 4096 })).unwrap();
        assert_eq!(Image::open(&path).unwrap().format(), Format::Raw, "{name}");
    }
}

#[test]
fn a_named_vmdk_in_utf16_is_an_error_that_says_so() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("disk.vmdk");
    std::fs::write(&path, utf16("# Disk DescriptorFile\nversion=1\n", u16::to_le_bytes)).unwrap();
    let error = OpenOptions::new().format(Format::Vmdk).open(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("UTF-16"), "{error}");
}

/// An ISO file system is recognized in the disk, not in the file: the trailer decides.
#[test]
fn a_dmg_or_a_vhd_that_contains_a_disc_is_not_the_disc() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let mut disc = vec![0; 256 << 10];
    disc[16 * 2048..16 * 2048 + 6].copy_from_slice(b"\x01CD001");
    disc[17 * 2048..17 * 2048 + 6].copy_from_slice(b"\xffCD001");
    std::fs::write(path("disc"), &disc).unwrap();
    let chunks =
        vec![Chunk::new(RAW, 0, &disc[..128 << 10]), Chunk::new(ZLIB, 256, &disc[128 << 10..])];
    let dmg = Dmg::of(vec![Table::new(0, &disc, chunks)]).build();
    assert_eq!(dmg[..128 << 10], disc[..128 << 10], "the test needs the chunk at the start");
    std::fs::write(path("disc.dmg"), dmg).unwrap();
    let raw = OpenOptions::new().format(Format::Raw).open(path("disc")).unwrap();
    let options = Options::parse("subformat=fixed,force_size=on").unwrap();
    Convert::new(raw).format(Format::Vhd).options(options).run(path("disc.vhd")).unwrap();
    for (name, format) in
        [("disc", Format::Iso), ("disc.dmg", Format::Dmg), ("disc.vhd", Format::Vhd)]
    {
        let image = Image::open(path(name)).unwrap();
        assert_eq!(image.format(), format, "{name}");
        let mut bytes = vec![1; disc.len()];
        image.read_at(&mut bytes, 0).unwrap();
        assert!(bytes == disc, "{name}");
    }
}

/// qemu-img refuses it: "Could not locate UDIF trailer".
#[test]
fn a_truncated_dmg_is_an_error_or_at_least_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.DMG");
    let bytes: Vec<u8> = (0..20_000u32).map(|i| (i * i / 7) as u8).collect();
    std::fs::write(&path, &bytes).unwrap();
    let error = Image::open(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert_eq!(error.remedy(), Some(Remedy::NameFormatRaw));
    assert_eq!(OpenOptions::new().format(Format::Raw).open(&path).unwrap().size(), 20_000);
    std::fs::write(&path, &bytes[..512 * 39]).unwrap();
    let warnings: Vec<_> = Image::open(&path).unwrap().warnings().collect();
    assert!(warnings.iter().any(|warning| warning.contains("no trailer")), "{warnings:?}");
}
