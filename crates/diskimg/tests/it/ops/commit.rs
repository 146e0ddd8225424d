//! `commit`: the backing file gets what the image stores, also after a crash at any point.

use super::chains::{Member, OVERLAYS, Random, chain, copy_directory, create};
use diskimg::{Commit, ErrorKind, Image, OpenOptions};
use diskimg_testkit::crash::RecordingStorage;
use diskimg_testkit::disk::{Disk, Fill, Run};
use diskimg_testkit::tool::{MountedFs, assert_qemu_check, cases, full, qemu_bytes, run, try_run};
use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

/// Returns the bytes of a disk that is `size` bytes long at least.
fn padded(mut bytes: Vec<u8>, size: usize) -> Vec<u8> {
    if bytes.len() < size {
        bytes.resize(size, 0);
    }
    bytes
}

fn ours(member: &Member) -> Vec<u8> {
    let image = member.options().open(&member.path).unwrap();
    let mut bytes = vec![0; image.size() as usize];
    image.read_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn the_backing_file_gets_the_content_of_the_disk() {
    let mut committed = 0;
    for seed in 0..u64::from(cases(150).cases) {
        let dir = tempfile::tempdir().unwrap();
        let mut random = Random::new(seed + 10_000);
        let count = 2 + random.below(3) as usize;
        let own = chain(dir.path(), "own", count, &mut random);
        let top = own.last().unwrap();
        let depth = match random.below(3) {
            0 => None,
            _ => Some(random.below(own.len() as u64 - 1) as usize),
        };
        let keep = random.below(3) == 0;
        let base = &own[depth.unwrap_or(own.len() - 2)];
        let context = || format!("seed {seed}: {own:#?} into {depth:?}");
        let before = qemu_bytes(&top.path, "qcow2");
        let rest = qemu_bytes(&base.path, base.format);
        let mut commit = Commit::new().open_options(top.options()).keep(keep);
        if depth.is_some() {
            commit = commit.base(base.name());
        }
        let done = match commit.run(&top.path) {
            Ok(done) => done,
            Err(error) => {
                let is_resize = error.to_string().contains("resize")
                    || error.to_string().contains("cannot be")
                    || error.to_string().contains("data file");
                assert!(base.size < top.size && is_resize, "{error:?}, {}", context());
                continue;
            }
        };
        committed += 1;
        let mut expected = before.clone();
        if rest.len() > expected.len() {
            expected.extend_from_slice(&rest[before.len()..]);
        }
        assert_eq!(done.emptied, depth.is_none() && !keep, "{}", context());
        let found = padded(qemu_bytes(&base.path, base.format), expected.len());
        assert!(found == expected, "{}", context());
        assert!(padded(ours(base), expected.len()) == expected, "{}", context());
        if base.format != "raw"
            && !(base.format == "vmdk" || base.format == "qcow" || base.format == "vpc")
        {
            assert_qemu_check(&base.path, base.format);
        }
        assert_qemu_check(&top.path, "qcow2");
        if depth.is_none() || keep {
            assert!(qemu_bytes(&top.path, "qcow2") == before, "{}", context());
        }
        if done.emptied {
            let image = top.options().open(&top.path).unwrap();
            let stored = image.extents(0..image.size()).unwrap();
            let stored = stored.filter(|e| {
                let e = e.as_ref().unwrap();
                e.depth == 0 && !e.kind.is_zero()
            });
            assert_eq!(stored.count(), 0, "{}", context());
        }
    }
    assert!(committed > 25, "{committed}");
}

#[test]
fn the_emptied_image_is_not_longer_than_that_of_qemu_img() {
    for options in OVERLAYS {
        let dir = tempfile::tempdir().unwrap();
        let options = options.replace("NAME", dir.path().join("top").to_str().unwrap());
        let (top, _) = overlay(dir.path(), &options, "raw", "");
        let copy = tempfile::tempdir().unwrap();
        copy_directory(dir.path(), copy.path());
        let theirs = top.in_directory(copy.path());
        run("qemu-img", ["commit", "-q", "-f", "qcow2", theirs.file()]);
        Commit::new().run(&top.path).unwrap();
        let len = |path: &Path| std::fs::metadata(path).unwrap().len();
        assert!(
            len(&top.path) <= len(&theirs.path),
            "{options}: {} {}",
            len(&top.path),
            len(&theirs.path)
        );
        assert_qemu_check(&top.path, "qcow2");
        // QEMU allocates again.
        run("qemu-io", ["-f", "qcow2", "-c", "write -q -P 9 0 300k", top.file()]);
        assert_qemu_check(&top.path, "qcow2");
    }
}

/// Creates a full base of 1 MiB and an overlay of it with some data.
fn overlay(
    dir: &Path,
    options: &str,
    base_format: &'static str,
    base_options: &str,
) -> (Member, Member) {
    let path = dir.join(format!("base.{base_format}"));
    let base =
        Member { path, format: base_format, size: 1 << 20, options: base_options.to_owned() };
    create(&base, None);
    run("qemu-io", ["-f", base_format, "-c", "write -q -P 7 0 700k", base.file()]);
    let options = options.to_owned();
    let top = Member { path: dir.join("top.qcow2"), format: "qcow2", size: 1 << 20, options };
    create(&top, Some(&base));
    for write in ["write -q -P 3 100k 130k", "write -q -z 600k 64k", "write -q -P 4 1000k 1k"] {
        run("qemu-io", ["-f", "qcow2", "-c", write, top.file()]);
    }
    (top, base)
}

/// Options of the image, snapshots in it, format and options of its backing file.
const CRASHES: &[(&str, bool, &str, &str)] = &[
    ("cluster_size=64k", false, "raw", ""),
    ("cluster_size=512", false, "qcow2", "cluster_size=512"),
    ("cluster_size=4k,refcount_bits=64", false, "qcow2", "cluster_size=4k"),
    ("cluster_size=4k,compat=0.10", true, "qcow2", "cluster_size=64k"),
    ("cluster_size=4k", true, "vmdk", ""),
    ("cluster_size=16k,extended_l2=on", true, "qcow2", "cluster_size=16k,extended_l2=on"),
    ("cluster_size=4k", false, "vdi", ""),
    ("cluster_size=4k", false, "vpc", "force_size=on"),
    ("cluster_size=4k", false, "qed", ""),
];

#[test]
#[allow(clippy::print_stdout, reason = "the table of states")]
fn after_a_crash_the_disk_has_the_same_content() {
    for (seed, &(options, has_snapshot, base_format, base_options)) in CRASHES.iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let (top, base) = overlay(dir.path(), options, base_format, base_options);
        if has_snapshot {
            run("qemu-img", ["snapshot", "-c", "s", top.file()]);
            run("qemu-io", ["-f", "qcow2", "-c", "write -q -P 5 150k 20k", top.file()]);
        }
        let before = qemu_bytes(&top.path, "qcow2");
        let record = |member: &Member| {
            let bytes = std::fs::read(&member.path).unwrap();
            Arc::new(RecordingStorage::new(bytes, Some(member.path.clone())))
        };
        let (recorded, recorded_base) = (record(&top), record(&base));
        let commit = || Commit::new().open_options(top.options()).threads(2);
        commit().run_on(recorded.clone(), "top", recorded_base.clone()).unwrap();
        let (mut number, mut leaks) = (0, 0);
        let step = if full() { 1 } else { 37 };
        let mut check_state = |written: &Member, state: &[u8]| {
            number += 1;
            std::fs::write(&written.path, state).unwrap();
            let context =
                || format!("{options}, {base_format}, {}, state {number}", written.name());
            let image = top.options().open(&top.path).unwrap();
            let mut now = vec![0; before.len()];
            image.read_at(&mut now, 0).unwrap();
            assert!(now == before, "{}: the content changed", context());
            drop(image);
            let written_image = written.options().open(&written.path).unwrap();
            if let Some(report) = written_image.check(&mut |_| {}).unwrap() {
                assert_eq!(report.corruptions, 0, "{}", context());
                leaks += usize::from(report.leaks > 0);
            }
            drop(written_image);
            if number % 101 == 1 {
                if written.format == "qcow2" {
                    let check = try_run("qemu-img", ["check", "-f", "qcow2", written.file()]);
                    assert!(matches!(check.status.code(), Some(0 | 3)), "{}: {check:?}", context());
                }
                assert!(qemu_bytes(&top.path, "qcow2") == before, "{}", context());
                // Repeating it completes it.
                let copy = tempfile::tempdir().unwrap();
                copy_directory(dir.path(), copy.path());
                commit().run(top.in_directory(copy.path()).path).unwrap();
                let base = base.in_directory(copy.path());
                assert!(qemu_bytes(&base.path, base.format) == before, "{}", context());
            }
        };
        // The image is not changed before the backing file is durable.
        let of_base =
            recorded_base.crash_states(seed as u64, step, |state| check_state(&base, state));
        std::fs::write(&base.path, recorded_base.to_vec()).unwrap();
        assert!(qemu_bytes(&base.path, base.format) == before);
        let of_top = recorded.crash_states(seed as u64, step, |state| check_state(&top, state));
        println!("{options}, {base_format}: {of_base} + {of_top} states, {leaks} leak");
        std::fs::write(&top.path, recorded.to_vec()).unwrap();
        assert_qemu_check(&top.path, "qcow2");
        if has_snapshot {
            run("qemu-img", ["snapshot", "-a", "s", top.file()]);
            assert_qemu_check(&top.path, "qcow2");
        }
    }
}

#[test]
fn the_errors_are_those_of_qemu_img() {
    let dir = tempfile::tempdir().unwrap();
    let (top, base) = overlay(dir.path(), "cluster_size=64k", "qcow2", "");
    let error = Commit::new().run(&base.path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("Image does not have a backing file"), "{error}");
    let error = Commit::new().base("nope").run(&top.path).unwrap_err();
    let text = format!("Did not find 'nope' in the backing chain of '{}'", top.file());
    assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains(&text), "{error}");
    let before = std::fs::read(&top.path).unwrap();
    for path in [&top.path, &base.path] {
        let reader = OpenOptions::new().metadata_only(true).open(path).unwrap();
        assert_eq!(Commit::new().run(&top.path).unwrap_err().kind(), ErrorKind::Locked);
        drop(reader);
    }
    let cancel = |_| std::ops::ControlFlow::Break(());
    let error = Commit::new().progress(&cancel).run(&top.path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(std::fs::read(&top.path).unwrap() == before);
    Commit::new().keep(true).run(&top.path).unwrap();
    assert!(std::fs::read(&top.path).unwrap() == before);
    Image::open(&top.path).unwrap();
}

/// A raw disk into which a guest wrote a header that names a file of the host.
#[test]
fn no_file_is_written_that_an_image_of_unknown_format_names() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("a file of the host");
    let options = format!("data_file={}", data.display());
    let (top, base) = overlay(dir.path(), "cluster_size=64k", "qcow2", &options);
    let before = std::fs::read(&data).unwrap();
    run("qemu-img", ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base.file(), top.file()]);
    let bytes = std::fs::read(&top.path).unwrap();
    // Without the extension with the format: its type is unknown.
    let at = bytes.windows(4).position(|w| w == [0xe2, 0x79, 0x2a, 0xca]).unwrap();
    let mut changed = bytes.clone();
    changed[at] = 0x11;
    std::fs::write(&top.path, &changed).unwrap();
    run("qemu-io", ["-f", "qcow2", "-c", "write -q -P 3 0 64k", top.file()]);
    let error = Commit::new().run(&top.path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(std::fs::read(&data).unwrap() == before);
    std::fs::write(&top.path, &bytes).unwrap();
    Commit::new().run(&top.path).unwrap();
    let probed = diskimg::Rebase::new(None);
    assert_eq!(probed.run(&base.path).unwrap_err().kind(), ErrorKind::Refused);
    probed.open_options(base.options()).run(&base.path).unwrap();
}

#[test]
fn the_base_is_found_by_its_recorded_name_and_by_its_path() {
    let dir = tempfile::tempdir().unwrap();
    let (top, base) = overlay(dir.path(), "cluster_size=64k", "qcow2", "");
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(base.name(), &link).unwrap();
    for name in [base.name(), base.file(), link.to_str().unwrap(), "./base.qcow2"] {
        let done = Commit::new().base(name).run(&top.path).unwrap();
        assert!(!done.emptied && done.stored_bytes > 0, "{done:?}");
    }
}

/// A VHDX over a VHDX records an identifier of the contents of its parent.
#[test]
fn an_image_that_could_not_be_opened_afterwards_is_not_committed() {
    let dir = tempfile::tempdir().unwrap();
    let options = OpenOptions::new().external_files(diskimg::ExternalFiles::Any);
    let (base, top) = (dir.path().join("base.vhdx"), dir.path().join("top.vhdx"));
    let file = base.to_str().unwrap();
    run("qemu-img", ["create", "-q", "-f", "vhdx", "-o", "block_size=1M", file, "4M"]);
    run("qemu-io", ["-f", "vhdx", "-c", "write -q -P 7 0 2M", file]);
    let raw = dir.path().join("a.raw");
    std::fs::write(&raw, vec![5; 4 << 20]).unwrap();
    let image = OpenOptions::new().format(diskimg::Format::Raw).open(&raw).unwrap();
    let backing = diskimg::Backing::new("base.vhdx").with_format("vhdx");
    let convert = diskimg::Convert::new(image).format(diskimg::Format::Vhdx).backing(backing);
    convert.run(&top).unwrap();
    let before = std::fs::read(&base).unwrap();
    let commit = || Commit::new().open_options(options.clone());
    let error = commit().run(&top).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(std::fs::read(&base).unwrap() == before);
    commit().keep(true).run(&top).unwrap();
    assert!(qemu_bytes(&base, "vhdx") == vec![5; 4 << 20]);
}

/// A VMDK over a VMDK records the identifier of the contents of its parent.
#[test]
fn a_vmdk_can_be_opened_after_its_parent_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let member = |name: &str| {
        let path = dir.path().join(name);
        Member { path, format: "vmdk", size: 1 << 20, options: String::new() }
    };
    let (base, top) = (member("base.vmdk"), member("top.vmdk"));
    create(&base, None);
    run("qemu-io", ["-f", "vmdk", "-c", "write -q -P 7 0 700k", base.file()]);
    create(&top, Some(&base));
    run("qemu-io", ["-f", "vmdk", "-c", "write -q -P 3 100k 130k", top.file()]);
    let before = qemu_bytes(&top.path, "vmdk");
    let done = Commit::new().run(&top.path).unwrap();
    assert!(!done.emptied && done.stored_bytes > 0);
    assert!(qemu_bytes(&base.path, "vmdk") == before);
    assert!(qemu_bytes(&top.path, "vmdk") == before);
    Commit::new().keep(true).run(&top.path).unwrap();
    assert!(qemu_bytes(&top.path, "vmdk") == before);
}

#[test]
fn bitmaps_of_both_images_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (top, base) = overlay(dir.path(), "cluster_size=4k", "qcow2", "");
    for member in [&top, &base] {
        run("qemu-img", ["bitmap", "--add", member.file(), "b"]);
    }
    let before = qemu_bytes(&top.path, "qcow2");
    Commit::new().run(&top.path).unwrap();
    for member in [&top, &base] {
        let info = run("qemu-img", ["info", member.file()]);
        assert!(info.contains("name: b") && !info.contains("in-use"), "{info}");
        assert_qemu_check(&member.path, "qcow2");
        assert!(qemu_bytes(&member.path, "qcow2") == before);
    }
}

/// Returns the blocks of the parts of a file that are at least 4 MiB long.
fn long_extents(file: &Path) -> Vec<Range<u64>> {
    let text = Command::new("filefrag").arg("-v").arg(file).output().unwrap().stdout;
    let text = String::from_utf8(text).unwrap();
    // 3:   848..  1103:   393704..   393959:   256:   360: flags
    let extents = text.lines().filter_map(|line| {
        let fields: Vec<_> = line.split(':').collect();
        let len: u64 = fields.get(3)?.trim().parse().ok()?;
        let (first, _) = fields[2].split_once("..")?;
        let first: u64 = first.trim().parse().ok()?;
        (len >= 1024).then(|| first..first + len)
    });
    extents.collect()
}

#[test]
#[ignore = "needs root, xfsprogs, btrfs-progs and loop devices; ./test.sh runs it as root"]
fn blocks_are_shared_and_then_removed_from_the_image() {
    for fs in MountedFs::all() {
        for (format, keep) in [("raw", false), ("qcow2", false), ("qcow2", true)] {
            let (base, top) = (fs.path("base"), fs.path("top"));
            let disk = Disk {
                size: 64 << 20,
                runs: vec![Run { at: 8 << 20, len: 24 << 20, fill: Fill::Noise(1) }],
            };
            let raw = fs.path("top.raw");
            disk.write(&raw);
            run("qemu-img", ["create", "-q", "-f", format, base.to_str().unwrap(), "64M"]);
            let write = "write -q -P 7 0 12M";
            run("qemu-io", ["-f", format, "-c", write, base.to_str().unwrap()]);
            // The data is written to the image alone, so that it does not store the zeros.
            run("qemu-img", ["create", "-q", "-f", "qcow2", top.to_str().unwrap(), "64M"]);
            let names = [raw.to_str().unwrap(), top.to_str().unwrap()];
            let args = ["convert", "-n", "--target-is-zero", "-f", "raw", "-O", "qcow2"];
            run("qemu-img", args.iter().chain(&names));
            let args = ["rebase", "-u", "-f", "qcow2", "-F", format, "-b", "base", names[1]];
            run("qemu-img", args);
            let expected = qemu_bytes(&top, "qcow2");
            run("sync", ["-f", names[1]]);
            let before = long_extents(&top);
            assert!(!before.is_empty());
            Commit::new().keep(keep).run(&top).unwrap();
            assert!(qemu_bytes(&base, format) == expected, "{format}");
            assert!(qemu_bytes(&top, "qcow2") == expected, "{format}");
            if format != "raw" {
                assert_qemu_check(&base, format);
            }
            let after = long_extents(&base);
            let is_shared = |old: &Range<u64>| {
                after.iter().any(|new| new.start < old.end && old.start < new.end)
            };
            // An image that is kept does not share its blocks.
            assert_eq!(before.iter().any(is_shared), !keep, "{format}");
        }
    }
}
