//! Requests for one blob.

use super::access::Access;
use crate::http::answer::{Unexpected, Version};
use crate::http::client::range_value;
use crate::http::source::Ranges;
use crate::http::transport::{Attempt, Transport, wrong};
use crate::percent::encoded;
use crate::s3::object::Payload;
use crate::s3::refusal::Refusal;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use ureq::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, header};
use ureq::{Body, SendBody};

/// The code of an error, also in answers without a body.
const ERROR_CODE: &str = "x-ms-error-code";

/// A blob, and how it is accessed.
#[derive(Debug)]
pub(super) struct Blob {
    pub(super) transport: Arc<Transport>,
    pub(super) access: Arc<Access>,
    /// Without a query.
    pub(super) url: String,
    pub(super) snapshot: Option<String>,
}

/// What the service says of a blob.
#[derive(Debug)]
pub(super) struct Properties {
    /// Length in bytes.
    pub(super) len: u64,
}

/// A request.
pub(super) struct Call<'a> {
    pub(super) method: Method,
    /// Names and values, not encoded.
    pub(super) query: &'a [(&'a str, &'a str)],
    pub(super) headers: &'a [(HeaderName, &'a str)],
    pub(super) body: Payload<'a>,
    /// How long the response may take to begin, if that is longer than usual.
    pub(super) time: Option<Duration>,
}

impl Call<'_> {
    pub(super) fn new(method: Method) -> Self {
        Self { method, query: &[], headers: &[], body: Payload::Bytes(&[]), time: None }
    }
}

impl Blob {
    /// Makes a request. Returns the response if it is a success.
    pub(super) fn attempt(&self, call: &Call<'_>) -> Attempt<Response<Body>> {
        self.exchange(call)?.map_err(Refusal::into_failure)
    }

    /// Makes a request. Returns the response or what the service says against it.
    pub(super) fn exchange(&self, call: &Call<'_>) -> Attempt<Result<Response<Body>, Refusal>> {
        let response = self.transmit(call)?;
        if response.status().is_success() {
            return Ok(Ok(response));
        }
        let code = response.headers().get(ERROR_CODE).and_then(|code| code.to_str().ok());
        let code = code.map(str::to_owned);
        let mut refusal = Refusal::read(response, self.transport.stall_timeout);
        if let (true, Some(code)) = (refusal.code.is_empty(), code) {
            refusal.set_code(code);
        }
        refusal.conceal(self.access.secrets().iter().map(String::as_str));
        Ok(Err(refusal))
    }

    fn transmit(&self, call: &Call<'_>) -> Attempt<Response<Body>> {
        let own = call.query.iter().map(|(name, v)| format!("{}={}", encoded(name), encoded(v)));
        let query: Vec<_> = own.chain(self.access.query().map(str::to_owned)).collect();
        let separator = if query.is_empty() { "" } else { "?" };
        let uri: Uri = format!("{}{separator}{}", self.url, query.join("&"))
            .parse()
            .map_err(|_| wrong(Unexpected("the name of the blob cannot be sent".into())))?;
        let mut headers = HeaderMap::new();
        for (name, value) in call.headers {
            let value = HeaderValue::try_from(*value)
                .map_err(|_| wrong(Unexpected(format!("the header {name} is malformed"))))?;
            headers.insert(name, value);
        }
        let has_body = call.method == Method::PUT;
        if has_body {
            let len = match call.body {
                Payload::Bytes(bytes) => bytes.len() as u64,
                Payload::Stream { len, .. } => len,
            };
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(len));
        }
        self.access.authorize(&call.method, &uri, &mut headers)?;
        let mut request = Request::new(());
        (*request.method_mut(), *request.uri_mut()) = (call.method.clone(), uri);
        *request.headers_mut() = headers;
        let time = call.time.unwrap_or(self.transport.stall_timeout);
        match &call.body {
            Payload::Bytes(bytes) if has_body => {
                self.transport.send_within(request.map(|()| *bytes), time)
            }
            Payload::Bytes(_) => self.transport.send_within(request, time),
            Payload::Stream { open, .. } => {
                let mut reader = open();
                let request = request.map(|()| SendBody::from_reader(&mut reader));
                self.transport.send_within(request, time)
            }
        }
    }

    fn of_snapshot(&self) -> Option<(&str, &str)> {
        self.snapshot.as_deref().map(|time| ("snapshot", time))
    }

    /// Asks for the properties of the blob.
    pub(super) fn properties(&self) -> Attempt<Properties> {
        let snapshot = self.of_snapshot();
        let call = Call { query: snapshot.as_slice(), ..Call::new(Method::HEAD) };
        let response = self.attempt(&call)?;
        let len = response.headers().get(header::CONTENT_LENGTH);
        let len = len.and_then(|len| len.to_str().ok()?.parse().ok());
        let unknown = "the server does not state the length of the blob";
        Ok(Properties { len: len.ok_or_else(|| wrong(Unexpected(unknown.into())))? })
    }

    /// Requests a range of the blob, of any version, or only of that whose `condition` is given.
    pub(super) fn get_range(
        &self,
        range: &Range<u64>,
        condition: Option<(HeaderName, &str)>,
    ) -> Attempt<Result<Response<Body>, Refusal>> {
        let range = range_value(range);
        let mut headers = vec![(header::RANGE, &*range)];
        headers.extend(condition);
        let snapshot = self.of_snapshot();
        self.exchange(&Call {
            query: snapshot.as_slice(),
            headers: &headers,
            ..Call::new(Method::GET)
        })
    }
}

impl Ranges for Blob {
    fn get(&self, range: &Range<u64>, version: &Version) -> Attempt<Response<Body>> {
        let condition = version.condition();
        let condition = condition.and_then(|(name, value)| Some((name, value.to_str().ok()?)));
        match self.get_range(range, condition)? {
            Ok(response) => Ok(response),
            Err(refusal) if refusal.status == 412 || refusal.status == 416 => {
                Err(wrong(Unexpected("the blob changed while it was read".into())))
            }
            Err(refusal) => Err(refusal.into_failure()),
        }
    }

    fn protocol(&self) -> &'static str {
        "az"
    }

    fn stall_timeout(&self) -> Duration {
        self.transport.stall_timeout
    }
}
