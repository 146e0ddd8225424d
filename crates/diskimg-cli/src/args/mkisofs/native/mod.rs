//! xorriso's own command line: commands that load an image, change it, show it, extract files from
//! it and write it.
//!
//! ```text
//!   table    the commands: names, values, help, and how each changes the session
//!   boot     -boot_image
//!   values   parsing of values
//!   job      what a command line requests
//! ```
//!
//! Unlike in xorriso, settings such as `-volid` apply wherever they are, the image is written only
//! once, and an image that is loaded is rebuilt completely: no session is appended.

mod boot;
mod job;
mod table;
mod values;

use super::values::Value;
use crate::args::names;
use crate::failure::Failure;
use boot::BootSession;
pub(crate) use boot::KeepBoot;
pub(crate) use job::{Find, Job, ListForm, Query, ReportForm, Setting, Step};
use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use table::Row;

/// Exit code of xorriso when a command fails.
pub(crate) const FAILED: u8 = 5;

/// What the commands parsed so far request.
#[derive(Debug, Default)]
struct Session {
    job: Job,
    boot: BootSession,
    /// The working directory in the image, for relative paths.
    directory: Vec<u8>,
    /// `-osirrox`.
    can_extract: bool,
    /// `-pathspecs`.
    pathspecs: bool,
    /// `-end` and `-rollback_end` ignore all later commands.
    ended: bool,
}

/// The result of parsing.
pub(super) enum Parsed<'a> {
    /// Commands to run.
    Job(Box<Job>),
    /// `-as mkisofs`, with the arguments after it.
    Emulated(&'a OsStr, &'a [OsString]),
}

/// Parses the arguments. `osirrox` is true under that name, which enables extraction.
pub(super) fn parse(args: &[OsString], osirrox: bool) -> Result<Parsed<'_>, Failure> {
    let mut session = Session { can_extract: osirrox, ..Session::default() };
    let mut rest = args;
    while let Some((arg, after)) = rest.split_first() {
        if arg == "-as" && session.is_unused() {
            let (name, after) = after.split_first().ok_or_else(|| missing_value("-as"))?;
            return Ok(Parsed::Emulated(name, after));
        }
        rest = session.command(arg, after)?;
        if session.ended {
            break;
        }
    }
    session.finish().map(|job| Parsed::Job(Box::new(job)))
}

/// Parses commands after `xorriso -as mkisofs ... --`: settings of the image.
pub(super) fn parse_settings(args: &[OsString]) -> Result<Vec<Setting>, Failure> {
    let mut session = Session::default();
    let mut rest = args;
    while let Some((arg, after)) = rest.split_first() {
        rest = session.command(arg, after)?;
        let steps = session.job.steps.iter().all(|step| matches!(step, Step::Commit));
        if !steps || session.job.indev.is_some() || session.job.outdev.is_some() {
            let arg = arg.to_string_lossy();
            let failure = Failure::not_supported(&format!("'{arg}' after --"));
            return Err(failure.with_code(FAILED));
        }
    }
    if session.boot.is_given() {
        return Err(Failure::not_supported("-boot_image after --").with_code(FAILED));
    }
    Ok(session.job.settings)
}

impl Session {
    /// Handles a command. Returns the arguments after it and its values.
    fn command<'a>(
        &mut self,
        arg: &OsStr,
        mut rest: &'a [OsString],
    ) -> Result<&'a [OsString], Failure> {
        // The end of a list; allowed without one.
        if arg == "--" {
            return Ok(rest);
        }
        if arg == "-as" {
            let failure = Failure::not_supported("-as after other commands");
            return Err(failure.with_code(FAILED));
        }
        let given = arg.to_string_lossy();
        let name = given.trim_start_matches('-');
        let row = given.starts_with('-').then(|| table::find(name)).flatten();
        let Some(row) = row else { return Err(unknown(&given, name)) };
        let mut values = Vec::new();
        for _ in row.values {
            let (arg, after) = rest.split_first().ok_or_else(|| missing_value(&given))?;
            values.push(Value { option: &given, arg });
            rest = after;
        }
        let mut list = &rest[..0];
        if row.list.is_some() {
            let end = rest.iter().position(|arg| arg == "--").unwrap_or(rest.len());
            (list, rest) = (&rest[..end], rest.get(end + 1..).unwrap_or_default());
        }
        let list: Vec<_> = list.iter().map(|arg| Value { option: &given, arg }).collect();
        (row.apply)(self, &values, &list).map_err(|failure| failure.with_code(FAILED))?;
        Ok(rest)
    }

    fn is_unused(&self) -> bool {
        let Job { indev, outdev, settings, steps, .. } = &self.job;
        indev.is_none() && outdev.is_none() && settings.is_empty() && steps.is_empty()
    }

    /// Adds a setting of the image.
    fn set(&mut self, setting: Setting) {
        self.job.settings.push(setting);
    }

    /// Returns a path in the image, relative to `-cd`.
    fn path(&self, value: &Value<'_>) -> Result<Vec<u8>, Failure> {
        let path = names::bytes(value.arg)?;
        Ok(match path.first() {
            Some(b'/') => path,
            _ => [&self.directory[..], b"/", &path].concat(),
        })
    }

    fn paths(&self, list: &[Value<'_>]) -> Result<Vec<Vec<u8>>, Failure> {
        list.iter().map(|value| self.path(value)).collect()
    }

    fn finish(mut self) -> Result<Job, Failure> {
        let edits = self.job.steps.iter().any(Step::is_edit);
        if self.job.outdev.is_none() && edits {
            let message = "the changes cannot be written: no -outdev or -dev";
            return Err(Failure::error(message).with_code(FAILED));
        }
        self.job.boot = self.boot.finish().map_err(|failure| failure.with_code(FAILED))?;
        Ok(self.job)
    }
}

fn missing_value(command: &str) -> Failure {
    Failure::error(format!("{command}: a value is missing")).with_code(FAILED)
}

fn unknown(given: &str, name: &str) -> Failure {
    let failure = match table::is_unsupported(name) {
        true => Failure::not_supported(&format!("the command {given}")),
        false => Failure::error(format!("not a known command: '{given}'")),
    };
    failure.with_code(FAILED)
}

/// Returns the help.
pub(super) fn help(name: &str) -> String {
    let mut text = format!(
        "Usage: {name} [command [value...]]...\n\
         \x20      {name} -as mkisofs [options]   (see {name} -as mkisofs -help)\n\n\
         Commands:\n"
    );
    for Row { names, values, list, help, .. } in table::ROWS {
        let names: Vec<_> = names.iter().map(|name| format!("-{name}")).collect();
        let list = list.map(|item| format!("[{item}...] [--]"));
        let values: Vec<_> = values.iter().copied().chain(list.as_deref()).collect();
        let left = format!("{} {}", names.join(", "), values.join(" "));
        let _ = writeln!(text, "  {:<36} {help}", left.trim_end());
    }
    text.push_str(
        "\nPATH is a path in the image, FILE one of the host. Settings apply wherever they are.\n\
         Without -boot_image, an image that is loaded and changed loses its boot records.\n",
    );
    text
}
