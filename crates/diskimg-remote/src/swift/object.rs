//! Requests for one object, with a token that is renewed once if it is refused.

use super::refusal::Refusal;
use super::url::path;
use crate::http::answer::{Unexpected, Version};
use crate::http::client::range_value;
use crate::http::source::Ranges;
use crate::http::transport::{Attempt, Failure, wrong};
use crate::openstack::{Issued, Session};
use std::io::Read;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use ureq::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, header};
use ureq::{Body, SendBody};

/// When an object was stored, in seconds with a fraction.
const TIMESTAMP: HeaderName = HeaderName::from_static("x-timestamp");

/// An object, and how it is accessed.
#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) session: Arc<Session>,
    pub(super) container: String,
    pub(super) name: String,
}

/// A request.
pub(super) struct Call<'a> {
    pub(super) method: Method,
    pub(super) path: String,
    /// Encoded.
    pub(super) query: &'static str,
    pub(super) headers: &'a [(HeaderName, &'a str)],
    pub(super) body: Payload<'a>,
    /// How long the response may take to begin, if that is longer than usual.
    pub(super) time: Option<Duration>,
}

/// The body of a request.
#[derive(Clone, Copy)]
pub(super) enum Payload<'a> {
    None,
    Bytes(&'a [u8]),
    /// Its length, and what is read anew for each attempt.
    Stream(u64, &'a dyn Open),
}

/// What can be read several times.
pub(super) trait Open {
    /// Returns a reader at the start.
    fn open(&self) -> Box<dyn Read + '_>;
}

impl Call<'_> {
    pub(super) fn new(method: Method, path: String) -> Self {
        Self { method, path, query: "", headers: &[], body: Payload::None, time: None }
    }
}

impl Object {
    /// Returns the path of the object.
    pub(super) fn path(&self) -> String {
        path(&self.container, Some(&self.name))
    }

    /// Makes a request. Returns the response if it is a success.
    pub(super) fn attempt(&self, call: &Call<'_>) -> Attempt<Response<Body>> {
        self.exchange(call)?.map_err(Refusal::into_failure)
    }

    /// Makes a request. Returns the response or what the service says against it.
    pub(super) fn exchange(&self, call: &Call<'_>) -> Attempt<Result<Response<Body>, Refusal>> {
        let mut is_renewed = false;
        loop {
            let issued = self.session.issued()?;
            let response = match self.send(call, &issued) {
                Err(Failure::Temporary(error, wait)) => {
                    // A server may refuse the token and close the connection, without reading what
                    // follows, so that its answer is lost.
                    if matches!(call.body, Payload::Stream(..)) && self.is_refused(&issued) {
                        self.session.expire(&issued);
                    }
                    return Err(Failure::Temporary(error, wait));
                }
                response => response?,
            };
            if response.status().is_success() {
                return Ok(Ok(response));
            }
            let refusal =
                Refusal::read(response, self.session.transport.stall_timeout, &issued.token);
            if refusal.status == 401 && !is_renewed && self.session.expire(&issued) {
                is_renewed = true;
                continue;
            }
            return Ok(Err(refusal));
        }
    }

    fn is_refused(&self, issued: &Issued) -> bool {
        let call = Call::new(Method::HEAD, path(&self.container, None));
        self.send(&call, issued).is_ok_and(|response| response.status() == 401)
    }

    fn send(&self, call: &Call<'_>, issued: &Issued) -> Attempt<Response<Body>> {
        let separator = if call.query.is_empty() { "" } else { "?" };
        let uri: Uri = format!("{}{}{separator}{}", issued.endpoint, call.path, call.query)
            .parse()
            .map_err(|_| wrong(Unexpected("the name of the object cannot be sent".into())))?;
        let mut headers = HeaderMap::new();
        for (name, value) in call.headers {
            let value = HeaderValue::try_from(*value)
                .map_err(|_| wrong(Unexpected(format!("the header {name} is malformed"))))?;
            headers.insert(name, value);
        }
        let mut token = HeaderValue::try_from(&**issued.token)
            .map_err(|_| wrong(Unexpected("the token is malformed".into())))?;
        token.set_sensitive(true);
        headers.insert("x-auth-token", token);
        let mut request = Request::new(());
        (*request.method_mut(), *request.uri_mut()) = (call.method.clone(), uri);
        *request.headers_mut() = headers;
        let transport = &self.session.transport;
        let time = call.time.unwrap_or(transport.stall_timeout);
        match &call.body {
            Payload::None => transport.send_within(request, time),
            Payload::Bytes(bytes) => transport.send_within(request.map(|()| *bytes), time),
            Payload::Stream(len, body) => {
                request.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(*len));
                let mut reader = body.open();
                let request = request.map(|()| SendBody::from_reader(&mut reader));
                transport.send_within(request, time)
            }
        }
    }

    /// Requests a range of the object. With `closes`, the connection is not used again.
    ///
    /// Not with `If-Match`: the `ETag` that Ceph states for an object made of segments is not the one
    /// that it compares. Answers are compared instead.
    pub(super) fn get_range(
        &self,
        range: &Range<u64>,
        closes: bool,
    ) -> Attempt<Result<Response<Body>, Refusal>> {
        let range = range_value(range);
        let headers = [(header::RANGE, &*range), (header::CONNECTION, "close")];
        let headers = if closes { &headers[..] } else { &headers[..1] };
        self.exchange(&Call { headers, ..Call::new(Method::GET, self.path()) })
    }
}

/// An object that is read, and when it was stored. That of segments with a common prefix (DLO) says
/// nothing about them; their `ETag` does, which is compared with each answer, too.
#[derive(Debug)]
pub(super) struct Pinned {
    pub(super) object: Object,
    timestamp: Option<HeaderValue>,
    /// Ceph sends a byte too many of a range of segments with a common prefix, which would be taken
    /// for the beginning of the next response.
    closes: bool,
}

impl Pinned {
    /// Pins what a response to the first request is of.
    pub(super) fn new(object: Object, headers: &HeaderMap) -> Self {
        let closes = headers.contains_key("x-object-manifest");
        Self { object, timestamp: headers.get(TIMESTAMP).cloned(), closes }
    }
}

impl Ranges for Pinned {
    fn get(&self, range: &Range<u64>, _: &Version) -> Attempt<Response<Body>> {
        const CHANGED: &str = "the object changed while it was read";
        match self.object.get_range(range, self.closes)? {
            Ok(response) => {
                let timestamp = response.headers().get(TIMESTAMP);
                match self.timestamp.as_ref() == timestamp || self.timestamp.is_none() {
                    true => Ok(response),
                    false => Err(wrong(Unexpected(CHANGED.into()))),
                }
            }
            // It became shorter.
            Err(refusal) if refusal.status == 416 => Err(wrong(Unexpected(CHANGED.into()))),
            Err(refusal) => Err(refusal.into_failure()),
        }
    }

    fn protocol(&self) -> &'static str {
        "swift"
    }

    fn stall_timeout(&self) -> Duration {
        self.object.session.transport.stall_timeout
    }
}
