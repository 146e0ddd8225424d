//! `iso ls`: lists files and directories of an ISO image.

use crate::args::common::OutputFormat;
use crate::args::iso::ls::Job;
use crate::commands::iso::texts::{self, Row};
use crate::commands::iso::{in_path, open_confined};
use crate::confine::Rules;
use crate::failure::Failure;
use crate::output::Console;
use diskimg::iso::{Node, Walk};
use diskimg::printable;
use std::io::Write;

/// Prints the list.
pub(in crate::commands) fn run(job: &Job, console: &Console) -> Result<u8, Failure> {
    let image = open_confined(&Rules::new(), &job.input, console)?;
    let mut list = List::new(console.stdout(), job.output, job.long, job.null);
    list.begin()?;
    let full_paths = job.recursive || job.paths.len() > 1;
    let root = [Vec::new()];
    let paths = if job.paths.is_empty() { &root[..] } else { &job.paths };
    for path in paths {
        let path = path.strip_prefix(b"/").unwrap_or(path);
        let path = path.strip_suffix(b"/").unwrap_or(path);
        let node = image.lookup(path).map_err(|e| in_path(e.into(), path))?;
        match node.is_dir() {
            true => list.walk(image.walk_from(node, path), job.recursive, full_paths, console)?,
            false => list.row(path, path, &node)?,
        }
    }
    list.end()
}

/// A list of files, which is printed while it is made.
pub(in crate::commands) struct List<W> {
    out: W,
    output: OutputFormat,
    long: bool,
    null: bool,
    first: bool,
    /// Whether a directory could not be listed.
    failed: bool,
}

impl<W: Write> List<W> {
    /// Creates a list with these options: `--output`, `-l` and `-0`.
    pub(in crate::commands) fn new(out: W, output: OutputFormat, long: bool, null: bool) -> Self {
        Self { out, output, long, null, first: true, failed: false }
    }

    /// Prints what is before the first file.
    pub(in crate::commands) fn begin(&mut self) -> Result<(), Failure> {
        match self.output {
            OutputFormat::Json => Ok(write!(self.out, "[")?),
            OutputFormat::Human => Ok(()),
        }
    }

    /// Prints what is after the last file, and returns the exit code.
    pub(in crate::commands) fn end(mut self) -> Result<u8, Failure> {
        if self.output == OutputFormat::Json {
            writeln!(self.out, "{}]", if self.first { "" } else { "\n" })?;
        }
        self.out.flush()?;
        Ok(u8::from(self.failed))
    }

    /// Prints the entries of a directory; of those below only if `recursive`.
    pub(in crate::commands) fn walk(
        &mut self,
        mut walk: Walk,
        recursive: bool,
        full_paths: bool,
        console: &Console,
    ) -> Result<(), Failure> {
        while let Some(found) = walk.next() {
            match found {
                Ok(found) => {
                    if !recursive {
                        walk.skip_directory();
                    }
                    let shown = if full_paths { &found.path[..] } else { found.name() };
                    self.row(&found.path, shown, &found.node)?;
                }
                Err(error) => self.fail(&crate::remedy::message(&error), console)?,
            }
        }
        Ok(())
    }

    fn fail(&mut self, message: &str, console: &Console) -> Result<(), Failure> {
        // Keeps the order of both streams on a terminal.
        self.out.flush()?;
        self.failed = true;
        console.message(message);
        Ok(())
    }

    /// Prints a file.
    pub(in crate::commands) fn row(
        &mut self,
        path: &[u8],
        shown: &[u8],
        node: &Node,
    ) -> Result<(), Failure> {
        if self.output == OutputFormat::Json {
            let separator = if std::mem::take(&mut self.first) { "\n" } else { ",\n" };
            let row = serde_json::to_string(&Row::of(path, node));
            let row = row.map_err(|e| Failure::error(e.to_string()))?;
            return Ok(write!(self.out, "{separator}    {row}")?);
        }
        if self.long {
            write!(self.out, "{} ", long_columns(node))?;
        }
        self.name(shown)?;
        if let Some(target) = node.link_target.as_ref().filter(|_| self.long) {
            write!(self.out, " -> ")?;
            self.name(target)?;
        }
        Ok(self.out.write_all(if self.null { b"\0" } else { b"\n" })?)
    }

    fn name(&mut self, name: &[u8]) -> Result<(), Failure> {
        // A fast path: most names need no escaping, and there can be many.
        let is_printable = name.iter().all(|byte| (b' '..=b'~').contains(byte));
        match self.null || is_printable {
            true => self.out.write_all(name)?,
            false => write!(self.out, "{}", printable(&String::from_utf8_lossy(name)))?,
        }
        Ok(())
    }
}

/// Formats the columns of `-l` before the name.
fn long_columns(node: &Node) -> String {
    let attributes = &node.attributes;
    let number = |n: Option<u32>| n.map_or_else(|| "?".to_owned(), |n| n.to_string());
    let size = match attributes.device {
        Some((major, minor)) => format!("{major},{minor}"),
        None => node.size.to_string(),
    };
    let time = attributes.modified.map_or_else(|| "?".to_owned(), |time| time.to_string());
    let (uid, gid) = (number(attributes.uid), number(attributes.gid));
    format!("{} {uid:>5} {gid:>5} {size:>12} {time:<20}", texts::mode(node))
}
