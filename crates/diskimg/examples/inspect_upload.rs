//! Decides whether an uploaded file is safe to accept:
//!
//! ```text
//! cargo run --example inspect_upload -- upload.img qcow2
//! ```
//!
//! Only this file is opened, a bounded amount of it is read, and no name in it is followed. The
//! exit code is 0 for a safe image and 2 for an unsafe one.

#![allow(clippy::print_stdout)]

use diskimg::{InspectOptions, Severity, inspect};
use std::path::Path;
use std::process::ExitCode;

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [file, claimed] = &args[..] else {
        return Err("usage: inspect_upload FILE CLAIMED-FORMAT".into());
    };
    let (safe, text) = run(Path::new(file), claimed)?;
    print!("{text}");
    Ok(if safe { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

/// Returns whether the upload can be accepted, and what was found.
pub fn run(file: &Path, claimed: &str) -> Result<(bool, String), diskimg::Error> {
    let options = InspectOptions::new()
        // The format that the user has named. Never trust detection alone: a guest can write the
        // header of any format to its raw disk.
        .claimed(claimed)?
        .max_virtual_size(100 << 30)
        // A small file that becomes a large disk keeps a converter busy.
        .max_ratio(1000);
    let inspection = inspect(file, &options)?;

    let size = inspection.virtual_size.map_or("unknown".to_owned(), |size| size.to_string());
    let mut text = format!("{}, {size} bytes\n", inspection.format);
    for finding in &inspection.findings {
        // The message may quote the image, without control characters.
        text += &format!("{}: {}: {}\n", finding.severity, finding.code, finding.message);
    }
    // An image is unsafe if one of its findings is an error.
    let errors = inspection.findings.iter().any(|one| one.severity == Severity::Error);
    assert_eq!(inspection.is_safe(), !errors);
    Ok((inspection.is_safe(), text))
}
