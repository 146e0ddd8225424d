//! Colors, on terminals and elsewhere.

use crate::args::help::in_terminal;
use crate::support::{Lab, Ran, diskimg};

const ESCAPE: char = '\u{1b}';

fn run(lab: &Lab, variables: &[(&str, &str)], line: &str) -> Ran {
    let mut command = lab.command(diskimg());
    command.envs(variables.iter().copied()).args(line.split_whitespace());
    Ran::new(command.output().expect("runs"))
}

#[test]
fn pipes_have_colors_only_if_the_user_wants_them() {
    let lab = Lab::new();
    for (variables, options, wanted) in [
        (&[][..], "", false),
        (&[("CLICOLOR_FORCE", "1")], "", true),
        (&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")], "", false),
        (&[("CLICOLOR_FORCE", "1")], "--color=never", false),
        (&[], "--color=always", true),
        (&[("NO_COLOR", "1")], "--color always", true),
        (&[("DISKIMG_COLOR", "always")], "", true),
        (&[("DISKIMG_COLOR", "always")], "--color=auto", false),
    ] {
        let error = run(&lab, variables, &format!("info {options} none")).fails(1);
        assert_eq!(error.contains(ESCAPE), wanted, "{variables:?} {options}: {error}");
        let usage = run(&lab, variables, &format!("info {options} --nonsense")).fails(1);
        assert_eq!(usage.contains(ESCAPE), wanted, "{variables:?} {options}: {usage}");
        let help = run(&lab, variables, &format!("info {options} -h")).ok();
        assert_eq!(help.contains(ESCAPE), wanted, "{variables:?} {options}: {help}");
        // Results have no colors.
        lab.raw("a.raw");
        assert!(!run(&lab, variables, &format!("info {options} a.raw")).ok().contains(ESCAPE));
    }
}

#[test]
fn other_programs_have_no_colors() {
    let lab = Lab::new();
    std::os::unix::fs::symlink(diskimg(), lab.path("qemu-img")).expect("links");
    let mut command = lab.command(lab.path("qemu-img"));
    let output = command.args(["info", "none"]).env("CLICOLOR_FORCE", "1").output().expect("runs");
    assert!(!output.stderr.contains(&0x1b));
}

#[test]
fn escapes_in_names_are_not_passed_on() {
    let lab = Lab::new();
    for color in ["--color=always", "--color=never"] {
        let error = lab.run(["info", color, "\u{1b}[2Jnone"]).fails(1);
        assert!(error.contains("\\u{1b}[2Jnone") && !error.contains("\u{1b}[2J"), "{error}");
    }
}

#[test]
fn control_characters_in_names_are_escaped_in_every_output() {
    let lab = Lab::new();
    let name = "a\u{1b}[2J.qcow2";
    let create = lab.run(["create", name, "1M"]).ok();
    lab.raw("b.raw");
    for (args, code) in [
        (&["info", name][..], 0),
        (&["check", name], 0),
        (&["map", name], 0),
        (&["convert", "--dry-run", "b.raw", name], 0),
        (&["convert", "--dry-run", name, "c.raw"], 0),
        (&["convert", "--report=json", "b.raw", name], 0),
        (&["convert", "-O", name, "b.raw", "c.raw"], 1),
        (&["convert", "-O", "qcow2", "-o", name, "b.raw", "c.raw"], 1),
        (&["compare", name, "none"], 2),
        (&["info", "--output=json", name], 0),
        (&["inspect", name], 0),
        (&["info", "--limit", name, "b.raw"], 1),
        (&["info", "--external-files", name, "b.raw"], 1),
        (&[name], 1),
        (&["info", "--\u{1b}[2J"], 1),
    ] {
        let ran = lab.run(args);
        assert_eq!(ran.code, Some(code), "{args:?}: {}", ran.err);
        assert!(!(ran.out + &ran.err).contains(ESCAPE), "{args:?}");
    }
    assert!(create.contains("\\u{1b}[2J") && !create.contains(ESCAPE), "{create}");
}

#[test]
#[ignore = "needs script(1) and stty"]
fn the_summary_of_a_conversion_fits_the_terminal() {
    let lab = Lab::new();
    lab.raw("a-disk-with-a-name-of-some-length.raw");
    let line = "$D convert --color=never a-disk-with-a-name-of-some-length.raw out.qcow2 2>&1";
    for columns in [60, 80, 200] {
        let shown = in_terminal(&lab, columns, line).expect("runs");
        let last = shown.rsplit(ESCAPE).next().expect("text").trim_start_matches("[2K");
        assert!(last.contains("-> out.qcow2") && last.contains("128 KiB stored"), "{shown}");
        let longest = last.lines().map(|line| line.chars().count()).max();
        assert!(longest <= Some(columns as usize), "{columns}: {last}");
        assert_eq!(last.trim().lines().count(), if columns == 200 { 1 } else { 2 }, "{last}");
    }
}

#[test]
#[ignore = "needs script(1) and stty"]
fn terminals_have_colors_unless_variables_say_otherwise() {
    let lab = Lab::new();
    for (prefix, wanted) in
        [("", true), ("NO_COLOR=1", false), ("TERM=dumb", false), ("CLICOLOR=0", false)]
    {
        for line in ["info none", "info -h"] {
            let shown = in_terminal(&lab, 80, &format!("{prefix} $D {line}")).expect("runs");
            assert!(shown.contains("diskimg"), "{shown}");
            assert_eq!(shown.contains(ESCAPE), wanted, "{prefix} {line}: {shown}");
        }
    }
}
