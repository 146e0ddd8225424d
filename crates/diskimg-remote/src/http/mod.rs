//! HTTP and HTTPS, RFC 9110: images are read by ranges.
//!
//! ```text
//!   Http::open(URL) ─► Client: GET, bytes 0-65535, redirects ─► 206: RangeSource ─► Cached
//!                                                             └► 200: the whole file, to a temporary one
//! ```
//!
//! The first answer fixes the length of the file and its version (its `ETag` or date of modification).
//! Every further request is for that version alone: a file that changes while it is read is an error,
//! never a mixture.

mod addresses;
pub(crate) mod answer;
pub(crate) mod body;
mod certificates;
pub(crate) mod client;
mod fuzz;
mod netrc;
mod proxies;
pub(crate) mod request;
pub(crate) mod source;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod transport;

use answer::Answer;
use client::{Client, HttpFile};
use diskimg::open::{Location, NodeUrl, OpenMode, Protocol, Url};
use diskimg::storage::source::{Cached, MemorySource, RetryPolicy, Source, spool};
use diskimg::{Error, Remedy, Result};
use request::Request;
use source::{RangeSource, Ranges};
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of the first request, which also shows whether the server answers ranges.
pub(crate) const FIRST: u64 = 64 << 10;

/// How servers are accessed.
///
/// A user and a password are taken from the URL, or else from a `.netrc` file. Proxies are those that
/// the environment names: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct HttpOptions {
    /// Headers of each request to the host of the URL, such as `Authorization`. They are not sent to
    /// another host to which that one redirects.
    pub headers: Vec<(String, String)>,
    /// A file with certificates (PEM) of authorities that are trusted instead of the system's. On
    /// Linux, the system's are those of `SSL_CERT_FILE` or of the distribution, and Mozilla's without
    /// them.
    pub ca_bundle: Option<PathBuf>,
    /// Whether certificates of servers are not verified: anyone on the way can read and change what is
    /// transferred.
    pub insecure: bool,
    /// A `.netrc` file with users and passwords of hosts. By default, `NETRC` in the environment or
    /// `.netrc` in the home directory. Not used with `forbid_private_addresses`.
    pub netrc: Option<PathBuf>,
    /// Whether addresses of private networks, of this host and of link-local services are refused,
    /// after a name was resolved, for URLs of strangers. A proxy resolves names itself, so it cannot
    /// be used then.
    pub forbid_private_addresses: bool,
    /// Maximum time for a connection.
    pub connect_timeout: Duration,
    /// Maximum time until a response begins, and between two parts of it.
    pub stall_timeout: Duration,
    /// When a request that failed temporarily is repeated, and when it is given up.
    pub retry: RetryPolicy,
}

impl Default for HttpOptions {
    /// Connections within 10 s, parts of a response within 20 s of each other.
    fn default() -> Self {
        Self {
            headers: Vec::new(),
            ca_bundle: None,
            insecure: false,
            netrc: netrc::default_path(),
            forbid_private_addresses: false,
            connect_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(20),
            retry: RetryPolicy::default(),
        }
    }
}

impl HttpOptions {
    /// Returns the files and directories that are read to access servers, for a program that restricts
    /// itself: certificates, passwords, and the system's configuration of names.
    pub fn files(&self) -> Vec<PathBuf> {
        let certificates = self.ca_bundle.clone().or_else(crate::certificates::system_bundle);
        let names = crate::system::name_service_files().into_iter();
        names.chain(certificates).chain(self.netrc.clone()).collect()
    }
}

/// The protocol of `http:` and `https:` URLs.
#[derive(Debug)]
pub struct Http {
    client: Arc<Client>,
    retry: RetryPolicy,
}

impl Http {
    /// Creates the protocol with the default options.
    ///
    /// # Errors
    /// As [`with_options`](Self::with_options).
    pub fn new() -> Result<Self> {
        Self::with_options(HttpOptions::default())
    }

    /// Creates the protocol. Connects to nothing.
    ///
    /// # Errors
    /// Returns [`Io`](diskimg::ErrorKind::Io) if a file with certificates or passwords cannot be read,
    /// and [`Invalid`](diskimg::ErrorKind::Invalid) if its contents or a header are malformed.
    pub fn with_options(options: HttpOptions) -> Result<Self> {
        let retry = options.retry.clone();
        Ok(Self { client: Arc::new(Client::new(options)?), retry })
    }

    fn open_url(&self, url: &Url, how: &OpenMode) -> Result<Arc<dyn Source>> {
        let (client, retry) = (Arc::clone(&self.client), self.retry.clone());
        let (request, answer) = client.first(Request::new(url)?, 0..FIRST, &retry)?;
        opened(HttpFile { client, request }, answer, retry, how)
    }
}

/// Returns the source of a file, by the answer to the request for its first bytes.
///
/// # Errors
/// As [`whole`], if the server has no ranges.
pub(crate) fn opened<F: Ranges + 'static>(
    file: F,
    answer: Answer,
    retry: RetryPolicy,
    how: &OpenMode,
) -> Result<Arc<dyn Source>> {
    match answer {
        Answer::Part { total: len, version, body: first } => {
            let source = RangeSource { file, version, len, first, retry };
            Ok(Arc::new(Cached::new(Arc::new(source))))
        }
        Answer::Empty => Ok(Arc::new(MemorySource::new(Vec::new()))),
        // No ranges: one pass. What is cut off cannot be continued.
        Answer::Whole(reader, len) => whole(reader, len, how.max_copied),
    }
}

/// Copies a whole file of `len` bytes, if that is known, to a temporary one.
fn whole(reader: impl Read, len: Option<u64>, max: Option<u64>) -> Result<Arc<dyn Source>> {
    let max = max.unwrap_or(u64::MAX);
    let too_long = || {
        Error::limit(format!(
            "the server answers no ranges, and the file is longer than {max} bytes"
        ))
        .with_remedy(Remedy::RaiseMaxSize)
    };
    if len.is_some_and(|len| len > max) {
        return Err(too_long());
    }
    let source = spool(reader.take(max.saturating_add(1)));
    let source = source.map_err(|e| Error::io("cannot read the whole file", e))?;
    match source.len() > max {
        true => Err(too_long()),
        false => Ok(source),
    }
}

impl Protocol for Http {
    fn schemes(&self) -> &[&str] {
        &["http", "https"]
    }

    fn open(&self, at: &Location, how: &OpenMode) -> Result<Arc<dyn Source>> {
        match at {
            Location::Url(url) => self.open_url(url, how),
            _ => Err(Error::invalid("it is not a URL")),
        }
    }

    fn join(&self, base: &Location, name: &str) -> Result<Location> {
        let Location::Url(url) = base else { return Err(Error::invalid("it is not a URL")) };
        let joined = request::join(url.as_str(), name);
        let joined = joined.and_then(Url::new);
        Ok(joined.ok_or_else(|| Error::invalid("the name is outside of the server"))?.into())
    }

    /// As by default, without the options that tune QEMU.
    fn node_url(&self, node: &mut NodeUrl<'_>) -> Result<Url> {
        node.ignore(&["readahead", "timeout"]);
        node.take_url()
    }
}

/// Parses what a server can send, for fuzzing.
///
/// # Panics
/// If what was found could harm the user who reads it.
#[doc(hidden)]
pub fn parse_for_fuzzing(bytes: &[u8]) {
    fuzz::run(&String::from_utf8_lossy(bytes));
}

/// Returns inputs for [`parse_for_fuzzing`].
#[doc(hidden)]
pub fn seeds_for_fuzzing() -> Vec<Vec<u8>> {
    fuzz::seeds()
}
