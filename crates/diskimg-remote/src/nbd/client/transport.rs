//! Connections to servers, with and without TLS.

use super::Timeouts;
use super::stream::Socket;
use super::tls::{TlsReader, TlsWriter};
use crate::nbd::uri::Address;
use std::io::{self, IoSlice, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Connects to a server.
///
/// # Errors
/// Returns the error of the system, and that of the last address if a host has several.
pub(super) fn connect(
    address: &Address,
    timeouts: &Timeouts,
    forbid_private: bool,
) -> io::Result<Socket> {
    match address {
        Address::Tcp { host, port } => {
            let addresses: Vec<_> = (&**host, *port).to_socket_addrs()?.collect();
            let private =
                addresses.iter().map(|a| a.ip()).find(|&ip| crate::addresses::is_private(ip));
            if let Some(ip) = private.filter(|_| forbid_private) {
                let message = format!("the address {ip} is private, which is not allowed");
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
            }
            let deadline = Instant::now() + timeouts.connect;
            let mut outcome =
                Err(io::Error::new(io::ErrorKind::NotFound, "the host has no address"));
            for address in addresses {
                let left = deadline.saturating_duration_since(Instant::now());
                // 0 is not a time.
                let left = left.max(Duration::from_millis(1));
                match TcpStream::connect_timeout(&address, left) {
                    Ok(stream) => return Socket::tcp(stream, timeouts.stall),
                    Err(e) => outcome = Err(e),
                }
            }
            outcome
        }
        Address::Unix(_) if forbid_private => Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "a socket of this host is private, which is not allowed",
        )),
        Address::Unix(path) => connect_unix(path, timeouts),
    }
}

#[cfg(target_os = "linux")]
fn connect_unix(path: &Path, timeouts: &Timeouts) -> io::Result<Socket> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Connecting waits while the server's queue is full.
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(timeouts.connect))?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Socket::unix(UnixStream::from(socket), timeouts.stall)
}

#[cfg(all(unix, not(target_os = "linux")))]
fn connect_unix(path: &Path, timeouts: &Timeouts) -> io::Result<Socket> {
    Socket::unix(UnixStream::connect(path)?, timeouts.stall)
}

#[cfg(not(unix))]
fn connect_unix(_: &Path, _: &Timeouts) -> io::Result<Socket> {
    let message = "Unix sockets are not supported on this system";
    Err(io::Error::new(io::ErrorKind::Unsupported, message))
}

/// The half of a connection that reads.
#[derive(Debug)]
pub(super) enum ReadHalf {
    Plain(Socket),
    Tls(Box<TlsReader>),
}

/// The half of a connection that writes.
#[derive(Debug)]
pub(super) enum WriteHalf {
    Plain(Socket),
    Tls(Box<TlsWriter>),
}

impl ReadHalf {
    pub(super) fn socket(&mut self) -> &mut Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => &mut tls.socket,
        }
    }
}

impl WriteHalf {
    pub(super) fn socket(&mut self) -> &mut Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => &mut tls.socket,
        }
    }

    /// Writes two buffers, with one call if possible.
    pub(super) fn write_both(&mut self, first: &[u8], second: &[u8]) -> io::Result<()> {
        let written = self.write_vectored(&[IoSlice::new(first), IoSlice::new(second)])?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let rest = written.saturating_sub(first.len());
        self.write_all(&first[written.min(first.len())..])?;
        self.write_all(&second[rest..])
    }
}

impl Read for ReadHalf {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buf),
            Self::Tls(tls) => tls.read(buf),
        }
    }
}

impl Write for WriteHalf {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(buf),
            Self::Tls(tls) => tls.write(buf),
        }
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write_vectored(bufs),
            Self::Tls(tls) => tls.write_vectored(bufs),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
