//! Tests of processes that may use little memory, few threads or no random numbers.

use crate::support::{Lab, diskimg};

/// Under every limit on memory from the smallest with which the program starts.
#[test]
fn a_lack_of_memory_is_an_error_and_no_file_is_left() {
    let lab = Lab::new();
    let noise: Vec<u8> = (0..8 << 20_u32).map(|n: u32| (n.wrapping_mul(n) >> 9) as u8).collect();
    std::fs::write(lab.path("a.raw"), noise).expect("writes");
    lab.line("convert -O qcow2 -c -o cluster_size=2M a.raw big.qcow2").ok();
    lab.line("convert -O vmdk -o subformat=streamOptimized a.raw a.vmdk").ok();
    let limited = |kib: u32, line: &str| {
        let command = format!("ulimit -v {kib}; exec {} {line}", diskimg());
        lab.command("sh").args(["-c", &command]).output().expect("runs")
    };
    let starts = |&kib: &u32| limited(kib, "--version").status.success();
    let least = (8 << 10..1 << 20).step_by(256).find(starts).expect("starts");
    let before = std::fs::read_dir(lab.path(".")).expect("lists").count();
    let step = if diskimg_testkit::tool::full() { 64 } else { 1024 };
    for line in [
        "convert -O qcow2 a.raw b",
        "convert -O qcow2 -c a.raw b",
        "convert -O qcow2 -c -o compression_type=zstd,cluster_size=2M a.raw b",
        "convert -O vmdk -o subformat=streamOptimized a.raw b",
        "convert -O raw big.qcow2 b",
        "convert -m 4 -O raw a.vmdk b",
        "iso create -o b a.raw",
        "create -f qcow2 -o preallocation=metadata b 16G",
        "info big.qcow2",
        "check big.qcow2",
        "compare a.raw big.qcow2",
    ] {
        let mut codes = std::collections::BTreeMap::new();
        for kib in (least..least + (12 << 10)).step_by(step) {
            let output = limited(kib, line);
            let code = output.status.code();
            *codes.entry(code).or_insert(0) += 1;
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(matches!(code, Some(0..=4)), "{line} with {kib} KiB: {output:?}");
            assert!(code == Some(0) || error.starts_with("diskimg: "), "{line}: {error}");
            let _ = std::fs::remove_file(lab.path("b"));
            let after = std::fs::read_dir(lab.path(".")).expect("lists").count();
            assert_eq!(after, before, "{line} with {kib} KiB leaves files");
        }
        assert!(codes.contains_key(&Some(0)), "{line}: {codes:?}");
    }
}

/// The limit applies to the processes of a user, but not to root.
#[test]
#[ignore = "needs root"]
fn without_further_threads_the_main_thread_does_the_work() {
    let lab = Lab::new();
    std::fs::write(lab.path("a.raw"), vec![7; 8 << 20]).expect("writes");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(lab.path("."), mode).expect("chmod");
    // The build may be in a directory that other users cannot enter, such as root's.
    std::fs::copy(diskimg(), lab.path("diskimg")).expect("copies");
    for line in [
        "convert -m 4 -O qcow2 -c a.raw b",
        "convert -m 4 --verify -O vmdk -o subformat=streamOptimized a.raw b",
        "compare a.raw a.raw",
        "iso create -q -o b a.raw",
        "check b",
        "iso verify b",
    ] {
        // A user of whom no other process exists.
        let user = 0x7fff_0000 + std::process::id();
        let command = format!(
            "exec setpriv --reuid={user} --regid={user} --clear-groups \
             prlimit --nproc=1 ./diskimg {line}"
        );
        let output = lab.command("sh").args(["-c", &command]).output().expect("runs");
        assert_eq!(output.status.code(), Some(0), "{line}: {output:?}");
    }
}

#[test]
#[ignore = "needs root: mounts a file system"]
fn without_random_numbers_there_is_an_error() {
    let lab = Lab::new();
    lab.raw("a.raw");
    // An empty /dev, and a library that makes getrandom(2) fail.
    let source = "#include <errno.h>\n#include <stddef.h>\n\
                  long getrandom(void *b, size_t n, unsigned f) { errno = EPERM; return -1; }\n";
    std::fs::write(lab.path("no.c"), source).expect("writes");
    let built = lab.command("cc").args(["-shared", "-fPIC", "-o", "no.so", "no.c"]).status();
    assert!(built.is_ok_and(|status| status.success()), "this test needs cc");
    let preload = lab.path("no.so");
    let script = format!("mount -t tmpfs none /dev; LD_PRELOAD={} exec \"$@\"", preload.display());
    let mut command = lab.command("unshare");
    command.args(["-m", "sh", "-c", &script, "sh", diskimg()]);
    let output = command.args(["convert", "-O", "qcow2", "a.raw", "b"]).output().expect("runs");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("random numbers"), "{output:?}");
    assert!(!lab.path("b").exists());
}
