//! NBD, the protocol of network block devices: exports of servers are read, and written in place.
//!
//! ```text
//!   nbd://HOST[:PORT]/EXPORT            nbd+unix:///EXPORT?socket=PATH         without TLS
//!   nbds://HOST[:PORT]/EXPORT           nbds+unix:///EXPORT?socket=PATH        with TLS
//!   nbd:HOST:PORT[:exportname=EXPORT]   nbd:unix:PATH[:exportname=EXPORT]      QEMU's older names
//! ```
//!
//! Servers of all ages are read. From those that tell it, the client takes which ranges are zeros,
//! and how long requests may be. If a connection is lost, it is made again and requests are repeated,
//! but not if writes that were not flushed may be lost with it.

mod client;
mod node;
pub mod server;
mod source;
mod storage;
#[cfg(test)]
mod tests;
mod uri;
mod wire;

use client::{Access, Client, Timeouts, TlsSettings, Wanted};
use diskimg::open::{Location, NodeUrl, OpenMode, Protocol, Url};
use diskimg::storage::edit::Storage;
use diskimg::storage::output::Publish;
use diskimg::storage::source::{Cached, HostFileId, RetryPolicy, Source, SourceError};
use diskimg::{Error, Remedy, Result};
use source::{ContextSource, NbdSource};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use storage::NbdStorage;
use uri::{Address, SCHEMES, Target};
use wire::BASE_ALLOCATION;

/// How servers are accessed.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct NbdOptions {
    /// A directory with certificates for TLS, with the names that QEMU and libnbd use: `ca-cert.pem`
    /// of the authority that is trusted instead of the system's, `client-cert.pem` and
    /// `client-key.pem` of this client. Each may be missing. A URI's `tls-certificates` has
    /// precedence.
    pub tls_certificates: Option<PathBuf>,
    /// Credentials that QEMU's option `tls-creds` of a node names.
    pub credentials: BTreeMap<String, TlsCredentials>,
    /// A file with certificates (PEM) of authorities that are trusted instead of the system's, if the
    /// directory has none.
    pub ca_bundle: Option<PathBuf>,
    /// The name in the server's certificate, by default the host. A URI's `tls-hostname` has
    /// precedence.
    pub tls_hostname: Option<String>,
    /// Whether certificates of servers are not verified, if the URI does not say it
    /// (`tls-verify-peer`): anyone on the way can read and change what is transferred.
    pub insecure: bool,
    /// Whether addresses of private networks, of this host and of link-local services are refused,
    /// after a name was resolved, for URIs of strangers. Unix sockets are, too.
    pub forbid_private_addresses: bool,
    /// Maximum number of connections, if the server allows several.
    pub connections: usize,
    /// Maximum time for a connection and its handshake.
    pub connect_timeout: Duration,
    /// Time for which the first connection is tried again, if the server is not there yet.
    pub open_timeout: Duration,
    /// Maximum time until a server sends or accepts more bytes.
    pub stall_timeout: Duration,
    /// Maximum time until a server has flushed, deallocated or zeroed.
    pub flush_timeout: Duration,
    /// When a request is repeated after a connection was lost, and when it is given up.
    pub retry: RetryPolicy,
}

impl Default for NbdOptions {
    /// Up to 4 connections, within 10 s, tried once. Replies proceed within 20 s, and flushing ends
    /// within 10 minutes.
    fn default() -> Self {
        let mut retry = RetryPolicy::default();
        // A server may take long to start again, and the first attempts follow each other quickly.
        retry.attempts = u32::MAX;
        Self {
            tls_certificates: None,
            credentials: BTreeMap::new(),
            ca_bundle: None,
            tls_hostname: None,
            insecure: false,
            forbid_private_addresses: false,
            connections: 4,
            connect_timeout: Duration::from_secs(10),
            open_timeout: Duration::ZERO,
            stall_timeout: Duration::from_secs(20),
            flush_timeout: Duration::from_secs(600),
            retry,
        }
    }
}

/// What QEMU's object `tls-creds-x509` is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsCredentials {
    /// As [`NbdOptions::tls_certificates`].
    pub directory: PathBuf,
    /// Whether certificates of servers are verified.
    pub verify_peer: bool,
}

/// The protocol of `nbd:` and `nbds:` URIs.
#[derive(Debug, Clone, Default)]
pub struct Nbd {
    options: NbdOptions,
}

impl Nbd {
    /// The schemes of the URLs.
    pub const SCHEMES: &'static [&'static str] = SCHEMES;

    /// Creates the protocol with the default options.
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates the protocol. Connects to nothing.
    pub fn with_options(options: NbdOptions) -> Self {
        Self { options }
    }

    /// Returns the files and directories that are read to access the export with this name, for a
    /// program that restricts itself: certificates, and the system's configuration of names.
    ///
    /// # Errors
    /// Returns [`Invalid`](diskimg::ErrorKind::Invalid) if the name is malformed.
    pub fn files(&self, name: &str) -> Result<Vec<PathBuf>> {
        let target = Target::parse(name)?;
        let mut files = match target.address {
            Address::Tcp { .. } => crate::system::name_service_files(),
            Address::Unix(_) => Vec::new(),
        };
        if let Some(tls) = target.tls {
            let directory = tls.certificates.or_else(|| self.options.tls_certificates.clone());
            files.extend(directory.iter().flat_map(|directory| client::tls_files(directory)));
            let bundle = self.options.ca_bundle.clone();
            files.extend(bundle.or_else(crate::certificates::system_bundle));
        }
        Ok(files)
    }

    /// Connects to a server. Also returns the identity of the export, and the context of metadata that
    /// is to be shown.
    fn connect(&self, at: &Location) -> Result<(Client, HostFileId, Option<String>)> {
        let Location::Url(url) = at else { return Err(Error::invalid("it is not a URL")) };
        let target = Target::parse(url.as_str())?;
        let context = target.extra.context.clone();
        let access = self.access(target)?;
        let place = access.address.to_string();
        let identity = access.address.identity(&access.wanted.export);
        let client = Client::open(access).map_err(|e| cannot_open(&place, e))?;
        match context {
            Some(context) if !client.export().has_context(&context) => {
                Err(Error::invalid(format!("the server has no context '{context}' of the export")))
            }
            context => Ok((client, identity, context)),
        }
    }

    fn access(&self, target: Target) -> Result<Access> {
        let options = &self.options;
        let Target { address, export, tls, extra } = target;
        let credentials = match &extra.credentials {
            None => None,
            Some(id) => Some(
                options
                    .credentials
                    .get(id)
                    .ok_or_else(|| Error::invalid(format!("No TLS credentials with id '{id}'")))?,
            ),
        };
        let tls = tls.map(|tls| {
            let named = credentials.map(|credentials| &credentials.directory);
            let directory = tls.certificates.as_ref().or(named);
            let directory = directory.or(options.tls_certificates.as_ref());
            let host = tls.hostname.as_ref().or(options.tls_hostname.as_ref());
            let host = match (host, &address) {
                (Some(host), _) | (None, Address::Tcp { host, .. }) => host,
                (None, Address::Unix(_)) => "localhost",
            };
            let verify = tls.verify_peer.or(credentials.map(|credentials| credentials.verify_peer));
            let verify = verify.unwrap_or(true) && !(options.insecure && tls.verify_peer.is_none());
            let bundle = options.ca_bundle.as_deref();
            TlsSettings::new(directory.map(|directory| &**directory), bundle, host, verify)
        });
        let contexts = vec![extra.context.unwrap_or_else(|| BASE_ALLOCATION.to_owned())];
        let open_timeout = extra.open_timeout.map(|seconds| Duration::from_secs(seconds.into()));
        let open_timeout = open_timeout.unwrap_or(options.open_timeout);
        let mut retry = options.retry.clone();
        if let Some(seconds) = extra.reconnect_delay {
            let attempts = if seconds == 0 { 1 } else { u32::MAX };
            (retry.attempts, retry.deadline) = (attempts, Duration::from_secs(seconds.into()));
        }
        let timeouts = Timeouts {
            connect: options.connect_timeout,
            stall: options.stall_timeout,
            flush: options.flush_timeout,
        };
        let open_retry = (!open_timeout.is_zero()).then(|| {
            let mut retry = options.retry.clone();
            (retry.attempts, retry.deadline) = (u32::MAX, open_timeout);
            retry.max_delay = retry.max_delay.min(Duration::from_secs(1));
            retry
        });
        Ok(Access {
            address,
            wanted: Wanted { export, contexts, tls: tls.transpose()? },
            timeouts,
            forbid_private: options.forbid_private_addresses,
            retry,
            open_retry,
            connections: options.connections,
        })
    }
}

fn cannot_open(place: &str, error: SourceError) -> Error {
    Error::io(format!("cannot open an export of the server at {place}"), error)
}

impl Protocol for Nbd {
    fn schemes(&self) -> &[&str] {
        SCHEMES
    }

    fn open(&self, at: &Location, _: &OpenMode) -> Result<Arc<dyn Source>> {
        match self.connect(at)? {
            (client, identity, None) => {
                Ok(Arc::new(Cached::new(Arc::new(NbdSource::new(client, identity)))))
            }
            (client, _, Some(context)) => Ok(Arc::new(ContextSource::new(client, context))),
        }
    }

    fn join(&self, _: &Location, _: &str) -> Result<Location> {
        Err(Error::unsupported("an export of an NBD server is in no directory"))
    }

    fn create(&self, _: &Location) -> Result<Box<dyn Publish>> {
        let error = Error::unsupported("an NBD server creates no exports");
        Err(error.with_remedy(Remedy::OverwriteExisting))
    }

    /// Fails for an export that the server only allows to read.
    fn modify(&self, at: &Location) -> Result<Arc<dyn Storage>> {
        let (client, identity, context) = self.connect(at)?;
        if context.is_some() {
            return Err(Error::invalid("a dirty bitmap is not written, only shown"));
        }
        if client.export().is_read_only() {
            let error = std::io::Error::new(
                std::io::ErrorKind::ReadOnlyFilesystem,
                "the server allows only reading",
            );
            return Err(Error::io("cannot write to the export", error));
        }
        Ok(Arc::new(NbdStorage::new(NbdSource::new(client, identity))))
    }

    /// Also accepts QEMU's options: `server.type` (`inet` or `unix`), `server.host`, `server.port`,
    /// `server.path`, `export`, `tls-creds`, `tls-hostname`, `x-dirty-bitmap`, `open-timeout` and
    /// `reconnect-delay`.
    fn node_url(&self, node: &mut NodeUrl<'_>) -> Result<Url> {
        node::url(node)
    }
}

/// Runs the client against what a server may send, for fuzzing.
///
/// # Panics
/// If what is right is not read as it is.
#[cfg(unix)]
#[doc(hidden)]
pub fn receive_for_fuzzing(bytes: &[u8]) {
    client::fuzz::run(bytes);
}

/// Returns inputs for [`receive_for_fuzzing`].
#[cfg(unix)]
#[doc(hidden)]
pub fn seeds_for_fuzzing() -> Vec<Vec<u8>> {
    client::fuzz::seeds()
}
