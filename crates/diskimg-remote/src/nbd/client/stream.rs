//! Sockets with times of waiting.

use crate::nbd::wire::malformed;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How often a wait is interrupted to see whether it has lasted too long.
const TICK: Duration = Duration::from_secs(1);

/// Bytes that must arrive within a stall timeout, unless fewer are expected.
const PROGRESS: usize = 64 << 10;

/// A connected socket.
#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

/// One user of a socket: the thread that reads, the one that writes, or one that closes it.
#[derive(Debug)]
pub(super) struct Socket {
    stream: Stream,
    stall: Duration,
    /// When all reading and writing must be done, for the handshake.
    deadline: Option<Instant>,
}

impl Socket {
    /// Takes a connection to another host.
    pub(super) fn tcp(stream: TcpStream, stall: Duration) -> io::Result<Self> {
        // Requests are short, and their replies are waited for.
        stream.set_nodelay(true)?;
        let tick = TICK.min(stall);
        stream.set_read_timeout(Some(tick))?;
        stream.set_write_timeout(Some(tick))?;
        Ok(Self { stream: Stream::Tcp(stream), stall, deadline: None })
    }

    /// Takes a connection to a process of this host.
    #[cfg(unix)]
    pub(super) fn unix(stream: UnixStream, stall: Duration) -> io::Result<Self> {
        let tick = TICK.min(stall);
        stream.set_read_timeout(Some(tick))?;
        stream.set_write_timeout(Some(tick))?;
        Ok(Self { stream: Stream::Unix(stream), stall, deadline: None })
    }

    /// Returns another user of the same socket.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        let stream = match &self.stream {
            Stream::Tcp(stream) => Stream::Tcp(stream.try_clone()?),
            #[cfg(unix)]
            Stream::Unix(stream) => Stream::Unix(stream.try_clone()?),
        };
        Ok(Self { stream, ..*self })
    }

    /// Sets when all reading and writing must be done.
    pub(super) fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    /// Ends the connection, and with it all waiting.
    pub(super) fn shut_down(&self) {
        // It may be closed already.
        let _ = match &self.stream {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Both),
            #[cfg(unix)]
            Stream::Unix(stream) => stream.shutdown(Shutdown::Both),
        };
    }

    fn check_deadline(&self) -> io::Result<()> {
        match self.deadline {
            Some(deadline) if Instant::now() >= deadline => Err(timed_out()),
            _ => Ok(()),
        }
    }

    /// Repeats `attempt`, which a tick interrupts, until the deadline. Without one, returns after
    /// each tick.
    fn until_deadline(
        &mut self,
        mut attempt: impl FnMut(&mut Stream) -> io::Result<usize>,
    ) -> io::Result<usize> {
        loop {
            self.check_deadline()?;
            match attempt(&mut self.stream) {
                Err(e) if is_tick(&e) && self.deadline.is_some() => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                outcome => return outcome,
            }
        }
    }
}

/// Returns true if a wait was interrupted to see whether it has lasted too long.
pub(super) fn is_tick(error: &io::Error) -> bool {
    // Systems differ.
    error.get_ref().is_none()
        && matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Returns the error of a wait that has lasted too long.
pub(super) fn timed_out() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the server does not answer")
}

impl Read for Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.until_deadline(|stream| match stream {
            Stream::Tcp(stream) => stream.read(buf),
            #[cfg(unix)]
            Stream::Unix(stream) => stream.read(buf),
        })
    }
}

/// Waits until the server accepts bytes.
impl Write for Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[io::IoSlice::new(buf)])
    }

    fn write_vectored(&mut self, bufs: &[io::IoSlice<'_>]) -> io::Result<usize> {
        let started = Instant::now();
        loop {
            let outcome = self.until_deadline(|stream| match stream {
                Stream::Tcp(stream) => stream.write_vectored(bufs),
                #[cfg(unix)]
                Stream::Unix(stream) => stream.write_vectored(bufs),
            });
            match outcome {
                Err(e) if is_tick(&e) && started.elapsed() < self.stall => {}
                Err(e) if is_tick(&e) => return Err(timed_out()),
                outcome => return outcome,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Fills `buf`. Ticks are waited through, as long as bytes arrive.
pub(super) fn read_full(reader: &mut impl Read, buf: &mut [u8], stall: Duration) -> io::Result<()> {
    let (mut done, mut counted, mut since) = (0, 0, Instant::now());
    while done < buf.len() {
        match reader.read(&mut buf[done..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => done += n,
            Err(e) if is_tick(&e) => {}
            Err(e) => return Err(e),
        }
        if done - counted >= PROGRESS {
            (counted, since) = (done, Instant::now());
        } else if since.elapsed() > stall {
            return Err(timed_out());
        }
    }
    Ok(())
}

/// Reads and drops `len` bytes, at most `max`.
pub(super) fn skip(reader: &mut impl Read, len: usize, max: usize) -> io::Result<()> {
    if len > max {
        return Err(malformed(format!("a message has {len} bytes, more than {max}")));
    }
    let read = io::copy(&mut reader.take(len as u64), &mut io::sink())?;
    match read == len as u64 {
        true => Ok(()),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
