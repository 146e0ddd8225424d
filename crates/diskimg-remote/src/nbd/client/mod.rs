//! The client: exports of servers, read and written by several requests at a time.
//!
//! ```text
//!   Source, Storage ─► Client ─┬─► Connection ─► requests ─────────► server
//!                              │              ◄─ replies, any order ◄
//!                              └─► Connection …   only if the server allows several
//! ```
//!
//! There are no threads of its own: a thread that waits for a reply reads all that arrive until its
//! own is there, and hands replies of others over to them.

mod block_status;
mod call;
mod connection;
mod export;
#[cfg(unix)]
pub(super) mod fuzz;
mod handshake;
mod pool;
mod replies;
mod stream;
mod tls;
mod transport;

pub(super) use block_status::BlockStatusCache;
pub(super) use handshake::Wanted;
pub(super) use pool::{Access, Client};
pub(super) use tls::{TlsSettings, files as tls_files};

use diskimg::storage::source::SourceError;
use std::io;
use std::time::Duration;

/// Maximum times of waiting.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timeouts {
    /// Until a connection is there and an export is agreed on.
    pub(super) connect: Duration,
    /// Until the server sends or accepts more bytes.
    pub(super) stall: Duration,
    /// Until a request that makes data durable or deallocates is done.
    pub(super) flush: Duration,
}

/// Returns text of a server for a message: bounded and printable.
fn printable(text: &str) -> String {
    let printable: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
    printable.trim().to_owned()
}

/// Returns the error of a message of the server that violates the protocol. Reading it again would
/// not help.
fn violation(what: impl Into<String>) -> SourceError {
    SourceError::Storage(super::wire::malformed(format!(
        "the server violates the protocol: {}",
        what.into()
    )))
}

/// Returns the error of a connection. What the server sent or refused does not change, but a
/// connection can be made again.
fn lost(error: io::Error) -> SourceError {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::InvalidData => violation(error.to_string()),
        Kind::UnexpectedEof => SourceError::Transient(io::Error::new(
            Kind::ConnectionAborted,
            "the server closed the connection",
        )),
        Kind::BrokenPipe | Kind::WriteZero => SourceError::Transient(error),
        // As the system says.
        _ => error.into(),
    }
}
