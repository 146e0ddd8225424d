//! A server that exports a disk.

use crate::arguments::{Input, OpenArgs};
use crate::errors::{Raise, bad_value};
use crate::file::Raised;
use diskimg::{Error, GuestWriter, OpenOptions};
use diskimg_remote::nbd::server::{Listener, Server as NbdServer};
use pyo3::prelude::*;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Where to listen, and how: a socket; an address and a port; the name and the description of the
/// export; the number of clients. Corresponds to `ServeArgs` in `_server.py`.
#[derive(FromPyObject)]
pub(crate) struct ServeArgs(Option<PathBuf>, Option<(String, u16)>, String, String, usize);

/// A server that runs in a thread of its own.
#[pyclass(frozen)]
pub(crate) struct Server {
    uri: String,
    running: Mutex<Option<Running>>,
    raised: Raised,
}

struct Running {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<diskimg::Result<()>>,
    /// The socket that was created.
    socket: Option<PathBuf>,
}

impl Running {
    /// Ends the server and returns its error.
    fn end(self) -> diskimg::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let served = self.thread.join().unwrap_or_else(|p| std::panic::resume_unwind(p));
        if let Some(socket) = self.socket {
            let _ = std::fs::remove_file(socket);
        }
        served
    }
}

#[pymethods]
impl Server {
    /// Opens an image and exports it; to be written if `writable`.
    #[staticmethod]
    fn start(
        py: Python<'_>,
        file: &Bound<'_, PyAny>,
        how: OpenArgs,
        writable: bool,
        args: ServeArgs,
    ) -> PyResult<Self> {
        let ServeArgs(socket, port, name, description, clients) = args;
        let clients = NonZeroUsize::new(clients)
            .ok_or_else(|| bad_value("the number of clients must not be 0"))?;
        let port = port.map(|(address, port)| match address.parse::<IpAddr>() {
            Ok(address) => Ok(SocketAddr::new(address, port)),
            Err(_) => Err(bad_value("the address must be an IP address")),
        });
        let port = port.transpose()?;
        let input = Input::new(file)?;
        let options = how.options(py)?;
        let raised = input.raised();
        let started = py.detach(|| {
            let server = open(input, &options, writable)?;
            let server = server.export_name(name).description(description).connections(clients);
            let listener = match (&socket, port) {
                (Some(path), _) => Listener::unix(path)?,
                (None, Some(address)) => Listener::tcp(address)?,
                (None, None) => return Err(Error::invalid("a socket or a port is needed")),
            };
            let uri = listener.uri(server.name());
            let stop = Arc::new(AtomicBool::new(false));
            let stopped = Arc::clone(&stop);
            let serve = move || server.serve(&listener, &|| stopped.load(Ordering::Relaxed));
            let thread = std::thread::Builder::new()
                .name("diskimg-serve".to_owned())
                .spawn(serve)
                .map_err(|e| Error::io("cannot start a thread", e))?;
            Ok((uri, Running { stop, thread, socket }))
        });
        let (uri, running) = raised.or(started.or_raise(py))?;
        Ok(Self { uri, running: Mutex::new(Some(running)), raised })
    }

    #[getter]
    fn uri(&self) -> &str {
        &self.uri
    }

    #[getter]
    fn closed(&self) -> bool {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// Ends the server: stores what was written.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        match running {
            Some(running) => self.raised.or(py.detach(|| running.end()).or_raise(py)),
            None => Ok(()),
        }
    }

    fn __del__(&self, py: Python<'_>) -> PyResult<()> {
        self.close(py)
    }
}

fn open(input: Input, options: &OpenOptions, writable: bool) -> diskimg::Result<NbdServer> {
    if !writable {
        return Ok(NbdServer::new(input.open(options)?));
    }
    match input {
        Input::Path(path) => Ok(NbdServer::writable(GuestWriter::open(path, options)?)),
        _ => Err(Error::unsupported("only an image in a file, by its name, can be written")),
    }
}
