//! A token, which is renewed when it has expired.

use super::concealed;
use super::keystone::{self, Endpoint};
use super::settings::{Method, Secret, Settings};
use crate::http::answer::Unexpected;
use crate::http::body::text;
use crate::http::transport::{Attempt, Failure, Transport, retry_after, wrong};
use jiff::{SignedDuration, Timestamp};
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use ureq::http::{HeaderValue, Method as Verb, Request, Response, Uri, header};
use ureq::{AsSendBody, Body};

/// A token is renewed this long before it expires: it must be valid when a request begins.
const MARGIN: SignedDuration = SignedDuration::from_secs(30);

/// Access to one service of a cloud as one user.
pub(crate) struct Session {
    pub(crate) transport: Transport,
    settings: Settings,
    /// The type of the service in the catalogue.
    service: &'static str,
    issued: Mutex<Option<Arc<Issued>>>,
}

/// A token, and where it is used.
pub(crate) struct Issued {
    pub(crate) token: Secret,
    /// The URL of the service, without a slash at its end.
    pub(crate) endpoint: String,
    expires: Option<Timestamp>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

impl Session {
    /// Connects to nothing.
    pub(crate) fn new(settings: Settings, transport: Transport, service: &'static str) -> Self {
        Self { transport, settings, service, issued: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Issued>>> {
        self.issued.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a token, which is requested if there is none or if it expires soon.
    pub(crate) fn issued(&self) -> Attempt<Arc<Issued>> {
        let mut issued = self.lock();
        if let Some(issued) = &*issued
            && issued.expires.is_none_or(|time| {
                Timestamp::now().saturating_add(MARGIN).is_ok_and(|now| now < time)
            })
        {
            return Ok(Arc::clone(issued));
        }
        let new = Arc::new(self.request()?);
        Ok(Arc::clone(issued.insert(new)))
    }

    /// Forgets a token that was refused. Returns true if there may be another one.
    pub(crate) fn expire(&self, refused: &Arc<Issued>) -> bool {
        if matches!(self.settings.method, Method::Token { .. }) {
            return false;
        }
        let mut issued = self.lock();
        if issued.as_ref().is_some_and(|issued| Arc::ptr_eq(issued, refused)) {
            *issued = None;
        }
        true
    }

    fn request(&self) -> Attempt<Issued> {
        match &self.settings.method {
            Method::V1 { url, user, key } => self.request_v1(url, user, key),
            Method::Keystone { url, .. } => self.request_keystone(url),
            Method::Token { token, storage_url } => Ok(Issued {
                token: token.clone(),
                endpoint: checked(storage_url, false)?,
                expires: None,
            }),
        }
    }

    fn request_v1(&self, url: &str, user: &str, key: &Secret) -> Attempt<Issued> {
        let secret = |text: &str| {
            let mut value = HeaderValue::try_from(text)
                .map_err(|_| wrong(Unexpected("the user or key cannot be sent".into())))?;
            value.set_sensitive(true);
            Ok(value)
        };
        let mut request = Request::new(());
        *request.uri_mut() = uri(url)?;
        request.headers_mut().insert("x-auth-user", secret(user)?);
        request.headers_mut().insert("x-auth-key", secret(key)?);
        let response = self.granted(request)?;
        let get = |name: &str| {
            let value = response.headers().get(name).and_then(|value| value.to_str().ok());
            value.map(str::to_owned).filter(|value| !value.is_empty())
        };
        let missing = |what: &str| {
            wrong(Unexpected(format!("the reply to the authentication has no {what}")))
        };
        let token = get("x-auth-token").or_else(|| get("x-storage-token"));
        let token = token.ok_or_else(|| missing("token"))?;
        let endpoint = get("x-storage-url").ok_or_else(|| missing("X-Storage-Url"))?;
        let expires = get("x-auth-token-expires").and_then(|text| text.parse().ok());
        let expires = expires.map(SignedDuration::from_secs);
        let expires = expires.and_then(|time| Timestamp::now().checked_add(time).ok());
        let is_secure = is_https(url)?;
        Ok(Issued { token: token.into(), endpoint: checked(&endpoint, is_secure)?, expires })
    }

    fn request_keystone(&self, auth_url: &str) -> Attempt<Issued> {
        let Method::Keystone { identity, scope, .. } = &self.settings.method else {
            return Err(wrong(Unexpected("it has no Keystone".into())));
        };
        let url = keystone::tokens_url(auth_url)?;
        let body = zeroize::Zeroizing::new(keystone::request(identity, scope));
        let mut request = Request::new(body.as_bytes());
        *request.method_mut() = Verb::POST;
        *request.uri_mut() = uri(&url)?;
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(header::CONTENT_TYPE, json.clone());
        request.headers_mut().insert(header::ACCEPT, json);
        let response = self.granted(request)?;
        let token = response.headers().get("x-subject-token").and_then(|t| t.to_str().ok());
        let token = token.map(str::to_owned);
        let token =
            token.ok_or_else(|| wrong(Unexpected("the reply of Keystone has no token".into())))?;
        let granted = keystone::granted(&text(response, self.transport.stall_timeout)?)?;
        let endpoint = match &self.settings.endpoint {
            Some(url) => url.clone(),
            None => self.choose(&granted.endpoints)?.url.clone(),
        };
        let endpoint = checked(&endpoint, is_https(&url)?)?;
        Ok(Issued { token: token.into(), endpoint, expires: granted.expires })
    }

    /// Chooses the endpoint of the service.
    fn choose<'e>(&self, endpoints: &'e [Endpoint]) -> Attempt<&'e Endpoint> {
        let none = |message: String| wrong(Unexpected(message));
        let of_service: Vec<_> =
            endpoints.iter().filter(|endpoint| endpoint.service == self.service).collect();
        if of_service.is_empty() {
            return Err(none(format!(
                "the catalogue of this project has no service '{}'",
                self.service
            )));
        }
        let interface = &self.settings.interface;
        let fits = |endpoint: &&&Endpoint| {
            let region = self.settings.region.as_deref();
            region.is_none_or(|region| region == endpoint.region)
                && endpoint.interface.eq_ignore_ascii_case(interface)
        };
        let mut fitting = of_service.iter().filter(fits);
        let Some(&found) = fitting.next() else {
            let known = of_service.iter().map(|e| format!("{} {}", e.region, e.interface));
            let known = keystone::shown(&known.collect::<Vec<_>>().join(", "));
            return Err(none(format!(
                "the catalogue has no {interface} endpoint of '{}' in the region; it has: {known}",
                self.service
            )));
        };
        if fitting.any(|other| other.region != found.region) {
            return Err(none(format!(
                "'{}' is in several regions: name one of them",
                self.service
            )));
        }
        Ok(found)
    }

    /// Sends a request for a token. Returns the response if it is a success.
    fn granted(&self, request: Request<impl AsSendBody>) -> Attempt<Response<Body>> {
        let response = self.transport.send(request)?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let wait = retry_after(response.headers());
        let said = text(response, self.transport.stall_timeout).ok();
        let said = said.and_then(|text| keystone::message(&text));
        let said = said.map(|text| concealed(&text, self.secrets()));
        let said = said.map_or_else(String::new, |text| format!(": {}", keystone::shown(&text)));
        let failed = |kind, message: String| io::Error::new(kind, Unexpected(message));
        Err(match status.as_u16() {
            401 | 403 => Failure::Final(failed(
                io::ErrorKind::PermissionDenied,
                format!("the user, password or key is wrong, or not allowed ({status}{said})"),
            )),
            404 => Failure::Final(failed(
                io::ErrorKind::NotFound,
                format!("the URL of the authentication is wrong ({status})"),
            )),
            408 | 425 | 429 | 498 | 500 | 502..=504 => Failure::Temporary(
                failed(io::ErrorKind::Other, format!("the authentication answered {status}{said}")),
                wait,
            ),
            _ => Failure::Final(failed(
                io::ErrorKind::Other,
                format!("the authentication answered {status}{said}"),
            )),
        })
    }

    /// Returns what must not be shown.
    fn secrets(&self) -> Vec<&str> {
        use super::settings::Identity as I;
        match &self.settings.method {
            Method::V1 { key, .. } => vec![key],
            Method::Token { token, .. } => vec![token],
            Method::Keystone { identity, .. } => match &**identity {
                I::Password { password: secret, .. }
                | I::Application { secret, .. }
                | I::Token(secret) => vec![secret],
            },
        }
    }
}

/// Returns the URL of an endpoint without a slash at its end.
///
/// # Errors
/// Returns an error if it is malformed, or if it is not encrypted but must be: a token would be seen
/// by others.
pub(super) fn checked(url: &str, is_secure: bool) -> Attempt<String> {
    let found = uri(url)?;
    if is_secure && found.scheme_str() != Some("https") {
        let message = "the endpoint of the service is not https, but that of the authentication is";
        return Err(wrong(Unexpected(message.into())));
    }
    Ok(url.trim_end_matches('/').to_owned())
}

/// Returns true if a URL has this scheme, in any case.
fn is_https(url: &str) -> Attempt<bool> {
    Ok(uri(url)?.scheme_str() == Some("https"))
}

/// Parses a URL without user, query and fragment.
fn uri(url: &str) -> Attempt<Uri> {
    let uri: Option<Uri> = url.parse().ok();
    let is_plain = !url.contains(['?', '#', '@']);
    let has_scheme =
        |uri: &Uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some();
    uri.filter(|uri| is_plain && has_scheme(uri)).ok_or_else(|| {
        let url = url.rsplit('@').next().unwrap_or_default();
        let url = url.split('?').next().unwrap_or_default();
        let shown = keystone::shown(url);
        wrong(Unexpected(format!(
            "'{shown}' is not the URL of a service, http[s]://HOST[:PORT]/PATH"
        )))
    })
}
