//! The two streams, and who speaks on them.

pub(crate) mod human;
pub(crate) mod json;
pub(crate) mod progress;

use crate::failure::Failure;
use diskimg::printable;
use std::ffi::OsString;
use std::io::{self, BufWriter, StdoutLock, Write};
use std::path::Path;

/// The version of QEMU whose grammar and outputs these are. Programs parse it
/// and compare it with the oldest one they accept.
const QEMU_VERSION: &str = "10.0.2";

/// Whom we are called as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// By our own name.
    Diskimg,
    /// In qemu-img's place.
    QemuImg,
}

impl Program {
    /// Judges by `argv[0]`: a link or copy called `qemu-img` takes its place.
    pub(crate) fn called(argv0: Option<&OsString>) -> Self {
        let stem = argv0.and_then(|name| Path::new(name).file_stem());
        if stem.is_some_and(|s| s == "qemu-img") { Self::QemuImg } else { Self::Diskimg }
    }

    /// The name on messages and in help.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Diskimg => "diskimg",
            Self::QemuImg => "qemu-img",
        }
    }

    /// What `--version` says.
    pub(crate) fn version(self) -> String {
        let own = concat!("diskimg ", env!("CARGO_PKG_VERSION"));
        match self {
            Self::Diskimg => format!("{own}\n"),
            Self::QemuImg => format!("qemu-img version {QEMU_VERSION} ({own})\n"),
        }
    }
}

/// The one place that writes to standard output and standard error.
#[derive(Debug)]
pub(crate) struct Console {
    program: Program,
}

impl Console {
    /// Speaks in the name of `program`.
    pub(crate) fn new(program: Program) -> Self {
        Self { program }
    }

    /// In whose name.
    pub(crate) fn program(&self) -> Program {
        self.program
    }

    /// Standard output, buffered: flush it, or what is left is lost.
    pub(crate) fn stdout(&self) -> BufWriter<StdoutLock<'static>> {
        BufWriter::new(io::stdout().lock())
    }

    /// Writes text to standard output.
    pub(crate) fn print(&self, text: &str) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    }

    /// Says `diskimg: message` on standard error.
    pub(crate) fn complain(&self, message: &str) {
        self.stderr(&format!("{}: {message}", self.program.name()));
    }

    /// Says what was damaged and made up for.
    pub(crate) fn warn(&self, warnings: impl IntoIterator<Item = impl AsRef<str>>) {
        for warning in warnings {
            self.complain(&format!("warning: {}", warning.as_ref()));
        }
    }

    /// Writes a line to standard error; what it quotes from an image cannot
    /// command the terminal. If writing fails there is nowhere left to say so.
    pub(crate) fn stderr(&self, line: &str) {
        let _ = writeln!(io::stderr().lock(), "{}", printable(line));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_we_are_called_by_decides_whom_we_are() {
        for (argv0, program) in [
            ("qemu-img", Program::QemuImg),
            ("/usr/bin/qemu-img", Program::QemuImg),
            ("qemu-img.exe", Program::QemuImg),
            ("diskimg", Program::Diskimg),
            ("qemu-img-ours", Program::Diskimg),
            ("", Program::Diskimg),
        ] {
            assert_eq!(Program::called(Some(&argv0.into())), program, "{argv0}");
        }
        assert_eq!(Program::called(None), Program::Diskimg);
    }
}
