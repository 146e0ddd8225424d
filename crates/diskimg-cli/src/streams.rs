//! Standard streams that were closed when the process started.
//!
//! Their descriptors are open nevertheless, on `/dev/null`: otherwise the next file that is opened
//! would get such a number, and messages would be written into it. Rust's runtime opens them before
//! `main`. In a process of another program, [`ClosedStreams::open`] does.

use std::io::{self, Stdout, Write};
use std::sync::OnceLock;

/// Which standard streams were closed when the process started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClosedStreams {
    stdin: bool,
    stdout: bool,
}

static CLOSED: OnceLock<ClosedStreams> = OnceLock::new();

impl ClosedStreams {
    /// Returns a value that says whether standard input and standard output were closed.
    pub fn new(stdin: bool, stdout: bool) -> Self {
        Self { stdin, stdout }
    }

    /// Finds out which streams are closed. Rust's runtime opens them, so that this must be called
    /// before it starts, or in a program without it.
    #[cfg(unix)]
    pub fn detect() -> Self {
        use rustix::stdio::{stdin, stdout};
        Self { stdin: is_closed(stdin()), stdout: is_closed(stdout()) }
    }

    /// Opens `/dev/null` in place of standard streams that are closed now, and returns which these
    /// were. Errors are ignored.
    #[cfg(unix)]
    pub(crate) fn open() -> Self {
        use rustix::stdio::{stderr, stdin, stdout};
        use std::os::fd::IntoRawFd;
        let closed = Self::detect();
        for stream in [stdin(), stdout(), stderr()] {
            // A new file gets the lowest number that is free.
            if is_closed(stream)
                && let Ok(null) = std::fs::File::options().read(true).write(true).open("/dev/null")
            {
                // Stays open until the process ends.
                let _ = null.into_raw_fd();
            }
        }
        closed
    }

    /// Finds out which streams are closed, which is not known on this system.
    #[cfg(not(unix))]
    pub fn detect() -> Self {
        Self::default()
    }

    #[cfg(not(unix))]
    pub(crate) fn open() -> Self {
        Self::default()
    }

    /// Remembers the streams for [`require_stdin`] and [`require_stdout`].
    pub(crate) fn remember(self) {
        CLOSED.get_or_init(|| self);
    }
}

#[cfg(unix)]
fn is_closed(stream: rustix::fd::BorrowedFd<'_>) -> bool {
    rustix::io::fcntl_getfd(stream) == Err(rustix::io::Errno::BADF)
}

fn require(closed: fn(&ClosedStreams) -> bool) -> io::Result<()> {
    #[cfg(unix)]
    if CLOSED.get().is_some_and(closed) {
        return Err(rustix::io::Errno::BADF.into());
    }
    let _ = closed;
    Ok(())
}

/// Returns an error if standard input was closed.
pub(crate) fn require_stdin() -> io::Result<()> {
    require(|closed| closed.stdin)
}

/// Returns an error if standard output was closed.
pub(crate) fn require_stdout() -> io::Result<()> {
    require(|closed| closed.stdout)
}

impl From<ClosedStreams> for (bool, bool) {
    /// Returns whether standard input and standard output were closed.
    fn from(closed: ClosedStreams) -> Self {
        (closed.stdin, closed.stdout)
    }
}

/// Standard output. Writing to it is an error if it was closed.
#[derive(Debug)]
pub(crate) struct Out(Stdout);

impl Out {
    pub(crate) fn new() -> Self {
        Self(io::stdout())
    }
}

impl Write for Out {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        require_stdout()?;
        self.0.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
