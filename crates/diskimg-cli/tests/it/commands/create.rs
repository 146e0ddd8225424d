//! Compares `create` with that of qemu-img.

use crate::support::{Lab, diskimg};

#[test]
fn created_images_equal_those_of_qemu_img() {
    for (name, line) in [
        ("a.raw", "create a.raw 1M"),
        ("a.raw", "create -f raw a.raw 1048576"),
        ("a.raw", "create -f raw a.raw 1024.0"),
        ("a.raw", "create -f raw a.raw .7k"),
        ("a.qcow2", "create -f qcow2 a.qcow2 1.5G"),
        ("a.qcow2", "create a.qcow2 1M -o cluster_size=4k -fqcow2 -o refcount_bits=8"),
        ("a.qcow2", "create -f qcow2 -o compat=0.10,size=2M a.qcow2"),
    ] {
        let (ours, theirs) = (Lab::new(), Lab::new());
        let message = ours.line(line).ok();
        assert!(message.starts_with(&format!("Formatting '{name}', fmt=")), "{message}");
        theirs.qemu(line).ok();
        let info = |lab: &Lab| {
            let json = lab.qemu(&format!("info --output=json {name}")).ok();
            let mut info: serde_json::Value = serde_json::from_str(&json).expect("JSON");
            // The allocated size depends on the file system.
            info.as_object_mut().unwrap().retain(|k, _| k != "actual-size" && k != "children");
            info
        };
        assert_eq!(info(&ours), info(&theirs), "{line}");
    }
}

#[test]
fn the_message_lists_the_same_options_as_qemu_imgs() {
    let lab = Lab::new();
    lab.raw("a,b.raw");
    lab.line("create -q -f vmdk base.vmdk 1M").ok();
    for line in [
        "create a.raw 64k",
        "create -q b.raw 64k",
        "create -f raw -o preallocation=off c,d.raw 1000",
        "create -f qcow2 a.qcow2 1.5G",
        "create -f qcow2 a.qcow2 1000",
        "create -f qcow2 -o compat=0.10,size=1.5k a.qcow2",
        "create -f qcow2 -o lazy_refcounts,extended_l2=yes,cluster_size=0x10000 a.qcow2 1M",
        "create -f qcow2 -o refcount_bits=8,compression_type=zstd -o refcount_bits=1 a.qcow2 1M",
        "create -f qcow2 -o preallocation=metadata,compat=v3 a.qcow2 1M",
        "create -f qcow2 -o data_file_raw=on,data_file=a.data,compat=1.1 a.qcow2 1M",
        "create -f qcow2 -b a.raw -F raw over.qcow2",
        "create -f qcow2 -o backing_file=a,,b.raw,backing_fmt=raw,compat=1.1 over.qcow2",
        "create -u -f qcow2 -b nope -F raw over.qcow2 1M",
        "create -f vmdk a.vmdk 1M",
        "create -f vmdk -o compat6=on a.vmdk 1000",
        "create -f vmdk -o subformat=streamOptimized,toolsversion=3,hwversion=6 a.vmdk 1M",
        "create -f vmdk -o zeroed_grain=on,adapter_type=lsilogic a.vmdk 1M",
        "create -f vmdk -b base.vmdk -F vmdk over.vmdk",
        "create -f vmdk -o subformat=monolithicFlat a.vmdk 1M",
        "create -f vmdk -o subformat=twoGbMaxExtentFlat,adapter_type=buslogic a.vmdk 5G",
        "create -f vmdk -o subformat=twoGbMaxExtentSparse -b base.vmdk -F vmdk over.vmdk",
    ] {
        lab.same(line);
    }
}

#[test]
fn an_overlay_gets_the_size_of_its_backing_file() {
    let lab = Lab::new();
    lab.raw("a.raw");
    lab.line("create -q -f qcow2 -b a.raw -F raw over.qcow2").ok();
    lab.line("create -q -f qcow2 -o backing_file=a.raw,backing_fmt=raw over2.qcow2").ok();
    assert_eq!(lab.read("over.qcow2"), lab.read("over2.qcow2"));
    lab.qemu("compare a.raw over.qcow2").ok();
}

#[test]
fn a_missing_or_invalid_size_is_an_error() {
    let lab = Lab::new();
    let error = lab.line("create -f qcow2 a.qcow2").fails(1);
    assert!(error.contains("needs a size"), "{error}");
    let error = lab.line("create a.raw abc").fails(1);
    assert!(error.contains("Invalid image size specified: 'abc'"), "{error}");
    let error = lab.line("create -f qcow2 -u -b nope -F raw a.qcow2").fails(1);
    assert!(error.contains("size"), "{error}");
    lab.line("create -q -f qcow2 -u -b nope -F raw a.qcow2 1M").ok();
}

#[test]
fn a_vmdk_child_cannot_be_created_without_reading_its_parent() {
    let lab = Lab::new();
    lab.line("create -q -f vmdk base.vmdk 1M").ok();
    for format in ["-F vmdk", ""] {
        let error =
            lab.line(&format!("create -u -f vmdk -b base.vmdk {format} x.vmdk 1M")).fails(1);
        for part in ["needs its parent's content ID", "leave out -u"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(!lab.path("x.vmdk").exists());
    }
}

/// Runs `line` after `ulimit` with the arguments `limit`.
fn limited(lab: &Lab, limit: &str, line: &str) -> std::process::Output {
    let script = format!("ulimit {limit} && \"$0\" {line}");
    lab.command("sh").args(["-c", &script, diskimg()]).output().expect("runs")
}

#[test]
fn a_split_image_may_have_more_files_than_the_soft_limit_on_open_files() {
    let lab = Lab::new();
    let line = "create -q -f vmdk -o subformat=twoGbMaxExtentSparse a.vmdk 200G";
    let made = limited(&lab, "-Sn 30", line);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    assert!(lab.path("a-s101.vmdk").exists() && !lab.path("a-s102.vmdk").exists());
    lab.qemu("check a.vmdk").ok();
}

#[test]
fn a_split_image_with_more_files_than_the_hard_limit_is_an_error_that_leaves_no_files() {
    let lab = Lab::new();
    for subformat in ["twoGbMaxExtentSparse", "twoGbMaxExtentFlat"] {
        let line = format!("create -q -f vmdk -o subformat={subformat} a.vmdk 200G");
        let refused = limited(&lab, "-n 30", &line);
        let error = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{error}");
        for part in [".vmdk: cannot create the extent: ", "Too many open files", "ulimit -n"] {
            assert!(error.contains(part), "{error}");
        }
        assert_eq!(std::fs::read_dir(lab.path(".")).expect("lists").count(), 0);
    }
}

#[test]
fn either_all_files_of_a_split_image_are_created_or_none() {
    let mut succeeded = 0;
    for limit in 8..32 {
        let lab = Lab::new();
        let line = "create -q -f vmdk -o subformat=twoGbMaxExtentFlat a.vmdk 20G";
        let outcome = limited(&lab, &format!("-n {limit}"), line);
        let files = std::fs::read_dir(lab.path(".")).expect("lists").count();
        let expected = if outcome.status.success() { 12 } else { 0 };
        let error = String::from_utf8_lossy(&outcome.stderr);
        assert_eq!(files, expected, "with {limit} files: {error}");
        succeeded += u32::from(outcome.status.success());
    }
    assert!((1..24).contains(&succeeded), "{succeeded} of 24 succeeded");
}

#[test]
fn a_size_given_twice_is_an_error() {
    let lab = Lab::new();
    for line in ["create -f qcow2 -o size=2M a.qcow2 1M", "create -f raw -o size=1M a.raw 1M"] {
        assert!(lab.qemu(line).fails(1).contains("The image size must be specified only once"));
        assert!(lab.line(line).fails(1).contains("The image size must be specified only once"));
    }
}

#[test]
fn only_an_option_of_its_own_asks_for_help() {
    let lab = Lab::new();
    for options in ["backing_file=a,,help", "backing_file=help", "data_file=a,,?"] {
        let line = format!("create -f qcow2 -u -F raw -o {options} a.qcow2 1M");
        let line = if options.starts_with("data") { line.replace("-F raw ", "") } else { line };
        assert!(!lab.line(&line).ok().contains("Virtual disk size"), "{line}");
    }
    assert!(lab.line("create -f qcow2 -o size=1M,help").ok().contains("Virtual disk size"));
}

#[test]
fn a_destination_may_be_named_by_the_file_protocol() {
    let lab = Lab::new();
    lab.raw("a.raw");
    for line in [
        "create -f qcow2 file:b.qcow2 4M",
        "convert -O qcow2 a.raw file:c.qcow2",
        "resize file:b.qcow2 8M",
        "convert -n -O raw a.raw file:d.raw",
    ] {
        lab.line("create -q d.raw 8M").ok();
        lab.line(line).ok();
    }
    let info = lab.qemu("info b.qcow2").ok();
    assert!(info.contains("8 MiB"), "{info}");
    lab.qemu("compare a.raw c.qcow2").ok();
    // In the current directory, which is not that of the name with the protocol.
    let absolute = format!("file:{}", lab.path("e.qcow2").display());
    lab.line(&format!("create -f qcow2 {absolute} 1M")).ok();
    assert!(lab.path("e.qcow2").exists());
}
