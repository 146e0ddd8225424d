//! Formats that are recognized but not supported, by every command that probes.

use crate::support::{Lab, diskimg};

/// Returns the start of an Android sparse image.
fn simg() -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    bytes[..6].copy_from_slice(&[0x3a, 0xff, 0x26, 0xed, 1, 0]);
    bytes
}

/// Returns the start of a LUKS volume, which QEMU recognizes.
#[cfg(unix)]
fn luks() -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    bytes[..8].copy_from_slice(b"LUKS\xba\xbe\0\x01");
    bytes
}

#[test]
fn a_recognized_format_is_an_error_that_mentions_f_raw_in_every_command() {
    let lab = Lab::new();
    std::fs::write(lab.path("disk"), simg()).expect("writes");
    lab.raw("raw");
    for command in [
        "convert -O qcow2 disk out",
        "info disk",
        "map disk",
        "check disk",
        "measure disk",
        "compare disk raw",
        "compare raw disk",
    ] {
        let ran = lab.line(command);
        assert!(ran.code != Some(0) && ran.err.contains("Android"), "{command}: {ran:?}");
        let option = if command.ends_with("raw disk") { "-F raw" } else { "-f raw" };
        assert!(ran.err.contains(option), "{command}: {ran:?}");
        assert!(!lab.path("out").exists());
    }
    lab.line("convert -f raw -O raw disk out").ok();
    assert!(lab.read("out") == lab.read("disk"));
}

#[test]
#[cfg(unix)]
fn as_qemu_img_a_compressed_file_is_an_error_and_a_fixed_vhd_is_raw() {
    let lab = Lab::new();
    let link = lab.path("qemu-img");
    std::os::unix::fs::symlink(diskimg(), &link).expect("links");
    let run = |line: &str| {
        let output = lab.command(&link).args(line.split(' ')).output().expect("runs");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    lab.qemu("create -q -f vpc -o subformat=fixed fixed 1M").ok();
    std::fs::write(lab.path("luks"), luks()).expect("writes");
    std::fs::write(lab.path("disk.gz"), [0x1f, 0x8b, 8, 0, 0, 0, 0, 0]).expect("writes");

    assert!(run("convert -O raw fixed out").0);
    assert!(lab.read("out") == lab.read("fixed"));
    for (file, name) in [("luks", "LUKS"), ("disk.gz", "gzip")] {
        let (success, err) = run(&format!("convert -O raw {file} out2"));
        assert!(!success && err.contains(name) && err.contains("-f raw"), "{err}");
        assert!(!lab.path("out2").exists());
    }
}
