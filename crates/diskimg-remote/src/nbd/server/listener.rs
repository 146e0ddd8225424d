//! Sockets that clients connect to, and connections.

use super::lock;
use diskimg::{Error, Result};
use std::fmt::{self, Debug, Formatter};
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
#[cfg(unix)]
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A socket that clients connect to.
#[derive(Debug)]
#[non_exhaustive]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A socket in the file system.
    #[cfg(unix)]
    Unix(UnixListener),
}

impl Listener {
    /// Listens on a TCP port. Port 0 is one that is free: see [`uri`](Self::uri).
    ///
    /// # Errors
    /// Returns [`Io`](diskimg::ErrorKind::Io) if the port is in use or the address is not one of
    /// this machine.
    pub fn tcp(address: impl ToSocketAddrs) -> Result<Self> {
        match TcpListener::bind(address) {
            Ok(listener) => Ok(Self::Tcp(listener)),
            Err(e) => Err(Error::io("cannot listen", e)),
        }
    }

    /// Creates a socket at `path` and listens on it. A socket that is there and on which nobody
    /// listens is replaced.
    ///
    /// # Errors
    /// Returns [`Io`](diskimg::ErrorKind::Io) if the socket cannot be created, if another server
    /// listens there, or if something else has this name.
    #[cfg(unix)]
    pub fn unix(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let failed = |e| Error::io("cannot listen", e).in_file(path);
        match UnixListener::bind(path) {
            Ok(listener) => Ok(Self::Unix(listener)),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                remove_dead(path).map_err(failed)?;
                UnixListener::bind(path).map(Self::Unix).map_err(failed)
            }
            Err(e) => Err(failed(e)),
        }
    }

    /// Sockets in the file system are not supported on this system.
    ///
    /// # Errors
    /// Returns [`Unsupported`](diskimg::ErrorKind::Unsupported).
    #[cfg(not(unix))]
    pub fn unix(path: impl AsRef<Path>) -> Result<Self> {
        let message = "sockets in the file system are not supported on this system";
        Err(Error::unsupported(message).in_file(path))
    }

    /// Returns the address, for TCP.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            #[cfg(unix)]
            Self::Unix(_) => None,
        }
    }

    /// Returns the URI of an export of this name, as the specification of NBD URIs has it. That of a
    /// socket has its absolute path.
    pub fn uri(&self, export: &str) -> String {
        let export = escape(export.as_bytes());
        match self {
            Self::Tcp(listener) => match listener.local_addr() {
                Ok(address) => format!("nbd://{address}/{export}"),
                Err(_) => format!("nbd://localhost/{export}"),
            },
            #[cfg(unix)]
            Self::Unix(listener) => {
                let address = listener.local_addr().ok();
                let path = address.as_ref().and_then(|address| address.as_pathname());
                let path = path.unwrap_or(Path::new(""));
                // So that clients can be started in another directory.
                let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
                format!(
                    "nbd+unix:///{export}?socket={}",
                    escape(path.as_os_str().as_encoded_bytes())
                )
            }
        }
    }

    /// Makes accepting not wait for a client that has gone again.
    pub(super) fn prepare(&self) -> io::Result<()> {
        match self {
            Self::Tcp(listener) => listener.set_nonblocking(true),
            #[cfg(unix)]
            Self::Unix(listener) => listener.set_nonblocking(true),
        }
    }

    /// Waits for a connection. Returns `None` if there is none after `time`.
    pub(super) fn accept(&self, time: Duration) -> io::Result<Option<Stream>> {
        if !self.wait(time)? {
            return Ok(None);
        }
        let accepted = match self {
            Self::Tcp(listener) => listener.accept().map(|(stream, _)| Socket::Tcp(stream)),
            #[cfg(unix)]
            Self::Unix(listener) => listener.accept().map(|(stream, _)| Socket::Unix(stream)),
        };
        match accepted {
            Ok(socket) => Stream::new(socket).map(Some),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e),
        }
    }

    #[cfg(unix)]
    fn wait(&self, time: Duration) -> io::Result<bool> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut polled = match self {
            Self::Tcp(listener) => [PollFd::new(listener, PollFlags::IN)],
            Self::Unix(listener) => [PollFd::new(listener, PollFlags::IN)],
        };
        let time = Timespec { tv_sec: 0, tv_nsec: time.subsec_nanos().into() };
        match poll(&mut polled, Some(&time)) {
            Ok(ready) => Ok(ready > 0),
            // The caller asks whether it is to stop.
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    #[cfg(not(unix))]
    fn wait(&self, _time: Duration) -> io::Result<bool> {
        std::thread::sleep(Duration::from_millis(5));
        Ok(true)
    }
}

/// Escapes what is not allowed in the path or the query of a URI.
fn escape(text: &[u8]) -> String {
    let escaped = |&byte: &u8| match byte {
        b'-' | b'.' | b'_' | b'~' | b'/' => char::from(byte).to_string(),
        _ if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.iter().map(escaped).collect()
}

/// Removes a socket on which nobody listens.
#[cfg(unix)]
fn remove_dead(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(io::Error::other("a file of this name exists, which is not a socket"));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(io::Error::other("another server listens on this socket")),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(e) => Err(e),
    }
}

/// A client, as far as bytes are received from it and sent to it.
pub(super) trait Peer: Send + Sync {
    /// Receives some bytes; none if the client has disconnected.
    fn receive(&self, buf: &mut [u8]) -> io::Result<usize>;

    /// Sends some bytes.
    fn send(&self, bytes: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Sets when receiving and sending end with an error.
    fn set_deadline(&self, deadline: Option<Instant>) -> io::Result<()>;

    /// Returns true if no more requests are to be received.
    fn is_stopping(&self) -> bool;

    /// Ends the connection, also for threads that receive or send.
    fn end(&self);

    /// Returns true if the connection was ended, so that no more replies are sent.
    fn is_ended(&self) -> bool;
}

/// Receives bytes from a peer.
pub(super) struct Receiver<'a>(pub(super) &'a dyn Peer);

impl Debug for Receiver<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("Receiver")
    }
}

impl Read for Receiver<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.receive(buf)
    }
}

/// Sends all bytes of several slices.
pub(super) fn send_all(peer: &dyn Peer, mut bytes: &mut [IoSlice<'_>]) -> io::Result<()> {
    // Empty slices at the beginning.
    IoSlice::advance_slices(&mut bytes, 0);
    while !bytes.is_empty() {
        match peer.send(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(sent) => IoSlice::advance_slices(&mut bytes, sent),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

/// Calls a method of the stream, whatever kind it is.
macro_rules! with_socket {
    ($socket:expr, $stream:ident => $call:expr) => {
        match $socket {
            Socket::Tcp($stream) => $call,
            #[cfg(unix)]
            Socket::Unix($stream) => $call,
        }
    };
}

/// A connection to a client.
#[derive(Debug)]
pub(super) struct Stream {
    socket: Socket,
    deadline: Mutex<Option<Instant>>,
    has_deadline: AtomicBool,
    stopping: AtomicBool,
    closed: AtomicBool,
}

impl Stream {
    fn new(socket: Socket) -> io::Result<Self> {
        // Some systems let it inherit this from the listener.
        with_socket!(&socket, stream => stream.set_nonblocking(false))?;
        match &socket {
            Socket::Tcp(stream) => {
                stream.set_nodelay(true)?;
                // A client whose machine has gone.
                #[cfg(unix)]
                rustix::net::sockopt::set_socket_keepalive(stream, true)?;
            }
            #[cfg(unix)]
            Socket::Unix(_) => {}
        }
        Ok(Self {
            socket,
            deadline: Mutex::default(),
            has_deadline: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        })
    }

    /// Makes threads that wait for requests end. Replies are still sent.
    pub(super) fn stop_receiving(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        let _ = with_socket!(&self.socket, stream => stream.shutdown(Shutdown::Read));
    }

    /// Makes all threads that receive or send end.
    pub(super) fn close(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.closed.store(true, Ordering::Relaxed);
        let _ = with_socket!(&self.socket, stream => stream.shutdown(Shutdown::Both));
    }

    /// Returns the time until the deadline, if there is one.
    fn time_left(&self) -> io::Result<Option<Duration>> {
        if !self.has_deadline.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let Some(deadline) = *lock(&self.deadline) else { return Ok(None) };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

impl Peer for Stream {
    fn receive(&self, buf: &mut [u8]) -> io::Result<usize> {
        if let Some(left) = self.time_left()? {
            with_socket!(&self.socket, stream => stream.set_read_timeout(Some(left)))?;
        }
        with_socket!(&self.socket, stream => { let mut stream = stream; stream.read(buf) })
    }

    fn send(&self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        if let Some(left) = self.time_left()? {
            with_socket!(&self.socket, stream => stream.set_write_timeout(Some(left)))?;
        }
        with_socket!(&self.socket, stream => { let mut stream = stream; stream.write_vectored(bytes) })
    }

    fn set_deadline(&self, deadline: Option<Instant>) -> io::Result<()> {
        *lock(&self.deadline) = deadline;
        self.has_deadline.store(deadline.is_some(), Ordering::Relaxed);
        if deadline.is_none() {
            with_socket!(&self.socket, stream => stream.set_read_timeout(None))?;
            with_socket!(&self.socket, stream => stream.set_write_timeout(None))?;
        }
        Ok(())
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    fn end(&self) {
        self.close();
    }

    fn is_ended(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }
}

/// A client that is connected by two streams, of any kind.
pub(super) struct Pipe<R, W> {
    input: Mutex<R>,
    output: Mutex<W>,
    ended: AtomicBool,
}

impl<R: Read + Send, W: Write + Send> Pipe<R, W> {
    pub(super) fn new(input: R, output: W) -> Self {
        Self { input: input.into(), output: output.into(), ended: AtomicBool::new(false) }
    }
}

impl<R: Read + Send, W: Write + Send> Peer for Pipe<R, W> {
    fn receive(&self, buf: &mut [u8]) -> io::Result<usize> {
        lock(&self.input).read(buf)
    }

    fn send(&self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut output = lock(&self.output);
        let sent = output.write_vectored(bytes)?;
        output.flush()?;
        Ok(sent)
    }

    fn set_deadline(&self, _: Option<Instant>) -> io::Result<()> {
        Ok(())
    }

    fn is_stopping(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_characters_are_escaped() {
        assert_eq!(escape("a/b c?käse".as_bytes()), "a/b%20c%3Fk%C3%A4se");
        assert_eq!(escape(b"/tmp/x-1.sock"), "/tmp/x-1.sock");
        let listener = Listener::tcp("[::1]:0").or_else(|_| Listener::tcp("127.0.0.1:0"));
        let listener = listener.expect("listens");
        let port = listener.address().expect("has one").port();
        assert!(listener.uri("x y").ends_with(&format!(":{port}/x%20y")));
    }
}
