//! A server that exports one disk.
//!
//! ```text
//!   listener.rs       sockets, and connections to clients
//!   handshake.rs      the options of a client, until it has chosen the export
//!   transmission.rs   its requests: several threads for each connection
//!   export.rs         what the requests do: an image that is read, or one that is written
//! ```
//!
//! Clients are not trusted: what they send is checked, and what they can make the server hold is
//! bounded ([`MAX_IN_FLIGHT`]). The protocol as it is spoken here has neither authentication nor
//! encryption: any client that connects can read the disk, and write it if it is writable.

mod export;
mod handshake;
mod listener;
#[cfg(test)]
mod tests;
mod transmission;

pub use listener::Listener;

use diskimg::{DirtyBitmap, Error, GuestWriter, Image, Result};
use export::Export;
use listener::{Peer, Stream};
use std::io::{self, Read, Write};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use transmission::Connection;

/// Maximum length in bytes of a READ or WRITE.
pub const MAX_REQUEST: u32 = super::wire::MAX_PAYLOAD;

/// Bytes of requests that are processed at the same time for one connection: further requests wait.
pub const MAX_IN_FLIGHT: usize = MAX_REQUEST as usize;

/// How long a client may take until it has chosen the export, unless it is
/// [set](Server::handshake_timeout).
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long requests may take to end after the server is to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a waiting server asks whether it is to stop. A signal interrupts the wait.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Maximum number of connections, unless it is [set](Server::connections).
pub const DEFAULT_CONNECTIONS: usize = 16;

/// A server that exports one disk by the NBD protocol: a builder that is configured and then run.
///
/// Clients are QEMU, the Linux kernel, `nbdcopy` and whatever uses libnbd.
///
/// ```no_run
/// use diskimg::Image;
/// use diskimg_remote::nbd::server::{Listener, Server};
/// use std::sync::atomic::{AtomicBool, Ordering};
///
/// static STOP: AtomicBool = AtomicBool::new(false);
///
/// let server = Server::new(Image::open("disk.vmdk")?).export_name("disk");
/// let listener = Listener::tcp("127.0.0.1:10809")?;
/// server.serve(&listener, &|| STOP.load(Ordering::Relaxed))?;
/// # Ok::<(), diskimg::Error>(())
/// ```
pub struct Server {
    export: Export,
    name: String,
    description: String,
    connections: NonZeroUsize,
    once: bool,
    handshake_timeout: Duration,
    on_error: Box<dyn Fn(&Error) + Send + Sync>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("export", &self.export)
            .field("name", &self.name)
            .field("connections", &self.connections)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// Creates a server that exports an image to be read.
    pub fn new(image: Image) -> Self {
        Self::of(Export::Read { image, bitmaps: Vec::new() })
    }

    /// Creates a server that exports an image to be read and written. A FLUSH of any connection
    /// covers the writes of all. What is not flushed is, when a connection or the server ends.
    pub fn writable(disk: GuestWriter) -> Self {
        Self::of(Export::Write(Box::new(disk)))
    }

    fn of(export: Export) -> Self {
        Self {
            export,
            name: String::new(),
            description: String::new(),
            connections: NonZeroUsize::new(DEFAULT_CONNECTIONS).unwrap_or(NonZeroUsize::MIN),
            once: false,
            handshake_timeout: HANDSHAKE_TIMEOUT,
            on_error: Box::new(|_| {}),
        }
    }

    /// Sets the name of the export. The default is the empty name, by which it is found in any case.
    #[must_use]
    pub fn export_name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Returns the name of the export.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sets a text about the export for people.
    #[must_use]
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.description = text.into();
        self
    }

    /// Sets the dirty bitmaps that clients can read, as contexts `qemu:dirty-bitmap:NAME`. It has no
    /// effect if the export is writable.
    #[must_use]
    pub fn bitmaps(mut self, dirty: Vec<DirtyBitmap>) -> Self {
        if let Export::Read { bitmaps, .. } = &mut self.export {
            *bitmaps = dirty;
        }
        self
    }

    /// Sets how many clients can be connected at the same time: further ones wait. The default is
    /// [`DEFAULT_CONNECTIONS`].
    #[must_use]
    pub fn connections(mut self, max: NonZeroUsize) -> Self {
        self.connections = max;
        self
    }

    /// Sets how long a client may take until it has chosen the export, so that one that sends nothing
    /// does not keep others away. The default is 30 seconds. After that, clients may be idle.
    #[must_use]
    pub fn handshake_timeout(mut self, time: Duration) -> Self {
        self.handshake_timeout = time;
        self
    }

    /// Makes [`serve`](Self::serve) return when the last client has disconnected. Connections on which
    /// the export is not chosen, such as tests whether a port is open, do not count.
    #[must_use]
    pub fn once(mut self, yes: bool) -> Self {
        self.once = yes;
        self
    }

    /// Sets what is called with errors of the image, and of accepting connections. The clients only
    /// get error numbers.
    #[must_use]
    pub fn on_error(mut self, report: impl Fn(&Error) + Send + Sync + 'static) -> Self {
        self.on_error = Box::new(report);
        self
    }

    /// Accepts connections and serves them until `stop` returns true. Requests that were received
    /// until then are answered, as far as their clients take the replies within 10 seconds, and what
    /// was written is flushed.
    ///
    /// # Errors
    /// The errors of flushing the image, and [`Io`](diskimg::ErrorKind::Io) if the listener fails.
    pub fn serve(&self, listener: &Listener, stop: &(dyn Fn() -> bool + Sync)) -> Result<()> {
        let active = Active::default();
        std::thread::scope(|scope| {
            let accepted = self.accept(
                listener,
                stop,
                |stream| {
                    let place = active.enter(Arc::clone(&stream));
                    let serve = move || {
                        let place = place;
                        self.serve_client(&stream, place.active);
                    };
                    let started = std::thread::Builder::new().spawn_scoped(scope, serve);
                    started.map(drop)
                },
                &active,
            );
            active.end();
            accepted
        })?;
        self.export.flush()
    }

    fn accept(
        &self,
        listener: &Listener,
        stop: &(dyn Fn() -> bool + Sync),
        start: impl Fn(Arc<Stream>) -> io::Result<()>,
        active: &Active,
    ) -> Result<()> {
        listener.prepare().map_err(|e| Error::io("cannot wait for connections", e))?;
        while !stop() {
            let count = active.count();
            if self.once && count == 0 && active.had_client.load(Ordering::Relaxed) {
                return Ok(());
            }
            if count >= self.connections.get() {
                active.wait(POLL_INTERVAL);
                continue;
            }
            match listener.accept(POLL_INTERVAL) {
                Ok(None) => {}
                Ok(Some(stream)) => {
                    if let Err(e) = start(Arc::new(stream)) {
                        (self.on_error)(&Error::io("cannot serve a connection", e));
                    }
                }
                // A client that has gone, or too many open files: not an error of the listener.
                Err(e) => {
                    (self.on_error)(&Error::io("cannot accept a connection", e));
                    std::thread::sleep(POLL_INTERVAL);
                }
            }
        }
        Ok(())
    }

    /// Serves one client that is connected by any streams, until it disconnects.
    ///
    /// # Errors
    /// The error of the streams, and [`io::ErrorKind::InvalidData`] if the client violates the
    /// protocol.
    pub fn serve_stream(
        &self,
        input: impl Read + Send,
        output: impl Write + Send,
    ) -> io::Result<()> {
        self.serve_peer(&listener::Pipe::new(input, output), || {})
    }

    fn serve_client(&self, stream: &Stream, active: &Active) {
        // What clients do wrong is not reported: anyone could fill a log with it.
        let _ = self.serve_peer(stream, || active.had_client.store(true, Ordering::Relaxed));
        if let Err(error) = self.export.flush() {
            (self.on_error)(&error);
        }
    }

    /// Serves a client. Calls `has_chosen` when it has chosen the export.
    fn serve_peer(&self, peer: &dyn Peer, has_chosen: impl FnOnce()) -> io::Result<()> {
        peer.set_deadline(Some(Instant::now() + self.handshake_timeout))?;
        let Some(chosen) = handshake::negotiate(self, peer)? else { return Ok(()) };
        peer.set_deadline(None)?;
        has_chosen();
        Connection::new(self, peer, chosen).run()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The connections that are being served.
#[derive(Debug, Default)]
struct Active {
    streams: Mutex<Vec<Arc<Stream>>>,
    left: Condvar,
    /// A client has chosen the export.
    had_client: AtomicBool,
}

/// A connection that is being served, until this is dropped.
#[derive(Debug)]
struct Place<'a> {
    active: &'a Active,
    stream: Arc<Stream>,
}

impl Active {
    fn enter(&self, stream: Arc<Stream>) -> Place<'_> {
        lock(&self.streams).push(Arc::clone(&stream));
        Place { active: self, stream }
    }

    fn count(&self) -> usize {
        lock(&self.streams).len()
    }

    /// Waits until a connection ends, or until the time is over.
    fn wait(&self, time: Duration) {
        let streams = lock(&self.streams);
        let waited = self.left.wait_timeout(streams, time);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Ends all connections: those that receive requests now, and those that do not end by
    /// themselves after some time.
    fn end(&self) {
        let deadline = Instant::now() + STOP_TIMEOUT;
        lock(&self.streams).iter().for_each(|stream| stream.stop_receiving());
        while self.count() > 0 && Instant::now() < deadline {
            self.wait(POLL_INTERVAL);
        }
        lock(&self.streams).iter().for_each(|stream| stream.close());
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        lock(&self.active.streams).retain(|stream| !Arc::ptr_eq(stream, &self.stream));
        self.active.left.notify_all();
    }
}
