//! Requests for one object: signed, and repeated at once if that helps.
//!
//! ```text
//!   Call ─► URL of the region ─► signature ─► response
//!            ▲                     ▲            │ another region (301, 307, 400): once
//!            └─────────────────────┴────────────┤ the clock differs: once
//!                                               │ the keys have expired: once
//!                                               └► Refusal
//! ```

use super::credentials::{Credentials, Issued};
use super::dialect::Dialect;
use super::refusal::Refusal;
use super::sigv4::{Scope, UNSIGNED_PAYLOAD, sha256_hex, sign};
use super::url::{Endpoint, is_region, request_url};
use crate::http::answer::{Unexpected, Version};
pub(crate) use crate::http::body::text;
use crate::http::client::range_value;
use crate::http::source::Ranges;
use crate::http::transport::{Attempt, Transport, wrong};
use crate::percent::encoded;
use jiff::{SignedDuration, Timestamp};
use std::io::Read;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use ureq::http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header,
};
use ureq::{Body, SendBody};

/// How far the clock of a service can be ahead or behind. A server that states more is not believed.
const MAX_SKEW: SignedDuration = SignedDuration::from_hours(24);

/// An object, and how it is accessed.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) transport: Arc<Transport>,
    /// `None` for requests without signatures.
    pub(crate) credentials: Option<Arc<Credentials>>,
    pub(crate) endpoint: Option<Endpoint>,
    pub(crate) bucket: String,
    pub(crate) key: String,
    pub(crate) version: Option<String>,
    pub(crate) requester_pays: bool,
    pub(crate) dialect: Dialect,
    /// What was learnt from answers.
    pub(crate) learnt: Mutex<Learnt>,
}

/// What is used for further requests.
#[derive(Debug, Clone)]
pub(crate) struct Learnt {
    pub(crate) region: String,
    /// How far the clock of the service is ahead.
    pub(crate) skew: SignedDuration,
}

impl Learnt {
    /// Returns the time by the clock of the service.
    fn time(&self) -> Timestamp {
        let now = Timestamp::now();
        now.saturating_add(self.skew).unwrap_or(now)
    }
}

/// A request.
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    /// Names and values, not encoded.
    pub(crate) query: &'a [(&'a str, &'a str)],
    pub(crate) headers: &'a [(HeaderName, &'a str)],
    pub(crate) body: Payload<'a>,
    /// How long the response may take to begin, if that is longer than usual.
    pub(crate) time: Option<Duration>,
}

impl Call<'_> {
    pub(crate) fn new(method: Method) -> Self {
        Self { method, query: &[], headers: &[], body: Payload::Bytes(&[]), time: None }
    }
}

/// The body of a request.
pub(crate) enum Payload<'a> {
    Bytes(&'a [u8]),
    /// Read anew for each attempt.
    Stream {
        len: u64,
        /// Returns a reader at the start.
        open: &'a dyn Fn() -> Box<dyn Read + 'a>,
        /// The SHA-256 hash in hexadecimal, which is needed without TLS.
        sha256: Option<&'a str>,
    },
}

/// What was changed for the next attempt.
#[derive(Default)]
struct Adjusted {
    region: bool,
    clock: bool,
    keys: bool,
}

impl Object {
    fn learnt(&self) -> MutexGuard<'_, Learnt> {
        self.learnt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns true if what is sent is encrypted.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.endpoint.as_ref().is_none_or(|endpoint| endpoint.scheme == "https")
    }

    /// Returns true for Amazon's own service.
    pub(crate) fn is_amazon(&self) -> bool {
        let host = self.endpoint.as_ref().map(|endpoint| &*endpoint.authority);
        host.is_none_or(|host| {
            host.ends_with(".amazonaws.com") || host.ends_with(".amazonaws.com.cn")
        })
    }

    /// Makes a request. Returns the response if it is a success.
    pub(crate) fn attempt(&self, call: &Call<'_>) -> Attempt<Response<Body>> {
        self.exchange(call)?.map_err(Refusal::into_failure)
    }

    /// Makes a request. Returns the response or what the service says against it.
    pub(crate) fn exchange(&self, call: &Call<'_>) -> Attempt<Result<Response<Body>, Refusal>> {
        let mut adjusted = Adjusted::default();
        loop {
            let issued = match &self.credentials {
                Some(credentials) => Some(credentials.keys()?),
                None => None,
            };
            let learnt = self.learnt().clone();
            let response = self.send(call, issued.as_deref(), &learnt)?;
            if response.status().is_success() {
                return Ok(Ok(response));
            }
            let mut refusal = Refusal::read(response, self.transport.stall_timeout);
            if let Some(issued) = &issued {
                refusal.conceal(issued.keys.secrets());
            }
            refusal.conceal(self.dialect.secret().as_deref());
            if !self.adjust(&refusal, &mut adjusted, issued.as_ref(), &learnt) {
                return Ok(Err(refusal));
            }
        }
    }

    /// Returns a refusal in a response whose status is a success.
    pub(crate) fn late_refusal(&self, headers: HeaderMap, text: &str) -> Refusal {
        let mut refusal = Refusal::parse(StatusCode::OK, headers, text);
        if let Some(issued) = self.credentials.as_ref().and_then(|keys| keys.issued()) {
            refusal.conceal(issued.keys.secrets());
        }
        refusal.conceal(self.dialect.secret().as_deref());
        refusal
    }

    fn send(
        &self,
        call: &Call<'_>,
        issued: Option<&Issued>,
        learnt: &Learnt,
    ) -> Attempt<Response<Body>> {
        let url = request_url(self.endpoint.as_ref(), &learnt.region, &self.bucket, &self.key);
        let encode =
            |&(name, value): &(&str, &str)| format!("{}={}", encoded(name), encoded(value));
        let query: Vec<_> = call.query.iter().map(encode).collect();
        let separator = if query.is_empty() { "" } else { "?" };
        let uri: Uri = format!("{url}{separator}{}", query.join("&"))
            .parse()
            .map_err(|_| wrong(Unexpected("the name of the object cannot be sent".into())))?;
        let mut headers = HeaderMap::new();
        for (name, value) in call.headers {
            let value = HeaderValue::try_from(*value)
                .map_err(|_| wrong(Unexpected(format!("the header {name} is malformed"))))?;
            headers.insert(name, value);
        }
        if self.requester_pays {
            let name = HeaderName::from_static("x-amz-request-payer");
            headers.insert(name, HeaderValue::from_static("requester"));
        }
        if let Some(issued) = issued {
            let hash = match call.body {
                Payload::Bytes(bytes) => sha256_hex(bytes),
                Payload::Stream { sha256, .. } => sha256.unwrap_or(UNSIGNED_PAYLOAD).to_owned(),
            };
            if let Ok(value) = HeaderValue::try_from(&hash) {
                headers.insert(HeaderName::from_static("x-amz-content-sha256"), value);
            }
            let time = learnt.time();
            let scope = Scope { region: &learnt.region, service: "s3", time };
            sign(&call.method, &uri, &mut headers, &hash, &issued.keys, scope);
        }
        self.dialect.authorize(&uri, &mut headers)?;
        self.transmit(call, uri, headers)
    }

    fn transmit(&self, call: &Call<'_>, uri: Uri, headers: HeaderMap) -> Attempt<Response<Body>> {
        let has_body = matches!(call.method, Method::PUT | Method::POST);
        let mut request = Request::new(());
        (*request.method_mut(), *request.uri_mut()) = (call.method.clone(), uri);
        *request.headers_mut() = headers;
        let time = call.time.unwrap_or(self.transport.stall_timeout);
        match &call.body {
            Payload::Bytes(bytes) if has_body => {
                self.transport.send_within(request.map(|()| *bytes), time)
            }
            Payload::Bytes(_) => self.transport.send_within(request, time),
            Payload::Stream { len, open, .. } => {
                request.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(*len));
                let mut reader = open();
                let request = request.map(|()| SendBody::from_reader(&mut reader));
                self.transport.send_within(request, time)
            }
        }
    }

    /// Changes what the next attempt needs. Returns false if another one would not help.
    fn adjust(
        &self,
        refusal: &Refusal,
        adjusted: &mut Adjusted,
        issued: Option<&Arc<Issued>>,
        used: &Learnt,
    ) -> bool {
        let is_elsewhere = matches!(refusal.status.as_u16(), 301 | 307)
            || refusal.code == "AuthorizationHeaderMalformed"
            || (refusal.status == 400 && refusal.headers.contains_key("x-amz-bucket-region"));
        if let (true, Some(region)) = (is_elsewhere, &refusal.region) {
            let is_new = is_region(region) && *region != used.region;
            if is_new && !std::mem::replace(&mut adjusted.region, true) {
                self.learnt().region.clone_from(region);
                return true;
            }
        }
        if refusal.code == "RequestTimeTooSkewed" && !std::mem::replace(&mut adjusted.clock, true) {
            let date = refusal.headers.get(header::DATE).and_then(|date| date.to_str().ok());
            let date = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok());
            let skew = date.map(|date| date.timestamp().duration_since(Timestamp::now()));
            if let Some(skew) = skew.filter(|skew| skew.abs() <= MAX_SKEW) {
                self.learnt().skew = skew;
                return true;
            }
        }
        let (Some(credentials), Some(issued)) = (&self.credentials, issued) else { return false };
        // The answer to HEAD has no code.
        let may_be_expired = refusal.status == 400 && refusal.code.is_empty();
        (refusal.is_expired() || may_be_expired)
            && !std::mem::replace(&mut adjusted.keys, true)
            && credentials.expire(issued)
    }

    /// Returns the length of the object.
    pub(crate) fn len(&self) -> Attempt<u64> {
        let version = self.version.as_deref().map(|id| (self.dialect.version(), id));
        let call = Call { query: version.as_slice(), ..Call::new(Method::HEAD) };
        let response = self.attempt(&call)?;
        let len = response.headers().get(header::CONTENT_LENGTH);
        let len = len.and_then(|len| len.to_str().ok()?.parse().ok());
        let unknown = "the server does not state the length of the object";
        len.ok_or_else(|| wrong(Unexpected(unknown.into())))
    }

    /// Requests a range of the object, of any version, or only of that whose `condition` is given.
    pub(crate) fn get_range(
        &self,
        range: &Range<u64>,
        condition: Option<(HeaderName, &str)>,
    ) -> Attempt<Result<Response<Body>, Refusal>> {
        let range = range_value(range);
        let mut headers = vec![(header::RANGE, &*range)];
        headers.extend(condition);
        let version = self.version.as_deref().map(|id| (self.dialect.version(), id));
        self.exchange(&Call {
            query: version.as_slice(),
            headers: &headers,
            ..Call::new(Method::GET)
        })
    }
}

impl Ranges for Object {
    fn get(&self, range: &Range<u64>, version: &Version) -> Attempt<Response<Body>> {
        let condition = version.condition();
        let condition = condition.and_then(|(name, value)| Some((name, value.to_str().ok()?)));
        match self.get_range(range, condition)? {
            Ok(response) => Ok(response),
            Err(refusal) if refusal.status == 412 || refusal.status == 416 => {
                let message = "the object changed while it was read";
                Err(wrong(Unexpected(message.into())))
            }
            Err(refusal) => Err(refusal.into_failure()),
        }
    }

    fn protocol(&self) -> &'static str {
        self.dialect.protocol()
    }

    fn stall_timeout(&self) -> Duration {
        self.transport.stall_timeout
    }
}
