//! New images: what the options say, what Hyper-V requires, differencing disks.

use super::{BLOCK, our_bytes, write};
use diskimg::storage::edit::MemoryStorage;
use diskimg::{Backing, Convert, Create, ErrorKind, Format, Image, Options, Output};
use diskimg_testkit::disk::{Disk, Fill, Run};
use diskimg_testkit::oracles::{Oracle, Verdict};
use diskimg_testkit::tool::{run, try_run};
use diskimg_testkit::vhdx::{MIB, Vhdx, crc32c};
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn at(at: u64, len: u64, fill: Fill) -> Run {
    Run { at, len, fill }
}

fn options(text: &str) -> Options {
    Options::parse(text).unwrap()
}

/// Converts a disk to `name` in `dir`.
fn convert(dir: &Path, name: &str, disk: &Disk, text: &str, backing: Option<&str>) -> PathBuf {
    let (raw, out) = (dir.join("source.raw"), dir.join(name));
    disk.write(&raw);
    let mut convert =
        Convert::new(Image::open(&raw).unwrap()).format(Format::Vhdx).options(options(text));
    if let Some(backing) = backing {
        convert = convert.backing(Backing::new(backing).with_format("vhdx"));
    }
    convert.verify(true).run(&out).unwrap();
    out
}

fn word(file: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(file[at..at + 8].try_into().unwrap())
}

/// Read without diskimg: the entries of the table of a file with a log of 1 MiB.
fn table(file: &[u8], entries: usize) -> Vec<(u64, u64)> {
    let entry = |index| word(file, 3 * MIB as usize + 8 * index);
    (0..entries).map(entry).map(|raw| (raw & 7, raw >> 20)).collect()
}

/// What Hyper-V insists on: FORMATS of MS-VHDX, and what QEMU's authors found.
#[test]
fn a_new_file_has_what_hyper_v_requires() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk { size: 5 * MIB, runs: vec![at(2 * MIB, 100, Fill::Byte(1))] };
    let file = std::fs::read(convert(dir.path(), "a.vhdx", &disk, "block_size=1M", None)).unwrap();
    // The last block is in the file as a whole.
    assert_eq!(file.len() as u64, 5 * MIB);
    // Blocks without data have no offset.
    assert_eq!(table(&file, 6), [(2, 0), (2, 0), (6, 4), (2, 0), (2, 0), (0, 0)]);
    let headers = [64 << 10, 128 << 10].map(|at| &file[at..at + 4096]);
    let sequences = headers.map(|header| word(header, 8));
    assert_ne!(sequences[0], sequences[1]);
    for header in headers {
        let mut zeroed = header.to_vec();
        zeroed[4..8].fill(0);
        assert_eq!(crc32c(&zeroed).to_le_bytes(), header[4..8]);
        // GUIDs of the file and its data, and none of a log.
        assert!(header[16..32] != [0; 16] && header[32..48] != [0; 16]);
        assert_eq!(header[48..64], [0; 16]);
    }
    assert_eq!(file[MIB as usize..2 * MIB as usize], [0; MIB as usize]);
    // The two region tables are the same, and both regions are required.
    let tables = [192 << 10, 256 << 10].map(|at| &file[at..at + (64 << 10)]);
    assert!(tables[0] == tables[1]);
    assert_eq!((tables[0][16 + 28], tables[0][48 + 28]), (1, 1));
    let never = convert(dir.path(), "b.vhdx", &disk, "block_size=1M,block_state_zero=off", None);
    let file = std::fs::read(never).unwrap();
    assert_eq!(table(&file, 5), [(0, 0), (0, 0), (6, 4), (0, 0), (0, 0)]);
}

#[test]
fn a_fixed_disk_has_a_place_for_every_block() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk { size: 3 * MIB + 512, runs: vec![at(MIB, 100, Fill::Byte(1))] };
    for preallocation in ["off", "falloc", "full"] {
        let text = format!("subformat=fixed,block_size=2M,preallocation={preallocation}");
        let path = convert(dir.path(), "a.vhdx", &disk, &text, None);
        let file = std::fs::read(&path).unwrap();
        assert_eq!(table(&file, 3), [(6, 4), (6, 6), (0, 0)]);
        assert_eq!(file.len() as u64, 8 * MIB);
        assert_eq!(our_bytes(&path), disk.bytes());
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            let stored = std::fs::metadata(&path).unwrap().blocks() * 512;
            assert_eq!(stored >= 8 * MIB, preallocation != "off", "{preallocation}: {stored}");
        }
    }
    let dynamic = Create::new(Format::Vhdx)
        .size(MIB)
        .options(options("preallocation=full"))
        .run(dir.path().join("b.vhdx"));
    assert_eq!(dynamic.unwrap_err().kind(), ErrorKind::Unsupported);
}

/// Sizes, block sizes and messages are those of qemu-img.
#[test]
fn options_mean_what_they_mean_to_qemu_img() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let sizes = [1, 513, 1 << 30, (1 << 30) + 1, (100 << 30) + 1, (32 << 40) + 1, 64 << 40];
    let texts = ["", "block_size=100k", "block_size=1500k", "block_size=300M", "log_size=1500k"];
    let cases = sizes.map(|size| (size, "")).into_iter().chain(texts.map(|text| (1 << 20, text)));
    for (size, text) in cases {
        let (ours, theirs) = (path("ours.vhdx"), path("theirs.vhdx"));
        Create::new(Format::Vhdx).size(size).options(options(text)).run(&ours).unwrap();
        let (text, size) = (format!("size={size},{text}"), format!("{size}"));
        let args = ["create", "-f", "vhdx", "-o", text.trim_end_matches(',')];
        run("qemu-img", args.into_iter().chain([theirs.to_str().unwrap()]));
        let about = |path: &Path| {
            let image = Image::open(path).unwrap();
            (image.size(), image.info(0).unwrap().cluster_size)
        };
        assert_eq!(about(&ours), about(&theirs), "{size} {text}");
        run("qemu-img", ["check", ours.to_str().unwrap()]);
    }
    for (text, size) in [
        ("block_size=3M", "1M"),
        ("log_size=0", "1M"),
        ("log_size=4G", "1M"),
        ("log_size=1M", "65T"),
    ] {
        let theirs = path("theirs.vhdx");
        let args = ["create", "-f", "vhdx", "-o", text, theirs.to_str().unwrap(), size];
        let output = try_run("qemu-img", args);
        let theirs = String::from_utf8(output.stderr).unwrap();
        let bytes = if size == "1M" { MIB } else { 65 << 40 };
        let ours = Create::new(Format::Vhdx).size(bytes).options(options(text));
        let ours = ours.run(path("ours.vhdx")).unwrap_err();
        let message = theirs.trim().rsplit(": ").next().unwrap();
        assert!(ours.to_string().contains(message), "{text}: {ours}; {theirs}");
    }
}

/// Only 7-Zip, dissect and libvhdi read them: QEMU does not support sectors of 4096 bytes.
#[test]
fn sectors_may_have_4096_bytes() {
    let dir = tempfile::tempdir().unwrap();
    // 7-Zip refuses odd numbers of sectors.
    let disk = Disk { size: 3 * MIB + 8192, runs: vec![at(MIB, 5000, Fill::Noise(1))] };
    let path = convert(dir.path(), "a.vhdx", &disk, "logical_sector_size=4096", None);
    for oracle in [Oracle::SevenZip, Oracle::Dissect, Oracle::Libyal] {
        let verdict = oracle.compare("vhdx", &path, &disk);
        assert!(matches!(verdict, Verdict::Same | Verdict::NotInstalled), "{verdict}");
    }
    assert_eq!(our_bytes(&path), disk.bytes());
    // The size is rounded up.
    let disk = Disk { size: MIB + 512, runs: vec![] };
    let path = convert(dir.path(), "b.vhdx", &disk, "logical_sector_size=4096", None);
    assert_eq!(Image::open(&path).unwrap().size(), MIB + 4096);
    for wrong in ["logical_sector_size=520", "logical_sector_size=4096,physical_sector_size=512"] {
        let create = Create::new(Format::Vhdx).size(MIB).options(options(wrong));
        let error = create.run(dir.path().join("c.vhdx")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
}

/// Partition tables count in logical sectors.
#[test]
fn a_child_has_the_sectors_of_its_parent() {
    let dir = tempfile::tempdir().unwrap();
    let create = |name: &str, text: &str| {
        let backing = Backing::new("base.vhdx").with_format("vhdx");
        Create::new(Format::Vhdx).backing(backing).options(options(text)).run(dir.path().join(name))
    };
    let sectors = |name: &str| {
        let image = Image::open(dir.path().join(name)).unwrap();
        image.layers().next().unwrap().sector_sizes()
    };
    for (text, sizes, other) in [
        ("logical_sector_size=4096", [4096, 4096], "logical_sector_size=512"),
        ("physical_sector_size=512", [512, 512], "logical_sector_size=4096"),
    ] {
        let base = Create::new(Format::Vhdx).size(4 * MIB).options(options(text));
        base.run(dir.path().join("base.vhdx")).unwrap();
        create("child.vhdx", "").unwrap();
        assert_eq!(sectors("child.vhdx"), Some(sizes));
        assert_eq!(create("other.vhdx", other).unwrap_err().kind(), ErrorKind::Invalid);
    }
}

/// A device, for example: what is not written must become zeros.
#[test]
fn an_output_that_contains_other_data_gets_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    convert(dir.path(), "base.vhdx", &parent(), "", None);
    let mut disk = parent();
    disk.runs.extend([at(100, 5000, Fill::Noise(3)), at(7 * MIB + 4096, 4096, Fill::Noise(4))]);
    disk.runs.push(at(5 * MIB, 8192, Fill::Byte(0)));
    let base = Some("base.vhdx");
    for (text, backing) in [
        ("block_size=1M", None),
        ("block_size=4M,block_state_zero=off", None),
        ("subformat=fixed,block_size=4M", None),
        ("block_size=1M", base),
        ("block_size=4M", base),
    ] {
        let expected = std::fs::read(convert(dir.path(), "a.vhdx", &disk, text, backing)).unwrap();
        let storage = Arc::new(MemoryStorage::new(vec![0xdb; 40 << 20]));
        let raw = dir.path().join("source.raw");
        let mut convert =
            Convert::new(Image::open(&raw).unwrap()).format(Format::Vhdx).options(options(text));
        if backing.is_some() {
            let base = dir.path().join("base.vhdx");
            convert = convert.backing(Backing::new(base.to_str().unwrap()).with_format("vhdx"));
        }
        convert.run_to(Output::to_sink(Arc::clone(&storage) as _)).unwrap();
        let mut found = storage.to_vec();
        if backing.is_some() {
            // The parent has another name.
            found[2 * BLOCK..3 * BLOCK].copy_from_slice(&expected[2 * BLOCK..3 * BLOCK]);
        }
        assert!(found == expected, "{text}");
    }
}

#[test]
fn a_measurement_is_the_length_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk {
        size: 21 * MIB + 512,
        runs: vec![at(100, 1, Fill::Byte(1)), at(17 * MIB, 3 * MIB, Fill::Noise(1))],
    };
    for text in ["", "block_size=1M", "block_size=32M,log_size=5M", "subformat=fixed"] {
        let path = convert(dir.path(), "a.vhdx", &disk, text, None);
        let raw = Image::open(dir.path().join("source.raw")).unwrap();
        let measured = diskimg::measure(Format::Vhdx, &options(text), &raw).unwrap();
        let len = std::fs::metadata(&path).unwrap().len();
        assert_eq!(measured.required, len, "{text}");
        assert!(measured.fully_allocated >= len);
    }
}

#[test]
fn what_the_format_cannot_have_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("a.vhdx");
    for (text, message) in [
        ("subformat=differencing", "Invalid subformat 'differencing'"),
        ("preallocation=metadata,subformat=fixed", "Unsupported preallocation mode 'metadata'"),
        ("log_size=2G", "a log of more than 1 GiB"),
        ("tuning=fast", "tuning"),
    ] {
        let create = Create::new(Format::Vhdx).size(MIB).options(options(text));
        let error = create.run(&out).unwrap_err();
        assert!(error.to_string().contains(message), "{text}: {error}");
        assert!(!out.exists());
    }
}

fn parent() -> Disk {
    Disk {
        size: 9 * MIB,
        runs: vec![at(0, 2 * MIB, Fill::Noise(1)), at(4 * MIB, 2 * MIB, Fill::Words(2))],
    }
}

/// Written by diskimg, read by all programs that read differencing disks.
#[test]
fn a_conversion_with_a_backing_file_writes_a_child() {
    let dir = tempfile::tempdir().unwrap();
    convert(dir.path(), "base.vhdx", &parent(), "", None);
    // Changed sectors; data where there was none; a whole block that differs.
    let mut disk = parent();
    disk.runs.extend([
        at(MIB, 4096, Fill::Noise(3)),
        at(4 * MIB + 4096, 8192, Fill::Byte(0)),
        at(7 * MIB, 4096, Fill::Noise(4)),
        at(8 * MIB, MIB, Fill::Noise(5)),
    ]);
    let child = convert(dir.path(), "child.vhdx", &disk, "block_size=1M", Some("base.vhdx"));
    assert_eq!(our_bytes(&child), disk.bytes());
    for oracle in [Oracle::SevenZip, Oracle::Dissect, Oracle::Libyal] {
        let verdict = oracle.compare("vhdx", &child, &disk);
        assert!(
            matches!(verdict, Verdict::Same | Verdict::NotInstalled),
            "{}: {verdict}",
            oracle.name()
        );
    }
    // Partial blocks, one whole block, a bitmap.
    let file = std::fs::read(&child).unwrap();
    let states: Vec<_> = table(&file, 9).into_iter().map(|(state, _)| state).collect();
    assert_eq!(states, [0, 7, 0, 0, 7, 0, 0, 7, 6]);
    let bitmap = word(&file, (3 * MIB + 8 * 4096) as usize);
    assert_eq!(bitmap & 7, 6);
    assert_eq!(file.len() as u64, 4 * MIB + 4 * MIB + MIB);
}

/// libvhdi reads blocks of zeros as the parent's; 7-Zip and dissect agree with diskimg and the
/// specification.
#[test]
fn blocks_of_zeros_hide_the_parent_without_taking_space() {
    let dir = tempfile::tempdir().unwrap();
    convert(dir.path(), "base.vhdx", &parent(), "", None);
    let mut disk = parent();
    disk.runs.push(at(0, 3 * MIB, Fill::Byte(0)));
    let child = convert(dir.path(), "child.vhdx", &disk, "block_size=1M", Some("base.vhdx"));
    assert_eq!(our_bytes(&child), disk.bytes());
    for oracle in [Oracle::SevenZip, Oracle::Dissect] {
        let verdict = oracle.compare("vhdx", &child, &disk);
        assert!(matches!(verdict, Verdict::Same | Verdict::NotInstalled), "{verdict}");
    }
    let verdict = Oracle::Libyal.compare("vhdx", &child, &disk);
    assert!(matches!(verdict, Verdict::Differs(_) | Verdict::NotInstalled), "{verdict}");
    let file = std::fs::read(&child).unwrap();
    assert_eq!(table(&file, 3), [(2, 0), (2, 0), (0, 0)]);
    assert_eq!(file.len() as u64, 4 * MIB);
}

/// Each chunk of 4 GiB has a bitmap of its own.
#[test]
fn a_child_has_a_bitmap_for_each_chunk_that_needs_one() {
    let dir = tempfile::tempdir().unwrap();
    let size = (12 << 30) + 5 * MIB;
    let base = Disk { size, runs: vec![at((4 << 30) - 8192, 65536, Fill::Noise(1))] };
    convert(dir.path(), "base.vhdx", &base, "", None);
    let mut disk = base;
    disk.runs.extend([
        at((4 << 30) - 4096, 8192, Fill::Noise(2)),
        // A whole block in the third chunk, and a part of one in the fourth.
        at(8 << 30, 2 * MIB, Fill::Noise(3)),
        at((12 << 30) + 4 * MIB + 4096, 4096, Fill::Noise(4)),
    ]);
    let child = convert(dir.path(), "child.vhdx", &disk, "", Some("base.vhdx"));
    let file = std::fs::read(&child).unwrap();
    // Blocks of 2 MiB: 2048 for each bitmap.
    let entries = table(&file, 4 * 2049);
    let bitmaps: Vec<_> = (1..=4).map(|n| entries[n * 2049 - 1].0).collect();
    assert_eq!(bitmaps, [6, 6, 0, 6]);
    assert_eq!(entries.iter().filter(|entry| entry.0 == 7).count(), 3);
    if diskimg_testkit::tool::full() {
        assert_eq!(Oracle::SevenZip.compare("vhdx", &child, &disk), Verdict::Same);
    }
}

#[test]
fn a_new_empty_child_shows_its_parent_and_has_a_guid_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let image = Vhdx::dynamic(3 * MIB + 512).filled(1, 0x11);
    let base = write(dir.path(), "base.vhdx", &image);
    let create = |name: &str, backing: &str| {
        let path = dir.path().join(name);
        Create::new(Format::Vhdx)
            .backing(Backing::new(backing).with_format("vhdx"))
            .run(&path)
            .unwrap();
        path
    };
    let (a, b) = (create("a.vhdx", "base.vhdx"), create("b.vhdx", "file:base.vhdx"));
    assert_eq!(our_bytes(&a), our_bytes(&base));
    assert_eq!(our_bytes(&b), our_bytes(&base));
    let id = |path: &Path| Image::open(path).unwrap().layers().next().unwrap().content_ids();
    assert_ne!(id(&a), id(&b));
    // To the guest, it is the same disk.
    let disk_id = |path: &Path| Image::open(path).unwrap().layers().next().unwrap().disk_id();
    assert_eq!(disk_id(&a).as_deref(), Some("83838383-8383-8383-8383-838383838383"));
    // A child of a child, found by an absolute path.
    let c = create("c.vhdx", a.canonicalize().unwrap().to_str().unwrap());
    assert_eq!(our_bytes(&c), our_bytes(&base));
    assert_eq!(Image::open(&c).unwrap().layers().len(), 3);
    // Another file under the name of the parent.
    write(dir.path(), "base.vhdx", &Vhdx { data_write_guid: [9; 16], ..image });
    assert_eq!(Image::open(&a).unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn a_child_needs_a_vhdx_as_its_parent() {
    let dir = tempfile::tempdir().unwrap();
    let base = Disk { size: MIB, runs: vec![] };
    convert(dir.path(), "base.vhdx", &base, "", None);
    std::fs::write(dir.path().join("base.raw"), vec![0; 4096]).unwrap();
    for (backing, text) in [
        (Backing::new("base.raw").with_format("raw"), ""),
        (Backing::new("base.vhdx").with_format("vhdx"), "subformat=fixed"),
    ] {
        let create = Create::new(Format::Vhdx).backing(backing).options(options(text));
        create.run(dir.path().join("child.vhdx")).unwrap_err();
    }
}
