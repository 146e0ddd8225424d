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

/// The version of mkisofs whose options these are, as the others tell it who take its place.
const MKISOFS_VERSION: &str = "2.01-Emulation";

/// Whom we are called as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// By our own name.
    Diskimg,
    /// In qemu-img's place.
    QemuImg,
    /// In mkisofs's place.
    Mkisofs,
    /// In genisoimage's.
    Genisoimage,
    /// In xorrisofs's.
    Xorrisofs,
    /// In xorriso's, as far as it is in mkisofs's (`-as mkisofs`).
    Xorriso,
}

/// All whose place we take.
const PLACES: [Program; 5] = [
    Program::QemuImg,
    Program::Mkisofs,
    Program::Genisoimage,
    Program::Xorrisofs,
    Program::Xorriso,
];

impl Program {
    /// Judges by `argv[0]`: a link or copy called `qemu-img` takes its place. The name alone
    /// counts, wherever a link of that name leads.
    pub(crate) fn called(argv0: Option<&OsString>) -> Self {
        let stem = argv0.and_then(|name| Path::new(name).file_stem());
        let place = PLACES.into_iter().find(|place| stem.is_some_and(|s| s == place.name()));
        place.unwrap_or(Self::Diskimg)
    }

    /// The name on messages and in help.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Diskimg => "diskimg",
            Self::QemuImg => "qemu-img",
            Self::Mkisofs => "mkisofs",
            Self::Genisoimage => "genisoimage",
            Self::Xorrisofs => "xorrisofs",
            Self::Xorriso => "xorriso",
        }
    }

    /// What `--version` says.
    pub(crate) fn version(self) -> String {
        let own = concat!("diskimg ", env!("CARGO_PKG_VERSION"));
        match self {
            Self::Diskimg => format!("{own}\n"),
            Self::QemuImg => format!("qemu-img version {QEMU_VERSION} ({own})\n"),
            _ => format!("{} {MKISOFS_VERSION} ({own})\n", self.name()),
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
        // In one go, for the stream has no buffer: a damaged image may have much to be told of.
        let line = format!("{}\n", printable(line));
        let _ = io::stderr().lock().write_all(line.as_bytes());
    }
}

/// Standard output as a bare file: the standard library's own handle looks
/// for line ends in what passes.
#[cfg(unix)]
pub(crate) fn raw_stdout() -> io::Result<std::fs::File> {
    use std::os::fd::AsFd;
    Ok(io::stdout().as_fd().try_clone_to_owned()?.into())
}

#[cfg(windows)]
pub(crate) fn raw_stdout() -> io::Result<std::fs::File> {
    use std::os::windows::io::AsHandle;
    Ok(io::stdout().as_handle().try_clone_to_owned()?.into())
}

#[cfg(not(any(unix, windows)))]
pub(crate) fn raw_stdout() -> io::Result<io::Stdout> {
    Ok(io::stdout())
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
            ("/usr/bin/mkisofs", Program::Mkisofs),
            ("genisoimage", Program::Genisoimage),
            ("./xorrisofs", Program::Xorrisofs),
            ("xorriso", Program::Xorriso),
            ("", Program::Diskimg),
        ] {
            assert_eq!(Program::called(Some(&argv0.into())), program, "{argv0}");
        }
        assert_eq!(Program::called(None), Program::Diskimg);
    }
}
