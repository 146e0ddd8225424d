//! Requests for a range of a file, and what their answers are worth.

use super::addresses::CheckedResolver;
use super::answer::{Answer, ContentRange, Unexpected, Version};
use super::{HttpOptions, certificates, netrc};
use base64::prelude::{BASE64_STANDARD, Engine};
use diskimg::open::Url;
use diskimg::storage::source::{RetryPolicy, SourceError};
use diskimg::{Error, Result};
use std::fmt;
use std::io::{self, Read};
use std::ops::Range;
use std::time::Duration;
use ureq::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Uri, header};
use ureq::tls::TlsConfig;
use ureq::unversioned::transport::DefaultConnector;
use ureq::{Agent, Body};

/// Maximum number of redirects.
const MAX_REDIRECTS: usize = 5;

/// Maximum size in bytes of the headers of a response.
const MAX_HEADERS: usize = 64 << 10;

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
}

/// The options contain passwords.
impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

/// What is requested, and with which headers.
#[derive(Clone)]
pub(super) struct Request {
    uri: Uri,
    /// The URL without passwords.
    shown: String,
    /// `Authorization` of the user in the URL.
    authorization: Option<HeaderValue>,
    /// Whether the host is the one that the caller named, which may see the caller's secrets.
    is_original_host: bool,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl Request {
    /// Prepares requests for `url`.
    ///
    /// # Errors
    /// Returns [`Invalid`](diskimg::ErrorKind::Invalid) if it is malformed.
    pub(super) fn new(url: &Url) -> Result<Self> {
        let text = url.as_str().split('#').next().unwrap_or_default();
        let (scheme, rest) = text.split_once("://").ok_or_else(malformed)?;
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let (login, host) = match authority.rsplit_once('@') {
            Some((login, host)) => (Some(login), host),
            None => (None, authority),
        };
        let uri: Uri = format!("{scheme}://{host}{path}").parse().map_err(|_| malformed())?;
        if uri.host().is_none_or(str::is_empty) {
            return Err(malformed());
        }
        let authorization = login.map(|login| {
            let (user, password) = login.split_once(':').unwrap_or((login, ""));
            basic(&decoded(user), &decoded(password))
        });
        let shown = url.to_string();
        Ok(Self { uri, shown, authorization, is_original_host: true })
    }

    /// Returns `http` or `https`.
    pub(super) fn protocol(&self) -> &'static str {
        if self.uri.scheme_str() == Some("https") { "https" } else { "http" }
    }

    /// Returns the request for the location to which a response redirects.
    ///
    /// # Errors
    /// Returns [`Refused`](diskimg::ErrorKind::Refused) if it has another scheme, and
    /// [`Invalid`](diskimg::ErrorKind::Invalid) if it is malformed.
    fn redirected(&self, location: &str) -> Result<Self> {
        let location = location.split('#').next().unwrap_or_default();
        let target = resolve(&self.uri, location).ok_or_else(|| {
            Error::invalid(format!("the server redirects to a malformed location: {location:?}"))
        })?;
        if target.scheme() != self.uri.scheme() {
            let scheme = target.scheme_str().unwrap_or("none");
            let message = format!("the server redirects to a URL of another scheme, {scheme}");
            return Err(Error::refused(message).hint("name that URL if it can be trusted"));
        }
        let same_host = target.authority() == self.uri.authority();
        let shown = Url::new(target.to_string()).map(|url| url.to_string()).unwrap_or_default();
        Ok(Self {
            uri: target,
            shown,
            authorization: self.authorization.clone().filter(|_| same_host),
            is_original_host: self.is_original_host && same_host,
        })
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
            let mut value: HeaderValue = value.parse().map_err(|_| wrong())?;
            value.set_sensitive(true);
            headers.append(name, value);
        }
        let netrc = match &options.netrc {
            Some(path) => std::fs::read_to_string(path)
                .map_err(|e| Error::io("cannot read the passwords", e).in_file(path))?,
            None => String::new(),
        };
        let tls = TlsConfig::builder()
            .root_certs(certificates::trusted(options.ca_bundle.as_deref())?)
            .disable_verification(options.insecure)
            .build();
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
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
        Ok(Self { agent, headers, netrc })
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
            StatusCode::OK => {
                let reader = response.into_body().into_with_config().limit(u64::MAX).reader();
                Answer::Whole(Box::new(reader))
            }
            StatusCode::RANGE_NOT_SATISFIABLE
                if ContentRange::of(headers).is_some_and(|found| found.total == Some(0)) =>
            {
                Answer::Empty
            }
            _ => {
                let mut part = part(response, range, None)?;
                let len = part.total.min(range.end) as usize;
                let mut body = vec![0; len];
                let read = read_body(&mut part.body, &mut body);
                read.and_then(|n| if n == len { Ok(()) } else { Err(cut_off()) })
                    .map_err(|e| Failure::Temporary(e, None))?;
                Answer::Part { total: part.total, version: part.version, body }
            }
        };
        Ok(First::Answer(answer))
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
        let mut builder = self.agent.get(&request.uri);
        if request.is_original_host {
            for (name, value) in &self.headers {
                builder = builder.header(name, value);
            }
        }
        if !(request.is_original_host && self.headers.contains_key(header::AUTHORIZATION)) {
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
    let wrong = |message: String| Failure::Final(io::Error::other(Unexpected(message)));
    let encoding = headers.get(header::CONTENT_ENCODING).and_then(|value| value.to_str().ok());
    if let Some(encoding) = encoding.filter(|encoding| !encoding.eq_ignore_ascii_case("identity")) {
        return Err(wrong(format!("the server encodes the file ({encoding})")));
    }
    let Some(ContentRange { range: Some(found), total: Some(total) }) = ContentRange::of(headers)
    else {
        return Err(wrong("the server does not state the length of the file".into()));
    };
    let version = Version::of(headers);
    if known.is_some_and(|(len, known)| len != total || known.differs(&version)) {
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
        return Err(wrong(message));
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

/// Reads a body into `buf`. Returns how many bytes there were.
///
/// # Errors
/// Returns the error of the connection, and one if the body is longer than `buf`.
pub(super) fn read_body(body: &mut Body, buf: &mut [u8]) -> io::Result<usize> {
    let mut reader = body.with_config().limit(buf.len() as u64 + 1).reader();
    let mut filled = 0;
    while filled < buf.len() {
        match reader.read(&mut buf[filled..]) {
            Ok(0) => return Ok(filled),
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            // What arrived before the connection was lost is kept.
            Err(_) if filled > 0 => return Ok(filled),
            Err(e) => return Err(e),
        }
    }
    // Reading to the end lets the connection be used again.
    match reader.read(&mut [0]) {
        Ok(0) => Ok(filled),
        Ok(_) => Err(io::Error::other(Unexpected("the answer is longer than the range".into()))),
        Err(e) => Err(e),
    }
}

/// The error of a body that is shorter than the range.
pub(super) fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the server closed the connection too early")
}

fn malformed() -> Error {
    Error::invalid("the URL is malformed; expected http[s]://HOST[:PORT]/PATH")
}

fn basic(user: &str, password: &str) -> HeaderValue {
    let text = format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")));
    let mut value = HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

/// Returns percent-encoded text decoded.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let encoded = after.get(..2).filter(|_| byte == b'%');
        let code = encoded.and_then(|hex| std::str::from_utf8(hex).ok());
        match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(code) => {
                bytes.push(code);
                rest = &after[2..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Returns the location of a reference relative to `base`: RFC 3986, section 5.2.
fn resolve(base: &Uri, reference: &str) -> Option<Uri> {
    if reference.contains("://") {
        return reference.parse().ok().filter(|uri: &Uri| uri.host().is_some());
    }
    let scheme = base.scheme_str()?;
    if let Some(rest) = reference.strip_prefix("//") {
        return format!("{scheme}://{rest}").parse().ok();
    }
    let root = format!("{scheme}://{}", base.authority()?);
    let path = match reference {
        "" => base.path_and_query()?.as_str().to_owned(),
        _ if reference.starts_with('/') => reference.to_owned(),
        _ if reference.starts_with('?') => format!("{}{reference}", base.path()),
        _ => format!("{}{reference}", directory(base.path())),
    };
    format!("{root}{path}").parse().ok()
}

/// Returns a path up to its last slash.
fn directory(path: &str) -> &str {
    &path[..path.rfind('/').map_or(0, |slash| slash + 1)]
}

/// Returns the URL of the file `name`, a path relative to the directory of `url`. Returns `None` if it
/// leaves the server.
pub(super) fn join(url: &str, name: &str) -> Option<String> {
    let url = url.split(['?', '#']).next()?;
    let (scheme, rest) = url.split_once("://")?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let mut parts: Vec<String> = directory(path).split('/').map(str::to_owned).collect();
    // What is left of `/a/` is "", "a" and "".
    parts.pop();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.len() > 1 => drop(parts.pop()),
            ".." => return None,
            part => parts.push(encoded(part)),
        }
    }
    if parts.first().is_none_or(|first| !first.is_empty()) {
        parts.insert(0, String::new());
    }
    Some(format!("{scheme}://{authority}{}", parts.join("/")))
}

/// Returns the component of a path percent-encoded: RFC 3986, section 2.3.
fn encoded(component: &str) -> String {
    let mut text = String::new();
    for byte in component.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                text.push(char::from(byte));
            }
            byte => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_joined_to_the_directory_of_a_url() {
        for (url, name, joined) in [
            ("https://h/a/b.qcow2", "c.raw", "https://h/a/c.raw"),
            ("https://u:p@h:1/b.qcow2?sig=x/y", "c d?.raw", "https://u:p@h:1/c%20d%3F.raw"),
            ("http://h", "c", "http://h/c"),
            ("http://h/a/b/c", "../d", "http://h/a/d"),
            ("http://h/a/b/c", "./e//f", "http://h/a/b/e/f"),
        ] {
            assert_eq!(join(url, name).as_deref(), Some(joined), "{url} {name}");
        }
        assert_eq!(join("http://h/a", "../../b"), None);
    }

    #[test]
    fn redirects_are_resolved() {
        let base: Uri = "http://h:1/a/b?c=d".parse().expect("is valid");
        for (reference, target) in [
            ("http://i/x", "http://i/x"),
            ("//i/x", "http://i/x"),
            ("/x?y", "http://h:1/x?y"),
            ("x", "http://h:1/a/x"),
            ("?e", "http://h:1/a/b?e"),
        ] {
            let found = resolve(&base, reference).expect(reference);
            assert_eq!(found.to_string(), target, "{reference}");
        }
        assert_eq!(resolve(&base, "http:///x"), None);
    }

    #[test]
    fn the_user_of_a_url_is_decoded_and_not_shown() {
        let url = Url::new("http://us%40er:p%3aw@h/x").expect("is a URL");
        let request = Request::new(&url).expect("is valid");
        let expected = basic("us@er", "p:w");
        assert_eq!(request.authorization, Some(expected));
        assert_eq!(request.uri.to_string(), "http://h/x");
        assert_eq!(format!("{request:?}"), "http://***@h/x");
        for wrong in ["http:/x", "http://", "http:///x", "http://a b/", "https://@/x"] {
            let url = Url::new(wrong).expect("has a scheme");
            assert!(Request::new(&url).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_redirect_to_another_host_loses_the_secrets() {
        let url = Url::new("http://user:pw@h/x").expect("is a URL");
        let request = Request::new(&url).expect("is valid");
        let same = request.redirected("/y").expect("is allowed");
        assert!(same.is_original_host && same.authorization.is_some());
        let other = request.redirected("http://other/y").expect("is allowed");
        assert!(!other.is_original_host && other.authorization.is_none());
        let back = other.redirected("http://h/x").expect("is allowed");
        assert!(!back.is_original_host && back.authorization.is_none());
        for scheme in ["https://h/x", "file:///etc/passwd", "ftp://h/x"] {
            assert!(request.redirected(scheme).is_err(), "{scheme}");
        }
    }
}
