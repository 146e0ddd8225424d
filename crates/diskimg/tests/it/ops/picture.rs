//! The picture of an image agrees with its map, which is compared with qemu-img's elsewhere.

use diskimg::picture::{Picture, State};
use diskimg::storage::source::MemorySource;
use diskimg::{Convert, Draw, ErrorKind, Format, Image, MapEntry, OpenOptions, map};
use diskimg_testkit::qcow2::{Entry, Qcow2};
use diskimg_testkit::tool::{run, try_run};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions as FileOptions};
use std::io::{Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const MIB: u64 = 1 << 20;

/// A directory with a disk of 64 MiB: data, and holes.
fn directory() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("disk.raw");
    let mut file = File::create(&raw).unwrap();
    file.set_len(64 * MIB).unwrap();
    for (at, byte) in [(1, b'a'), (8, b'b'), (40, b'c')] {
        file.seek(SeekFrom::Start(at * MIB)).unwrap();
        let text: Vec<u8> = (0..MIB).map(|n| byte ^ (n / 999) as u8).collect();
        file.write_all(&text).unwrap();
    }
    (dir, raw)
}

/// A compressed image, an overlay with data and zeros, and an overlay of that.
fn chain(dir: &Path, raw: &Path) -> Image {
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let raw = raw.to_str().unwrap();
    run("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", "-c", raw, &path("base.qcow2")]);
    for (over, under, commands) in [
        ("mid.qcow2", "base.qcow2", ["write 8M 512k", "write -z 41M 64k", "write 60M 256k"]),
        ("top.qcow2", "mid.qcow2", ["write 20M 128k", "write 8M 64k", "write -z 1M 128k"]),
    ] {
        let create =
            ["create", "-q", "-f", "qcow2", "-b", &path(under), "-F", "qcow2", &path(over)];
        run("qemu-img", create);
        let commands: Vec<_> = commands.iter().flat_map(|command| ["-c", command]).collect();
        let over = path(over);
        let arguments = [&["-f", "qcow2"], &*commands, &[&over]].concat();
        assert!(try_run("qemu-io", arguments).status.success());
    }
    Image::open(dir.join("top.qcow2")).unwrap()
}

fn state(entry: &MapEntry) -> State {
    match entry {
        MapEntry { present: false, .. } => State::Unallocated,
        MapEntry { zero: true, .. } => State::Zero,
        MapEntry { compressed: true, .. } => State::Compressed,
        _ => State::Data,
    }
}

/// Asserts that the picture says what the map says.
fn assert_agrees(image: &Image) -> Picture {
    let picture = Draw::new(image).check(true).run().unwrap();
    let entries: Vec<_> = map(image, 0..image.size()).map(Result::unwrap).collect();
    let mut sums: BTreeMap<(usize, State), u64> = BTreeMap::new();
    for entry in &entries {
        *sums.entry((entry.depth, state(entry))).or_default() += entry.length;
    }
    for (depth, layer) in picture.layers.iter().enumerate() {
        for &state in State::ALL {
            let expected = sums.get(&(depth, state)).copied().unwrap_or(0);
            assert_eq!(layer.visible.get(state), expected, "layer {depth}, {state:?}");
        }
    }
    for &state in State::ALL {
        let all = sums.iter().filter(|((_, of), _)| *of == state).map(|(_, bytes)| bytes);
        assert_eq!(picture.totals.get(state), all.sum::<u64>(), "{state:?}");
    }
    assert_eq!(picture.totals.sum(), image.size());
    // Few parts are exact.
    assert_eq!((picture.part_size, picture.place_size), (1, 1));
    for entry in &entries {
        let inside = |part: &&diskimg::picture::Part| {
            part.start <= entry.start && part.start + part.length >= entry.start + entry.length
        };
        let part = picture.parts.iter().find(inside).expect("a part");
        assert_eq!((part.depth, part.state), (entry.depth, state(entry)), "{entry:?}");
        let Some(offset) = entry.offset else { continue };
        let found = picture.places.iter().any(|place| {
            let files = &picture.layers[place.depth].files;
            let file = files.iter().rev().find(|file| file.position <= place.position).unwrap();
            let host = place.position - file.position + file.start;
            place.start <= entry.start
                && place.start + place.length >= entry.start + entry.length
                && host + (entry.start - place.start) == offset
                && Some(&file.filename) == entry.filename.as_ref()
        });
        assert!(found, "{entry:?} has no place");
    }
    picture
}

#[test]
fn a_chain_of_images_of_qemu_img_agrees_with_its_map() {
    let (dir, raw) = directory();
    let image = chain(dir.path(), &raw);
    let picture = assert_agrees(&image);
    assert_eq!(picture.layers.len(), 3);
    // What the layers above replace: 64 KiB of the middle; 512 and 128 KiB of the base.
    assert_eq!(picture.layers[1].hidden(), Some(64 << 10));
    assert_eq!(picture.layers[2].hidden(), Some((512 + 128) << 10));
    assert_eq!(picture.layers[2].own.unwrap().compressed, 3 * MIB);
    let check = picture.check.as_ref().expect("qcow2 has a check");
    assert_eq!((check.report.corruptions, check.findings.len()), (0, 0));
    // Data of the top image was written in another order than that of the disk.
    assert_eq!(
        (picture.layers[0].fragmentation.runs, picture.layers[0].fragmentation.backward),
        (2, 1)
    );
}

#[test]
fn images_of_other_formats_agree_with_their_maps() {
    let (dir, raw) = directory();
    assert_eq!(assert_agrees(&Image::open(&raw).unwrap()).fragmentation.runs, 1);
    for (format, options) in [
        ("qcow2", "preallocation=metadata"),
        ("qcow2", "cluster_size=4k"),
        ("vmdk", "subformat=monolithicSparse"),
        ("vmdk", "subformat=twoGbMaxExtentSparse"),
        ("vmdk", "subformat=streamOptimized"),
    ] {
        let out = dir.path().join("out.img");
        let (from, to) = (raw.to_str().unwrap(), out.to_str().unwrap());
        run("qemu-img", ["convert", "-f", "raw", "-O", format, "-o", options, from, to]);
        assert_agrees(&Image::open(&out).unwrap());
    }
}

#[test]
fn a_disk_in_an_appliance_is_placed_in_its_file() {
    let (dir, raw) = directory();
    let ova = dir.path().join("a.ova");
    Convert::new(Image::open(&raw).unwrap()).format(Format::Ova).run(&ova).unwrap();
    let picture = assert_agrees(&Image::open(&ova).unwrap());
    assert!(picture.layers[0].files[0].start > 0);
}

#[test]
fn the_memory_and_the_page_of_a_fragmented_image_are_bounded() {
    // Every other cluster has data, in an order that is nearly random.
    const COUNT: u64 = 40_000;
    let mut image = Qcow2::repeating(9, 2 * COUNT as usize / 64, &[Entry::Unallocated]);
    let stored = image.tables.iter_mut().flatten().step_by(2);
    for (n, entry) in (0..COUNT).zip(stored) {
        *entry = Entry::Data(n * 7919 % COUNT);
    }
    image.clusters = vec![Vec::new(); COUNT as usize];
    let source = Arc::new(MemorySource::new(image.build()));
    let image = OpenOptions::new().format(Format::Qcow2).open_source(source, "a").unwrap();
    let picture = Draw::new(&image).run().unwrap();
    assert!(picture.part_size > 1 && picture.place_size > 1);
    assert!(picture.parts.len() <= 16_384, "{}", picture.parts.len());
    assert!(picture.places.len() <= 16_384, "{}", picture.places.len());
    let data = COUNT * 512;
    assert_eq!((picture.totals.data, picture.fragmentation.stored), (data, data));
    assert!(picture.fragmentation.runs > COUNT / 2, "{}", picture.fragmentation.runs);
    let of_parts = picture.parts.iter().filter(|part| part.state == State::Data);
    assert_eq!(of_parts.map(|part| part.bytes).sum::<u64>(), data);
    assert_eq!(picture.places.iter().map(|place| place.bytes).sum::<u64>(), data);
    let page = picture.to_html();
    assert!(page.len() < 3 << 20, "{}", page.len());
}

#[test]
fn partitions_of_an_mbr_and_what_they_occupy_are_listed() {
    let (_dir, raw) = directory();
    // A primary partition from 1 MiB of 8 MiB, an extended one from 16 MiB, of 32 MiB, with a
    // logical one from 24 MiB of 20 MiB; and one beyond the end of the disk.
    let mut sector = [0; 512];
    let sectors = |mib: u64| (mib * 2048) as u32;
    for (at, kind, first, length) in [(0, 0x83, 1, 8), (1, 0x0f, 16, 32), (2, 0x07, 100, 10)] {
        let entry = &mut sector[446 + 16 * at..];
        entry[4] = kind;
        entry[8..12].copy_from_slice(&sectors(first).to_le_bytes());
        entry[12..16].copy_from_slice(&sectors(length).to_le_bytes());
    }
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    let mut logical = [0; 512];
    logical[446 + 4] = 0x8e;
    logical[446 + 8..446 + 12].copy_from_slice(&sectors(8).to_le_bytes());
    logical[446 + 12..446 + 16].copy_from_slice(&sectors(20).to_le_bytes());
    logical[510..].copy_from_slice(&[0x55, 0xaa]);
    let mut file = FileOptions::new().write(true).open(&raw).unwrap();
    file.write_all(&sector).unwrap();
    file.seek(SeekFrom::Start(16 * MIB)).unwrap();
    file.write_all(&logical).unwrap();
    drop(file);
    let image = OpenOptions::new().format(Format::Raw).open(&raw).unwrap();
    let table = Draw::new(&image).run().unwrap().partition_table.expect("a table");
    assert_eq!((table.kind, table.omitted), ("MBR", 1));
    let found: Vec<_> = table
        .partitions
        .iter()
        .map(|p| (p.number, &*p.kind, p.start / MIB, p.length / MIB, p.totals.data / MIB))
        .collect();
    let expected =
        [(1, "Linux", 1, 8, 2), (2, "W95 Ext'd (LBA)", 16, 32, 1), (5, "Linux LVM", 24, 20, 1)];
    assert_eq!(found, expected);
    assert!(table.partitions.iter().all(|p| p.totals.sum() == p.length));
}

#[test]
fn progress_ends_the_operation() {
    let (dir, raw) = directory();
    let image = chain(dir.path(), &raw);
    let calls = AtomicUsize::new(0);
    let stop = |_| {
        calls.fetch_add(1, Ordering::Relaxed);
        ControlFlow::Break(())
    };
    let error = Draw::new(&image).progress(&stop).run().expect_err("cancelled");
    assert_eq!((error.kind(), calls.into_inner()), (ErrorKind::Cancelled, 1));
}

#[test]
fn a_page_does_not_replace_a_file_of_the_image() {
    let (dir, raw) = directory();
    let image = chain(dir.path(), &raw);
    let picture = Draw::new(&image).run().unwrap();
    for name in ["top.qcow2", "base.qcow2"] {
        let path = dir.path().join(name);
        let before = std::fs::read(&path).unwrap();
        let output = diskimg::Output::create(&path).unwrap();
        let written = Draw::new(&image).write_html(&picture, output, diskimg::Durability::Cached);
        assert_eq!(written.expect_err("refused").kind(), ErrorKind::Refused);
        assert!(std::fs::read(&path).unwrap() == before);
    }
    let page = dir.path().join("page.html");
    let output = diskimg::Output::create(&page).unwrap();
    Draw::new(&image).write_html(&picture, output, diskimg::Durability::Cached).unwrap();
    assert_eq!(std::fs::read_to_string(page).unwrap(), picture.to_html());
}
