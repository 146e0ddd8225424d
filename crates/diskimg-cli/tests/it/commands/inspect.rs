//! `inspect`, the policy on names that every verb honours, and sources that have no end.

use crate::support::Lab;
use std::process::Stdio;

/// An overlay in a folder, over a disk outside of it.
fn overlay() -> Lab {
    let lab = Lab::new();
    std::fs::create_dir(lab.path("in")).expect("mkdir");
    std::fs::write(lab.path("base.raw"), [7; 65536]).expect("writes");
    std::fs::write(lab.path("in/own.raw"), [7; 65536]).expect("writes");
    lab.qemu("create -q -f qcow2 -b ../base.raw -F raw in/over.qcow2").ok();
    lab
}

#[test]
fn the_exit_code_is_the_verdict() {
    let lab = overlay();
    lab.qemu("create -q -f qcow2 plain.qcow2 1M").ok();
    let said = lab.line("inspect plain.qcow2").ok();
    assert!(said.starts_with("image: plain.qcow2\nverdict: safe\nfile format: qcow2\n"), "{said}");
    let ran = lab.line("inspect in/over.qcow2");
    assert_eq!((ran.code, ran.err.as_str()), (Some(2), ""), "{}", ran.out);
    assert!(ran.out.contains("\nverdict: unsafe\n"), "{}", ran.out);
    assert!(ran.out.contains("\nnames the backing file: ../base.raw\n"), "{}", ran.out);
    assert!(ran.out.contains("\nrefuse: backing-file: "), "{}", ran.out);
    let quiet = lab.line("inspect -q in/over.qcow2");
    assert_eq!((quiet.code, quiet.out.as_str(), quiet.err.as_str()), (Some(2), "", ""));
    for fails in ["missing", ".", "--claimed nonsense plain.qcow2", "--allow nonsense plain.qcow2"]
    {
        lab.line(&format!("inspect {fails}")).fails(1);
    }
    lab.line("inspect --allow backing-file --claimed qcow2 in/over.qcow2").ok();
    for (line, code) in [
        ("--claimed raw", "format-mismatch"),
        ("--max-size 1k", "file-too-large"),
        ("--max-virtual-size 1000k", "disk-too-large"),
        ("--max-ratio 1", "ratio-too-large"),
        ("--limit table_bytes=1", "unreadable"),
    ] {
        let ran = lab.line(&format!("inspect {line} plain.qcow2"));
        assert_eq!(ran.code, Some(2), "{line}");
        assert!(ran.out.contains(code), "{line}: {}", ran.out);
    }
}

#[test]
fn json_is_the_same_from_a_file_and_from_a_pipe() {
    let lab = overlay();
    let from_file = lab.line("inspect --output=json in/over.qcow2");
    let bytes = lab.read("in/over.qcow2");
    let from_pipe = lab.feed("inspect --output=json -", &bytes);
    assert_eq!((from_file.code, from_pipe.status.code()), (Some(2), Some(2)));
    let told = |text: &str| {
        let mut json: serde_json::Value = serde_json::from_str(text).expect("JSON");
        assert!(json["file-size"].is_u64());
        let facts = json.as_object_mut().expect("an object");
        facts.remove("filename");
        facts.remove("actual-size");
        json
    };
    let from_file = told(&from_file.out);
    assert_eq!(from_file, told(&String::from_utf8(from_pipe.stdout).expect("UTF-8")));
    assert_eq!(from_file["references"][0]["name"], "../base.raw");
    assert_eq!(from_file["findings"][0]["code"], "backing-file");
}

#[test]
fn what_an_image_says_is_escaped() {
    let lab = Lab::new();
    let text = "# Disk DescriptorFile\nversion=1\ncreateType=\"monolithicFlat\"\nRW 1 FLAT \"a\x1b[2J\" 0\n";
    std::fs::write(lab.path("a.vmdk"), text).expect("writes");
    let ran = lab.line("inspect a.vmdk");
    assert_eq!(ran.code, Some(2));
    assert!(!ran.out.contains('\x1b'), "{:?}", ran.out);
}

#[test]
fn every_verb_honours_the_policy_on_names() {
    let lab = overlay();
    let verbs = [
        "convert -O raw {} in/over.qcow2 out",
        "convert -O qcow2 -B in/over.qcow2 -F qcow2 {} in/own.raw out",
        "create {} -f qcow2 -b in/over.qcow2 -F qcow2 new.qcow2",
        "compare {} in/over.qcow2 in/own.raw",
        "measure -O qcow2 {} in/over.qcow2",
        "map {} in/over.qcow2",
        "info --backing-chain {} in/over.qcow2",
        "iso ls {} in/over.qcow2",
        "iso info {} in/over.qcow2",
        "iso verify {} in/over.qcow2",
        "iso cat {} in/over.qcow2 file",
        "iso extract {} -C out in/over.qcow2",
        "iso diff {} in/over.qcow2 in/own.raw",
    ];
    for verb in verbs {
        for policy in ["none", "same-dir"] {
            let ran = lab.line(&verb.replace("{}", &format!("--references={policy}")));
            assert!(ran.code.is_some_and(|code| code != 0), "{verb} {policy}: {}", ran.out);
            let refused = ["it names the backing file", "is not in the image's directory"];
            assert!(refused.iter().any(|word| ran.err.contains(word)), "{verb}: {}", ran.err);
        }
        let ran = lab.line(&verb.replace("{}", "--references=any"));
        assert!(!ran.err.contains("backing file"), "{verb}: {}", ran.err);
        for made in ["out", "new.qcow2"] {
            let _ = std::fs::remove_file(lab.path(made));
            let _ = std::fs::remove_dir_all(lab.path(made));
        }
    }
    // Facts and checks need no other file.
    for verb in ["info", "check"] {
        lab.line(&format!("{verb} --references=none in/over.qcow2")).ok();
    }
}

#[test]
#[cfg(target_os = "linux")]
fn what_has_no_end_is_no_source() {
    let lab = Lab::new();
    lab.raw("a.raw");
    let made = lab.command("mkfifo").arg("fifo").status().expect("runs");
    assert!(made.success());
    let _socket = std::os::unix::net::UnixListener::bind(lab.path("socket")).expect("binds");
    let verbs = [
        "convert -O qcow2 {} out",
        "info {}",
        "map {}",
        "check {}",
        "compare {} a.raw",
        "measure -O qcow2 {}",
        "inspect {}",
        "iso ls {}",
        "create -f qcow2 -b {} -F raw new.qcow2",
    ];
    for verb in verbs {
        for source in ["/dev/zero", "/dev/random", "fifo", "socket", "."] {
            let ran = lab.within_seconds(60, &verb.replace("{}", source));
            assert!(ran.code.is_some_and(|code| code != 0), "{verb} {source}");
            let said = ["neither a regular file nor a block device", "it is a directory"];
            let plain = said.iter().any(|words| ran.err.contains(words));
            assert!(plain || ran.err.contains("No such device"), "{verb} {source}: {}", ran.err);
        }
    }
    for verb in ["inspect -", "info -", "convert -O qcow2 - out"] {
        let zero = std::fs::File::open("/dev/zero").expect("opens");
        let mut command = lab.command(crate::support::diskimg());
        let output = command.args(verb.split(' ')).stdin(Stdio::from(zero)).output().expect("runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{verb}");
        assert!(said.contains("character device"), "{verb}: {said}");
    }
    // A pipe that nobody closes is left at the bound.
    let mut zeros =
        lab.command("cat").arg("/dev/zero").stdout(Stdio::piped()).spawn().expect("runs");
    let pipe = zeros.stdout.take().expect("piped");
    let mut command = lab.command(crate::support::diskimg());
    let output = command.args(["inspect", "--max-size", "8M", "-"]).stdin(pipe).output();
    let said = String::from_utf8_lossy(&output.expect("runs").stderr).into_owned();
    let _ = zeros.kill();
    let _ = zeros.wait();
    assert!(said.contains("goes on behind 8388608 bytes"), "{said}");
}
