//! `rebase`: the disk keeps its content, also after a crash at any point.

use super::chains::{Member, Random, chain, create};
use diskimg::storage::edit::FileStorage;
use diskimg::{Backing, ErrorKind, Format, Image, OpenOptions, Rebase};
use diskimg_testkit::crash::RecordingStorage;
use diskimg_testkit::tool::{assert_qemu_check, cases, full, qemu_bytes, run, try_run};
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn onto(member: &Member) -> Backing {
    Backing::new(member.name()).with_format(member.format)
}

/// Returns what `qemu-img info` says about the backing file.
fn backing_of(path: &Path) -> (Option<String>, Option<String>) {
    let info = run("qemu-img", ["info", "-U", "--output=json", path.to_str().unwrap()]);
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    let text = |key: &str| info[key].as_str().map(str::to_owned);
    (text("backing-filename"), text("backing-filename-format"))
}

#[test]
fn the_disk_keeps_its_content_on_any_backing_file() {
    for seed in 0..u64::from(cases(120).cases) {
        let dir = tempfile::tempdir().unwrap();
        let mut random = Random::new(seed);
        let count = 2 + random.below(3) as usize;
        let own = chain(dir.path(), "own", count, &mut random);
        let count = 1 + random.below(3) as usize;
        let other = chain(dir.path(), "other", count, &mut random);
        let top = own.last().unwrap();
        let new = match random.below(4) {
            0 => None,
            1 => Some(own[random.below(own.len() as u64 - 1) as usize].clone()),
            _ => other.last().cloned(),
        };
        let context = || format!("seed {seed}: {own:#?} onto {new:#?}");
        let before = qemu_bytes(&top.path, "qcow2");
        let compress = random.below(4) == 0 && !top.options.contains("data_file");
        Rebase::new(new.as_ref().map(onto))
            .open_options(top.options())
            .compress(compress)
            .run(&top.path)
            .unwrap_or_else(|e| panic!("{e:?}, {}", context()));
        let expected = new.as_ref().map(|new| (new.name().to_owned(), new.format.to_owned()));
        assert_eq!(backing_of(&top.path), expected.unzip(), "{}", context());
        assert_qemu_check(&top.path, "qcow2");
        assert!(qemu_bytes(&top.path, "qcow2") == before, "{}", context());
        let ours = top.options().open(&top.path).unwrap();
        let mut bytes = vec![0; before.len()];
        ours.read_at(&mut bytes, 0).unwrap();
        assert!(bytes == before, "{}", context());
        assert_eq!(ours.check(&mut |f| panic!("{f:?}")).unwrap().unwrap().corruptions, 0);
    }
}

/// Creates an overlay of 1 MiB with some data over a full base, and another base.
fn overlay(dir: &Path, options: &str, has_backing: bool) -> Member {
    let raw = |name: &str, byte: u8, len: usize| {
        let mut bytes = vec![byte; len];
        bytes[200_000..300_000].fill(0);
        bytes[500_000..600_000].fill(6);
        std::fs::write(dir.join(name), bytes).unwrap();
        let (path, options) = (dir.join(name), String::new());
        Member { path, format: "raw", size: 1 << 20, options }
    };
    let old = raw("old.raw", 7, 1 << 20);
    raw("new.raw", 8, 900_000);
    let options = options.replace("DIR", dir.to_str().unwrap());
    let path = dir.join("top.qcow2");
    let top = Member { path, format: "qcow2", size: 1 << 20, options };
    create(&top, has_backing.then_some(&old));
    let writes = ["write -q -P 3 100k 130k", "write -q -z 600k 64k", "write -q -P 4 1000k 1k"];
    for write in writes {
        run("qemu-io", ["-f", "qcow2", "-c", write, top.file()]);
    }
    top
}

/// A rebase in crash tests: options, whether the image has a backing file, whether it gets one.
const CRASHES: &[(&str, bool, Option<&str>)] = &[
    ("cluster_size=64k", true, Some("new.raw")),
    ("cluster_size=4k", true, Some("new.raw")),
    ("cluster_size=512", true, Some("new.raw")),
    ("cluster_size=4k,compat=0.10", true, Some("new.raw")),
    ("cluster_size=16k,extended_l2=on", true, Some("new.raw")),
    ("cluster_size=4k,refcount_bits=64", true, None),
    ("cluster_size=64k", true, None),
    ("cluster_size=4k", false, Some("new.raw")),
    ("cluster_size=4k,compat=0.10", false, Some("new.raw")),
];

#[test]
#[allow(clippy::print_stdout, reason = "the table of states")]
fn after_a_crash_the_disk_has_the_same_content() {
    for (seed, &(options, has_backing, new)) in CRASHES.iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let top = overlay(dir.path(), options, has_backing);
        let before = qemu_bytes(&top.path, "qcow2");
        let bytes = std::fs::read(&top.path).unwrap();
        let storage = Arc::new(RecordingStorage::new(bytes, Some(top.path.clone())));
        let backing = new.map(|name| Backing::new(name).with_format("raw"));
        let rebase = || Rebase::new(backing.clone()).open_options(top.options()).threads(2);
        rebase().run_on(Arc::clone(&storage) as _, "top").unwrap();
        let (mut number, mut switched, mut leaks) = (0, 0, 0);
        let step = if full() { 1 } else { 37 };
        let states = storage.crash_states(seed as u64, step, |state| {
            number += 1;
            std::fs::write(&top.path, state).unwrap();
            let context = || format!("{options}, onto {new:?}, state {number}");
            let image = top.options().open(&top.path).unwrap();
            let mut now = vec![0; before.len()];
            image.read_at(&mut now, 0).unwrap();
            assert!(now == before, "{}: the content changed", context());
            let report = image.check(&mut |_| {}).unwrap().unwrap();
            assert_eq!(report.corruptions, 0, "{}", context());
            leaks += usize::from(report.leaks > 0);
            let parent = image.layers().next().unwrap().parent().map(|parent| parent.name.clone());
            switched += usize::from(parent.as_deref() == new);
            drop(image);
            if number % 101 == 1 {
                let check = try_run("qemu-img", ["check", "-f", "qcow2", top.file()]);
                assert!(matches!(check.status.code(), Some(0 | 3)), "{}: {check:?}", context());
                assert!(qemu_bytes(&top.path, "qcow2") == before, "{}", context());
                // Repeating it completes it.
                rebase().run(&top.path).unwrap();
                assert!(qemu_bytes(&top.path, "qcow2") == before, "{}", context());
                assert_eq!(backing_of(&top.path).0.as_deref(), new, "{}", context());
            }
        });
        assert!(switched > 0 && switched < states, "{options}");
        println!("{options}, onto {new:?}: {states} states, {switched} switched, {leaks} leak");
    }
}

#[test]
fn after_a_crash_the_header_names_the_old_or_the_new_backing_file() {
    let long = "d/".repeat(400) + "b.raw";
    let names = ["a.raw", "a-longer-name-of-a-file.qcow2", &long];
    for options in ["cluster_size=64k", "compat=0.10", "cluster_size=512", "cluster_size=4k"] {
        for old in [None].into_iter().chain(names.map(Some)) {
            for new in [None].into_iter().chain(names.map(Some)) {
                let max = if options.ends_with("512") { 300 } else { 1023 };
                if [old, new].into_iter().flatten().any(|name| name.len() > max) {
                    continue;
                }
                check_header(options, old, new);
            }
        }
    }
}

/// Checks an image whose backing file does not exist.
fn check_alone(path: &Path) {
    let file = path.to_str().unwrap();
    let node = format!(
        "json:{{\"driver\":\"qcow2\",\"backing\":null,\"file\":{{\"driver\":\"file\",\"filename\":\"{file}\"}}}}"
    );
    run("qemu-img", ["check", &node]);
}

fn check_header(options: &str, old: Option<&str>, new: Option<&str>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("top.qcow2");
    let file = path.to_str().unwrap();
    let mut args = vec!["create", "-q", "-u", "-f", "qcow2", "-o", options];
    if let Some(old) = old {
        args.extend(["-F", "raw", "-b", old]);
    }
    args.extend([file, "1M"]);
    run("qemu-img", args);
    if !options.contains("compat") {
        run("qemu-img", ["bitmap", "--add", file, "a bitmap"]);
    }
    let bytes = std::fs::read(&path).unwrap();
    let storage = Arc::new(RecordingStorage::new(bytes, Some(path.clone())));
    let backing = new.map(|name| Backing::new(name).with_format("vmdk"));
    let options = OpenOptions::new().format(Format::Qcow2);
    let rebase = Rebase::new(backing).header_only(true).open_options(options.clone());
    rebase.run_on(Arc::clone(&storage) as _, "top").unwrap();
    let expect = |name: Option<&str>, format: &str| {
        (name.map(str::to_owned), name.map(|_| format.to_owned()))
    };
    let (old, new) = (expect(old, "raw"), expect(new, "vmdk"));
    let mut number = 0;
    storage.crash_states(3, 1, |state| {
        number += 1;
        std::fs::write(&path, state).unwrap();
        let image = options.clone().metadata_only(true).open(&path).unwrap();
        let parent = image.layers().next().unwrap().parent();
        let named = parent.map(|parent| (parent.name.clone(), parent.format.clone().unwrap()));
        let named = named.unzip();
        assert!(named == old || named == new, "{named:?}, neither {old:?} nor {new:?}");
        if number % 20 == 1 {
            assert_eq!(backing_of(&path), named);
            check_alone(&path);
        }
    });
    std::fs::write(&path, storage.to_vec()).unwrap();
    assert_eq!(backing_of(&path), new);
    check_alone(&path);
    // Both tools change it again.
    for name in ["x", "some other name.raw", ""] {
        run("qemu-img", ["rebase", "-u", "-b", name, "-F", "raw", file]);
        let backing = Some(Backing::new("y").with_format("qcow2")).filter(|_| !name.is_empty());
        Rebase::new(backing).header_only(true).run(&path).unwrap();
        assert_eq!(backing_of(&path).0.as_deref(), Some("y").filter(|_| !name.is_empty()));
        check_alone(&path);
    }
}

#[test]
fn the_errors_are_those_of_qemu_img() {
    let dir = tempfile::tempdir().unwrap();
    let top = overlay(dir.path(), "cluster_size=512", true);
    let before = std::fs::read(&top.path).unwrap();
    let refused = |rebase: Rebase<'_>, kind: ErrorKind, text: &str| {
        let error = rebase.open_options(top.options()).run(&top.path).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(text), "{error}");
        assert!(std::fs::read(&top.path).unwrap() == before, "{error}");
    };
    let raw = |name: &str| Backing::new(name).with_format("raw");
    for header_only in [false, true] {
        let rebase = Rebase::new(Backing::new("new.raw")).header_only(header_only);
        let text =
            "Could not change the backing file to 'new.raw': backing format must be specified";
        refused(rebase, ErrorKind::Invalid, text);
    }
    let unknown = Backing::new("new.raw").with_format("a format");
    refused(Rebase::new(unknown).header_only(true), ErrorKind::Invalid, "a format");
    let long = "n".repeat(400);
    let text = format!("Could not change the backing file to '{long}': No space left in the file");
    refused(Rebase::new(raw(&long)).header_only(true), ErrorKind::Limit, &text);
    let too_long = "n".repeat(1024);
    refused(Rebase::new(raw(&too_long)).header_only(true), ErrorKind::Limit, "1023");
    std::fs::copy(dir.path().join("new.raw"), dir.path().join(&long[..200])).unwrap();
    let path = format!("{}{}", "./".repeat(150), &long[..200]);
    refused(Rebase::new(raw(&path)), ErrorKind::Limit, "No space left in the file header");
    refused(Rebase::new(raw("missing.raw")), ErrorKind::Io, "missing.raw");
    let own = Backing::new("top.qcow2").with_format("qcow2");
    refused(Rebase::new(own), ErrorKind::Refused, "its own backing file");
    let cancel = |_| std::ops::ControlFlow::Break(());
    let rebase = Rebase::new(raw("new.raw")).progress(&cancel);
    let error = rebase.open_options(top.options()).run(&top.path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(backing_of(&top.path).0.as_deref(), Some("old.raw"));
    let vdi = dir.path().join("a.vdi");
    run("qemu-img", ["create", "-q", "-f", "vdi", vdi.to_str().unwrap(), "1M"]);
    for header_only in [false, true] {
        let error = Rebase::new(raw("new.raw")).header_only(header_only).run(&vdi).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        let text = "Could not change the backing file to 'new.raw': Operation not supported";
        assert!(error.to_string().contains(text), "{error}");
    }
}

#[test]
fn an_image_that_is_in_use_is_not_rebased() {
    let dir = tempfile::tempdir().unwrap();
    let top = overlay(dir.path(), "cluster_size=64k", true);
    let rebase = || Rebase::new(Backing::new("new.raw").with_format("raw"));
    let reader = Image::open(&top.path).unwrap();
    assert_eq!(rebase().run(&top.path).unwrap_err().kind(), ErrorKind::Locked);
    drop(reader);
    for name in ["old.raw", "new.raw"] {
        let path: PathBuf = dir.path().join(name);
        let storage = FileStorage::open(&path).unwrap();
        let writer = diskimg::Resize::new(diskimg::NewSize::Grow(0));
        let storage = Arc::new(storage);
        writer
            .open_options(OpenOptions::new().format(Format::Raw))
            .run_on(storage.clone(), "x")
            .unwrap();
        let error = rebase().run(&top.path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Locked, "{name}: {error}");
        drop(storage);
    }
    rebase().run(&top.path).unwrap();
}

#[test]
fn qed_and_vmdk_images_keep_their_content_too() {
    for format in ["qed", "vmdk"] {
        let dir = tempfile::tempdir().unwrap();
        let member = |name: &str, byte: &str, backing: Option<&Member>| {
            let path = dir.path().join(name);
            let member = Member { path, format, size: 1 << 20, options: String::new() };
            create(&member, backing);
            let write = format!("write -q -P {byte} {byte}00k 600k");
            run("qemu-io", ["-f", format, "-c", &write, member.file()]);
            member
        };
        let (old, new) = (member("old", "1", None), member("new", "2", None));
        let top = member("top", "4", Some(&old));
        let before = qemu_bytes(&top.path, format);
        for backing in [Some(onto(&new)), Some(onto(&old)), None] {
            let name = backing.as_ref().map(|backing| backing.name.clone());
            let done = Rebase::new(backing).open_options(top.options()).run(&top.path);
            assert!(done.is_ok(), "{format}: {done:?}");
            assert!(qemu_bytes(&top.path, format) == before, "{format}, {name:?}");
            assert_eq!(backing_of(&top.path).0, name, "{format}");
            if format == "qed" {
                assert_qemu_check(&top.path, format);
            }
        }
        let back = Rebase::new(onto(&new)).open_options(top.options()).run(&top.path);
        match format {
            "qed" => assert!(back.is_ok() && qemu_bytes(&top.path, format) == before),
            _ => assert_eq!(back.unwrap_err().kind(), ErrorKind::Unsupported),
        }
    }
}

/// The time depends on what the images store, not on their size.
#[test]
fn disks_of_16_tib_are_rebased_without_reading_holes() {
    let dir = tempfile::tempdir().unwrap();
    let size = 16 << 40;
    // Not every file system has raw files of 16 TiB.
    for (name, byte) in [("old.raw", 7), ("new.raw", 8)] {
        let path = dir.path().join(name);
        let args = ["create", "-q", "-f", "qcow2", path.to_str().unwrap(), "16T"];
        run("qemu-img", args);
        let write = format!("write -q -P {byte} 9T 1M");
        run("qemu-io", ["-f", "qcow2", "-c", &write, path.to_str().unwrap()]);
    }
    let top = dir.path().join("top.qcow2");
    let file = top.to_str().unwrap();
    run("qemu-img", ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "old.raw", file]);
    run("qemu-io", ["-f", "qcow2", "-c", "write -q -P 5 15T 1M", file]);
    let start = std::time::Instant::now();
    Rebase::new(Backing::new("new.raw").with_format("qcow2")).run(&top).unwrap();
    let done = Rebase::new(None).run(&top).unwrap();
    assert!(start.elapsed().as_secs() < 60);
    assert_eq!(done.stored_bytes, 0);
    let image = Image::open(&top).unwrap();
    assert_eq!(image.size(), size);
    let mut bytes = vec![0; 2 << 20];
    image.read_at(&mut bytes, 9 << 40).unwrap();
    assert!(bytes[..1 << 20].iter().all(|&byte| byte == 7));
    assert!(bytes[1 << 20..].iter().all(|&byte| byte == 0));
}
