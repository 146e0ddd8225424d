//! Compares `info` with that of qemu-img.

use crate::support::{Lab, write_at};

/// Creates an image of each kind that qemu-img can create.
fn images() -> (Lab, Vec<&'static str>) {
    let lab = Lab::new();
    lab.raw("a.raw");
    let mut names = vec!["a.raw"];
    for (name, options) in [
        ("plain.qcow2", "-f qcow2 plain.qcow2 1M"),
        ("old.qcow2", "-f qcow2 -o compat=0.10 old.qcow2 1M"),
        ("small.qcow2", "-f qcow2 -o cluster_size=512,refcount_bits=1 small.qcow2 3G"),
        ("zstd.qcow2", "-f qcow2 -o compression_type=zstd,lazy_refcounts=on zstd.qcow2 1M"),
        ("sub.qcow2", "-f qcow2 -o extended_l2=on,cluster_size=128k sub.qcow2 1M"),
        ("over.qcow2", "-f qcow2 -b a.raw -F raw over.qcow2"),
        ("sparse.vmdk", "-f vmdk sparse.vmdk 1M"),
        ("stream.vmdk", "-f vmdk -o subformat=streamOptimized stream.vmdk 1M"),
        ("flat.vmdk", "-f vmdk -o subformat=monolithicFlat flat.vmdk 1M"),
        ("split.vmdk", "-f vmdk -o subformat=twoGbMaxExtentSparse split.vmdk 5G"),
        ("pieces.vmdk", "-f vmdk -o subformat=twoGbMaxExtentFlat pieces.vmdk 5G"),
        ("child.vmdk", "-f vmdk -b split.vmdk -F vmdk child.vmdk"),
    ] {
        lab.qemu(&format!("create -q {options}")).ok();
        names.push(name);
    }
    (lab, names)
}

#[test]
fn json_equals_qemu_imgs() {
    let (lab, names) = images();
    for name in names {
        lab.same_json(&format!("info --output=json {name}"));
    }
}

#[test]
fn text_equals_qemu_imgs() {
    let (lab, names) = images();
    for name in names {
        lab.same(&format!("info {name}"));
    }
}

#[test]
fn the_parameters_of_an_encrypted_image_equal_qemu_imgs() {
    let lab = Lab::new();
    for (n, options) in [
        "aes",
        "luks,encrypt.iter-time=10",
        "luks,encrypt.iter-time=10,encrypt.cipher-alg=aes-128,encrypt.cipher-mode=cbc,\
         encrypt.ivgen-alg=essiv,encrypt.ivgen-hash-alg=sha256,encrypt.hash-alg=sha1",
        "luks,encrypt.iter-time=10,encrypt.cipher-alg=serpent-256,encrypt.ivgen-hash-alg=sha256",
    ]
    .iter()
    .enumerate()
    {
        let secret = "--object secret,id=s,data=x";
        let options = format!("-o encrypt.format={options},encrypt.key-secret=s");
        lab.qemu(&format!("create -q {secret} -f qcow2 {options} {n}.qcow2 1M")).ok();
        lab.same(&format!("info {n}.qcow2"));
        lab.same_json(&format!("info --output=json {n}.qcow2"));
        lab.line(&format!("convert {n}.qcow2 out.raw")).fails(1);
    }
}

#[test]
fn several_images_are_shown_although_one_cannot_be_read() {
    let lab = Lab::new();
    lab.raw("a.raw");
    lab.qemu("create -q -f qcow2 -b a.raw -F raw b.qcow2").ok();
    let both = lab.line("info a.raw b.qcow2").ok();
    let (a, b) = (lab.line("info a.raw").ok(), lab.line("info b.qcow2").ok());
    assert_eq!(both, format!("{a}\n{b}"));

    let some = lab.line("info missing.raw a.raw missing.qcow2 b.qcow2");
    assert_eq!((some.code, some.out), (Some(1), both));
    let missing: Vec<_> = some.err.lines().map(|line| line.split(':').nth(1)).collect();
    assert_eq!(missing, [Some(" missing.raw"), Some(" missing.qcow2")]);

    let json = lab.line("info --output=json a.raw b.qcow2").ok();
    let list: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((&list[0]["format"], &list[1]["format"]), (&"raw".into(), &"qcow2".into()));
    let json = lab.line("info --output=json --backing-chain a.raw b.qcow2").ok();
    let list: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((&list[1][0]["format"], &list[1][1]["format"]), (&"qcow2".into(), &"raw".into()));
}

#[test]
fn the_first_64_kib_of_an_image_are_enough() {
    let lab = Lab::new();
    lab.raw("a.raw");
    lab.qemu("create -q -f qcow2 -b a.raw -F raw over.qcow2 5G").ok();
    lab.qemu("snapshot -c s1 over.qcow2").ok();
    lab.qemu("bitmap --add over.qcow2 b").ok();
    lab.qemu("convert -O vmdk -o subformat=streamOptimized a.raw qemu.vmdk").ok();
    lab.line("convert -O vmdk -o subformat=streamOptimized a.raw stream.vmdk").ok();
    lab.qemu("create -q -f vmdk sparse.vmdk 40G").ok();
    lab.line("convert -O ova a.raw a.ova").ok();
    let size = std::fs::metadata(lab.path("a.raw")).expect("exists").len();
    for (name, format, size) in [
        ("over.qcow2", "qcow2", 5 << 30),
        ("qemu.vmdk", "vmdk", size),
        ("stream.vmdk", "vmdk", size),
        ("sparse.vmdk", "vmdk", 40 << 30),
        ("a.ova", "ova", size),
    ] {
        let mut bytes = lab.read(name);
        bytes.truncate(64 << 10);
        std::fs::write(lab.path("head"), bytes).expect("writes");
        let text = lab.line("info head").ok();
        for line in [format!("file format: {format}"), format!("({size} bytes)")] {
            assert!(text.contains(&line), "{name}: {text}");
        }
        if name == "over.qcow2" {
            assert!(text.contains("backing file: a.raw"), "{text}");
            for table in ["active L1 table", "refcount table", "snapshot table", "bitmap"] {
                assert!(text.contains(&format!("note: {table}")), "{table}: {text}");
            }
        }
        for line in ["convert head out.raw", "map head", "compare a.raw head"] {
            let error = lab.line(line);
            assert!(matches!(error.code, Some(1..=4)), "{name}: {line}: {error:?}");
        }
        assert_ne!(lab.line("check head").code, Some(0), "{name}");
    }
}

#[test]
fn a_backing_chain_is_shown_image_by_image() {
    let (lab, _) = images();
    std::fs::create_dir(lab.path("sub")).expect("mkdir");
    lab.qemu("create -q -f qcow2 -b ../over.qcow2 -F qcow2 sub/top.qcow2").ok();
    let text = lab.same("info --backing-chain sub/top.qcow2");
    assert_eq!(text.matches("\n\nimage: ").count(), 2, "{text}");
    assert!(
        text.contains("backing file: ../over.qcow2 (actual path: sub/../over.qcow2)"),
        "{text}"
    );
    lab.same_json("info --output=json --backing-chain sub/top.qcow2");
    lab.same("info sub/top.qcow2");
}

#[test]
fn info_does_not_need_the_backing_file() {
    let (lab, _) = images();
    std::fs::remove_file(lab.path("a.raw")).expect("removes");
    lab.same("info over.qcow2");
    let error = lab.line("info --backing-chain over.qcow2").fails(1);
    assert!(error.contains("No such file or directory"), "{error}");
}

#[test]
fn snapshots_and_bitmaps_are_listed() {
    let lab = Lab::new();
    lab.qemu("create -q -f qcow2 a.qcow2 1M").ok();
    lab.qemu("snapshot -c first a.qcow2").ok();
    lab.qemu("snapshot -c a-name-longer-than-its-column a.qcow2").ok();
    lab.qemu("bitmap --add a.qcow2 b0").ok();
    lab.same("info a.qcow2");
    lab.same_json("info --output=json a.qcow2");
}

#[test]
fn an_image_that_was_not_closed_cleanly_is_shown_as_such() {
    let lab = Lab::new();
    lab.qemu("create -q -f qcow2 -o lazy_refcounts=on a.qcow2 1M").ok();
    // Incompatible feature bit 0: dirty.
    write_at(&lab.path("a.qcow2"), 79, &[1]);
    let text = lab.same("info a.qcow2");
    assert!(text.contains("\ncleanly shut down: no\n"), "{text}");
    lab.same_json("info --output=json a.qcow2");
}

#[test]
fn a_given_format_is_used_without_probing() {
    let lab = Lab::new();
    lab.qemu("create -q -f qcow2 a.qcow2 1M").ok();
    // The length is made a multiple of 512, because qemu-img rounds raw images up and diskimg does
    // not.
    write_at(&lab.path("a.qcow2"), (256 << 10) - 1, &[0]);
    lab.same("info -f raw a.qcow2");
    lab.raw("a.raw");
    lab.line("info -f qcow2 a.raw").fails(1);
    lab.line("info -f luks a.raw").fails(1);
}

#[test]
fn an_empty_file_is_an_empty_raw_disk() {
    let lab = Lab::new();
    std::fs::write(lab.path("empty"), b"").expect("writes");
    lab.same_json("info -f raw --output=json empty");
}

#[test]
fn the_policy_for_external_files_applies_to_the_backing_chain() {
    let (lab, _) = images();
    lab.line("info --backing-chain --references=any over.qcow2").ok();
    lab.line("info --backing-chain --references=same-dir over.qcow2").ok();
    let error = lab.line("info --backing-chain --references=none over.qcow2").fails(1);
    assert!(error.contains("a.raw"), "{error}");
}

#[test]
fn an_image_is_read_from_standard_input() {
    let lab = Lab::new();
    lab.raw("a.raw");
    let output = lab.feed("info -f raw --output=json -", &lab.read("a.raw"));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(json["virtual-size"], 1 << 20);
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

#[cfg(target_os = "linux")]
#[test]
fn info_works_within_the_resource_limits_of_openstack() {
    let (lab, names) = images();
    for name in names {
        let script = format!(
            "ulimit -v 1048576; ulimit -t 2; exec '{}' info --output=json {name}",
            crate::support::diskimg()
        );
        let ran = lab.command("sh").args(["-c", &script]).output().expect("runs");
        assert!(ran.status.success() && ran.stderr.is_empty(), "{name}: {ran:?}");
    }
}

#[test]
fn the_chain_shows_the_same_as_info_of_each_image() {
    let lab = Lab::new();
    lab.raw("a.raw");
    lab.qemu("convert -O qcow2 -o data_file=a.data a.raw base.qcow2").ok();
    lab.qemu("create -q -f qcow2 -b base.qcow2 -F qcow2 over.qcow2").ok();
    lab.same("info --backing-chain over.qcow2");
    lab.same_json("info --backing-chain --output=json over.qcow2");
    lab.same("info base.qcow2");
}

#[test]
fn an_empty_file_name_is_an_error_that_says_so() {
    let lab = Lab::new();
    lab.raw("a.raw");
    for args in [&["info", ""][..], &["convert", "a.raw", ""], &["create", "", "1M"]] {
        let error = lab.run(args).fails(1);
        assert!(error.contains("the file name is empty"), "{args:?}: {error}");
    }
}
