//! `inspect` beside OpenStack's own check of uploads, oslo.utils' `format_inspector`: what that
//! refuses is refused here, and a format that both know has one name.
//!
//! ```text
//!   qemu-img · ours · xorriso · sfdisk ──► images ──► cut short, fields changed, ──► folder
//!                                                     two formats in one file          │
//!   one Python process: verdicts  ◄────────────────────────────────────────────────────┤
//!   inspect: verdicts             ◄────────────────────────────────────────────────────┘
//! ```
//!
//! It runs where `DISKIMG_ORACLES` names an environment that has oslo.utils. Where we refuse what
//! it lets in is listed in `SECURITY.md`.

mod images;

use diskimg::inspection::Severity;
use diskimg::{InspectOptions, Inspection, inspect};
use images::Images;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What the peer said of a file.
#[derive(Debug)]
struct Answer {
    name: String,
    /// Without raw, which everything is to it.
    formats: Vec<String>,
    refused: Option<String>,
    /// It gave up without a verdict: an exception that its callers do not expect.
    failed: Option<String>,
}

/// The peer's answers; `None` where it is not installed.
fn ask_peer(folder: &Path) -> Option<Vec<Answer>> {
    let environment = std::env::var_os("DISKIMG_ORACLES")?;
    let output = Command::new(PathBuf::from(environment).join("bin/python"))
        .args([
            "-I",
            "-c",
            include_str!("../../../../../diskimg-testkit/src/oracles/format_inspector.py"),
        ])
        .arg(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    if complaints.contains("No module named 'oslo_utils'") {
        return None;
    }
    assert!(output.status.success(), "{complaints}");
    let answer = |line: &str| {
        let value: Value = serde_json::from_str(line).unwrap();
        let text = |key: &str| value[key].as_str().map(str::to_owned);
        let formats = value["formats"].as_array().unwrap();
        Answer {
            name: text("name").unwrap(),
            formats: formats.iter().map(|f| f.as_str().unwrap().to_owned()).collect(),
            refused: text("refused"),
            failed: text("failed"),
        }
    };
    Some(String::from_utf8(output.stdout).unwrap().lines().map(answer).collect())
}

/// What we found, under the peer's names: version 1 of qcow is qcow2 to it, and a raw disk with a
/// partition table is `gpt`.
fn our_formats(found: &Inspection) -> Vec<&'static str> {
    let mut formats = vec![found.format];
    formats.extend(&found.other_formats);
    if found.partition_table.is_some() {
        formats.push("gpt");
    }
    formats.iter().map(|&format| if format == "qcow" { "qcow2" } else { format }).collect()
}

#[test]
#[allow(clippy::print_stdout, clippy::print_stderr)]
fn inspect_is_never_laxer_than_openstack() {
    if std::env::var_os("DISKIMG_ORACLES").is_none() {
        eprintln!("skipped: DISKIMG_ORACLES names no environment with oslo.utils");
        return;
    }
    let images = Images::make();
    let Some(answers) = ask_peer(images.folder()) else {
        eprintln!("skipped: the environment of DISKIMG_ORACLES has no oslo.utils");
        return;
    };
    let mut faults = Vec::new();
    let (mut both_let_in, mut both_refuse, mut we_refuse, mut no_verdict) = (0, 0, Vec::new(), 0);
    for answer in &answers {
        let path = images.folder().join(&answer.name);
        let found = inspect(&path, &InspectOptions::new()).unwrap();
        let ours = our_formats(&found);
        if let Some(unknown) = answer.formats.iter().find(|name| !ours.contains(&name.as_str())) {
            faults.push(format!("{}: {unknown} to the peer, {ours:?} to us", answer.name));
        }
        match (&answer.refused, &answer.failed, found.is_safe()) {
            (Some(reason), _, true) => {
                faults.push(format!("{}: let in, and refused for {reason}", answer.name));
            }
            (Some(_), _, false) => both_refuse += 1,
            (None, Some(_), _) => no_verdict += 1,
            (None, None, true) => both_let_in += 1,
            (None, None, false) => {
                let codes = found.findings.iter().filter(|f| f.severity == Severity::Refuse);
                let codes: Vec<_> = codes.map(|finding| finding.code.name()).collect();
                we_refuse.push(format!("{} ({})", answer.name, codes.join(", ")));
            }
        }
    }
    println!(
        "{} images: both let in {both_let_in}, both refuse {both_refuse}, we alone refuse {}, the \
         peer gives no verdict on {no_verdict}",
        answers.len(),
        we_refuse.len()
    );
    println!("{}", we_refuse.join("\n"));
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    // It would prove nothing if all were of one kind.
    assert!(both_let_in > 100 && both_refuse > 500, "{both_let_in}, {both_refuse}");
}
