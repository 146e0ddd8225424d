//! Dirty bitmaps of qcow2: changed by turns with qemu-img, copied by conversions, and after a crash
//! at any point.

#![allow(clippy::single_range_in_vec_init, reason = "lists of ranges")]

mod conversion;
mod crash;
mod hostile;
mod sequences;

use super::snapshots::{Case, bytes_of, options, qemu};
use diskimg::formats::qcow2::Qcow2Mut;
use diskimg::info::Bitmap;
use diskimg::{DirtyBitmap, ErrorKind, Image, OpenOptions};
use diskimg_testkit::tool::{assert_qemu_check, run, try_run};
use std::ops::Range;
use std::path::Path;
use std::process::{Child, Command, Stdio};

const MIB: u64 = 1 << 20;

/// A bitmap and the guest ranges that are dirty in it.
type Contents = (Bitmap, Vec<Range<u64>>);

fn ranges(bitmap: &DirtyBitmap) -> Vec<Range<u64>> {
    let mut ranges = Vec::new();
    bitmap.for_each_dirty(0..u64::MAX, |range| ranges.push(range)).unwrap();
    ranges
}

/// Returns the bitmaps of an image. Inconsistent ones have no ranges.
fn contents_of(image: &Image) -> Vec<Contents> {
    let of = |bitmap: Bitmap| match bitmap.inconsistent {
        true => (bitmap, Vec::new()),
        false => {
            let dirty = image.dirty_bitmap(&bitmap.name).unwrap();
            assert_eq!(*dirty.info(), bitmap);
            (bitmap, ranges(&dirty))
        }
    };
    image.dirty_bitmaps().unwrap().unwrap_or_default().into_iter().map(of).collect()
}

fn metadata_options() -> OpenOptions {
    options().metadata_only(true).with_chain(false)
}

fn contents(path: &Path) -> Vec<Contents> {
    contents_of(&metadata_options().open(path).unwrap())
}

/// A server that exports bitmaps, which ends when this is dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns the dirty ranges of bitmaps as QEMU reads them.
fn ranges_by_qemu(path: &Path, names: &[&str]) -> Vec<Vec<Range<u64>>> {
    if names.is_empty() {
        return Vec::new();
    }
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let mut command = Command::new("qemu-nbd");
    command.args(["-r", "-t", "-f", "qcow2", "-k"]).arg(&socket).stderr(Stdio::inherit());
    for name in names {
        command.args(["-B", name]);
    }
    let server = Server(command.arg(path).spawn().unwrap());
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !socket.exists() {
        assert!(std::time::Instant::now() < end, "qemu-nbd does not start: {:?}", server.0);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let of = |name: &&str| {
        let node = format!(
            "driver=nbd,server.type=unix,server.path={},x-dirty-bitmap=qemu:dirty-bitmap:{name}",
            socket.display()
        );
        let map = run("qemu-img", ["map", "--output=json", "--image-opts", &node]);
        let map: serde_json::Value = serde_json::from_str(&map).unwrap();
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for entry in map.as_array().unwrap() {
            let number = |key: &str| entry[key].as_u64().unwrap();
            let (start, len) = (number("start"), number("length"));
            if entry["data"] == false {
                match ranges.last_mut() {
                    Some(last) if last.end == start => last.end += len,
                    _ => ranges.push(start..start + len),
                }
            }
        }
        ranges
    };
    names.iter().map(of).collect()
}

/// Returns the bitmaps as QEMU lists and reads them.
fn contents_by_qemu(path: &Path) -> Vec<Contents> {
    let info = run("qemu-img", ["info", "-U", "--output=json", path.to_str().unwrap()]);
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    let none = Vec::new();
    let list = info["format-specific"]["data"]["bitmaps"].as_array().unwrap_or(&none);
    let bitmaps: Vec<_> = list
        .iter()
        .map(|entry| {
            let flags = entry["flags"].as_array().unwrap();
            let mut bitmap = Bitmap::default();
            bitmap.name = entry["name"].as_str().unwrap().to_owned();
            bitmap.granularity = entry["granularity"].as_u64().unwrap();
            bitmap.enabled = flags.iter().any(|flag| flag == "auto");
            bitmap.inconsistent = flags.iter().any(|flag| flag == "in-use");
            bitmap
        })
        .collect();
    let consistent = bitmaps.iter().filter(|bitmap| !bitmap.inconsistent);
    let names: Vec<_> = consistent.map(|bitmap| &*bitmap.name).collect();
    let mut ranges = ranges_by_qemu(path, &names).into_iter();
    let with_ranges = |bitmap: &Bitmap| match bitmap.inconsistent {
        true => (bitmap.clone(), Vec::new()),
        false => (bitmap.clone(), ranges.next().unwrap()),
    };
    bitmaps.iter().map(with_ranges).collect()
}

fn make(
    dir: &Path,
    options: &'static str,
    commands: &'static [&'static str],
) -> std::path::PathBuf {
    Case { name: "", options, size: MIB, commands }.make(dir)
}

#[test]
fn bitmaps_are_added_changed_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = make(dir.path(), "cluster_size=64k", &["write -P 1 0 256k"]);
    let mut image = Qcow2Mut::open(&path).unwrap();
    assert_eq!(image.bitmaps().unwrap(), []);
    image.add_bitmap("first", None).unwrap();
    image.add_bitmap("fine", Some(512)).unwrap();
    let granularities = |image: &Qcow2Mut| -> Vec<_> {
        let bitmaps = image.bitmaps().unwrap();
        assert!(bitmaps.iter().all(|bitmap| bitmap.enabled && !bitmap.inconsistent));
        bitmaps.into_iter().map(|bitmap| (bitmap.name, bitmap.granularity)).collect()
    };
    assert_eq!(granularities(&image), [("first".into(), 65_536), ("fine".into(), 512)]);
    drop(image);
    qemu(&path, "write 512 1024");
    qemu(&path, "img bitmap --disable first");
    qemu(&path, "write 300k 1k");
    let fine = vec![512..1536, 300 << 10..301 << 10];
    let found = contents(&path);
    assert_eq!(found, contents_by_qemu(&path));
    assert_eq!((&found[0].1, &found[1].1), (&vec![0..65_536], &fine));

    let mut image = Qcow2Mut::open(&path).unwrap();
    image.merge_bitmap("first", "fine").unwrap();
    image.enable_bitmap("first").unwrap();
    image.disable_bitmap("fine").unwrap();
    drop(image);
    let found = contents(&path);
    assert_eq!(found, contents_by_qemu(&path));
    assert_eq!(found[0].1, [0..65_536, 256 << 10..320 << 10]);
    assert_eq!((found[0].0.enabled, found[1].0.enabled), (true, false));

    let mut image = Qcow2Mut::open(&path).unwrap();
    image.clear_bitmap("fine").unwrap();
    image.remove_bitmap("first").unwrap();
    drop(image);
    assert_eq!(contents(&path).len(), 1);
    assert_eq!(contents(&path)[0].1, []);
    Qcow2Mut::open(&path).unwrap().remove_bitmap("fine").unwrap();
    assert_eq!(contents(&path), []);
    assert_eq!(contents_by_qemu(&path), []);
    assert_qemu_check(&path, "qcow2");
}

#[test]
fn several_changes_are_stored_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = make(dir.path(), "cluster_size=4k", &["img bitmap --add old", "write 8k 4k"]);
    let before = std::fs::read(&path).unwrap();
    let mut image = Qcow2Mut::open(&path).unwrap();
    let mut changes = image.change_bitmaps().unwrap();
    changes.add("new", Some(1024)).unwrap();
    changes.merge("new", "old").unwrap();
    changes.merge("new", "new").unwrap();
    changes.disable("new").unwrap();
    changes.clear("old").unwrap();
    assert_eq!(changes.merge("new", "old").unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(changes.list().len(), 2);
    assert!(std::fs::read(&path).unwrap() == before);
    changes.store().unwrap();
    // Nothing changes, so nothing is written.
    let after = std::fs::read(&path).unwrap();
    image.disable_bitmap("new").unwrap();
    image.change_bitmaps().unwrap().store().unwrap();
    drop(image);
    assert!(std::fs::read(&path).unwrap() == after);
    let found = contents(&path);
    assert_eq!(found, contents_by_qemu(&path));
    assert_eq!((&found[0].1, &found[1].1), (&vec![], &vec![8192..12_288]));
    assert!(!found[1].0.enabled);
    assert_qemu_check(&path, "qcow2");
}

#[test]
fn what_cannot_be_done_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = make(dir.path(), "cluster_size=64k", &["img bitmap --add b", "write 0 1k"]);
    type Change<'a> = &'a dyn Fn(&mut Qcow2Mut) -> diskimg::Result<()>;
    let refused = |path: &Path, change: Change<'_>, kind: ErrorKind, text: &str| {
        let before = std::fs::read(path).unwrap();
        let mut image = Qcow2Mut::open(path).unwrap();
        let error = change(&mut image).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(text) && error.path().is_some(), "{error}");
        assert!(std::fs::read(path).unwrap() == before, "{error}");
    };
    let add = |name: &str, granularity: Option<u64>| {
        let name = name.to_owned();
        move |image: &mut Qcow2Mut| image.add_bitmap(&name, granularity)
    };
    let invalid = ErrorKind::Invalid;
    refused(&path, &add("", None), invalid, "Bitmap name cannot be empty");
    refused(&path, &add("a\0b", None), invalid, "zero bytes");
    refused(&path, &add("b", None), invalid, "Bitmap already exists: b");
    for granularity in [0, 256, 1000, 1 << 32] {
        let text = "Granularity must be power of 2 and at least 512";
        refused(&path, &add("x", Some(granularity)), invalid, text);
    }
    refused(&path, &add(&"x".repeat(1024), None), ErrorKind::Limit, "1023 characters");
    for change in [
        &(|image: &mut Qcow2Mut| image.remove_bitmap("x")) as Change<'_>,
        &|image| image.clear_bitmap("x"),
        &|image| image.enable_bitmap("x"),
        &|image| image.disable_bitmap("x"),
        &|image| image.merge_bitmap("x", "b"),
        &|image| image.merge_bitmap("b", "x"),
    ] {
        refused(&path, change, invalid, "Dirty bitmap 'x' not found");
    }
    let other = dir.path().join("other.qcow2");
    let name = other.to_str().unwrap();
    run("qemu-img", ["create", "-q", "-f", "qcow2", name, "2M"]);
    run("qemu-img", ["bitmap", "--add", name, "b"]);
    let larger = options().open(&other).unwrap().dirty_bitmap("b").unwrap();
    let text = "destination size is 1048576, source size is 2097152";
    refused(&path, &|image| image.merge_bitmap_from("b", &larger), invalid, text);
    drop(larger);
    run("qemu-img", ["create", "-q", "-f", "qcow2", "-o", "compat=0.10", name, "2M"]);
    refused(&other, &add("b", None), ErrorKind::Unsupported, "qcow2 v2 files");
    assert_eq!(options().open(&other).unwrap().dirty_bitmaps().unwrap(), None);
    run("qemu-img", ["create", "-q", "-f", "qcow2", name, "4T"]);
    refused(&other, &add("b", Some(512)), ErrorKind::Limit, "Use larger granularity");
    run("qemu-img", ["create", "-q", "-f", "qcow2", name, "0"]);
    refused(&other, &add("b", None), ErrorKind::Unsupported, "without bytes");
    // A program was killed.
    let output = try_run("qemu-io", ["-f", "qcow2", "-c", "abort", path.to_str().unwrap()]);
    assert!(!output.status.success());
    for change in [
        &(|image: &mut Qcow2Mut| image.clear_bitmap("b")) as Change<'_>,
        &|image| image.enable_bitmap("b"),
        &|image| image.merge_bitmap("b", "b"),
    ] {
        refused(&path, change, ErrorKind::Unsupported, "Bitmap 'b' is inconsistent");
    }
    refused(&path, &add("b", None), invalid, "Bitmap already exists: b");
    let image = options().open(&path).unwrap();
    assert_eq!(image.dirty_bitmap("b").unwrap_err().kind(), ErrorKind::Unsupported);
    drop(image);
    let mut image = Qcow2Mut::open(&path).unwrap();
    image.add_bitmap("c", None).unwrap();
    image.remove_bitmap("b").unwrap();
    assert_eq!(image.bitmaps().unwrap().len(), 1);
    drop(image);
    assert_qemu_check(&path, "qcow2");
}

/// Clusters of 512 bytes have no room for the table of feature names, and a long name of the backing
/// file is where the extensions grow.
#[test]
fn the_header_has_room_for_the_extension() {
    let dir = tempfile::tempdir().unwrap();
    for len in [8, 200, 350] {
        let base = dir.path().join("b".repeat(len.min(200)));
        std::fs::write(&base, vec![7; MIB as usize]).unwrap();
        let name = match len {
            350 => format!("{}/{}", "./".repeat(75), base.file_name().unwrap().to_str().unwrap()),
            _ => base.file_name().unwrap().to_str().unwrap().to_owned(),
        };
        for cluster in ["512", "4k", "64k"] {
            let path = dir.path().join("a.qcow2");
            let file = path.to_str().unwrap();
            let options = format!("cluster_size={cluster}");
            let args =
                ["create", "-q", "-f", "qcow2", "-F", "raw", "-b", &name, "-o", &options, file];
            if !try_run("qemu-img", args).status.success() {
                continue;
            }
            let outcome = Qcow2Mut::open(&path).unwrap().add_bitmap("new", None);
            if let Err(error) = outcome {
                assert!(cluster == "512" && len > 300, "{cluster} {len}: {error}");
                continue;
            }
            qemu(&path, "write -P 1 64k 1k");
            assert_eq!(contents(&path)[0].1.len(), 1);
            qemu(&path, "img bitmap --add by-qemu");
            Qcow2Mut::open(&path).unwrap().remove_bitmap("new").unwrap();
            assert_eq!(contents(&path), contents_by_qemu(&path));
            Qcow2Mut::open(&path).unwrap().remove_bitmap("by-qemu").unwrap();
            assert_qemu_check(&path, "qcow2");
            let bytes = bytes_of(&options_with_backing().open(&path).unwrap());
            assert_eq!((bytes[0], bytes[64 << 10], bytes[66 << 10]), (7, 1, 7));
        }
    }
}

fn options_with_backing() -> OpenOptions {
    options().external_files(diskimg::ExternalFiles::Any)
}
