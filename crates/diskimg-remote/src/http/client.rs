//! Requests for a range of a file, and what their answers are worth.

use super::answer::{Answer, ContentRange, Unexpected, Version, require_plain};
use super::body::{Paced, cut_off, read_body};
use super::request::{Request, basic};
use super::source::Ranges;
use super::transport::{Attempt, Failure, Transport, retry_after, wrong};
use super::{HttpOptions, netrc};
use diskimg::storage::source::{RetryPolicy, SourceError};
use diskimg::{Error, Result};
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use ureq::Body;
use ureq::http::{self, HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

/// Maximum number of redirects.
const MAX_REDIRECTS: usize = 5;

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

/// Maximum number of attempts to open a file.
const FIRST_ATTEMPTS: u32 = 4;

/// Makes requests for files.
pub(super) struct Client {
    transport: Transport,
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

/// The body of a response with a range, not read yet.
pub(crate) struct Part {
    pub(crate) version: Version,
    pub(crate) total: u64,
    pub(crate) body: Body,
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
        Ok(Self { transport: Transport::new(&options)?, headers, netrc })
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
        let retry = at_first(retry);
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
        match redirect(&response) {
            Some(location) => Ok(First::Redirect(location)),
            None => {
                let answer = first_answer(response, range, self.transport.stall_timeout)?;
                Ok(First::Answer(answer))
            }
        }
    }

    fn send(
        &self,
        request: &Request,
        range: &Range<u64>,
        version: Option<&Version>,
    ) -> Attempt<Response<Body>> {
        let mut builder = http::Request::get(&request.uri);
        if request.is_original_host {
            for (name, value) in &self.headers {
                builder = builder.header(name, value);
            }
        }
        // Neither headers nor passwords are for a host to which that one redirects.
        if request.is_original_host && !self.headers.contains_key(header::AUTHORIZATION) {
            let host = request.uri.host().unwrap_or_default();
            let stored = || {
                let login = netrc::login(&self.netrc, host);
                login.map(|(user, password)| basic(user.as_bytes(), password.as_bytes()))
            };
            if let Some(value) = request.authorization.clone().or_else(stored) {
                builder = builder.header(header::AUTHORIZATION, value);
            }
        }
        if let Some((name, value)) = version.and_then(Version::condition) {
            builder = builder.header(name, value);
        }
        let builder = builder.header(header::RANGE, range_value(range));
        let request = builder.body(()).map_err(|e| Failure::Final(io::Error::other(e)))?;
        self.transport.send(request)
    }
}

/// A file of a server, at the location to which that redirected.
#[derive(Debug)]
pub(super) struct HttpFile {
    pub(super) client: Arc<Client>,
    pub(super) request: Request,
}

impl Ranges for HttpFile {
    fn get(&self, range: &Range<u64>, version: &Version) -> Attempt<Response<Body>> {
        self.client.send(&self.request, range, Some(version))
    }

    fn protocol(&self) -> &'static str {
        self.request.protocol()
    }

    fn stall_timeout(&self) -> Duration {
        self.client.transport.stall_timeout
    }
}

/// Returns the policy for the first request: nothing is lost yet, and the name of the server may be
/// wrong.
pub(crate) fn at_first(retry: &RetryPolicy) -> RetryPolicy {
    let mut retry = retry.clone();
    retry.attempts = retry.attempts.min(FIRST_ATTEMPTS);
    retry
}

/// Returns the value of the header `Range`.
pub(crate) fn range_value(range: &Range<u64>) -> String {
    format!("bytes={}-{}", range.start, range.end - 1)
}

/// Returns what the response to the first request is: a request for the first bytes of a file.
pub(crate) fn first_answer(
    response: Response<Body>,
    range: &Range<u64>,
    stall_timeout: Duration,
) -> Attempt<Answer> {
    let is_empty = |headers| ContentRange::of(headers).is_some_and(|found| found.total == Some(0));
    match response.status() {
        StatusCode::OK => whole(response, stall_timeout),
        StatusCode::RANGE_NOT_SATISFIABLE if is_empty(response.headers()) => Ok(Answer::Empty),
        _ => {
            let mut part = part(response, range, None)?;
            let len = part.total.min(range.end) as usize;
            let mut body = vec![0; len];
            let read = read_body(&mut part.body, &mut body, stall_timeout);
            read.and_then(|n| if n == len { Ok(()) } else { Err(cut_off()) })
                .map_err(|e| Failure::Temporary(e, None))?;
            Ok(Answer::Part { total: part.total, version: part.version, body })
        }
    }
}

/// Returns the whole file. Without a length and chunks, the end of the connection would be the end of
/// the file.
fn whole(response: Response<Body>, stall_timeout: Duration) -> Attempt<Answer> {
    require_plain(response.headers()).map_err(wrong)?;
    let is_chunked = response.headers().contains_key(header::TRANSFER_ENCODING);
    let body = response.into_body();
    let len = body.content_length();
    if len.is_none() && !is_chunked {
        return Err(wrong(Unexpected("the server does not state the length of the file".into())));
    }
    let reader = body.into_with_config().limit(u64::MAX).reader();
    Ok(Answer::Whole(Box::new(Paced::new(reader, stall_timeout)), len))
}

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
pub(crate) fn part(
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
pub(crate) fn refusal(response: &Response<Body>) -> Failure {
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
