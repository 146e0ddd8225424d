//! Disks whose size is changed in place, which qemu-img cannot do.

use crate::verified;
use diskimg::{
    Convert, ErrorKind, Format, Image, NewSize, OpenOptions, Options, Preallocation, Resize,
};
use diskimg_testkit::crash::RecordingStorage;
use diskimg_testkit::disk::{Disk, Fill, Run};
use diskimg_testkit::esx::{Grain, Grains, guest};
use diskimg_testkit::hosted::{Sparse, Stream, Writer, descriptor};
use diskimg_testkit::oracles::{Oracle, Verdict};
use diskimg_testkit::tool::{full, qemu_bytes, run};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const SECTOR: usize = 512;
const MIB: u64 = 1 << 20;

/// Sectors of an extent of a split disk that this program and VMware write.
const SPLIT: u64 = 2047 * MIB;

pub(super) fn options() -> OpenOptions {
    OpenOptions::new().format(Some(Format::Vmdk))
}

pub(super) fn resize(path: &Path, size: u64) -> Result<(), diskimg::Error> {
    Resize::new(NewSize::Bytes(size)).open_options(options()).shrink(true).run(path).map(|_| ())
}

pub(super) fn our_bytes(path: &Path) -> Vec<u8> {
    let image = verified::open(&options(), path);
    let mut bytes = vec![0xa5; image.size() as usize];
    image.read_at(&mut bytes, 0).unwrap();
    bytes
}

/// Returns the findings of the check and the remarks of `info`.
fn findings(path: &Path) -> Vec<String> {
    let image = options().open(path).unwrap();
    let mut found = Vec::new();
    image.check(&mut |finding| found.push(finding.message)).unwrap();
    found.extend(image.layers().next().unwrap().details().notes);
    found
}

pub(super) fn resized(bytes: &[u8], size: u64) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.resize(size as usize, 0);
    bytes
}

/// Writes `byte` at an offset with QEMU.
fn qemu_write(path: &Path, byte: u8, at: u64, len: u64) {
    let write = format!("write -q -P {byte} {at} {len}");
    run("qemu-io", ["-f", "vmdk", "-c", &write, path.to_str().unwrap()]);
}

/// Creates an image with qemu-img or, in the layout of ESXi, which that lacks, with this program.
fn create(dir: &Path, layout: &str, disk: &Disk) -> PathBuf {
    let (raw, path) = (dir.join("disk.raw"), dir.join("disk.vmdk"));
    disk.write(&raw);
    let options = format!("subformat={layout}");
    if layout == "vmfs" {
        let options = Options::parse(&options).unwrap();
        let image = OpenOptions::new().format(Some(Format::Raw)).open(&raw).unwrap();
        Convert::new(image).format(Format::Vmdk).options(options).run(&path).unwrap();
    } else {
        let args = ["convert", "-f", "raw", "-O", "vmdk", "-o", &options];
        run(
            "qemu-img",
            args.iter().copied().chain([raw.to_str().unwrap(), path.to_str().unwrap()]),
        );
    }
    path
}

const LAYOUTS: [&str; 5] =
    ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "vmfs"];

#[test]
fn disks_of_every_layout_grow_and_shrink() {
    for layout in LAYOUTS {
        let dir = tempfile::tempdir().unwrap();
        let old = 3 * MIB + 512;
        let runs = vec![
            Run { at: 512, len: 100 << 10, fill: Fill::Noise(3) },
            Run { at: 2 * MIB + 512, len: MIB, fill: Fill::Noise(5) },
        ];
        let disk = Disk { size: old, runs };
        let path = create(dir.path(), layout, &disk);
        let mut wanted = disk.bytes();
        for size in [old, old + 512, 40 * MIB, 2 * MIB + 1024, 33 * MIB, 512, 5 * MIB] {
            resize(&path, size).unwrap();
            wanted = resized(&wanted, size);
            assert!(our_bytes(&path) == wanted, "{layout}, {size}");
            assert!(qemu_bytes(&path, "vmdk") == wanted, "{layout}, {size}");
            assert_eq!(findings(&path), [""; 0], "{layout}, {size}");
            if layout != "vmfs" && size > MIB {
                // The added bytes can be written to.
                qemu_write(&path, 7, size - 1024, 512);
                wanted[size as usize - 1024..][..512].fill(7);
                assert!(our_bytes(&path) == wanted, "{layout}, {size}");
            }
        }
        let files = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(files, if layout == "monolithicSparse" { 2 } else { 3 }, "{layout}");
    }
}

#[test]
fn other_programs_read_disks_that_were_resized() {
    for layout in LAYOUTS {
        for size in [4 * MIB, 300 * MIB] {
            let dir = tempfile::tempdir().unwrap();
            let noise = Run { at: 2 * MIB - 512, len: 3 * MIB, fill: Fill::Noise(5) };
            let path =
                create(dir.path(), layout, &Disk { size: 9 * MIB, runs: vec![noise.clone()] });
            resize(&path, size).unwrap();
            let len = noise.len.min(size - noise.at);
            let disk = Disk { size, runs: vec![Run { len, ..noise.clone() }] };
            for oracle in [Oracle::QemuImg, Oracle::SevenZip, Oracle::Dissect, Oracle::Libyal] {
                let verdict = oracle.compare("vmdk", &path, &disk);
                let expected = matches!(verdict, Verdict::Same | Verdict::NotInstalled);
                assert!(expected, "{layout}, {size}: {}: {verdict}", oracle.name());
            }
        }
    }
}

/// A disk that is split by this program has extents of 2047 MiB, one by qemu-img of 2 GiB.
#[test]
fn a_split_disk_gets_further_extents_and_loses_them() {
    for (layout, letter) in [("twoGbMaxExtentSparse", 's'), ("twoGbMaxExtentFlat", 'f')] {
        for other in [SPLIT, 2048 * MIB] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("disk.vmdk");
            let size = if other == SPLIT { 100 * MIB } else { other + MIB };
            let options = format!("subformat={layout}");
            let size_text = size.to_string();
            let args = ["create", "-q", "-f", "vmdk", "-o", &options];
            run("qemu-img", args.iter().copied().chain([path.to_str().unwrap(), &size_text]));
            qemu_write(&path, 1, size - MIB, MIB);
            // A file that exists is not taken for an extent.
            let first = if size < other { 2 } else { 3 };
            let foreign = dir.path().join(format!("disk-{letter}{first:03}.vmdk"));
            std::fs::write(&foreign, "foreign").unwrap();
            let new = 3 * other + MIB;
            resize(&path, new).unwrap();
            assert_eq!(std::fs::read(&foreign).unwrap(), b"foreign");
            let image = verified::open(&self::options(), &path);
            assert_eq!((image.size(), image.layers().next().unwrap().files().len()), (new, 5));
            drop(image);
            qemu_write(&path, 2, new - MIB, MIB);
            qemu_write(&path, 3, 2 * other - 512, 1024);
            for (at, byte) in
                [(size - 1, 1), (size, 0), (new - 1, 2), (2 * other - 512, 3), (2 * other, 3)]
            {
                let mut read = [0xa5];
                let image = self::options().open(&path).unwrap();
                image.read_at(&mut read, at).unwrap();
                assert_eq!(read, [byte], "{layout}, {at}");
            }
            assert_eq!(findings(&path), [""; 0]);
            let text = std::fs::read_to_string(&path).unwrap();
            let lines: Vec<_> = text.lines().filter(|line| line.starts_with("RW ")).collect();
            assert_eq!(lines.len(), 4, "{text}");
            let whole = format!("RW {} ", other / 512);
            assert!(lines[..3].iter().all(|line| line.starts_with(&whole)), "{text}");
            resize(&path, size).unwrap();
            let image = verified::open(&self::options(), &path);
            let files = image.layers().next().unwrap().files().len();
            assert_eq!((image.size(), files), (size, first));
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), first + 1);
            assert_eq!(findings(&path), [""; 0]);
        }
    }
}

/// A hosted sparse disk with small grains and tables, and its guest's bytes. Its last grain and its
/// last table are not whole.
fn sample(flags: u32) -> (Vec<u8>, Vec<u8>) {
    let grains: Grains =
        [0, 7, 8, 20, 41].into_iter().map(|n| (n, Grain::Data(n as u8 | 64))).collect();
    let image = Sparse { flags, grain_sectors: 8, gtes: 16, ..Sparse::plain(333) };
    let bytes = guest(vec![0; 333 * SECTOR], 8, &grains);
    (image.build(&grains), bytes)
}

#[test]
fn a_disk_with_small_tables_changes_its_size() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.vmdk");
    for flags in [1, 3] {
        for sectors in [1, 128, 329, 334, 336, 385, 20_000] {
            let (file, bytes) = sample(flags);
            std::fs::write(&path, &file).unwrap();
            resize(&path, sectors * 512).unwrap();
            let mut wanted = resized(&bytes, sectors * 512);
            assert!(our_bytes(&path) == wanted, "{flags}, {sectors}");
            assert!(qemu_bytes(&path, "vmdk") == wanted, "{flags}, {sectors}");
            assert_eq!(findings(&path), [""; 0], "{flags}, {sectors}");
            let source = dir.path().join("source.raw");
            std::fs::write(&source, vec![9; wanted.len()]).unwrap();
            let image = OpenOptions::new().format(Some(Format::Raw)).open(source).unwrap();
            Convert::new(image).format(Format::Vmdk).run_existing(&path).unwrap();
            wanted.fill(9);
            assert!(our_bytes(&path) == wanted, "{flags}, {sectors}");
            resize(&path, 30_000 * 512).unwrap();
            assert!(our_bytes(&path) == resized(&wanted, 30_000 * 512), "{flags}, {sectors}");
            assert_eq!(findings(&path), [""; 0], "{flags}, {sectors}");
        }
    }
}

#[test]
fn after_a_crash_the_disk_has_its_old_or_new_size_and_its_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.vmdk");
    let mut states = 0;
    for flags in [1, 3] {
        for sectors in [99, 350, 1000] {
            let (file, bytes) = sample(flags);
            let size = sectors * 512;
            let storage = Arc::new(RecordingStorage::new(file, None));
            Resize::new(NewSize::Bytes(size))
                .shrink(true)
                .run_on(Arc::clone(&storage) as _, "target")
                .unwrap();
            let (step, wanted) = (if full() { 1 } else { 40 }, resized(&bytes, size));
            states += storage.crash_states(7, step, |state| {
                std::fs::write(&path, state).unwrap();
                let found = our_bytes(&path);
                assert!(found == bytes || found == wanted, "{flags}, {sectors}");
                let unclean = |message: &String| message.contains("closed properly");
                assert!(findings(&path).iter().all(unclean), "{:?}", findings(&path));
                // The next change of the size removes what is left of this one.
                resize(&path, 1200 * 512).unwrap();
                let kept = found.len().min(1200 * SECTOR);
                assert!(our_bytes(&path) == resized(&found[..kept], 1200 * 512));
                assert_eq!(findings(&path), [""; 0]);
                let file = std::fs::read(&path).unwrap();
                assert_eq!(file[28..36], 1_u64.to_le_bytes(), "place of the descriptor");
            });
        }
    }
    assert!(states > 100, "{states}");
}

/// A descriptor that is several sectors long, without anything else than it.
#[test]
fn a_long_descriptor_is_replaced_and_keeps_its_lines() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.vmdk");
    std::fs::write(dir.path().join("disk-flat.vmdk"), [5; 100 * SECTOR]).unwrap();
    let mut text = descriptor("monolithicFlat", "RW 100 FLAT \"disk-flat.vmdk\" 0", None);
    text += "ddb.geometry.heads = \"1\"\nddb.geometry.sectors = \"10\"\n";
    text += &"# a comment\n".repeat(100);
    text += "ddb.geometry.cylinders = \"10\"\n";
    std::fs::write(&path, &text).unwrap();
    resize(&path, 1200 * 512).unwrap();
    assert!(our_bytes(&path) == resized(&[5; 100 * SECTOR], 1200 * 512));
    let new = std::fs::read_to_string(&path).unwrap();
    let id = &new[new.find("\nCID=").unwrap() + 5..][..8];
    let wanted = text
        .replace("RW 100 ", "RW 1200 ")
        .replace("cylinders = \"10\"", "cylinders = \"120\"")
        .replace("5b6a7c8d", id);
    assert_ne!(id, "5b6a7c8d");
    assert_eq!(new, wanted);
    // A file with two names cannot be replaced.
    std::fs::hard_link(&path, dir.path().join("other.vmdk")).unwrap();
    let error = resize(&path, 3000 * 512).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), wanted);
    assert!(our_bytes(&path) == resized(&[5; 100 * SECTOR], 1200 * 512));
    let flat = std::fs::metadata(dir.path().join("disk-flat.vmdk")).unwrap();
    assert_eq!(flat.len(), 1200 * 512, "refused before the extent was changed");
}

#[cfg(unix)]
#[test]
fn flat_extents_are_preallocated() {
    use std::os::unix::fs::MetadataExt;
    for (mode, min) in
        [(Preallocation::Off, 0), (Preallocation::Falloc, 8 * MIB), (Preallocation::Full, 8 * MIB)]
    {
        let dir = tempfile::tempdir().unwrap();
        let path = create(dir.path(), "monolithicFlat", &Disk { size: MIB, runs: Vec::new() });
        let resize = Resize::new(NewSize::Grow(8 * MIB)).open_options(options());
        resize.preallocation(mode).run(&path).unwrap();
        let flat = std::fs::metadata(dir.path().join("disk-flat.vmdk")).unwrap();
        assert!(flat.len() == 9 * MIB && flat.blocks() * 512 >= min, "{mode:?}");
        assert!(our_bytes(&path) == vec![0; 9 << 20]);
    }
    let dir = tempfile::tempdir().unwrap();
    let path = create(dir.path(), "monolithicSparse", &Disk { size: MIB, runs: Vec::new() });
    let before = std::fs::read(&path).unwrap();
    for mode in [Preallocation::Falloc, Preallocation::Full, Preallocation::Metadata] {
        let resize = Resize::new(NewSize::Grow(MIB)).open_options(options()).preallocation(mode);
        resize.run(&path).unwrap_err();
        assert!(std::fs::read(&path).unwrap() == before);
    }
}

#[test]
fn layouts_that_cannot_be_resized_are_refused_and_stay_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.vmdk");
    std::fs::write(dir.path().join("x.bin"), [1; 100 * SECTOR]).unwrap();
    let line = |kind: &str| format!("RW 100 {kind} \"x.bin\"");
    let text = |lines: &str| descriptor("custom", lines, None).into_bytes();
    let rdonly = line("FLAT").replace("RW", "RDONLY");
    let cases = [
        (Stream::of(Writer::VSphere).build(&[7; 1 << 17]), "compressed", "convert the disk"),
        (text(&line("VMFSRDM")), "VMFSRDM", "convert the disk"),
        (text("RW 100 FLAT \"x.bin\" 0\nRW 100 ZERO"), "reads as zeros", "convert the disk"),
        (text("RW 50 FLAT \"x.bin\" 50\nRW 50 FLAT \"x.bin\" 0"), "part of a file", "convert"),
        (text(&rdonly), "forbids writing", "forbids"),
        (text(&line("FLAT").replace("100", "101")), "truncated", "truncated"),
    ];
    for (file, message, hint) in cases {
        std::fs::write(&path, &file).unwrap();
        let error = resize(&path, MIB).unwrap_err().to_string();
        assert!(error.contains(message) && error.contains(hint), "{error}");
        assert!(std::fs::read(&path).unwrap() == file);
        assert!(std::fs::read(dir.path().join("x.bin")).unwrap() == [1; 100 * SECTOR]);
    }
    let (file, _) = sample(3);
    std::fs::write(&path, &file).unwrap();
    let too_large = 0x7fff_ffff_c000_0200;
    for (size, kind) in
        [(1000, ErrorKind::Invalid), (1 << 50, ErrorKind::Limit), (too_large, ErrorKind::Invalid)]
    {
        assert_eq!(resize(&path, size).unwrap_err().kind(), kind);
        assert!(std::fs::read(&path).unwrap() == file);
    }
}

/// A guest can write a descriptor into its raw disk.
#[test]
fn files_that_a_descriptor_names_are_changed_only_if_the_format_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.vmdk");
    let flat = dir.path().join("x.bin");
    std::fs::write(&flat, [1; 100 * SECTOR]).unwrap();
    let text = descriptor("monolithicFlat", "RW 100 FLAT \"x.bin\" 0", None);
    std::fs::write(&path, text).unwrap();
    let error = Resize::new(NewSize::Bytes(512)).shrink(true).run(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(std::fs::read(&flat).unwrap() == [1; 100 * SECTOR]);
    resize(&path, 512).unwrap();
    assert!(std::fs::read(&flat).unwrap() == [1; 512]);
}

#[test]
fn a_child_grows_but_not_over_a_longer_parent() {
    let dir = tempfile::tempdir().unwrap();
    let parent = dir.path().join("parent.vmdk");
    let raw = dir.path().join("disk.raw");
    let noise = Run { at: 0, len: 2 * MIB, fill: Fill::Noise(1) };
    Disk { size: 2 * MIB, runs: vec![noise] }.write(&raw);
    run(
        "qemu-img",
        ["convert", "-f", "raw", "-O", "vmdk", raw.to_str().unwrap(), parent.to_str().unwrap()],
    );
    let path = dir.path().join("child.vmdk");
    let args = ["create", "-q", "-f", "vmdk", "-F", "vmdk", "-b", parent.to_str().unwrap()];
    run("qemu-img", args.iter().copied().chain([path.to_str().unwrap()]));
    qemu_write(&path, 4, 65_536, 65_536);
    let before = our_bytes(&path);
    resize(&path, 3 * MIB).unwrap();
    assert!(our_bytes(&path) == resized(&before, 3 * MIB));
    assert!(qemu_bytes(&path, "vmdk") == resized(&before, 3 * MIB));
    resize(&path, MIB).unwrap();
    assert!(our_bytes(&path) == resized(&before, MIB));
    assert_eq!(resize(&path, 2 * MIB).unwrap_err().kind(), ErrorKind::Unsupported);
    assert!(Image::open(&path).unwrap().size() == MIB);
}
