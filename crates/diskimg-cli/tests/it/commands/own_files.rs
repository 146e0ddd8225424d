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
    lab.line("convert -O ova a.raw p.ova").ok();
    let unpacked = lab.command("tar").args(["xf", "p.ova"]).status().expect("runs");
    assert!(unpacked.success());
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
        "convert -O raw p.ovf p.ovf",
        "convert -O raw p.ovf p.mf",
        "convert -O qcow2 -o data_file=p.mf p.ovf x",
        "convert -n -O raw p.ovf p.mf",
        "convert -n -O qcow2 over.qcow2 base.qcow2",
        "convert -n -O raw a.raw hard.raw",
        "convert --force -O ova a.raw base.qcow2 hard.raw",
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
        "iso remaster -q i.iso -o hard.iso",
        "iso remaster -q hard.iso -o hard.iso",
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
        let reasons = ["own", "one of the files", "is the image", "lock", "has other names"];
        assert!(reasons.iter().any(|reason| error.contains(reason)), "{line}: {error}");
        let after = contents(&lab.path("."));
        let differs = after.iter().find(|(path, bytes)| before.get(*path) != Some(bytes));
        assert!(differs.is_none() && after.len() == before.len(), "{line}: {differs:?}");
    }
}

/// A loop device and its file, and a partition and its disk, have the same bytes.
#[test]
#[ignore = "needs root: attaches a loop device"]
fn a_device_is_not_overwritten_with_its_own_data() {
    let lab = Lab::new();
    lab.raw("a.raw");
    lab.line("convert -O qcow2 a.raw disk").ok();
    lab.line("convert -O qcow2 a.raw plain").ok();
    lab.line("iso create -q -o i.iso a.raw").ok();
    // A table of one partition, which begins at sector 64.
    let mut disk = vec![7; 1 << 20];
    disk[..512].fill(0);
    disk[446..462].copy_from_slice(&[0, 0, 0, 0, 0x83, 0, 0, 0, 64, 0, 0, 0, 0, 4, 0, 0]);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    std::fs::write(lab.path("parts"), disk).expect("writes");
    for file in ["disk", "i.iso", "parts"] {
        let len = lab.path(file).metadata().expect("exists").len().next_multiple_of(1 << 20);
        let file = std::fs::File::options().write(true).open(lab.path(file)).expect("opens");
        file.set_len(len).expect("grows");
    }
    let attach = |file: &str| {
        let options = ["--partscan", "--find", "--show", file];
        let output = lab.command("losetup").args(options).output().expect("runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
    };
    let detach = |device: &str| {
        assert!(lab.command("losetup").args(["-d", device]).status().expect("runs").success());
    };
    // An image whose data file is a device that is later stored in the image itself.
    std::fs::write(lab.path("own"), vec![0; 8 << 20]).expect("writes");
    let data = attach("own");
    lab.line(&format!("convert -O qcow2 -o data_file={data} a.raw self.qcow2")).ok();
    detach(&data);
    let file = std::fs::File::options().write(true).open(lab.path("self.qcow2")).expect("opens");
    file.set_len(8 << 20).expect("grows");
    assert!(lab.command("losetup").args([&data, "self.qcow2"]).status().expect("runs").success());
    std::fs::hard_link(lab.path("disk"), lab.path("hard")).expect("links");
    let before = contents(&lab.path("."));
    let devices = ["disk", "i.iso", "parts"].map(attach);
    let partition = format!("{}p1", devices[2]);
    let disk = lab.path("disk");
    let mut lines = Vec::new();
    for options in ["", "--sandbox=off "] {
        lines.extend([
            format!("convert {options}-f qcow2 -O raw disk {}", devices[0]),
            format!("convert {options}-f qcow2 -n -O raw disk {}", devices[0]),
            format!("convert {options}-f qcow2 -O raw {} disk", devices[0]),
            format!("convert {options}-f raw -O qcow2 -o data_file=disk {} x", devices[0]),
            format!("create {options}-q -f qcow2 -b {} -F qcow2 {}", disk.display(), devices[0]),
            format!("iso remaster {options}-q i.iso -o {}", devices[1]),
            format!("convert {options}-f qcow2 -O raw disk - >{}", devices[0]),
            format!("convert {options}-f qcow2 -O raw {} - 1<>disk", devices[0]),
            format!("iso create {options}-q -o {} disk", devices[0]),
            format!("iso create {options}-q -o - disk >{}", devices[0]),
            format!("iso remaster {options}-q i.iso -a x=disk -o {}", devices[0]),
            format!("iso cat {options}i.iso a.raw >{}", devices[1]),
            format!("convert {options}-n -O qcow2 a.raw self.qcow2"),
            format!("resize {options}-q self.qcow2 +1M"),
            format!("convert {options}-O qcow2 -o data_file={} a.raw hard", devices[0]),
        ]);
        // Only some kernels and containers have it.
        if Path::new(&partition).exists() {
            lines.push(format!("convert {options}-f raw -O raw {partition} {}", devices[2]));
            lines.push(format!("convert {options}-f raw -O raw {} {partition}", devices[2]));
            lines.push(format!("convert {options}-f raw -O raw parts {partition}"));
        }
    }
    lines.push(format!("mkisofs -quiet -o {} -path-list parts", devices[2]));
    let run = |line: &String| {
        let command = format!("exec {} {line}", diskimg());
        lab.command("sh").args(["-c", &command]).output().expect("runs")
    };
    let outcomes: Vec<_> = lines.iter().map(|line| (line, run(line))).collect();
    let other = lab.line(&format!("convert -f qcow2 -O raw plain {}", devices[1]));
    let after = contents(&lab.path("."));
    devices.iter().chain([&data]).for_each(|device| detach(device));
    for (line, ran) in outcomes {
        let error = String::from_utf8_lossy(&ran.stderr);
        assert_eq!(ran.status.code(), Some(1), "{line}: {error}");
        let reasons = ["own", "one of the files", "is the image", "of the image"];
        assert!(reasons.iter().any(|reason| error.contains(reason)), "{line}: {error}");
    }
    assert_eq!(other.code, Some(0), "another file: {}", other.err);
    for (path, bytes) in before {
        assert!(path.ends_with("i.iso") || after.get(&path) == Some(&bytes), "{path:?}");
    }
    assert!(!lab.path("x").exists());
}

/// In a directory such as /tmp, another user can create a link under any name.
#[test]
#[ignore = "needs root, which can create links of other users"]
fn a_link_of_another_user_in_a_shared_directory_is_not_followed() {
    use std::os::unix::fs::{PermissionsExt, lchown, symlink};
    const OTHER: u32 = 65534;
    let lab = Lab::new();
    lab.raw("a.raw");
    std::fs::create_dir(lab.path("own")).expect("mkdir");
    std::fs::create_dir(lab.path("shared")).expect("mkdir");
    lab.line("convert -O qcow2 a.raw own/q").ok();
    lab.line("iso create -q -o i.iso a.raw").ok();
    std::fs::copy(lab.path("a.raw"), lab.path("own/r")).expect("copies");
    for (link, target) in
        [("q", "../own/q"), ("r", "../own/r"), ("new", "../own/new"), ("dir", "../own")]
    {
        let link = lab.path("shared").join(link);
        symlink(target, &link).expect("links");
        lchown(&link, Some(OTHER), Some(OTHER)).expect("changes the owner");
    }
    symlink("shared/new", lab.path("chain")).expect("links");
    let shared = std::fs::Permissions::from_mode(0o1777);
    std::fs::set_permissions(lab.path("shared"), shared).expect("sets the mode");
    let before = contents(&lab.path("own"));
    for line in [
        "convert -O raw a.raw shared/r",
        "convert -O qcow2 a.raw shared/new",
        "convert -O qcow2 a.raw chain",
        "convert -O qcow2 a.raw shared/dir/new",
        "convert -O qcow2 -o data_file=shared/new a.raw x",
        "convert -n -O raw a.raw shared/r",
        "convert -n -O qcow2 a.raw shared/q",
        "create -q -f raw shared/r 1M",
        "resize -q shared/q +1M",
        "snapshot -q -c s shared/q",
        "amend -q -o compat=1.1,lazy_refcounts=on shared/q",
        "bitmap --add shared/q b",
        "iso create -q -o shared/new a.raw",
        "iso extract -C shared/dir i.iso",
        "iso extract -C shared/dir/new/dir i.iso",
        "mkisofs -quiet -o shared/new a.raw",
        "xorriso -outdev shared/new -map a.raw /a -commit",
    ] {
        for options in ["", "--sandbox=off"] {
            let words = line.split_whitespace();
            let ran = match line.split_once(' ').expect("a command").0 {
                "mkisofs" | "xorriso" if !options.is_empty() => continue,
                _ => lab.run(words.chain(options.split_whitespace())),
            };
            assert!(matches!(ran.code, Some(1..=32)), "{line}: {} {}", ran.out, ran.err);
            assert!(ran.err.contains("belongs to another user"), "{line}: {}", ran.err);
            assert!(contents(&lab.path("own")) == before, "{line}");
        }
    }
    lchown(lab.path("shared/new"), Some(0), None).expect("changes the owner");
    lab.line("convert -O qcow2 a.raw chain").ok();
    assert!(lab.path("own/new").exists());
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
