//! `inspect` compared with OpenStack's check of uploads, oslo.utils' `format_inspector`: `inspect`
//! refuses everything that `format_inspector` refuses, and formats that both detect have the same
//! name.
//!
//! ```text
//!   qemu-img · diskimg · xorriso · sfdisk ──► images ──► truncated, fields changed, ──► directory
//!                                                        two formats in one file          │
//!   format_inspector (one Python process): verdicts ◄─────────────────────────────────────┤
//!   inspect: verdicts                               ◄─────────────────────────────────────┘
//! ```
//!
//! Runs if `DISKIMG_ORACLES` names an environment that has oslo.utils. `SECURITY.md` lists what
//! `inspect` refuses and `format_inspector` accepts.

mod images;

use diskimg::Severity;
use diskimg::{InspectOptions, Inspection, inspect};
use images::Images;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The result of `format_inspector` for a file.
#[derive(Debug)]
struct Answer {
    name: String,
    /// Detected formats, without raw, which is always among them.
    formats: Vec<String>,
    /// Why the file was refused.
    refused: Option<String>,
    /// An exception other than a refusal, which its callers do not expect.
    failed: Option<String>,
}

/// Runs `format_inspector`; `None` if it is not installed.
fn run_format_inspector(dir: &Path) -> Option<Vec<Answer>> {
    let environment = std::env::var_os("DISKIMG_ORACLES")?;
    let output = Command::new(PathBuf::from(environment).join("bin/python"))
        .args([
            "-I",
            "-c",
            include_str!("../../../../../diskimg-testkit/src/oracles/format_inspector.py"),
        ])
        .arg(dir)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    if stderr.contains("No module named 'oslo_utils'") {
        return None;
    }
    assert!(output.status.success(), "{stderr}");
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

/// The formats that `inspect` found, under the names of `format_inspector`: it calls qcow version 1
/// qcow2, and a raw disk with a partition table `gpt`.
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
    let Some(answers) = run_format_inspector(images.dir()) else {
        eprintln!("skipped: the environment of DISKIMG_ORACLES has no oslo.utils");
        return;
    };
    let mut failures = Vec::new();
    let (mut both_accept, mut both_refuse, mut we_refuse, mut no_verdict) = (0, 0, Vec::new(), 0);
    for answer in &answers {
        let path = images.dir().join(&answer.name);
        let found = inspect(&path, &InspectOptions::new()).unwrap();
        let ours = our_formats(&found);
        if let Some(unknown) = answer.formats.iter().find(|name| !ours.contains(&name.as_str())) {
            failures.push(format!(
                "{}: format_inspector finds {unknown}, inspect {ours:?}",
                answer.name
            ));
        }
        match (&answer.refused, &answer.failed, found.is_safe()) {
            (Some(reason), _, true) => {
                failures.push(format!(
                    "{}: accepted, but format_inspector refuses: {reason}",
                    answer.name
                ));
            }
            (Some(_), _, false) => both_refuse += 1,
            (None, Some(_), _) => no_verdict += 1,
            (None, None, true) => both_accept += 1,
            (None, None, false) => {
                let codes = found.findings.iter().filter(|f| f.severity == Severity::Error);
                let codes: Vec<_> = codes.map(|finding| finding.code.name()).collect();
                we_refuse.push(format!("{} ({})", answer.name, codes.join(", ")));
            }
        }
    }
    println!(
        "{} images: both accept {both_accept}, both refuse {both_refuse}, only inspect refuses {}, \
         format_inspector fails on {no_verdict}",
        answers.len(),
        we_refuse.len()
    );
    println!("{}", we_refuse.join("\n"));
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    // The comparison means something only if there are both kinds.
    assert!(both_accept > 100 && both_refuse > 500, "{both_accept}, {both_refuse}");
}
