//! Output to standard output and standard error.

pub(crate) mod color;
pub(crate) mod human;
pub(crate) mod json;
pub(crate) mod plan;
pub(crate) mod progress;
pub(crate) mod report;

use crate::failure::Failure;
use crate::streams::{Out, require_open, require_stdout};
use clap::builder::StyledStr;
use color::{Colors, Style, paint};
use diskimg::{Output, printable};
use std::ffi::OsString;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// The version of QEMU whose options and output are implemented. Programs parse it and compare it
/// with the oldest version they support.
const QEMU_VERSION: &str = "10.0.2";

/// The version of mkisofs whose options are implemented, as other replacements report it.
const MKISOFS_VERSION: &str = "2.01-Emulation";

/// The program that this process was run as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// diskimg itself.
    Diskimg,
    /// qemu-img.
    QemuImg,
    /// mkisofs.
    Mkisofs,
    /// genisoimage.
    Genisoimage,
    /// xorrisofs.
    Xorrisofs,
    /// xorriso.
    Xorriso,
    /// osirrox: xorriso with extraction enabled.
    Osirrox,
}

/// Programs that diskimg can be run as.
const EMULATED: [Program; 6] = [
    Program::QemuImg,
    Program::Mkisofs,
    Program::Genisoimage,
    Program::Xorrisofs,
    Program::Xorriso,
    Program::Osirrox,
];

impl Program {
    /// Returns the program that the file name in `argv[0]` selects. Links are not resolved.
    pub(crate) fn from_argv0(argv0: Option<&OsString>) -> Self {
        let stem = argv0.and_then(|name| Path::new(name).file_stem());
        let found = EMULATED.into_iter().find(|program| stem.is_some_and(|s| s == program.name()));
        found.unwrap_or(Self::Diskimg)
    }

    /// The name used in messages and help.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Diskimg => "diskimg",
            Self::QemuImg => "qemu-img",
            Self::Mkisofs => "mkisofs",
            Self::Genisoimage => "genisoimage",
            Self::Xorrisofs => "xorrisofs",
            Self::Xorriso => "xorriso",
            Self::Osirrox => "osirrox",
        }
    }

    /// The output of `--version`.
    pub(crate) fn version(self) -> String {
        let own = concat!("diskimg ", env!("CARGO_PKG_VERSION"));
        match self {
            Self::Diskimg => format!("{own}\n"),
            Self::QemuImg => format!("qemu-img version {QEMU_VERSION} ({own})\n"),
            _ => format!("{} {MKISOFS_VERSION} ({own})\n", self.name()),
        }
    }
}

/// Writes to standard output and standard error.
#[derive(Debug)]
pub(crate) struct Console {
    program: Program,
    colors: Colors,
}

impl Console {
    /// Creates a console whose messages begin with the name of `program`.
    pub(crate) fn new(program: Program) -> Self {
        Self { program, colors: Colors::default() }
    }

    /// Sets which streams have colors.
    pub(crate) fn with_colors(self, colors: Colors) -> Self {
        Self { colors, ..self }
    }

    /// The program that this process was run as.
    pub(crate) fn program(&self) -> Program {
        self.program
    }

    /// Returns which streams have colors.
    pub(crate) fn colors(&self) -> Colors {
        self.colors
    }

    /// Returns buffered standard output. The caller must flush it.
    pub(crate) fn stdout(&self) -> BufWriter<Out> {
        BufWriter::new(Out::new())
    }

    /// Writes text to standard output and flushes it.
    pub(crate) fn print(&self, text: &str) -> Result<(), Failure> {
        let mut out = Out::new();
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    }

    /// Writes a result of an operation that has completed its output. If that fails, the error says
    /// that the output is `done`.
    pub(crate) fn print_after(&self, text: &str, done: &str) -> Result<(), Failure> {
        self.print(text).map_err(|failure| match failure {
            Failure::Error { message, code } => {
                Failure::Error { message: format!("{message} ({done})"), code }
            }
            other => other,
        })
    }

    /// Writes help to standard output.
    pub(crate) fn print_help(&self, help: &StyledStr) -> Result<(), Failure> {
        match self.colors.stdout {
            true => self.print(&help.ansi().to_string()),
            false => self.print(&help.to_string()),
        }
    }

    /// Writes `diskimg: message` to standard error.
    pub(crate) fn message(&self, message: &str) {
        self.labelled("", None, message);
    }

    /// Writes an error to standard error, like [`message`](Self::message).
    pub(crate) fn error(&self, message: &str) {
        self.labelled("", Some(Style::Error), message);
    }

    /// Writes `diskimg COMMAND: message` to standard error. `command` begins with a space, or is
    /// empty.
    pub(crate) fn usage_error(&self, command: &str, message: &str) {
        let name = format!("{}{}:", self.program.name(), printable(command));
        let name = if self.colors.stderr { paint(&name, Style::Error) } else { name };
        self.line(&format!("{name} {}", printable(message)));
    }

    /// Writes `diskimg: LABEL message` to standard error.
    fn labelled(&self, label: &str, style: Option<Style>, message: &str) {
        let (program, message) = (self.program.name(), printable(message));
        self.line(&match style.filter(|_| self.colors.stderr) {
            Some(style) if label.is_empty() => {
                format!("{} {message}", paint(&format!("{program}:"), style))
            }
            Some(style) => format!("{program}: {}{message}", paint(label, style)),
            None => format!("{program}: {label}{message}"),
        });
    }

    /// Writes warnings to standard error.
    pub(crate) fn warn(&self, warnings: impl IntoIterator<Item = impl AsRef<str>>) {
        for warning in warnings {
            self.labelled("warning: ", Some(Style::Warning), warning.as_ref());
        }
    }

    /// Writes notes to standard error: what was done otherwise than usual, although successfully.
    /// Programs that run qemu-img take any message for a failure, so qemu-img prints none.
    pub(crate) fn note(&self, notes: impl IntoIterator<Item = impl AsRef<str>>) {
        if self.program != Program::QemuImg {
            for note in notes {
                self.labelled("note: ", Some(Style::Note), note.as_ref());
            }
        }
    }

    /// Writes a line to standard error, escaping control characters because it may quote an image.
    /// Write errors are ignored.
    pub(crate) fn stderr(&self, line: &str) {
        self.line(&printable(line));
    }

    fn line(&self, line: &str) {
        // One write per line, because standard error is unbuffered and there can be many lines.
        let _ = io::stderr().lock().write_all(format!("{line}\n").as_bytes());
    }
}

/// Verifies, before anything is written, that an output is not a standard stream that was closed,
/// and, if results will be `printed`, that standard output was not.
pub(crate) fn require_streams(output: Option<&Path>, printed: bool) -> Result<(), Failure> {
    if printed {
        require_stdout()?;
    }
    let Some(path) = output else { return Ok(()) };
    let cannot_write = |e| Failure::error(format!("{}: cannot write to it: {e}", path.display()));
    require_open(path).map_err(cannot_write)
}

/// Returns standard output for an image.
pub(crate) fn image_stdout() -> io::Result<Output> {
    require_stdout()?;
    Output::stdout()
}

/// Returns standard output as a file, without the line buffering of [`io::stdout`].
pub(crate) fn raw_stdout() -> io::Result<RawStdout> {
    require_stdout()?;
    duplicate_stdout()
}

#[cfg(any(unix, windows))]
type RawStdout = std::fs::File;
#[cfg(not(any(unix, windows)))]
type RawStdout = io::Stdout;

#[cfg(unix)]
fn duplicate_stdout() -> io::Result<RawStdout> {
    use std::os::fd::AsFd;
    Ok(io::stdout().as_fd().try_clone_to_owned()?.into())
}

#[cfg(windows)]
fn duplicate_stdout() -> io::Result<RawStdout> {
    use std::os::windows::io::AsHandle;
    Ok(io::stdout().as_handle().try_clone_to_owned()?.into())
}

#[cfg(not(any(unix, windows)))]
fn duplicate_stdout() -> io::Result<RawStdout> {
    Ok(io::stdout())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_name_in_argv0_selects_the_program() {
        for (argv0, program) in [
            ("qemu-img", Program::QemuImg),
            ("/usr/bin/qemu-img", Program::QemuImg),
            ("qemu-img.exe", Program::QemuImg),
            ("diskimg", Program::Diskimg),
            ("qemu-img-ours", Program::Diskimg),
            ("/usr/bin/mkisofs", Program::Mkisofs),
            ("genisoimage", Program::Genisoimage),
            ("./xorrisofs", Program::Xorrisofs),
            ("xorriso", Program::Xorriso),
            ("osirrox", Program::Osirrox),
            ("", Program::Diskimg),
        ] {
            assert_eq!(Program::from_argv0(Some(&argv0.into())), program, "{argv0}");
        }
        assert_eq!(Program::from_argv0(None), Program::Diskimg);
    }
}
