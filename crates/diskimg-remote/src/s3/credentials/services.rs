//! Services that issue keys.

use super::{Environment, Issued, Keys, refused};
use crate::http::HttpOptions;
use crate::http::answer::Unexpected;
use crate::http::transport::{Attempt, Failure, Transport};
use crate::s3::refusal::Refusal;
use diskimg::Result;
use jiff::Timestamp;
use serde_json::Value;
use std::io::{self, Read};
use std::time::Duration;
use ureq::http::{Request, Response};
use ureq::{AsSendBody, Body};

/// Maximum length in bytes of a reply.
const MAX_REPLY: u64 = 1 << 20;

/// Headers of requests that must not be shown.
const SECRET_HEADERS: [&str; 4] =
    ["authorization", "x-amz-security-token", "x-amz-sso_bearer_token", "x-aws-ec2-metadata-token"];

/// How long services on the same host may take.
const LOCAL_TIMEOUT: Duration = Duration::from_secs(1);

/// Connections to services that issue keys.
#[derive(Debug)]
pub(crate) struct Services {
    /// For services of a region.
    pub(crate) remote: Transport,
    /// For services of this host, without proxies.
    pub(crate) local: Transport,
}

impl Services {
    /// Connects to nothing.
    ///
    /// # Errors
    /// As [`Transport::new`].
    pub(crate) fn new(options: &HttpOptions) -> Result<Self> {
        let local = HttpOptions {
            connect_timeout: LOCAL_TIMEOUT,
            stall_timeout: LOCAL_TIMEOUT,
            forbid_private_addresses: false,
            ..options.clone()
        };
        Ok(Self {
            remote: Transport::new(options)?,
            local: Transport::new(&local)?.without_proxies(),
        })
    }
}

/// Sends a request and returns the text of a successful reply.
///
/// # Errors
/// Returns the refusal in words that begin with `what`.
pub(crate) fn fetch(
    transport: &Transport,
    request: ureq::http::Result<Request<impl AsSendBody>>,
    what: &str,
) -> Attempt<String> {
    fetch_with(transport, request, what, &[])
}

/// As [`fetch`], with a body that contains `secrets`.
pub(crate) fn fetch_with(
    transport: &Transport,
    request: ureq::http::Result<Request<impl AsSendBody>>,
    what: &str,
    secrets: &[&str],
) -> Attempt<String> {
    let request = request.map_err(|e| refused(format!("{what}: the request is malformed: {e}")))?;
    let of_request = SECRET_HEADERS.iter().filter_map(|name| request.headers().get(*name));
    let of_request: Vec<_> =
        of_request.filter_map(|v| v.to_str().ok().map(str::to_owned)).collect();
    let response = transport.send(request).map_err(|failure| in_service(failure, what))?;
    if !response.status().is_success() {
        let mut refusal = Refusal::read(response, transport.stall_timeout);
        // A token may follow the name of its kind.
        let words = of_request
            .iter()
            .flat_map(|value| std::iter::once(&**value).chain(value.split(' ').skip(1)));
        refusal.conceal(words.chain(secrets.iter().copied()));
        return Err(in_service(refusal.into_failure(), what));
    }
    text(response, what)
}

fn text(response: Response<Body>, what: &str) -> Attempt<String> {
    let mut text = String::new();
    let reader = response.into_body().into_with_config().limit(MAX_REPLY).reader();
    match reader.take(MAX_REPLY).read_to_string(&mut text) {
        Ok(_) => Ok(text),
        Err(e) => Err(in_service(Failure::Temporary(e, None), what)),
    }
}

/// Says which service failed.
fn in_service(failure: Failure, what: &str) -> Failure {
    let with = |error: io::Error| {
        io::Error::new(
            error.kind(),
            Unexpected(format!("cannot get access keys from {what}: {error}")),
        )
    };
    match failure {
        Failure::Temporary(error, wait) => Failure::Temporary(with(error), wait),
        Failure::Final(error) => Failure::Final(with(error)),
    }
}

/// Returns the keys in the JSON reply of a container's or instance's service, or in the keys of
/// single sign-on. The times are texts, or milliseconds.
pub(crate) fn keys_of_json(text: &str) -> Option<Issued> {
    let reply: Value = serde_json::from_str(text).ok()?;
    let reply = reply.get("roleCredentials").unwrap_or(&reply);
    let field = |names: [&str; 2]| names.iter().find_map(|name| reply.get(name));
    let word = |names| Some(field(names)?.as_str()?.to_owned());
    let access = word(["AccessKeyId", "accessKeyId"])?;
    let secret = word(["SecretAccessKey", "secretAccessKey"])?;
    let token = word(["Token", "sessionToken"]);
    let expires = match field(["Expiration", "expiration"]) {
        None => None,
        Some(time) => Some(match time.as_i64() {
            Some(milliseconds) => Timestamp::from_millisecond(milliseconds).ok()?,
            None => time.as_str()?.parse().ok()?,
        }),
    };
    Some(Issued { keys: Keys::new(access, secret, token), expires })
}

/// As [`keys_of_json`]; `what` is the service.
pub(super) fn issued_by_json(text: &str, what: &str) -> Attempt<Issued> {
    keys_of_json(text).ok_or_else(|| refused(format!("the reply of {what} is malformed")))
}

/// Returns the endpoint of a service: that in the environment, or else that of a region.
pub(super) fn endpoint(environment: &Environment, service: &str, otherwise: &str) -> String {
    let own = environment.get(&format!("AWS_ENDPOINT_URL_{service}"));
    let named = own.or_else(|| environment.get("AWS_ENDPOINT_URL"));
    let url = named.unwrap_or_else(|| otherwise.to_owned());
    url.trim_end_matches('/').to_owned()
}
