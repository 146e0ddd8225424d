//! `map`: shows where an image's data is stored.

use crate::args::common::OutputFormat;
use crate::args::map::Job;
use crate::args::recipe::Destination;
use crate::confine::{self, Rules};
use crate::failure::Failure;
use crate::output::progress::{Meter, ProgressMode};
use crate::output::{self, Console};
use diskimg::{Draw, Durability, Error, ErrorKind, MapEntry, Options, Output, Progress, printable};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::OnceLock;

/// Percentage between two progress updates.
const STEP: f64 = 1.0;

/// Prints the map, or writes a page.
pub(super) fn run(job: &Job, console: &Console) -> Result<u8, Failure> {
    match &job.html {
        Some(page) => write_page(job, page, console),
        None => print(job, console),
    }
}

/// Writes the page.
fn write_page(job: &Job, page: &Destination, console: &Console) -> Result<u8, Failure> {
    let rules = match page {
        Destination::File(path) => {
            output::require_streams(Some(path), false)?;
            require_page(path)?;
            Rules::new().allow_write(path, &Options::default())
        }
        Destination::Stdout => Rules::new(),
    };
    let open = || job.input.open(console.program());
    let image = confine::open(&rules, &[&job.input], open)?;
    // Starts after the check of the metadata, which a signal ends at once.
    let meter = OnceLock::new();
    let stdout_taken = matches!(page, Destination::Stdout);
    let mode = ProgressMode { requested: None, quiet: false, stdout_taken };
    let report = |progress: Progress| {
        meter.get_or_init(|| Meter::start(mode, STEP, console.colors())).report(progress)
    };
    let draw = Draw::new(&image).check(true).progress(&report);
    let picture = draw.run();
    if let Some(meter) = meter.into_inner() {
        meter.end();
    }
    let picture = picture?;
    let page = match page {
        Destination::Stdout => output::image_stdout()?,
        Destination::File(path) => {
            Output::create(path).map_err(|e| Error::io("cannot create", e).in_file(path))?
        }
    };
    let notes = page.notes();
    Draw::new(&image).write_html(&picture, page, Durability::Flushed)?;
    console.note(notes);
    console.warn(image.warnings());
    Ok(0)
}

/// Verifies that no other file than a page is replaced: the names of the page and of the image are
/// easily confused.
fn require_page(path: &Path) -> Result<(), Failure> {
    let refuse = |what: &str| {
        let hint = "name another file for the page, or remove this one first";
        Err(Error::refused(what.to_owned()).hint(hint).in_file(path).into())
    };
    let Ok(found) = std::fs::metadata(path) else { return Ok(()) };
    if is_block_device(&found) {
        return refuse("it is a block device");
    }
    if !found.is_file() || found.len() == 0 {
        return Ok(());
    }
    let mut start = [0; 15];
    let read = File::open(path).and_then(|mut file| file.read(&mut start));
    let length = read.map_err(|e| Error::io("cannot read", e).in_file(path))?;
    match start[..length].eq_ignore_ascii_case(b"<!doctype html>") {
        true => Ok(()),
        false => refuse("it exists and is not an HTML page"),
    }
}

#[cfg(unix)]
fn is_block_device(found: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt;
    found.file_type().is_block_device()
}

#[cfg(not(unix))]
fn is_block_device(_found: &std::fs::Metadata) -> bool {
    false
}

/// Prints the map.
fn print(job: &Job, console: &Console) -> Result<u8, Failure> {
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
