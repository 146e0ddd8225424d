//! `map`: shows where an image's data is stored.

use crate::args::common::OutputFormat;
use crate::args::map::Job;
use crate::confine::{self, Rules};
use crate::failure::Failure;
use crate::output::Console;
use diskimg::{Error, ErrorKind, MapEntry, printable};
use std::io::{self, Write};

/// Prints the map.
pub(super) fn run(job: &Job, console: &Console) -> Result<u8, Failure> {
    let open = || job.input.open(console.program());
    let image = confine::open(&Rules::new(), &[&job.input], open)?;
    let end = job.length.map_or(u64::MAX, |length| job.start.saturating_add(length));
    let range = job.start..end.min(image.size()).max(job.start);
    let mut out = console.stdout();
    match job.output {
        OutputFormat::Human => {
            writeln!(out, "{:<16}{:<16}{:<16}File", "Offset", "Length", "Mapped to")?;
            for entry in diskimg::map(&image, range) {
                row(&mut out, &entry?)?;
            }
        }
        OutputFormat::Json => {
            let mut first = true;
            write!(out, "[")?;
            for entry in diskimg::map(&image, range) {
                let separator = if std::mem::take(&mut first) { "" } else { ",\n" };
                object(&mut out, separator, &entry?)?;
            }
            writeln!(out, "]")?;
        }
    }
    out.flush()?;
    console.warn(image.warnings());
    Ok(0)
}

fn cannot_write(error: io::Error) -> Error {
    Error::io("cannot write to standard output", error)
}

/// Prints a line of text for data that is stored unchanged in a file.
fn row(out: &mut impl Write, entry: &MapEntry) -> diskimg::Result<()> {
    if !entry.data || entry.zero {
        return Ok(());
    }
    let Some(offset) = entry.offset else {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "File contains external, encrypted or compressed clusters.",
        )
        .hint("--output=json shows them"));
    };
    let file = printable(entry.filename.as_deref().unwrap_or(""));
    let (start, length) = (hex(entry.start), hex(entry.length));
    writeln!(out, "{start:<16}{length:<16}{:<16}{file}", hex(offset)).map_err(cannot_write)
}

/// Formats like `%#x` of printf(3), which omits the prefix for zero.
fn hex(n: u64) -> String {
    if n == 0 { "0".to_owned() } else { format!("{n:#x}") }
}

/// Prints a JSON object in the exact layout of qemu-img, which some programs parse by line.
fn object(out: &mut impl Write, separator: &str, entry: &MapEntry) -> io::Result<()> {
    let MapEntry { start, length, depth, present, zero, data, compressed, .. } = entry;
    write!(
        out,
        "{separator}{{ \"start\": {start}, \"length\": {length}, \"depth\": {depth}, \
         \"present\": {present}, \"zero\": {zero}, \"data\": {data}, \"compressed\": {compressed}"
    )?;
    if let Some(offset) = entry.offset {
        write!(out, ", \"offset\": {offset}")?;
    }
    write!(out, "}}")
}
