//! Help on a terminal of 80 columns and 30 lines.

use crate::support::{Lab, diskimg};

/// Runs a shell script in a terminal, and returns what it shows.
pub(crate) fn in_terminal(lab: &Lab, columns: u32, script: &str) -> Option<String> {
    let script = format!("stty cols {columns} rows 30; {script}");
    let mut command = lab.command("script");
    command.args(["-qec", &script, "/dev/null"]).env("D", diskimg()).env("TERM", "xterm");
    let output = command.output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).replace('\r', ""))
}

#[test]
#[ignore = "needs script(1) and stty"]
fn brief_help_of_every_command_fits_a_terminal() {
    let lab = Lab::new();
    let commands = |help: &str| {
        let list = help.split("Commands:\n").nth(1).expect("commands").split("\n\n").next();
        let names = list.expect("a list").lines().filter_map(|line| line.split_whitespace().next());
        names.map(str::to_owned).collect::<Vec<_>>()
    };
    let top = commands(&lab.line("-h").ok());
    let iso = commands(&lab.line("iso -h").ok()).into_iter().map(|name| format!("iso {name}"));
    let all: Vec<_> = std::iter::once(String::new()).chain(top).chain(iso).collect();
    assert!(all.len() > 20, "{all:?}");
    for name in &all {
        let shown = in_terminal(&lab, 80, &format!("NO_COLOR=1 $D {name} -h")).expect("runs");
        assert!(shown.contains("Usage: diskimg"), "{name}: {shown}");
        assert!(shown.lines().count() <= 30, "{name}: {shown}");
        assert!(shown.lines().all(|line| line.chars().count() <= 80), "{name}: {shown}");
    }
}
