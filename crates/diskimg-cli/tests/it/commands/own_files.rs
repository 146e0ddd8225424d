//! Outputs that are one of the files that are read.

use crate::support::{Lab, diskimg};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Creates inputs of all kinds.
fn lab() -> Lab {
    let lab = Lab::new();
    lab.raw("a.raw");
    for line in [
        "iso create -q -o i.iso a.raw",
        "convert -O qcow2 a.raw base.qcow2",
        "create -q -f qcow2 -b base.qcow2 -F qcow2 over.qcow2",
        "convert -O qcow2 -o data_file=data.raw a.raw ext.qcow2",
        "convert -O vmdk -o subformat=monolithicFlat a.raw flat.vmdk",
    ] {
        lab.line(line).ok();
    }
    std::fs::create_dir(lab.path("tree")).expect("mkdir");
    std::fs::create_dir(lab.path("img")).expect("mkdir");
    std::fs::copy(lab.path("i.iso"), lab.path("img/a.raw")).expect("copies");
    std::fs::write(lab.path("tree/g"), "text").expect("writes");
    std::fs::write(lab.path("list"), "tree/g\n").expect("writes");
    for (file, link) in [("a.raw", "hard.raw"), ("i.iso", "hard.iso")] {
        std::fs::hard_link(lab.path(file), lab.path(link)).expect("links");
    }
    std::os::unix::fs::symlink("a.raw", lab.path("sym.raw")).expect("links");
    lab
}

fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(directory).expect("lists") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            all.extend(contents(&path));
        } else {
            all.insert(path.clone(), std::fs::read(&path).expect("reads"));
        }
    }
    all
}

#[test]
fn no_file_that_is_read_is_replaced_or_overwritten() {
    let lab = lab();
    let before = contents(&lab.path("."));
    for line in [
        "convert a.raw a.raw",
        "convert -O qcow2 a.raw hard.raw",
        "convert -O qcow2 hard.raw a.raw",
        "convert -O qcow2 a.raw sym.raw",
        "convert file:a.raw a.raw",
        "convert -O raw - a.raw <a.raw",
        "convert -O qcow2 over.qcow2 base.qcow2",
        "convert -O raw ext.qcow2 data.raw",
        "convert -O raw flat.vmdk flat-flat.vmdk",
        "convert -f raw -O vmdk -o subformat=monolithicFlat flat-flat.vmdk flat.vmdk",
        "convert -f raw -O qcow2 -o data_file=hard.raw a.raw x",
        "convert -f raw -O qcow2 -B over.qcow2 -F qcow2 a.raw base.qcow2",
        "convert -f raw -O qcow2 -o data_file=base.qcow2 -B base.qcow2 -F qcow2 a.raw x",
        "convert -n -O qcow2 over.qcow2 base.qcow2",
        "convert -n -O raw a.raw hard.raw",
        "convert -O ova a.raw base.qcow2 hard.raw",
        "convert -O qcow2 a.raw /proc/self/fd/3 3<>a.raw",
        "convert -O raw base.qcow2 - 1<>base.qcow2",
        "convert -O raw over.qcow2 - >>base.qcow2",
        "create -f qcow2 -b over.qcow2 -F qcow2 base.qcow2",
        "create -f qcow2 -b sym.raw -F raw hard.raw",
        "iso create -q -o a.raw a.raw",
        "iso create -q -o hard.raw a.raw",
        "iso create -q -o tree/g tree",
        "iso create -q -o - a.raw 1<>a.raw",
        "iso create -q -o /dev/fd/3 a.raw 3<>a.raw",
        "iso remaster -q i.iso -o a.raw -a x=a.raw",
        "iso remaster -q i.iso -o - -a x=tree 1<>i.iso",
        "iso cat i.iso a.raw 1<>i.iso",
        "iso cat i.iso a.raw >>hard.iso",
        "iso extract --overwrite img/a.raw -C img",
        "mkisofs -quiet -o list -path-list list",
        "mkisofs -quiet -o list -exclude-list list tree",
        "mkisofs -quiet -o list -hide-list list tree",
        "mkisofs -quiet -o i.iso -G i.iso tree",
        "mkisofs -quiet -o hard.raw -append_partition 2 0x83 a.raw tree",
        "xorriso -outdev a.raw -blank as_needed -map a.raw /x -commit",
        "osirrox -overwrite on -indev img/a.raw -extract / img",
        "osirrox -overwrite on -indev img/a.raw -extract /a.raw img/a.raw",
    ] {
        let command = format!("exec {} {line}", diskimg());
        let output = lab.command("sh").args(["-c", &command]).output().expect("runs");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{line}: {output:?}");
        let reasons = ["own", "one of the files", "is the image", "lock"];
        assert!(reasons.iter().any(|reason| error.contains(reason)), "{line}: {error}");
        let after = contents(&lab.path("."));
        let differs = after.iter().find(|(path, bytes)| before.get(*path) != Some(bytes));
        assert!(differs.is_none() && after.len() == before.len(), "{line}: {differs:?}");
    }
}

/// Names that files of a killed run have, and one that the lock of a directory had.
#[test]
fn no_file_that_is_read_is_removed_for_its_name() {
    const TEMPORARY: &str = ".dst.Ab1Cd2.diskimg-tmp";
    let lab = Lab::new();
    lab.raw("a.raw");
    lab.line("create -q -f qcow2 -b a.raw -F raw over.qcow2").ok();
    let bytes = std::fs::read(lab.path("a.raw")).expect("reads");
    for line in [
        "convert -f raw -O raw NAME dst",
        "convert -f raw -O raw NAME out",
        "convert -f raw -O qcow2 -o data_file=dst NAME x",
        "convert -f qcow2 -O qcow2 -B NAME -F raw over.qcow2 dst",
        "create -q -f qcow2 -b NAME -F raw dst",
        "iso create -q -o dst NAME",
        "iso create -q -o dst tree",
        "iso remaster -q i.iso -o dst -a x=NAME",
    ] {
        for name in [TEMPORARY, ".diskimg-lock"] {
            for limit in ["", "ulimit -f 8;"] {
                let line = line.replace("NAME", name);
                for written in ["dst", "out", "x"] {
                    let _ = std::fs::remove_file(lab.path(written));
                }
                let _ = std::fs::remove_dir_all(lab.path("tree"));
                std::fs::create_dir(lab.path("tree")).expect("mkdir");
                lab.line("iso create -q -o i.iso tree").ok();
                std::fs::write(lab.path(name), &bytes).expect("writes");
                std::fs::hard_link(lab.path(name), lab.path("tree").join(name)).expect("links");
                let command = format!("trap '' XFSZ; {limit} exec {} {line}", diskimg());
                let output = lab.command("sh").args(["-c", &command]).output().expect("runs");
                assert!(output.status.success() || !limit.is_empty(), "{line}: {output:?}");
                let after = std::fs::read(lab.path(name)).expect("is kept");
                assert!(after == bytes, "{limit} {line}");
                std::fs::remove_file(lab.path(name)).expect("removes");
            }
        }
    }
}

#[test]
fn an_output_or_data_file_may_have_any_name() {
    let lab = Lab::new();
    lab.raw("a.raw");
    for line in [
        "convert -O raw a.raw .diskimg-lock",
        "convert -O qcow2 -o data_file=.diskimg-lock a.raw x",
    ] {
        std::fs::write(lab.path(".diskimg-lock"), "").expect("writes");
        lab.line(line).ok();
        assert_ne!(std::fs::read(lab.path(".diskimg-lock")).expect("exists"), b"", "{line}");
    }
}
