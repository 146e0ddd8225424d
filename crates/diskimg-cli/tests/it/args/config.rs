//! Defaults from the configuration file and the environment.

use crate::support::{Lab, Ran, diskimg};
use std::os::unix::fs::PermissionsExt;

/// Runs diskimg with these variables.
fn run(lab: &Lab, variables: &[(&str, &str)], line: &str) -> Ran {
    let mut command = lab.command(diskimg());
    command.env_remove("DISKIMG_CONFIG").env("HOME", lab.path("home"));
    command.envs(variables.iter().copied()).args(line.split_whitespace());
    Ran::new(command.output().expect("runs"))
}

/// Writes the configuration file of the user.
fn configure(lab: &Lab, text: &str) -> std::path::PathBuf {
    let directory = lab.path("home/.config/diskimg");
    std::fs::create_dir_all(&directory).expect("creates");
    let file = directory.join("config.toml");
    std::fs::write(&file, text).expect("writes");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("sets");
    file
}

/// Creates `over.qcow2` in a directory of its own, with a backing file outside it.
fn overlay(lab: &Lab) {
    lab.raw("base.raw");
    std::fs::create_dir(lab.path("sub")).expect("creates");
    lab.line("create -q -f qcow2 -b ../base.raw -F raw sub/over.qcow2").ok();
}

#[test]
fn options_come_from_the_file_the_environment_and_the_command_line_in_this_order() {
    let lab = Lab::new();
    overlay(&lab);
    let convert = "convert -O raw sub/over.qcow2 out.raw";
    run(&lab, &[], convert).ok();
    configure(&lab, "external-files = 'same-dir'\n");
    assert!(run(&lab, &[], convert).fails(1).contains("--external-files=any allows it"));
    run(&lab, &[("DISKIMG_EXTERNAL_FILES", "any")], convert).ok();
    run(&lab, &[], &format!("{convert} --external-files=any")).ok();
    run(&lab, &[], &format!("--no-config {convert}")).ok();
    run(&lab, &[("DISKIMG_CONFIG", "")], convert).ok();
    let none = [("DISKIMG_EXTERNAL_FILES", "none")];
    run(&lab, &none, &format!("{convert} --external-files=any")).ok();
    run(&lab, &none, &format!("{convert} --no-config")).ok();
    assert!(run(&lab, &none, convert).fails(1).contains("external-files"));
}

#[test]
fn limits_are_merged_by_name() {
    let lab = Lab::new();
    overlay(&lab);
    configure(&lab, "[limits]\nchain_depth = 1\nsnapshots = '1k'\n");
    let compare = "compare sub/over.qcow2 base.raw";
    assert!(run(&lab, &[], compare).fails(2).contains("chain_depth"));
    run(&lab, &[], &format!("{compare} --limit chain_depth=2")).ok();
    assert!(run(&lab, &[], &format!("{compare} --limit snapshots=2")).fails(2).contains("chain_d"));
    run(&lab, &[("DISKIMG_LIMITS", "chain_depth=2,bitmaps=7")], compare).ok();
    let shown = run(&lab, &[("DISKIMG_LIMITS", "chain_depth=2,bitmaps=7")], "config").ok();
    for line in ["[limits]", "bitmaps = \"7\"", "chain_depth = \"2\"", "snapshots = \"1k\""] {
        assert!(shown.contains(line), "{shown}");
    }
}

#[test]
fn config_prints_a_configuration_file_with_the_values_in_effect() {
    let lab = Lab::new();
    assert_eq!(run(&lab, &[], "config").ok(), "# no configuration file\n");
    let file = configure(&lab, "threads = 3\nsandbox = 'require'\n");
    let shown = run(&lab, &[("DISKIMG_THREADS", "2"), ("DISKIMG_COLOR", "never")], "config").ok();
    for line in ["threads = \"2\"", "sandbox = \"require\"", "# DISKIMG_THREADS", "toml:2:1"] {
        assert!(shown.contains(line), "{shown}");
    }
    std::fs::write(&file, &shown).expect("writes");
    let again = run(&lab, &[], "config").ok();
    assert!(again.contains("threads = \"2\"") && again.contains("color = \"never\""), "{again}");
}

#[test]
fn errors_in_the_configuration_say_where_they_are() {
    let lab = Lab::new();
    lab.raw("a.raw");
    let file = configure(&lab, "threads = 2\nextrnal-files = 'any'\n").display().to_string();
    let error = run(&lab, &[], "info a.raw").fails(1);
    let wanted = "2:1: unknown key 'extrnal-files' (did you mean 'external-files'?)\n";
    assert_eq!(error, format!("diskimg: {file}:{wanted}"));
    // 1 would mean that the images are different.
    run(&lab, &[], "compare a.raw a.raw").fails(2);
    run(&lab, &[], "info --no-config a.raw").ok();
    for (variable, value, message) in [
        ("DISKIMG_THREADS", "many", "DISKIMG_THREADS: invalid value 'many' for threads"),
        ("DISKIMG_SANDBOX", "off", "on the command line only: --sandbox=off"),
        ("DISKIMG_LIMITS", "bitmap=1", "unknown limit 'bitmap' (did you mean 'bitmaps'?)"),
        ("DISKIMG_CONFIG", "no-such-file", "DISKIMG_CONFIG: no-such-file: "),
        ("DISKIMG_COLOR", "blue", "(one of: auto, always, never)"),
    ] {
        std::fs::write(&file, "").expect("writes");
        let error = run(&lab, &[(variable, value)], "info a.raw").fails(1);
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn a_file_that_others_can_write_is_refused() {
    let lab = Lab::new();
    lab.raw("a.raw");
    let file = configure(&lab, "threads = 2\n");
    for mode in [0o664, 0o646] {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("sets");
        let error = run(&lab, &[], "info a.raw").fails(1);
        assert!(error.contains("other users can write it"), "{error}");
    }
    let directory = [("DISKIMG_CONFIG", "home")];
    assert!(run(&lab, &directory, "info a.raw").fails(1).contains("not a regular file"));
}

#[test]
#[ignore = "needs root: gives a file to another user"]
fn a_file_of_another_user_is_refused() {
    let lab = Lab::new();
    lab.raw("a.raw");
    let file = configure(&lab, "threads = 2\n");
    std::os::unix::fs::chown(&file, Some(65534), None).expect("changes");
    assert!(run(&lab, &[], "info a.raw").fails(1).contains("belongs to another user"));
}

#[test]
fn other_programs_have_no_configuration() {
    let lab = Lab::new();
    overlay(&lab);
    configure(&lab, "nonsense = true\n");
    for (name, args) in [
        ("qemu-img", "convert -O raw sub/over.qcow2 out.raw"),
        ("genisoimage", "-quiet -o out.iso base.raw"),
    ] {
        std::os::unix::fs::symlink(diskimg(), lab.path(name)).expect("links");
        let mut command = lab.command(lab.path(name));
        command.env_remove("DISKIMG_CONFIG").env("HOME", lab.path("home"));
        command.env("DISKIMG_EXTERNAL_FILES", "none").env("DISKIMG_LIMITS", "nonsense");
        let output = command.args(args.split(' ')).output().expect("runs");
        assert!(output.status.success(), "{name}: {output:?}");
    }
}
