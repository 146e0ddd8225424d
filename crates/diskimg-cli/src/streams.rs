//! Standard streams that were closed when the process started.
//!
//! Their descriptors are open nevertheless, on `/dev/null`: otherwise the next file that is opened
//! would get such a number, and messages would be written into it. Rust's runtime opens them before
//! `main`. In a process of another program, [`ClosedStreams::open`] does.

use std::io::{self, Stdout, Write};
use std::path::Path;
use std::sync::OnceLock;

/// Which standard streams were closed when the process started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClosedStreams {
    /// By descriptor.
    closed: [bool; 3],
}

static CLOSED: OnceLock<ClosedStreams> = OnceLock::new();

impl ClosedStreams {
    /// Returns a value that says whether standard input, output and error were closed.
    pub fn new(closed: [bool; 3]) -> Self {
        Self { closed }
    }

    /// Finds out which streams are closed. Rust's runtime opens them, so that this must be called
    /// before it starts, or in a program without it.
    #[cfg(unix)]
    pub fn detect() -> Self {
        use rustix::stdio::{stderr, stdin, stdout};
        Self { closed: [stdin(), stdout(), stderr()].map(is_closed) }
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

    /// Remembers the streams for [`require_stdin`], [`require_stdout`] and [`require_open`].
    pub(crate) fn remember(self) {
        CLOSED.get_or_init(|| self);
    }
}

#[cfg(unix)]
fn is_closed(stream: rustix::fd::BorrowedFd<'_>) -> bool {
    rustix::io::fcntl_getfd(stream) == Err(rustix::io::Errno::BADF)
}

fn require(descriptor: usize) -> io::Result<()> {
    #[cfg(unix)]
    if CLOSED.get().is_some_and(|streams| streams.closed[descriptor]) {
        return Err(rustix::io::Errno::BADF.into());
    }
    let _ = descriptor;
    Ok(())
}

/// Returns an error if `path`, such as `/dev/stdout`, leads to a standard stream that was closed:
/// it would now lead to `/dev/null`.
pub(crate) fn require_open(path: &Path) -> io::Result<()> {
    if CLOSED.get().is_none_or(|streams| streams.closed == [false; 3]) {
        return Ok(());
    }
    const MAX_LINKS: usize = 40;
    let own = ["/proc/self/fd", "/proc/thread-self/fd"].map(|path| Path::new(path).canonicalize());
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        let parent = path.parent().filter(|parent| *parent != Path::new(""));
        let directory = parent.unwrap_or(Path::new(".")).canonicalize()?;
        if own.iter().flatten().any(|own| *own == directory) {
            let name = path.file_name().and_then(|name| name.to_str()).map(str::parse::<usize>);
            return match name {
                Some(Ok(descriptor @ ..3)) => require(descriptor),
                _ => Ok(()),
            };
        }
        let Ok(target) = path.read_link() else { return Ok(()) };
        path = directory.join(target);
    }
    Ok(())
}

/// Returns an error if standard input was closed.
pub(crate) fn require_stdin() -> io::Result<()> {
    require(0)
}

/// Returns an error if standard output was closed.
pub(crate) fn require_stdout() -> io::Result<()> {
    require(1)
}

impl From<ClosedStreams> for [bool; 3] {
    /// Returns whether standard input, output and error were closed.
    fn from(streams: ClosedStreams) -> Self {
        streams.closed
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
