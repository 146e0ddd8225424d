//! Requests for a range of a file, and what their answers are worth.

use super::addresses::CheckedResolver;
use super::answer::{Answer, ContentRange, Unexpected, Version, require_plain};
use super::body::{Paced, cut_off, read_body};
use super::request::{Request, basic};
use super::{HttpOptions, certificates, netrc, proxies};
use diskimg::storage::source::{RetryPolicy, SourceError};
use diskimg::{Error, Result};
use std::fmt;
use std::io;
use std::ops::Range;
use std::time::Duration;
use ureq::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use ureq::tls::TlsConfig;
use ureq::unversioned::transport::DefaultConnector;
use ureq::{Agent, Body};

/// Maximum number of redirects.
const MAX_REDIRECTS: usize = 5;

/// Maximum size in bytes of the headers of a response. What of the body arrived with an interim
/// response (103, for example) counts as well.
const MAX_HEADERS: usize = 256 << 10;

/// Headers on which the meaning of a response depends.
const OWN_HEADERS: [HeaderName; 10] = [
    header::ACCEPT_ENCODING,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::HOST,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_RANGE,
    header::IF_UNMODIFIED_SINCE,
    header::RANGE,
    header::TRANSFER_ENCODING,
];

/// Connections that are kept open.
const CONNECTIONS: usize = 16;

/// Maximum number of attempts to open a file.
const FIRST_ATTEMPTS: u32 = 4;

/// Longest wait that a server can ask for with `Retry-After`.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// Makes requests. Connections are kept open.
pub(super) struct Client {
    agent: Agent,
    headers: HeaderMap,
    /// The text of the `.netrc` file.
    netrc: String,
    stall_timeout: Duration,
    forbids_private: bool,
}

/// The options contain passwords.
impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

/// Why a request failed.
pub(super) enum Failure {
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

/// The body of a response with a range, not read yet.
pub(super) struct Part {
    pub(super) version: Version,
    pub(super) total: u64,
    pub(super) body: Body,
}

impl Client {
    pub(super) fn new(options: HttpOptions) -> Result<Self> {
        let mut headers = HeaderMap::new();
        for (name, value) in &options.headers {
            let wrong = || Error::invalid(format!("the header {name:?} is malformed"));
            let name: HeaderName = name.parse().map_err(|_| wrong())?;
            if OWN_HEADERS.contains(&name) {
                return Err(Error::invalid(format!("the header {name:?} cannot be set")));
            }
            let mut value: HeaderValue = value.parse().map_err(|_| wrong())?;
            value.set_sensitive(true);
            headers.append(name, value);
        }
        let netrc = match &options.netrc {
            // Those of strangers are not for the passwords of this user.
            Some(path) if !options.forbid_private_addresses => {
                let text = std::fs::read(path)
                    .map_err(|e| Error::io("cannot read the passwords", e).in_file(path))?;
                String::from_utf8_lossy(&text).into_owned()
            }
            _ => String::new(),
        };
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
            headers,
            netrc,
            stall_timeout: options.stall_timeout,
            forbids_private: options.forbid_private_addresses,
        })
    }

    /// Requests the first bytes of a file, and follows redirects. Returns the request that was
    /// answered.
    ///
    /// # Errors
    /// Returns [`Transient`](diskimg::ErrorKind::Transient) if the server cannot be reached or is busy
    /// after several attempts, and [`Io`](diskimg::ErrorKind::Io) if it refuses the request.
    pub(super) fn first(
        &self,
        mut request: Request,
        range: Range<u64>,
        retry: &RetryPolicy,
    ) -> Result<(Request, Answer)> {
        let cannot = |e: SourceError| Error::io("cannot open it", e);
        // Nothing is lost yet, and the name of the server may be wrong.
        let mut retry = retry.clone();
        retry.attempts = retry.attempts.min(FIRST_ATTEMPTS);
        for _ in 0..=MAX_REDIRECTS {
            let attempt = || self.first_attempt(&request, &range).map_err(SourceError::from);
            match retry.repeat(attempt).map_err(cannot)? {
                First::Answer(answer) => return Ok((request, answer)),
                First::Redirect(location) => request = request.redirected(&location)?,
            }
        }
        Err(Error::refused(format!("the server redirects more than {MAX_REDIRECTS} times")))
    }

    fn first_attempt(&self, request: &Request, range: &Range<u64>) -> Attempt<First> {
        let response = self.send(request, range, None)?;
        let (headers, status) = (response.headers(), response.status());
        if let Some(location) = redirect(&response) {
            return Ok(First::Redirect(location));
        }
        let answer = match status {
            StatusCode::OK => self.whole(response)?,
            StatusCode::RANGE_NOT_SATISFIABLE
                if ContentRange::of(headers).is_some_and(|found| found.total == Some(0)) =>
            {
                Answer::Empty
            }
            _ => {
                let mut part = part(response, range, None)?;
                let len = part.total.min(range.end) as usize;
                let mut body = vec![0; len];
                let read = read_body(&mut part.body, &mut body, self.stall_timeout);
                read.and_then(|n| if n == len { Ok(()) } else { Err(cut_off()) })
                    .map_err(|e| Failure::Temporary(e, None))?;
                Answer::Part { total: part.total, version: part.version, body }
            }
        };
        Ok(First::Answer(answer))
    }

    /// Returns the whole file. Without a length and chunks, the end of the connection would be the
    /// end of the file.
    fn whole(&self, response: Response<Body>) -> Attempt<Answer> {
        require_plain(response.headers()).map_err(wrong)?;
        let is_chunked = response.headers().contains_key(header::TRANSFER_ENCODING);
        let body = response.into_body();
        let len = body.content_length();
        if len.is_none() && !is_chunked {
            return Err(wrong(Unexpected(
                "the server does not state the length of the file".into(),
            )));
        }
        let reader = body.into_with_config().limit(u64::MAX).reader();
        Ok(Answer::Whole(Box::new(Paced::new(reader, self.stall_timeout)), len))
    }

    /// Reads the body of a part into `buf`; see [`read_body`].
    pub(super) fn read(&self, part: &mut Part, buf: &mut [u8]) -> io::Result<usize> {
        read_body(&mut part.body, buf, self.stall_timeout)
    }

    /// Returns the proxy for a request.
    fn proxy(&self, request: &Request) -> Attempt<Option<ureq::Proxy>> {
        let host = request.uri.host().unwrap_or_default();
        let found = proxies::for_host(request.protocol(), host);
        let found = found.map_err(|e| Failure::Final(io::Error::other(e)))?;
        match found.is_some() && self.forbids_private {
            true => Err(wrong(Unexpected(
                "a proxy resolves names itself, so private addresses cannot be refused".into(),
            ))),
            false => Ok(found),
        }
    }

    /// Requests a range of the file whose length and version are known.
    pub(super) fn range(
        &self,
        request: &Request,
        range: &Range<u64>,
        known: (u64, &Version),
    ) -> Attempt<Part> {
        let response = self.send(request, range, Some(known.1))?;
        part(response, range, Some(known))
    }

    fn send(
        &self,
        request: &Request,
        range: &Range<u64>,
        version: Option<&Version>,
    ) -> Attempt<Response<Body>> {
        let proxy = self.proxy(request)?;
        let mut builder = self.agent.get(&request.uri).config().proxy(proxy).build();
        if request.is_original_host {
            for (name, value) in &self.headers {
                builder = builder.header(name, value);
            }
        }
        // Neither headers nor passwords are for a host to which that one redirects.
        if request.is_original_host && !self.headers.contains_key(header::AUTHORIZATION) {
            let host = request.uri.host().unwrap_or_default();
            let stored = || netrc::login(&self.netrc, host).map(|(user, pw)| basic(user, pw));
            if let Some(value) = request.authorization.clone().or_else(stored) {
                builder = builder.header(header::AUTHORIZATION, value);
            }
        }
        if let Some((name, value)) = version.and_then(Version::condition) {
            builder = builder.header(name, value);
        }
        let wanted = format!("bytes={}-{}", range.start, range.end - 1);
        builder.header(header::RANGE, wanted).call().map_err(failure)
    }
}

/// The outcome of an attempt.
pub(super) type Attempt<T> = std::result::Result<T, Failure>;

/// What the first request leads to.
enum First {
    Answer(Answer),
    Redirect(String),
}

/// Returns the location to which a response redirects: RFC 9110, section 15.4.
fn redirect(response: &Response<Body>) -> Option<String> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = response.headers().get(header::LOCATION)?;
    Some(location.to_str().ok()?.to_owned())
}

/// Verifies a response to a request for `range`. `known` are the length and the version of the file,
/// if it was read before.
fn part(
    response: Response<Body>,
    range: &Range<u64>,
    known: Option<(u64, &Version)>,
) -> Attempt<Part> {
    let (status, headers) = (response.status(), response.headers());
    if status != StatusCode::PARTIAL_CONTENT {
        return Err(refusal(&response));
    }
    require_plain(headers).map_err(wrong)?;
    let Some(ContentRange { range: Some(found), total: Some(total) }) = ContentRange::of(headers)
    else {
        let message = "the server does not state the length of the file";
        return Err(wrong(Unexpected(message.into())));
    };
    let version = Version::of(headers).map_err(wrong)?;
    if known.is_some_and(|(len, known)| len != total || !known.matches(&version)) {
        return Err(changed());
    }
    if found != (range.start..range.end.min(total)) {
        let message = format!(
            "the server answered with bytes {}-{} instead of {}-{}",
            found.start,
            found.end - 1,
            range.start,
            range.end - 1
        );
        return Err(wrong(Unexpected(message)));
    }
    Ok(Part { version, total, body: response.into_body() })
}

/// Returns the failure that a status other than success stands for.
fn refusal(response: &Response<Body>) -> Failure {
    let status = response.status();
    let kind = match status.as_u16() {
        412 => return changed(),
        200 => {
            let message = "the server answered with the whole file instead of a range";
            return Failure::Final(io::Error::other(Unexpected(message.into())));
        }
        401 | 403 | 407 => io::ErrorKind::PermissionDenied,
        404 | 410 => io::ErrorKind::NotFound,
        // Timeout, too early, too many requests; 498 and 507 are Swift's.
        408 | 425 | 429 | 500 | 502 | 503 | 504 | 498 | 507 => {
            let error = io::Error::other(Unexpected(format!("the server answered {status}")));
            return Failure::Temporary(error, retry_after(response.headers()));
        }
        _ => io::ErrorKind::Other,
    };
    let message = Unexpected(format!("the server answered {status}"));
    Failure::Final(io::Error::new(kind, message))
}

fn wrong(unexpected: Unexpected) -> Failure {
    Failure::Final(io::Error::other(unexpected))
}

fn changed() -> Failure {
    let message = "the file changed on the server while it was read";
    Failure::Final(io::Error::other(Unexpected(message.into())))
}

/// Returns the wait that a server asks for, in seconds; a date is ignored.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
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
