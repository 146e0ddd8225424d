//! The client against a server of our own.

mod handshakes;
mod replies;
mod server;
mod writing;

use super::{Nbd, NbdOptions};
use diskimg::open::{Location, OpenMode, Protocol};
use diskimg::storage::edit::Storage;
use diskimg::storage::source::{RetryPolicy, Source};
use diskimg::{Error, Result};
use server::Server;
use std::sync::Arc;
use std::time::Duration;

/// Options with which nothing is waited for long.
fn quick() -> NbdOptions {
    let mut retry = RetryPolicy::default();
    retry.attempts = 3;
    retry.first_delay = Duration::from_millis(1);
    retry.max_delay = Duration::from_millis(5);
    NbdOptions {
        stall_timeout: Duration::from_millis(500),
        flush_timeout: Duration::from_millis(500),
        connect_timeout: Duration::from_secs(2),
        retry,
        ..NbdOptions::default()
    }
}

/// The same options for a server that answers, on a machine that is busy.
fn patient() -> NbdOptions {
    let patience = Duration::from_secs(60);
    let (stall_timeout, flush_timeout, connect_timeout) = (patience, patience, patience);
    NbdOptions { stall_timeout, flush_timeout, connect_timeout, ..quick() }
}

fn location(server: &Server) -> Location {
    server.url().parse().expect("is a URL")
}

fn open(server: &Server) -> Result<Arc<dyn Source>> {
    Nbd::with_options(patient()).open(&location(server), &OpenMode::default())
}

fn open_to_write(server: &Server) -> Result<Arc<dyn Storage>> {
    Nbd::with_options(patient()).modify(&location(server))
}

fn cannot_open(server: &Server) -> Error {
    open(server).expect_err("is refused")
}

/// Bytes that differ everywhere.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251 + i / 65_536) as u8).collect()
}

/// Returns an error with its causes.
fn text(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
