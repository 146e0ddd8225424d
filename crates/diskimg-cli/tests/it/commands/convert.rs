//! Verifies the output of `convert` with qemu-img.

use crate::support::{Lab, write_at};

#[test]
fn a_converted_image_has_the_same_contents() {
    let lab = Lab::new();
    lab.raw("a.raw");
    lab.qemu("convert -O qcow2 -c a.raw in.qcow2").ok();
    lab.qemu("convert -O vmdk -o subformat=streamOptimized a.raw in.vmdk").ok();
    for source in ["a.raw", "in.qcow2", "in.vmdk"] {
        for options in [
            "-O raw",
            "-O raw -S 0",
            "-O qcow2",
            "-O qcow2 -c",
            "-O qcow2 -o cluster_size=4k -o refcount_bits=8 -m 1",
            "-O qcow2 -o compression_type=zstd -c -W -m 16 -t none -T none",
            "-O vmdk",
            "-O vmdk -o subformat=streamOptimized",
        ] {
            let stdout = lab.line(&format!("convert {options} {source} out.img")).ok();
            assert_eq!(stdout, "", "{options}");
            lab.qemu("compare a.raw out.img").ok();
        }
    }
}

#[test]
fn several_inputs_are_concatenated() {
    let lab = Lab::new();
    lab.raw("a.raw");
    lab.line("convert -O raw a.raw a.raw b.raw").ok();
    assert_eq!(lab.read("b.raw"), [lab.read("a.raw"), lab.read("a.raw")].concat());
}

#[test]
fn images_are_read_from_standard_input_and_written_to_standard_output() {
    let lab = Lab::new();
    lab.raw("a.raw");
    let disk = lab.read("a.raw");
    let piped = lab.feed("convert -f raw -O raw - -", &disk);
    assert_eq!((piped.status.code(), piped.stderr.as_slice()), (Some(0), &b""[..]));
    assert_eq!(piped.stdout, disk);
    lab.qemu("convert -O qcow2 -c a.raw a.qcow2").ok();
    let piped = lab.feed("convert -p -O raw - -", &lab.read("a.qcow2"));
    assert_eq!(piped.stdout, disk, "progress must not mix with the image");
    assert_eq!(piped.status.code(), Some(0));
    let error = lab.line("convert -n a.raw -").fails(1);
    assert!(error.contains("standard output"), "{error}");
}

#[test]
fn no_clobber_replaces_nothing() {
    let lab = Lab::new();
    lab.raw("a.raw");
    lab.line("convert --no-clobber a.raw new.qcow2").ok();
    lab.qemu("compare a.raw new.qcow2").ok();
    let before = lab.read("new.qcow2");
    for options in ["--no-clobber", "--no-clobber --dry-run"] {
        let error = lab.line(&format!("convert {options} a.raw new.qcow2")).fails(1);
        let expected = "new.qcow2: cannot create the output: it exists already (without \
                        --no-clobber, it is replaced)";
        assert!(error.contains(expected), "{error}");
    }
    assert!(lab.read("new.qcow2") == before);
    // Other files of the image, too.
    std::fs::write(lab.path("flat-flat.vmdk"), b"mine").expect("writes");
    let flat = "convert --no-clobber -o subformat=monolithicFlat a.raw flat.vmdk";
    let error = lab.line(flat).fails(1);
    assert!(error.contains("flat-flat.vmdk") && error.contains("exists already"), "{error}");
    assert!(lab.read("flat-flat.vmdk") == b"mine" && !lab.path("flat.vmdk").exists());
    for other in ["-n", "--force"] {
        let error = lab.line(&format!("convert --no-clobber {other} a.raw new.qcow2")).fails(1);
        assert!(error.contains(&format!("--no-clobber and {other} are")), "{error}");
    }
}

#[test]
fn an_existing_image_is_written_in_place() {
    let lab = Lab::new();
    lab.raw("a.raw");
    std::fs::write(lab.path("b.raw"), vec![0xff; 1 << 20]).expect("writes");
    lab.line("convert -n -O raw a.raw b.raw").ok();
    assert_eq!(lab.read("a.raw"), lab.read("b.raw"));
    let error = lab.line("convert -n -O raw a.raw nope.raw").fails(1);
    assert!(error.contains("No such file or directory"), "{error}");
}

#[test]
fn an_overlay_stores_only_differences_from_its_backing_file() {
    let lab = Lab::new();
    lab.raw("a.raw");
    lab.raw("b.raw");
    write_at(&lab.path("b.raw"), 700_000, b"!");
    lab.line("convert -O qcow2 -B a.raw -F raw b.raw over.qcow2").ok();
    lab.qemu("compare b.raw over.qcow2").ok();
    let map = lab.qemu("map --output=json over.qcow2").ok();
    let map: Vec<serde_json::Value> = serde_json::from_str(&map).expect("JSON");
    let own = map.iter().filter(|entry| entry["depth"] == 0);
    let bytes: u64 = own.map(|entry| entry["length"].as_u64().expect("a number")).sum();
    assert_eq!(bytes, 65536, "{map:?}");
}

#[test]
fn a_snapshot_can_be_converted() {
    let lab = Lab::new();
    lab.raw("a.raw");
    lab.qemu("convert -O qcow2 a.raw a.qcow2").ok();
    lab.qemu("snapshot -c s1 a.qcow2").ok();
    for name in ["s1", "1", "snapshot.name=s1", "snapshot.id=1,snapshot.name=s1"] {
        lab.line(&format!("convert -l {name} -O raw a.qcow2 b.raw")).ok();
        assert_eq!(lab.read("a.raw"), lab.read("b.raw"), "{name}");
    }
    lab.line("convert -l nope -O raw a.qcow2 c.raw").fails(1);
}

#[test]
fn a_failure_keeps_the_existing_output_and_leaves_no_temporary_files() {
    let lab = Lab::new();
    lab.raw("a.raw");
    lab.qemu("convert -O qcow2 -c a.raw a.qcow2").ok();
    let whole = lab.read("a.qcow2");
    std::fs::write(lab.path("cut.qcow2"), &whole[..whole.len() / 2]).expect("writes");
    std::fs::write(lab.path("old.raw"), b"old").expect("writes");
    lab.line("convert -O raw cut.qcow2 old.raw").fails(1);
    assert_eq!(lab.read("old.raw"), b"old");
    let mut names: Vec<_> = std::fs::read_dir(lab.path("."))
        .expect("lists")
        .map(|e| e.expect("entry").file_name().into_string().expect("UTF-8"))
        .collect();
    names.sort();
    assert_eq!(names, ["a.qcow2", "a.raw", "cut.qcow2", "old.raw"]);
}

#[test]
fn converting_an_image_onto_itself_is_an_error() {
    let lab = Lab::new();
    lab.raw("a.raw");
    let before = lab.read("a.raw");
    lab.line("convert -O raw a.raw a.raw").fails(1);
    assert_eq!(lab.read("a.raw"), before);
}

#[test]
fn unreadable_data_is_replaced_only_with_salvage_and_with_a_warning() {
    let lab = Lab::new();
    lab.raw("a.raw");
    lab.qemu("convert -O qcow2 -c a.raw a.qcow2").ok();
    // Damages the last compressed cluster.
    let whole = lab.read("a.qcow2");
    write_at(&lab.path("a.qcow2"), whole.len() as u64 - 512, &[0xff; 512]);
    lab.line("convert -O raw a.qcow2 b.raw").fails(1);
    assert!(!lab.path("b.raw").exists());
    let ran = lab.line("convert --salvage -O raw a.qcow2 b.raw");
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), ""), "{}", ran.err);
    assert!(ran.err.starts_with("diskimg: warning: error while reading offset "), "{}", ran.err);
    assert_eq!(lab.read("b.raw").len(), 1 << 20);
    lab.line("compare a.raw a.qcow2").fails(4);
    lab.qemu("compare a.raw a.qcow2").fails(4);
}

#[test]
fn a_missing_device_is_not_created_as_a_file() {
    let lab = Lab::new();
    lab.raw("a.raw");
    for line in ["convert -O host_device a.raw sdx", "create -f host_device sdx 1M"] {
        let error = lab.line(line).fails(1);
        assert!(error.contains("No such file or directory"), "{error}");
        assert!(!lab.path("sdx").exists(), "{line}");
    }
    std::fs::write(lab.path("file"), "old").unwrap();
    let error = lab.line("convert -O host_device a.raw file").fails(1);
    assert!(error.contains("to be either a character or block device"), "{error}");
    assert_eq!(lab.read("file"), b"old");
}

#[test]
fn the_sparse_size_may_be_any_number_of_sectors() {
    let lab = Lab::new();
    lab.raw("a.raw");
    for size in ["512", "1536", "12k", "16M"] {
        lab.line(&format!("convert -O raw -S {size} a.raw b.raw")).ok();
        assert!(lab.read("a.raw") == lab.read("b.raw"), "{size}");
    }
}

#[test]
fn holes_of_the_source_are_kept_however_large_the_sparse_size_is() {
    let lab = Lab::new();
    let file = std::fs::File::create(lab.path("a.raw")).expect("creates");
    file.set_len(8 << 20).expect("grows");
    for (at, len, byte) in [
        (0, 64, 1),
        (128, 64, 2),
        (1024, 64, 3),
        (1152, 64, 4),
        // Zeros that are stored.
        (4096, 512, 0),
        (6144, 2048, 0),
    ] {
        write_at(&lab.path("a.raw"), at << 10, &vec![byte; len << 10]);
    }
    let allocated = |name: &str| -> Vec<(u64, u64)> {
        let map = lab.qemu(&format!("map --output=json {name}")).ok();
        let map: Vec<serde_json::Value> = serde_json::from_str(&map).expect("is JSON");
        let number = |entry: &serde_json::Value, key: &str| entry[key].as_u64().expect("a number");
        let data = map.iter().filter(|entry| entry["data"] == true);
        data.map(|entry| (number(entry, "start") >> 10, number(entry, "length") >> 10)).collect()
    };
    for format in ["raw", "qcow2"] {
        for size in ["0", "4k", "64k", "128k", "512k", "1M", "16M"] {
            lab.line(&format!("convert -f raw -S {size} -O {format} a.raw ours")).ok();
            lab.qemu(&format!("convert -f raw -S {size} -O {format} a.raw qemus")).ok();
            assert_eq!(allocated("ours"), allocated("qemus"), "-S {size} -O {format}");
            lab.qemu(&format!("compare -f raw -F {format} a.raw ours")).ok();
        }
    }
}

#[test]
fn copy_offloading_preserves_contents_and_excludes_conflicting_options() {
    let lab = Lab::new();
    std::fs::write(lab.path("a.raw"), vec![0x5a; 3 << 20]).unwrap();
    lab.line("convert -C -f raw -O qcow2 a.raw b.qcow2").ok();
    lab.line("convert -C -f qcow2 -O raw b.qcow2 c.raw").ok();
    assert!(lab.read("a.raw") == lab.read("c.raw"));
    lab.qemu("check b.qcow2").ok();
    for (args, option) in [("-C -S 4k", "-S"), ("-C -c -O qcow2", "-c")] {
        let error = lab.line(&format!("convert {args} a.raw d")).fails(1);
        assert!(
            error.contains("Cannot enable copy offloading") && error.contains(option),
            "{error}"
        );
    }
}

#[test]
fn a_report_counts_stored_shared_and_copied_compressed_bytes() {
    let lab = Lab::new();
    lab.raw("a.raw");
    lab.qemu("convert -O qcow2 -c a.raw a.qcow2").ok();
    let ran = lab.line("convert --report -O qcow2 -c a.qcow2 b.qcow2");
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), ""));
    assert!(ran.err.starts_with("diskimg: 1048576 guest bytes; "), "{}", ran.err);
    assert!(ran.err.ends_with("; 131072 guest bytes copied in compressed form\n"), "{}", ran.err);
    let ran = lab.line("convert --report --recompress -O qcow2 -c a.qcow2 b.qcow2");
    assert!(ran.err.ends_with("; 0 guest bytes copied in compressed form\n"), "{}", ran.err);
    let ran = lab.line("convert --report --reflink never -O qcow2 a.raw b.qcow2");
    assert!(
        ran.err.contains(" 131072 bytes stored, 0 of them shared with the source;"),
        "{}",
        ran.err
    );
    lab.line("convert --verify -O qcow2 -c a.qcow2 b.qcow2").ok();
}

#[test]
fn invalid_reflink_modes_and_conflicts_are_errors() {
    let lab = Lab::new();
    lab.raw("a.raw");
    let error = lab.line("convert --reflink sometimes a.raw b.raw").fails(1);
    assert!(error.contains("auto, always, never"), "{error}");
    let error = lab.line("convert --reflink always -c -O qcow2 a.raw b.qcow2").fails(1);
    assert!(error.contains("shares nothing") && error.contains("--reflink=auto"), "{error}");
    lab.line("convert --reflink auto --threads 1 a.raw b.raw").ok();
    assert_eq!(lab.read("a.raw"), lab.read("b.raw"));
}

#[test]
fn sha256sum_checks_the_files_of_an_image_by_the_digests() {
    let lab = Lab::new();
    lab.raw("a.raw");
    for (options, name) in [
        ("-O qcow2", "b.qcow2"),
        ("-O vmdk -o subformat=monolithicFlat", "flat.vmdk"),
        ("-O raw", "back\\slash \n and newline"),
    ] {
        let mut args = vec!["convert", "--digest", "sha256"];
        args.extend(options.split(' '));
        let sums = lab.run(args.into_iter().chain(["a.raw", name])).ok();
        std::fs::write(lab.path("sums"), &sums).expect("writes");
        let output = lab.command("sha256sum").args(["--check", "--strict", "sums"]).output();
        let output = output.expect("runs");
        assert!(output.status.success(), "{sums}: {output:?}");
        assert!(!output.stdout.is_empty(), "{name}");
    }
}

#[test]
fn the_digest_of_a_source_is_verified_before_anything_is_written() {
    let lab = Lab::new();
    lab.raw("a.raw");
    lab.line("convert -O qcow2 a.raw a.qcow2").ok();
    lab.line("convert -O ova a.raw a.ova").ok();
    lab.line("create -q -f qcow2 -b a.qcow2 -F qcow2 over.qcow2").ok();
    let sum = |name: &str| {
        let output = lab.command("sha256sum").arg(name).output().expect("runs");
        String::from_utf8(output.stdout).expect("UTF-8")[..64].to_owned()
    };
    for name in ["a.raw", "a.qcow2"] {
        let right = sum(name);
        lab.line(&format!("convert --sha256 {right} {name} b.raw")).ok();
        lab.line(&format!("convert --sha256 {} {name} b.raw", right.to_uppercase())).ok();
        std::fs::remove_file(lab.path("b.raw")).expect("removes");
        let wrong = right.replace(&right[..2], "00");
        let error = lab.line(&format!("convert --sha256 {wrong} {name} b.raw")).fails(1);
        assert!(error.contains(name) && error.contains(&right), "{error}");
        assert!(!lab.path("b.raw").exists(), "{name}");
    }
    for sources in ["a.ova", "over.qcow2", "a.raw a.qcow2"] {
        let error =
            lab.line(&format!("convert --sha256 {} {sources} b.raw", sum("a.ova"))).fails(1);
        assert!(error.contains("digest"), "{error}");
    }
    assert!(lab.line("convert --sha256 12 a.raw b.raw").fails(1).contains("64 hexadecimal digits"));
}

#[test]
fn several_sources_do_not_replace_an_image_unless_forced() {
    let lab = Lab::new();
    for name in ["a.raw", "b.raw", "c.raw"] {
        lab.raw(name);
    }
    let before = lab.read("c.raw");
    let error = lab.line("convert a.raw b.raw c.raw").fails(1);
    assert!(error.contains("c.raw") && error.contains("--force"), "{error}");
    assert_eq!(lab.read("c.raw"), before);
    lab.line("convert --force a.raw b.raw c.raw").ok();
    assert_eq!(lab.read("c.raw").len(), 2 * before.len());
    lab.line("convert a.raw b.raw new.raw").ok();
    lab.line("convert -n a.raw b.raw c.raw").ok();
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(crate::support::diskimg(), lab.path("qemu-img")).unwrap();
        let mut command = lab.command(lab.path("qemu-img"));
        assert!(command.args(["convert", "a.raw", "b.raw", "new.raw"]).status().unwrap().success());
    }
}

#[test]
fn a_report_as_json_has_all_messages() {
    let lab = Lab::new();
    lab.raw("a.raw");
    let ran = lab.line("convert --report=json --digest sha256 a.raw b.qcow2");
    assert_eq!(ran.code, Some(0));
    let report: serde_json::Value = serde_json::from_str(&ran.err).expect("JSON");
    assert_eq!((&report["event"], &report["guest-bytes"]), (&"report".into(), &(1 << 20).into()));
    assert_eq!(report["digests"]["files"][0]["filename"], "b.qcow2");
    assert!(ran.out.contains(report["digests"]["files"][0]["digest"].as_str().expect("text")));

    // The L2 table is beyond the end of the file.
    let qcow2 = lab.read("b.qcow2");
    std::fs::write(lab.path("cut.qcow2"), &qcow2[..4 * 65536]).expect("writes");
    let ran = lab.line("convert --salvage --report=json cut.qcow2 c.raw");
    let report: serde_json::Value = serde_json::from_str(&ran.err).expect("JSON");
    assert_eq!(report["salvaged-bytes"], 1 << 20);
    assert_eq!(report["salvaged"][0]["length"], 1 << 20);
}

#[test]
fn digests_are_not_mixed_with_an_image_on_standard_output() {
    let lab = Lab::new();
    std::fs::write(lab.path("a.raw"), b"abc").expect("writes");
    let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let guest = format!("disk sha256:{digest}");
    let stdout = lab.line("convert --verify --digest sha256 a.raw b.raw").ok();
    assert_eq!(stdout, format!("# {guest}\n{digest}  b.raw\n"));
    let ran = lab.line("convert --digest sha256 a.raw -");
    assert_eq!((ran.out.as_str(), ran.err.trim_end()), ("abc", &*format!("diskimg: {guest}")));
    let error = lab.line("convert --digest md5 a.raw b.raw").fails(1);
    assert!(error.contains("'md5'") && error.contains("blake3"), "{error}");
    let error = lab.line("convert --verify a.raw -").fails(1);
    assert!(error.contains("cannot be read again"), "{error}");
}

#[test]
fn compressed_clusters_are_detected_as_zero_one_by_one() {
    let lab = Lab::new();
    lab.line("create -q a.raw 1M").ok();
    for offset in [0, 8 << 10, 17 << 10] {
        write_at(&lab.path("a.raw"), offset, b"data");
    }
    for sparse in ["", "-S 4k", "-S 64k", "-S 0"] {
        let line = format!("convert -c -O qcow2 -o cluster_size=1k {sparse} a.raw");
        lab.line(&format!("{line} ours.qcow2")).ok();
        lab.qemu(&format!("{line} theirs.qcow2")).ok();
        let [ours, theirs] = ["ours.qcow2", "theirs.qcow2"]
            .map(|name| lab.qemu(&format!("map --output=json {name}")).ok());
        assert_eq!(ours, theirs, "{sparse}");
    }
}

#[test]
fn an_output_that_exceeds_its_maximum_size_is_not_left_behind() {
    let lab = Lab::new();
    lab.raw("a.raw");
    for options in ["-O raw -S 0", "-O qcow2", "-O vmdk", "-O ova"] {
        let line = format!("convert --max-size 10k {options} -f raw a.raw out");
        let error = lab.line(&line).fails(1);
        assert!(error.contains("its maximum size is 10240"), "{error}");
        assert!(error.contains("--max-size raises the limit"), "{error}");
        assert!(!lab.path("out").exists());
        lab.line(&format!("convert --max-size 1G {options} -f raw a.raw out")).ok();
        std::fs::remove_file(lab.path("out")).expect("removes");
    }
    let error = lab.line("convert --max-size 10k -f raw a.raw -").fails(1);
    assert!(error.contains("its maximum size is 10240"), "{error}");
    lab.line("create --max-size 1M -f raw -o preallocation=full out 2M").fails(1);
    assert!(!lab.path("out").exists());
    let error = lab.line("convert --max-size x -f raw a.raw out").fails(1);
    assert!(error.contains("Invalid --max-size specified: 'x'"), "{error}");
}

/// It would show zeros where the source is the same as that file.
#[test]
fn an_existing_image_without_a_backing_file_is_not_compared_with_one() {
    let lab = Lab::new();
    lab.raw("a.raw");
    lab.qemu("convert -O qcow2 a.raw base.qcow2").ok();
    lab.qemu("create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2").ok();
    lab.qemu(&format!("create -q -f qcow2 target.qcow2 {}", lab.read("a.raw").len())).ok();
    let before = lab.read("target.qcow2");
    let error =
        lab.line("convert -n -O qcow2 -F qcow2 -B base.qcow2 top.qcow2 target.qcow2").fails(1);
    assert!(error.contains("no backing file"), "{error}");
    assert!(lab.read("target.qcow2") == before);
}

#[test]
fn under_the_name_of_qemu_img_the_first_block_of_a_new_raw_disk_is_allocated() {
    let lab = Lab::new();
    lab.qemu("create -q -f qcow2 empty.qcow2 1M").ok();
    let first = |ran: crate::support::Ran| {
        let map: serde_json::Value = serde_json::from_str(&ran.ok()).expect("JSON");
        (map[0]["length"].clone(), map[0]["data"].clone())
    };
    for line in ["create -q -f raw NAME 1M", "convert -O raw empty.qcow2 NAME"] {
        lab.as_qemu_img(&line.replace("NAME", "ours.raw")).ok();
        lab.qemu(&line.replace("NAME", "theirs.raw")).ok();
        lab.line(&line.replace("NAME", "own.raw")).ok();
        let map = |name: &str| first(lab.qemu(&format!("map --output=json -f raw {name}")));
        assert_eq!(map("ours.raw"), map("theirs.raw"), "{line}");
        assert_eq!(map("ours.raw"), (4096.into(), true.into()), "{line}");
        assert_eq!(map("own.raw"), (1_048_576.into(), false.into()), "{line}");
        assert_eq!(lab.read("ours.raw"), vec![0; 1 << 20], "{line}");
    }
}
