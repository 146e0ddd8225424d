//! Connections to servers: TLS, proxies, time limits, and one request at a time.

use super::addresses::CheckedResolver;
use super::answer::Unexpected;
use super::{HttpOptions, certificates, proxies};
use diskimg::Result;
use diskimg::storage::source::SourceError;
use std::fmt;
use std::io;
use std::time::Duration;
use ureq::http::{HeaderMap, Request, Response, Uri, header};
use ureq::tls::TlsConfig;
use ureq::unversioned::transport::DefaultConnector;
use ureq::{Agent, AsSendBody, Body};

/// Maximum size in bytes of the headers of a response. What of the body arrived with an interim
/// response (103, for example) counts as well.
const MAX_HEADERS: usize = 256 << 10;

/// Connections that are kept open.
const CONNECTIONS: usize = 16;

/// Longest wait that a server can ask for with `Retry-After`.
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(30);

/// Makes requests. Connections are kept open.
pub(crate) struct Transport {
    agent: Agent,
    pub(crate) stall_timeout: Duration,
    forbids_private: bool,
    uses_proxies: bool,
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").finish_non_exhaustive()
    }
}

impl Transport {
    /// Connects to nothing.
    ///
    /// # Errors
    /// Returns [`Io`](diskimg::ErrorKind::Io) if a file with certificates cannot be read, and
    /// [`Invalid`](diskimg::ErrorKind::Invalid) if it has none.
    pub(crate) fn new(options: &HttpOptions) -> Result<Self> {
        let tls = TlsConfig::builder()
            .root_certs(certificates::trusted(options.ca_bundle.as_deref())?)
            .disable_verification(options.insecure)
            .build();
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            // Each request has its own.
            .proxy(None)
            .tls_config(tls)
            .accept_encoding("identity")
            .accept("*/*")
            .user_agent(concat!("diskimg/", env!("CARGO_PKG_VERSION")))
            .max_response_header_size(MAX_HEADERS)
            .max_idle_connections(CONNECTIONS)
            .max_idle_connections_per_host(CONNECTIONS)
            .timeout_connect(Some(options.connect_timeout))
            .timeout_per_read(Some(options.stall_timeout))
            .timeout_per_write(Some(options.stall_timeout))
            .timeout_recv_response(Some(options.stall_timeout))
            .build();
        let resolver = CheckedResolver::new(options.forbid_private_addresses);
        let agent = Agent::with_parts(config, DefaultConnector::default(), resolver);
        Ok(Self {
            agent,
            stall_timeout: options.stall_timeout,
            forbids_private: options.forbid_private_addresses,
            uses_proxies: true,
        })
    }

    /// Ignores the proxies that the environment names: for services of this host.
    #[cfg(feature = "s3")]
    pub(crate) fn without_proxies(mut self) -> Self {
        self.uses_proxies = false;
        self
    }

    /// Sends a request, through the proxy that the environment names for its host. Returns the
    /// response of any status; redirects are not followed.
    pub(crate) fn send(&self, request: Request<impl AsSendBody>) -> Attempt<Response<Body>> {
        self.send_within(request, self.stall_timeout)
    }

    /// As [`send`](Self::send), for a request whose response begins within `time`.
    pub(crate) fn send_within(
        &self,
        request: Request<impl AsSendBody>,
        time: Duration,
    ) -> Attempt<Response<Body>> {
        let proxy = self.proxy(request.uri())?;
        let config = self.agent.configure_request(request).proxy(proxy);
        let config = config.timeout_recv_response(Some(time)).timeout_per_read(Some(time));
        self.agent.run(config.build()).map_err(failure)
    }

    /// Returns the proxy for a request.
    fn proxy(&self, uri: &Uri) -> Attempt<Option<ureq::Proxy>> {
        if !self.uses_proxies {
            return Ok(None);
        }
        let host = uri.host().unwrap_or_default();
        let found = proxies::for_host(uri.scheme_str().unwrap_or_default(), host);
        let found = found.map_err(|e| Failure::Final(io::Error::other(e)))?;
        match found.is_some() && self.forbids_private {
            true => Err(wrong(Unexpected(
                "a proxy resolves names itself, so private addresses cannot be refused".into(),
            ))),
            false => Ok(found),
        }
    }
}

/// Why a request failed.
pub(crate) enum Failure {
    /// Another attempt may succeed; after this time, if the server named one.
    Temporary(io::Error, Option<Duration>),
    /// Another attempt would fail, too.
    Final(io::Error),
}

impl From<Failure> for SourceError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Temporary(error, wait) => {
                if let Some(wait) = wait {
                    std::thread::sleep(wait.min(MAX_WAIT));
                }
                Self::Transient(error)
            }
            Failure::Final(error) => Self::Storage(error),
        }
    }
}

/// The outcome of an attempt.
pub(crate) type Attempt<T> = std::result::Result<T, Failure>;

/// Returns the failure of an answer that must not be repeated.
pub(crate) fn wrong(unexpected: Unexpected) -> Failure {
    Failure::Final(io::Error::other(unexpected))
}

/// Returns the wait that a server asks for, in seconds; a date is ignored.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    Some(Duration::from_secs(value.trim().parse().ok()?))
}

/// Returns the failure of a request that was not answered.
fn failure(error: ureq::Error) -> Failure {
    use ureq::Error as E;
    match error {
        E::Io(error) if error.kind() == io::ErrorKind::PermissionDenied => Failure::Final(error),
        // A certificate that is not trusted.
        E::Io(error) if error.kind() == io::ErrorKind::InvalidData => Failure::Final(error),
        E::Io(error) if is_unknown_name(&error) => Failure::Final(error),
        E::Io(error) => Failure::Temporary(error, None),
        E::Timeout(timeout) => {
            let message = format!("it took too long ({timeout})");
            Failure::Temporary(io::Error::new(io::ErrorKind::TimedOut, message), None)
        }
        E::HostNotFound => {
            let message = "the name of the host is not known";
            Failure::Final(io::Error::new(io::ErrorKind::NotFound, message))
        }
        E::ConnectionFailed => {
            let message = "the server cannot be reached";
            Failure::Temporary(io::Error::new(io::ErrorKind::ConnectionRefused, message), None)
        }
        error => Failure::Final(io::Error::other(error)),
    }
}

/// Returns true if a name could not be resolved, and will not be. The standard library has no kind for
/// such errors; getaddrinfo(3) has another text if the name service did not answer.
fn is_unknown_name(error: &io::Error) -> bool {
    let text = error.to_string();
    text.starts_with("failed to lookup address information")
        && !text.contains("Temporary failure")
        && !text.contains("Try again")
}
