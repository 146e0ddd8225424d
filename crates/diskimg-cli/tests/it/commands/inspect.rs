//! Tests of `inspect`, of the policy for external files in every command, and of endless sources.

use crate::support::Lab;
use std::process::Stdio;

/// Creates an overlay in a directory, with a backing file outside it.
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
    let stdout = lab.line("inspect plain.qcow2").ok();
    assert!(
        stdout.starts_with("image: plain.qcow2\nverdict: safe\nfile format: qcow2\n"),
        "{stdout}"
    );
    let ran = lab.line("inspect in/over.qcow2");
    assert_eq!((ran.code, ran.err.as_str()), (Some(2), ""), "{}", ran.out);
    assert!(ran.out.contains("\nverdict: unsafe\n"), "{}", ran.out);
    assert!(ran.out.contains("\nnames the backing file: ../base.raw\n"), "{}", ran.out);
    assert!(ran.out.contains("\nerror: backing-file: "), "{}", ran.out);
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
    let parse = |text: &str| {
        let mut json: serde_json::Value = serde_json::from_str(text).expect("JSON");
        assert!(json["file-size"].is_u64());
        let object = json.as_object_mut().expect("an object");
        object.remove("filename");
        object.remove("actual-size");
        json
    };
    let from_file = parse(&from_file.out);
    assert_eq!(from_file, parse(&String::from_utf8(from_pipe.stdout).expect("UTF-8")));
    assert_eq!(from_file["references"][0]["name"], "../base.raw");
    assert_eq!(from_file["findings"][0]["code"], "backing-file");
}

#[test]
fn control_characters_in_names_are_escaped() {
    let lab = Lab::new();
    let text = "# Disk DescriptorFile\nversion=1\ncreateType=\"monolithicFlat\"\n\
                RW 1 FLAT \"a\x1b[2J\" 0\n";
    std::fs::write(lab.path("a.vmdk"), text).expect("writes");
    let ran = lab.line("inspect a.vmdk");
    assert_eq!(ran.code, Some(2));
    assert!(!ran.out.contains('\x1b'), "{:?}", ran.out);
}

#[test]
fn every_command_applies_the_policy_for_external_files() {
    let lab = overlay();
    let lines = [
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
    for line in lines {
        for policy in ["none", "same-dir"] {
            let ran = lab.line(&line.replace("{}", &format!("--external-files={policy}")));
            assert!(ran.code.is_some_and(|code| code != 0), "{line} {policy}: {}", ran.out);
            let messages = ["it names the backing file", "is not in the image's directory"];
            assert!(
                messages.iter().any(|message| ran.err.contains(message)),
                "{line}: {}",
                ran.err
            );
        }
        let ran = lab.line(&line.replace("{}", "--external-files=any"));
        assert!(!ran.err.contains("backing file"), "{line}: {}", ran.err);
        for output in ["out", "new.qcow2"] {
            let _ = std::fs::remove_file(lab.path(output));
            let _ = std::fs::remove_dir_all(lab.path(output));
        }
    }
    // `info` and `check` open no other file.
    for command in ["info", "check"] {
        lab.line(&format!("{command} --external-files=none in/over.qcow2")).ok();
    }
}

#[test]
#[cfg(target_os = "linux")]
fn endless_and_special_files_are_not_accepted_as_sources() {
    let lab = Lab::new();
    lab.raw("a.raw");
    let made = lab.command("mkfifo").arg("fifo").status().expect("runs");
    assert!(made.success());
    let _socket = std::os::unix::net::UnixListener::bind(lab.path("socket")).expect("binds");
    let lines = [
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
    for line in lines {
        for source in ["/dev/zero", "/dev/random", "fifo", "socket", "."] {
            let ran = lab.within_seconds(60, &line.replace("{}", source));
            assert!(ran.code.is_some_and(|code| code != 0), "{line} {source}");
            let messages = ["neither a regular file nor a block device", "it is a directory"];
            let expected = messages.iter().any(|message| ran.err.contains(message));
            assert!(expected || ran.err.contains("No such device"), "{line} {source}: {}", ran.err);
        }
    }
    for line in ["inspect -", "info -", "convert -O qcow2 - out"] {
        let zero = std::fs::File::open("/dev/zero").expect("opens");
        let mut command = lab.command(crate::support::diskimg());
        let output = command.args(line.split(' ')).stdin(Stdio::from(zero)).output().expect("runs");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{line}");
        assert!(error.contains("character device"), "{line}: {error}");
    }
    // Reading an endless pipe stops at the maximum size.
    let mut zeros =
        lab.command("cat").arg("/dev/zero").stdout(Stdio::piped()).spawn().expect("runs");
    let pipe = zeros.stdout.take().expect("piped");
    let mut command = lab.command(crate::support::diskimg());
    let output = command.args(["inspect", "--max-size", "8M", "-"]).stdin(pipe).output();
    let error = String::from_utf8_lossy(&output.expect("runs").stderr).into_owned();
    let _ = zeros.kill();
    let _ = zeros.wait();
    assert!(error.contains("is longer than 8388608 bytes"), "{error}");
}
