//! Compares `create` with that of qemu-img.

use crate::support::{Lab, diskimg, write_at};

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
        "create -f qcow2 -o encryption=off a.qcow2 1M",
        "create -f qcow2 -o nocow=on a.qcow2 1M",
        "create -f raw -o nocow=off,preallocation=off a.raw 1000",
        "create -f vmdk -o subformat=streamOptimized,zeroed_grain=on,nocow=on a.vmdk 1M",
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
fn the_message_precedes_the_refusal_of_a_value() {
    let lab = Lab::new();
    lab.raw("a.raw");
    for line in [
        "create -f qcow2 -o compat=0.42 a.qcow2 64M",
        "create -f qcow2 -o refcount_bits=3 a.qcow2 64M",
        "create -f qcow2 -o cluster_size=1000 a.qcow2 64M",
        "create -f qcow2 -o preallocation=1234 a.qcow2 64M",
        "create -f qcow2 -o preallocation=full -b a.raw -F raw a.qcow2",
        "create -f qcow2 a.qcow2 1E",
        "create -f vmdk -o subformat=monolithicFlat,zeroed_grain=on a.vmdk 1M",
        "create -f vmdk -o subformat=none a.vmdk 1M",
        // Refused before it is known what to create.
        "create -f qcow2 -o refcount_bits=abc a.qcow2 64M",
        "create -f qcow2 -o encryption=maybe a.qcow2 64M",
        "create -f qcow2 -o foo=1 a.qcow2 64M",
        "create -f qcow2 -b missing -F raw a.qcow2",
        "create -f qcow2 -o backing_file= a.qcow2 1M",
        "create -f qcow2 a.qcow2",
    ] {
        let (ours, theirs) = (lab.line(line), lab.qemu(line));
        assert_eq!((ours.code, &ours.out), (theirs.code, &theirs.out), "{line}: {}", ours.err);
        assert!(!ours.err.is_empty(), "{line}");
    }
}

/// Offset and length of the refcount table, offset and length of the L1 table, length of the file.
fn qcow2_layout(lab: &Lab, name: &str) -> [u64; 5] {
    let image = lab.read(name);
    let u32_at = |at: usize| u64::from(u32::from_be_bytes(image[at..at + 4].try_into().unwrap()));
    let u64_at = |at: usize| u64::from_be_bytes(image[at..at + 8].try_into().unwrap());
    [u64_at(48), u32_at(56), u64_at(40), u32_at(36), image.len() as u64]
}

#[test]
fn new_qcow2_images_have_qemus_layout_and_length() {
    for options in [
        "compat=1.1",
        "compat=0.10",
        "cluster_size=512",
        "cluster_size=2M",
        "extended_l2=on",
        "refcount_bits=1",
        "refcount_bits=64",
        "preallocation=metadata",
        "preallocation=metadata,cluster_size=4k",
    ] {
        for size in ["0", "512k", "64M", "300M"] {
            let (ours, theirs) = (Lab::new(), Lab::new());
            let line = format!("create -q -f qcow2 -o {options} a.qcow2 {size}");
            ours.line(&line).ok();
            theirs.qemu(&line).ok();
            assert_eq!(
                qcow2_layout(&ours, "a.qcow2"),
                qcow2_layout(&theirs, "a.qcow2"),
                "{options} {size}"
            );
            ours.qemu("check a.qcow2").ok();
        }
    }
}

#[test]
fn converted_qcow2_images_have_qemus_layout_and_length() {
    for options in
        ["", "-o cluster_size=512", "-o compat=0.10", "-o preallocation=metadata", "-S 0"]
    {
        let lab = Lab::new();
        lab.raw("a.raw");
        lab.line(&format!("convert -O qcow2 {options} a.raw ours.qcow2")).ok();
        lab.qemu(&format!("convert -O qcow2 {options} a.raw theirs.qcow2")).ok();
        let [ours, theirs] = ["ours.qcow2", "theirs.qcow2"].map(|name| qcow2_layout(&lab, name));
        assert_eq!(ours, theirs, "{options}");
        // The end of a compressed image depends on the compressor.
        lab.line("convert -c -O qcow2 -o cluster_size=4k a.raw small.qcow2").ok();
        assert!(qcow2_layout(&lab, "small.qcow2")[4].is_multiple_of(512));
        lab.qemu("check small.qcow2").ok();
        lab.qemu("compare a.raw small.qcow2").ok();
    }
}

#[test]
fn an_overlay_with_extended_l2_entries_can_be_preallocated() {
    let lab = Lab::new();
    lab.raw("a.raw");
    for mode in ["metadata", "falloc", "full"] {
        let options = format!("-o extended_l2=on,cluster_size=16k,preallocation={mode}");
        lab.line(&format!("create -q -f qcow2 -b a.raw -F raw {options} ours.qcow2 3M")).ok();
        lab.qemu(&format!("create -q -f qcow2 -b a.raw -F raw {options} theirs.qcow2 3M")).ok();
        lab.qemu("check ours.qcow2").ok();
        lab.qemu("compare ours.qcow2 a.raw").ok();
        let [ours, theirs] = ["ours.qcow2", "theirs.qcow2"].map(|name| lab.read(name).len());
        assert_eq!(ours, theirs, "{mode}");
        // Every cluster is allocated: writing to it does not let the file grow.
        lab.command("qemu-io").args(["-c", "write 0 3M", "ours.qcow2"]).output().expect("writes");
        assert_eq!(lab.read("ours.qcow2").len(), ours, "{mode}");
        // Also by a conversion, and also where the disk is longer than the backing file.
        lab.qemu("convert -O raw -S 0 theirs.qcow2 b.raw").ok();
        write_at(&lab.path("b.raw"), 700_000, b"changed");
        lab.line(&format!("convert -O qcow2 -B a.raw -F raw {options} b.raw c.qcow2")).ok();
        lab.qemu("check c.qcow2").ok();
        lab.qemu("compare c.qcow2 b.raw").ok();
        assert_eq!(lab.read("c.qcow2").len(), theirs, "{mode}");
    }
}

#[test]
#[ignore = "needs root, xfsprogs and btrfs-progs"]
fn allocation_hints_reach_the_file_system() {
    let [xfs, btrfs] = diskimg_testkit::tool::MountedFs::all();
    let lab = Lab::new();
    let options = "nocow=on,extent_size_hint=1M";
    for fs in [&xfs, &btrfs] {
        let at = fs.path("").display().to_string();
        lab.line(&format!("create -q -f qcow2 -o {options} {at}a.qcow2 1M")).ok();
        lab.line(&format!("create -q -f raw {at}a.raw 1M")).ok();
        lab.line(&format!("convert -O raw -o {options} {at}a.raw {at}b.raw")).ok();
        let flat = format!("subformat=monolithicFlat,{options}");
        lab.line(&format!("create -q -f vmdk -o {flat} {at}a.vmdk 1M")).ok();
    }
    for (name, hinted) in
        [("a.qcow2", true), ("b.raw", true), ("a-flat.vmdk", true), ("a.raw", false)]
    {
        let output = |program: &str, args: &[&str], path: std::path::PathBuf| {
            let output = lab.command(program).args(args).arg(path).output().expect("runs");
            String::from_utf8(output.stdout).expect("UTF-8")
        };
        let hint = output("xfs_io", &["-r", "-c", "extsize"], xfs.path(name));
        assert_eq!(hint.starts_with("[1048576]"), hinted, "{name}: {hint}");
        let flags = output("lsattr", &[], btrfs.path(name));
        assert_eq!(
            flags.split(' ').next().expect("flags").contains('C'),
            hinted,
            "{name}: {flags}"
        );
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
