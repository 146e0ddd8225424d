//! Tests on a full disk: a small tmpfs, mounted in a mount namespace.

use crate::support::{Lab, diskimg};
use std::os::unix::fs::FileExt;
use std::process::Output;

/// Runs `script` in the lab with a file system of 2 MiB mounted on `full/`, in a mount namespace.
/// `$0` is diskimg.
fn on_a_small_disk(lab: &Lab, script: &str) -> Output {
    std::fs::create_dir(lab.path("full")).expect("creates");
    let script = format!("mount -t tmpfs -o size=2m tmpfs full || exit 99\n{script}");
    let output = lab
        .command("unshare")
        .args(["--mount", "sh", "-c", &script, diskimg()])
        .output()
        .unwrap_or_else(|e| panic!("this test needs unshare (install util-linux): {e}"));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() != Some(99) && !error.contains("unshare failed"),
        "this test mounts a file system in a mount namespace, which requires root \
         (in a container: CAP_SYS_ADMIN): {error}"
    );
    output
}

#[test]
#[ignore = "needs root: mounts a file system"]
fn a_full_disk_keeps_the_existing_target_and_leaves_no_temporary_files() {
    for (source, options) in [
        ("big.raw", "-O raw"),
        ("big.raw", "-O raw -S 0"),
        ("big.raw", "-O raw -o preallocation=falloc"),
        ("big.raw", "-O raw -o preallocation=full"),
        ("big.raw", "-O qcow2"),
        ("big.raw", "-O qcow2 -c -m 16"),
        ("big.raw", "-O qcow2 -t none"),
        ("big.raw", "-O vmdk"),
        ("big.raw", "-O vmdk -o subformat=streamOptimized"),
        ("big.raw", "-O vmdk -o subformat=monolithicFlat"),
        ("big.raw", "-O vmdk -o subformat=twoGbMaxExtentSparse"),
        ("empty.raw", "-O vmdk -o subformat=twoGbMaxExtentFlat,preallocation=full"),
        ("empty.raw", "-O vmdk -o subformat=vmfs,preallocation=falloc"),
        ("empty.raw", "-O qcow2 -o preallocation=full"),
    ] {
        let lab = Lab::new();
        // Incompressible data.
        let mut noise = 1u32;
        let bytes = std::iter::repeat_with(|| {
            noise ^= noise << 13;
            noise ^= noise >> 17;
            noise ^= noise << 5;
            noise as u8
        });
        let bytes: Vec<u8> = bytes.take(8 << 20).collect();
        std::fs::write(lab.path("big.raw"), bytes).expect("writes");
        let empty = std::fs::File::create(lab.path("empty.raw")).expect("creates");
        empty.set_len(8 << 20).expect("extends");
        let script = format!(
            "printf old >full/dst\n\"$0\" convert {options} {source} full/dst\n\
             echo \"exit $?\"\ncat full/dst\necho\nls -A full"
        );
        let output = on_a_small_disk(&lab, &script);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "exit 1\nold\ndst\n", "{options}");
        assert!(error.starts_with("diskimg: full/dst"), "{options}: {error}");
        assert!(error.contains("No space left on device"), "{options}: {error}");
        assert_eq!(error.lines().count(), 1, "{options}: {error}");
    }
}

#[test]
#[ignore = "needs root: mounts a file system"]
fn the_error_names_the_file_that_does_not_fit() {
    for (layout, extent) in [
        ("monolithicFlat", "dst-flat.vmdk"),
        ("twoGbMaxExtentFlat", "dst-f002.vmdk"),
        ("twoGbMaxExtentSparse", "dst-s002.vmdk"),
    ] {
        for offload in ["", "-C"] {
            let lab = Lab::new();
            let disk = std::fs::File::create(lab.path("big.raw")).expect("creates");
            let at = if layout == "monolithicFlat" { 0 } else { 2047 << 20 };
            disk.set_len(at + (4 << 20)).expect("extends");
            disk.write_all_at(&vec![1; 4 << 20], at).expect("writes");
            let script = format!(
                "\"$0\" convert {offload} -O vmdk -o subformat={layout} big.raw full/dst.vmdk\n\
                 ls -A full"
            );
            let output = on_a_small_disk(&lab, &script);
            let error = String::from_utf8_lossy(&output.stderr);
            assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{layout}");
            let file = format!("diskimg: full/{extent}: at offset 0x");
            assert!(error.starts_with(&file), "{layout} {offload}: {error}");
            assert!(error.contains("No space left on device"), "{layout} {offload}: {error}");
        }
    }
}

#[test]
#[ignore = "needs root: mounts a file system"]
fn an_image_that_does_not_fit_is_not_created() {
    let lab = Lab::new();
    let script =
        "\"$0\" create -f raw -o preallocation=full full/a.raw 8M\necho \"exit $?\"\nls -A full";
    let output = on_a_small_disk(&lab, script);
    let error = String::from_utf8_lossy(&output.stderr);
    let message = "Formatting 'full/a.raw', fmt=raw size=8388608 preallocation=full\nexit 1\n";
    assert_eq!(String::from_utf8_lossy(&output.stdout), message);
    assert!(error.contains("No space left on device"), "{error}");
}
