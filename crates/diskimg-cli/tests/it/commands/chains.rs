//! `rebase` and `commit`, compared with qemu-img.

use crate::support::Lab;
use std::process::Stdio;

/// Three images: a raw base of 1 MiB, `mid.qcow2` and `top.qcow2`, and another base.
fn lab() -> Lab {
    let lab = Lab::new();
    lab.raw("base.raw");
    std::fs::write(lab.path("other.raw"), vec![0x55; 1 << 20]).expect("writes");
    lab.qemu("create -q -f qcow2 -F raw -b base.raw mid.qcow2").ok();
    qemu_io(&lab, "write -P 1 0 100k", "mid.qcow2");
    lab.qemu("create -q -f qcow2 -F qcow2 -b mid.qcow2 top.qcow2").ok();
    qemu_io(&lab, "write -P 2 64k 300k", "top.qcow2");
    lab
}

fn qemu_io(lab: &Lab, command: &str, file: &str) {
    let args = ["-f", "qcow2", "-c", command, file];
    let status = lab.command("qemu-io").args(args).stdout(Stdio::null()).status();
    assert!(status.expect("runs").success(), "{command} {file}");
}

fn bytes(lab: &Lab, name: &str, format: &str) -> Vec<u8> {
    lab.qemu(&format!("convert -f {format} -O raw {name} bytes.raw")).ok();
    lab.read("bytes.raw")
}

#[test]
fn output_exit_codes_and_contents_are_those_of_qemu_img() {
    for line in [
        "rebase -f qcow2 -b other.raw -F raw top.qcow2",
        "rebase -f qcow2 -F raw -b base.raw top.qcow2",
        "rebase -t none -T none -f qcow2 -F raw -b base.raw top.qcow2",
        "rebase -u -f qcow2 -F raw -b nowhere.raw top.qcow2",
        "rebase -u top.qcow2",
        "rebase -f qcow2 -c -F raw -b other.raw top.qcow2",
        "rebase -q -U -f qcow2 -F qcow2 -b mid.qcow2 top.qcow2",
        "rebase top.qcow2 -b base.raw -F raw",
        "rebase -b other.raw top.qcow2",
        "rebase -u -b other.raw top.qcow2",
        "rebase -b missing.raw -F raw top.qcow2",
        "rebase -b other.raw -F nonsense top.qcow2",
        "rebase top.qcow2",
        "rebase -b other.raw -F raw",
        "rebase -b other.raw -F raw base.raw",
        "rebase -t some -b other.raw -F raw top.qcow2",
        "rebase -T some -b other.raw -F raw top.qcow2",
        "rebase -b top.qcow2 -F qcow2 top.qcow2",
        "commit top.qcow2",
        "commit -q -f qcow2 top.qcow2",
        "commit -t none -f qcow2 mid.qcow2",
        "commit -d top.qcow2",
        "commit -b base.raw top.qcow2",
        "commit -b mid.qcow2 top.qcow2",
        "commit -r 100M top.qcow2",
        "commit -b nowhere.raw top.qcow2",
        "rebase --image-opts -b base.raw -F raw driver=qcow2,file.filename=top.qcow2",
        "commit --image-opts driver=qcow2,file.filename=top.qcow2",
        "commit --image-opts driver=qcow2,node-name=n,file.driver=file,file.filename=top.qcow2",
        r#"commit json:{"driver":"qcow2","file":{"driver":"file","filename":"top.qcow2"}}"#,
        "commit --image-opts -f qcow2 driver=qcow2,file.filename=top.qcow2",
        "commit base.raw",
        "commit missing",
        "commit",
        "commit -r x top.qcow2",
        "commit -t some top.qcow2",
    ] {
        let (ours, theirs) = (lab(), lab());
        let (ran, qemu) = (ours.line(line), theirs.qemu(line));
        assert_eq!(ran.code, qemu.code, "{line}: {}", ran.err);
        assert_eq!(ran.out, qemu.out, "{line}");
        assert_eq!(ran.err.is_empty(), qemu.err.is_empty(), "{line}: {}", ran.err);
        for name in ["top.qcow2", "mid.qcow2"] {
            let info = |lab: &Lab| {
                let json = lab.qemu(&format!("info -U --output=json -f qcow2 {name}")).ok();
                let info: serde_json::Value = serde_json::from_str(&json).expect("JSON");
                let of = |key: &str| info[key].as_str().map(str::to_owned);
                (of("backing-filename"), of("backing-filename-format"))
            };
            assert_eq!(info(&ours), info(&theirs), "{line}: {name}");
            if !line.contains("-u") {
                ours.qemu(&format!("check -q {name}")).ok();
            }
        }
        assert!(ours.read("base.raw") == theirs.read("base.raw"), "{line}");
        // Without their backing files, images cannot be read.
        if !line.contains("-u") {
            for name in ["top.qcow2", "mid.qcow2"] {
                assert!(bytes(&ours, name, "qcow2") == bytes(&theirs, name, "qcow2"), "{line}");
            }
        }
    }
}

#[test]
fn without_a_backing_file_the_image_contains_the_whole_disk() {
    for options in ["", "-u "] {
        let lab = lab();
        let before = bytes(&lab, "top.qcow2", "qcow2");
        let mut args: Vec<_> = format!("rebase {options}-f qcow2 top.qcow2 -b")
            .split(' ')
            .map(str::to_owned)
            .collect();
        args.push(String::new());
        lab.run(args).ok();
        let info = lab.qemu("info top.qcow2").ok();
        assert!(!info.contains("backing file"), "{info}");
        assert_eq!(bytes(&lab, "top.qcow2", "qcow2") == before, options.is_empty());
    }
}

#[test]
fn the_sentences_are_those_that_scripts_look_for() {
    let lab = lab();
    for (line, sentence) in [
        ("rebase top.qcow2", "Must specify backing file (-b) or use unsafe mode (-u)"),
        ("rebase -b other.raw top.qcow2", "backing format must be specified"),
        ("commit base.raw", "Image does not have a backing file"),
        (
            "commit -b nowhere.raw top.qcow2",
            "Did not find 'nowhere.raw' in the backing chain of 'top.qcow2'",
        ),
    ] {
        let error = lab.line(line).fails(1);
        assert!(error.contains(sentence), "{line}: {error}");
    }
    let progress = lab.line("rebase -p -f qcow2 -F raw -b other.raw top.qcow2").ok();
    assert!(progress.contains("(100.00/100%)"), "{progress:?}");
    let progress = lab.line("commit -p -d -f qcow2 top.qcow2").ok();
    assert!(progress.contains("(100.00/100%)"), "{progress:?}");
    assert!(progress.ends_with("Image committed.\n"), "{progress:?}");
}

#[test]
fn the_sandbox_allows_a_chain_in_several_directories_and_a_data_file() {
    let lab = Lab::new();
    for directory in ["sub", "far"] {
        std::fs::create_dir(lab.path(directory)).expect("creates");
    }
    lab.raw("far/base.raw");
    let data = lab.path("far/data");
    let options = format!("-o data_file={}", data.display());
    lab.qemu(&format!("create -q -f qcow2 {options} -b ../far/base.raw -F raw sub/top.qcow2")).ok();
    qemu_io(&lab, "write -P 2 64k 300k", "sub/top.qcow2");
    let before = bytes(&lab, "sub/top.qcow2", "qcow2");
    std::fs::write(lab.path("other.raw"), vec![0x55; 1 << 20]).expect("writes");
    lab.line("rebase --sandbox=on -f qcow2 -b ../other.raw -F raw sub/top.qcow2").ok();
    assert!(bytes(&lab, "sub/top.qcow2", "qcow2") == before);
    lab.line("commit --sandbox=on -d -f qcow2 sub/top.qcow2").ok();
    assert!(bytes(&lab, "other.raw", "raw")[..before.len()] == before);
    let error = lab.line("commit --external-files same-dir -d -f qcow2 sub/top.qcow2").fails(1);
    assert!(error.contains("is not in the image's directory"), "{error}");
}

/// The data file is read as the whole disk, which it is not with a backing file.
#[test]
fn an_image_whose_data_file_is_a_raw_disk_gets_no_backing_file() {
    for line in [
        "rebase -f qcow2 -F raw -b other.raw data.qcow2",
        "rebase -u -f qcow2 -F raw -b other.raw data.qcow2",
    ] {
        let lab = lab();
        let options = "-o data_file=data.raw,data_file_raw=on";
        lab.qemu(&format!("create -q -f qcow2 {options} data.qcow2 1M")).ok();
        qemu_io(&lab, "write -P 2 64k 300k", "data.qcow2");
        let before = (lab.read("data.qcow2"), lab.read("data.raw"));
        lab.qemu(line).fails(1);
        let error = lab.line(line).fails(1);
        assert!(error.contains("Backing file and data-file-raw cannot be used"), "{error}");
        assert!((lab.read("data.qcow2"), lab.read("data.raw")) == before, "{line}");
        // Without one, there is nothing to change.
        lab.run("rebase -f qcow2 data.qcow2 -b".split(' ').chain([""])).ok();
    }
}

/// Operations that damage images, or fail, in qemu-img 10.0.
#[test]
fn zeros_snapshots_and_subclusters_are_kept() {
    let lab = lab();
    // Version 2 has no zero clusters that would hide a new backing file.
    lab.qemu("create -q -f qcow2 -o compat=0.10 old.qcow2 1M").ok();
    lab.line("rebase -f qcow2 -F raw -b other.raw old.qcow2").ok();
    assert!(bytes(&lab, "old.qcow2", "qcow2").iter().all(|&byte| byte == 0));
    // A repair of an image with snapshots and bitmaps.
    qemu_io(&lab, "write -P 3 0 64k", "mid.qcow2");
    lab.qemu("snapshot -c kept mid.qcow2").ok();
    lab.qemu("bitmap --add mid.qcow2 b").ok();
    for scope in ["leaks", "all"] {
        lab.line(&format!("check -q -f qcow2 -r {scope} mid.qcow2")).ok();
    }
    assert!(lab.qemu("snapshot -l mid.qcow2").ok().contains("kept"));
    lab.qemu("check -q mid.qcow2").ok();
    // Compressed clusters are written as a whole.
    let options = "-o cluster_size=2M,extended_l2=on";
    lab.qemu(&format!("create -q -f qcow2 {options} -F raw -b base.raw large.qcow2 5M")).ok();
    let before = bytes(&lab, "large.qcow2", "qcow2");
    lab.line("rebase -f qcow2 -c -F raw -b other.raw large.qcow2").ok();
    assert!(bytes(&lab, "large.qcow2", "qcow2") == before);
    lab.qemu("check -q large.qcow2").ok();
}

#[test]
fn the_driver_of_a_device_is_recorded_as_it_is() {
    let lab = Lab::new();
    lab.qemu("create -q -f qcow2 a.qcow2 1M").ok();
    lab.line("rebase -u -b /dev/nowhere -F host_device a.qcow2").ok();
    let info: serde_json::Value =
        serde_json::from_str(&lab.qemu("info --output=json a.qcow2").ok()).expect("JSON");
    assert_eq!(info["backing-filename-format"], "host_device");
    lab.line("rebase -u -b a.raw -F IMG a.qcow2").ok();
    let info = lab.qemu("info a.qcow2").ok();
    assert!(info.contains("backing file format: raw"), "{info}");
}

#[test]
fn a_qcow_image_is_empty_after_a_commit() {
    for keep in [false, true] {
        let (ours, theirs) = (Lab::new(), Lab::new());
        for lab in [&ours, &theirs] {
            lab.raw("a.raw");
            lab.qemu("convert -O qcow a.raw base.qcow").ok();
            lab.qemu("create -q -f qcow -b base.qcow -F qcow top.qcow").ok();
            let io = ["-f", "qcow", "-c", "write -q -P 7 64k 128k", "top.qcow"];
            assert!(lab.command("qemu-io").args(io).status().expect("runs").success());
        }
        let line = if keep { "commit -d top.qcow" } else { "commit top.qcow" };
        ours.line(line).ok();
        theirs.qemu(line).ok();
        let own = |lab: &Lab| {
            let map = lab.qemu("map --output=json top.qcow").ok();
            map.matches("\"depth\": 0, \"present\": true").count()
        };
        assert_eq!(own(&ours), own(&theirs), "{keep}");
        assert_eq!(ours.read("top.qcow").len(), theirs.read("top.qcow").len(), "{keep}");
        ours.qemu("convert -O raw top.qcow ours.raw").ok();
        theirs.qemu("convert -O raw top.qcow theirs.raw").ok();
        assert!(ours.read("ours.raw") == theirs.read("theirs.raw"));
        ours.line("check top.qcow").ok();
    }
}
