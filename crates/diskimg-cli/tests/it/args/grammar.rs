//! Parsing of options and operands, help, and errors.

use crate::support::{Lab, diskimg};

#[test]
fn options_may_come_anywhere_with_joined_or_separate_values_and_be_abbreviated() {
    let lab = Lab::new();
    lab.raw("a.raw");
    let wanted = lab.line("info -f raw --output json a.raw").ok();
    for line in [
        "info a.raw --output=json -fraw",
        "info a.raw --output json -f raw",
        "info --outp=json a.raw --form raw",
        "info -U a.raw --force-share --output=human --output=json -f qcow2 -f raw",
        "info -fraw --output=json -- a.raw",
    ] {
        assert_eq!(lab.line(line).ok(), wanted, "{line}");
    }
}

#[test]
fn unknown_options_and_commands_are_errors_that_refer_to_help() {
    let lab = Lab::new();
    for (line, message) in [
        ("info --foo x", "diskimg info: unrecognized option '--foo'\nTry 'diskimg info --help'"),
        ("convert -Y a b", "diskimg convert: unrecognized option '-Y'\nTry 'diskimg convert"),
        ("convert a -O", "diskimg convert: option requires an argument: --output-format"),
        ("info --output=xml x", "diskimg info: invalid value 'xml'"),
        ("info", "diskimg info: Expecting one image file name\nTry"),
        ("convert a", "diskimg convert: Must specify image file names"),
        ("frobnicate", "diskimg: Command not found: frobnicate\nTry 'diskimg --help'"),
        ("convrt a b", "diskimg: Command not found: convrt (did you mean 'convert'?)\nTry"),
        ("iso lss a", "diskimg iso: Command not found: lss (did you mean 'ls'?)\nTry"),
        ("iso", "diskimg iso: Not enough arguments\nTry"),
    ] {
        let error = lab.line(line).fails(1);
        assert!(error.starts_with(message), "{line}: {error}");
    }
}

#[test]
fn a_file_that_cannot_be_opened_may_have_another_name_or_be_a_pipe() {
    let lab = Lab::new();
    lab.raw("server.raw");
    for (name, meant) in [
        ("sever.raw", Some("'server.raw'")),
        ("SERVER.RAW", Some("'server.raw'")),
        ("./srever.raw", Some("'./server.raw'")),
        ("client.raw", None),
    ] {
        let error = lab.line(&format!("info {name}")).fails(1);
        assert_eq!(error.split("did you mean ").nth(1).map(|e| e.trim_end_matches("?)\n")), meant);
    }
}

/// What a shell passes for `<(COMMAND)`.
#[test]
fn a_pipe_that_is_named_is_an_error_that_says_how_to_read_it() {
    let lab = Lab::new();
    lab.raw("a.raw");
    for line in [
        "info <(cat a.raw)",
        "map <(cat a.raw)",
        "check <(cat a.raw)",
        "measure <(cat a.raw)",
        "inspect <(cat a.raw)",
        "compare <(cat a.raw) a.raw",
        "compare a.raw <(cat a.raw)",
        "convert <(cat a.raw) out.qcow2",
        "convert --dry-run a.raw <(cat a.raw) out.qcow2",
        "iso info <(cat a.raw)",
        "iso ls <(cat a.raw)",
        "iso cat <(cat a.raw) x",
        "iso extract <(cat a.raw)",
        "iso verify <(cat a.raw)",
        "iso diff <(cat a.raw) a.raw",
        "iso remaster <(cat a.raw) -o out.iso",
    ] {
        let mut bash = lab.command("bash");
        bash.args(["-c", &format!("timeout 60 \"$0\" {line}"), diskimg()]);
        let output = bash.output().expect("runs");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.contains("standard input: COMMAND | diskimg ... -"), "{line}: {error}");
        assert!(!output.status.success(), "{line}");
    }
    assert!(!lab.path("out.qcow2").exists() && !lab.path("out.iso").exists());
}

#[test]
fn invalid_values_are_errors_with_qemu_imgs_messages() {
    let lab = Lab::new();
    lab.raw("a.raw");
    for (options, message) in [
        ("-m 17", "Invalid number of threads"),
        ("-m 0", "Invalid number of threads"),
        ("-S 100", "Invalid buffer size for sparse output specified"),
        ("-S -1", "Invalid buffer size for sparse output specified"),
        ("-t foo", "Invalid cache option: foo"),
        ("-T foo", "Invalid source cache option: foo"),
        ("-r x", "Invalid rate limit specified: 'x'"),
        ("-O foo", "Unknown driver 'foo'"),
        ("-f foo", "Unknown driver 'foo'"),
        ("-n -o size=1M", "-o has no effect when skipping image creation"),
        ("--target-is-zero", "requires use of -n"),
        ("-O qcow2 -B base.raw", "requires explicit backing format"),
        ("-o nonsense=1", "Invalid parameter 'nonsense'"),
    ] {
        let error = lab.line(&format!("convert {options} a.raw b.raw")).fails(1);
        assert!(error.contains(message), "{options}: {error}");
        assert_eq!(error.lines().count(), 1, "{options}: {error}");
        assert!(!lab.path("b.raw").exists(), "{options}");
    }
}

#[test]
fn a_value_may_begin_with_a_hyphen() {
    let lab = Lab::new();
    lab.raw("-a.raw");
    lab.line("convert -O qcow2 -- -a.raw b.qcow2").ok();
    lab.line("create -q -f qcow2 -b -a.raw -F raw over.qcow2").ok();
    let info = lab.line("info over.qcow2").ok();
    assert!(info.contains("backing file: -a.raw"), "{info}");
}

#[test]
fn file_urls_are_supported_and_other_protocols_are_errors() {
    let lab = Lab::new();
    lab.raw("a.raw");
    let path = lab.path("a.raw").display().to_string();
    for name in [format!("file:{path}"), format!("file://{path}"), "file:a.raw".to_owned()] {
        lab.run(["info", &name]).ok();
    }
    lab.run(["convert", "-O", "raw", &format!("file://{path}"), "file:b.raw"]).ok();
    assert_eq!(lab.read("a.raw"), lab.read("b.raw"));
    for name in ["gluster://localhost/x", "ftp://localhost/x"] {
        let error = lab.run(["info", name]).fails(1);
        assert!(error.contains("Unknown protocol"), "{error}");
    }
}

#[test]
fn options_help_lists_the_options_of_the_format() {
    // Options that only diskimg has.
    const OWN: [&str; 2] = ["  compression_level=<num>", "  subformat=<str>"];
    let lab = Lab::new();
    for (ours, theirs) in [
        // qemu-img lists the options of the file only if there is one.
        ("convert -O qcow2 -o help", "create -f qcow2 -o help a.qcow2"),
        ("create -f qcow2 -o ? a.qcow2", "create -f qcow2 -o ? a.qcow2"),
        ("measure -O qcow2 -o size=1,?", "create -f qcow2 -o help a.qcow2"),
        ("create -o help a.raw", "create -o help a.raw"),
    ] {
        let (help, theirs) = (lab.line(ours).ok(), lab.qemu(theirs).ok());
        assert!(help.lines().count() > 2, "{help}");
        for line in help.lines().filter(|line| line.starts_with(' ')) {
            // Only names and types are compared; the help texts differ.
            let left = line.split(" - ").next().unwrap();
            let own = OWN.contains(&left.trim_end());
            let known = own || theirs.lines().any(|l| l.starts_with(left));
            assert!(known, "{ours}: {left}");
        }
    }
    assert!(!lab.path("a.qcow2").exists());
}

#[test]
fn help_and_version_are_printed_to_standard_output() {
    let lab = Lab::new();
    for (line, usage) in [
        ("--help", "diskimg [OPTIONS] <COMMAND>"),
        ("-h", "diskimg [OPTIONS] <COMMAND>"),
        ("", "diskimg [OPTIONS] <COMMAND>"),
        ("help", "diskimg [OPTIONS] <COMMAND>"),
        ("convert --help", "diskimg convert [OPTIONS] SRC... DST"),
        ("help convert", "diskimg convert [OPTIONS] SRC... DST"),
        ("help iso ls", "diskimg iso ls [OPTIONS]"),
        ("info -h", "diskimg info [OPTIONS] FILE..."),
    ] {
        let help = lab.line(line).ok();
        assert!(help.contains(&format!("Usage: {usage}")), "{line}: {help}");
    }
    let (brief, all) = (lab.line("convert -h").ok(), lab.line("convert --help").ok());
    assert!(!brief.contains("--trust-source") && brief.contains("--help shows all options."));
    assert!(all.contains("--trust-source"), "{all}");
    let version = format!("diskimg {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(lab.line("--version").ok(), version);
    assert_eq!(lab.line("-V").ok(), version);
}

#[cfg(unix)]
#[test]
fn a_link_called_qemu_img_uses_that_name_in_its_output() {
    let lab = Lab::new();
    let link = lab.path("qemu-img");
    std::os::unix::fs::symlink(diskimg(), &link).expect("links");
    let run = |args: &[&str]| lab.command(&link).args(args).output().expect("runs");
    let version = String::from_utf8(run(&["--version"]).stdout).expect("UTF-8");
    let wanted = format!("qemu-img version 10.0.2 (diskimg {})\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(version, wanted);
    let failed = run(&["info", "nope"]);
    let error = String::from_utf8(failed.stderr).expect("UTF-8");
    assert!(error.starts_with("qemu-img: nope: "), "{error}");
    assert!(error.contains("No such file or directory"), "{error}");
    let help = String::from_utf8(run(&["info", "--help"]).stdout).expect("UTF-8");
    assert!(help.contains("Usage: qemu-img info"), "{help}");
    assert!(!help.contains("diskimg"), "{help}");
    for (args, message) in [
        (&[][..], "qemu-img: Not enough arguments"),
        (&["help"], "qemu-img: Command not found: help"),
        (&["info", "a", "b"], "qemu-img info: Expecting one image file name"),
    ] {
        let output = run(args);
        let error = String::from_utf8(output.stderr).expect("UTF-8");
        assert!(output.status.code() == Some(1) && error.starts_with(message), "{error}");
    }
}

#[cfg(unix)]
#[test]
fn a_link_called_qemu_img_stores_sparse_vmdks_uncompressed() {
    let lab = Lab::new();
    lab.raw("a.raw");
    std::os::unix::fs::symlink(diskimg(), lab.path("qemu-img")).expect("links");
    let run = |options: &str| {
        let mut command = lab.command(lab.path("qemu-img"));
        let line = format!("convert -c -O vmdk {options} a.raw a.vmdk");
        let output = command.args(line.split_whitespace()).output().expect("runs");
        let theirs = lab.qemu(&line.replace("a.vmdk", "b.vmdk"));
        assert_eq!(output.status.code(), theirs.code, "{options}");
    };
    for (options, layout) in [
        ("", "monolithicSparse"),
        ("-o subformat=monolithicSparse", "monolithicSparse"),
        ("-o subformat=twoGbMaxExtentSparse", "twoGbMaxExtentSparse"),
        ("-o subformat=streamOptimized", "streamOptimized"),
    ] {
        run(options);
        let info = lab.qemu("info a.vmdk").ok();
        assert!(info.contains(&format!("create type: {layout}")), "{options}: {info}");
        lab.qemu("compare a.raw a.vmdk").ok();
    }
    run("-o subformat=monolithicFlat");
    // Under its own name, the command compresses or refuses.
    lab.line("convert -c -O vmdk a.raw own.vmdk").ok();
    assert!(lab.qemu("info own.vmdk").ok().contains("create type: streamOptimized"));
    lab.line("convert -c -O vmdk -o subformat=monolithicSparse a.raw own.vmdk").fails(1);
}

#[test]
fn the_format_of_a_new_image_is_that_of_its_extension() {
    let lab = Lab::new();
    lab.raw("a.raw");
    for (line, file, format) in [
        ("convert a.raw b.qcow2", "b.qcow2", "qcow2"),
        ("convert a.raw c.VMDK", "c.VMDK", "vmdk"),
        ("convert -O raw a.raw d.qcow2", "d.qcow2", "raw"),
        ("convert -O QCOW2 a.raw e.img", "e.img", "qcow2"),
        ("convert a.raw f.img", "f.img", "raw"),
        ("convert a.raw g", "g", "raw"),
        ("create -q h.vmdk 1M", "h.vmdk", "vmdk"),
        ("create -q i.raw 1M", "i.raw", "raw"),
    ] {
        lab.line(line).ok();
        let info = lab.qemu(&format!("info {file}")).ok();
        assert!(info.contains(&format!("file format: {format}\n")), "{line}: {info}");
    }
    // The guest data of an existing image is replaced, not the image.
    lab.line("convert -n a.raw b.qcow2").ok();
    lab.qemu("compare -f raw -F qcow2 a.raw b.qcow2").ok();

    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(diskimg(), lab.path("qemu-img")).expect("links");
        let mut command = lab.command(lab.path("qemu-img"));
        assert!(command.args(["convert", "a.raw", "j.qcow2"]).status().expect("runs").success());
        assert_eq!(lab.read("j.qcow2"), lab.read("a.raw"));
    }
}

#[test]
fn a_name_with_a_colon_is_printed_so_that_it_can_be_used_again() {
    let lab = Lab::new();
    lab.line("create -q -f qcow2 base.qcow2 1M").ok();
    lab.line("create -q -f qcow2 -b base.qcow2 -F qcow2 file:image:top.qcow2").ok();
    assert!(lab.path("image:top.qcow2").exists());
    assert!(lab.same("info file:image:top.qcow2").contains("image: ./image:top.qcow2\n"));
    lab.same_json("info --output=json file:image:top.qcow2");
    lab.same("info ./image:top.qcow2");
}

#[test]
fn completions_and_manual_pages_are_written() {
    let lab = Lab::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = lab.run(["completions", shell]).ok();
        for word in ["convert", "qcow2", "vmdk", "blake3", "directsync", "never", "same-dir"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    assert!(lab.line("man").ok().contains(".TH diskimg"));
    lab.line("man share/man1").ok();
    assert!(lab.path("share/man1/diskimg-convert.1").exists());
    lab.line("man share/man1").ok();
}
