//! Why Swift refused a request.

use crate::http::answer::Unexpected;
use crate::http::body::Paced;
use crate::http::transport::{Failure, retry_after};
use crate::openstack::concealed;
use std::io::{self, Read};
use std::time::Duration;
use ureq::Body;
use ureq::http::{HeaderMap, Response, StatusCode, header};

/// Maximum length in bytes of what is read of a refusal.
const MAX_BODY: u64 = 64 << 10;

/// Maximum number of characters of a message that are repeated.
const MAX_MESSAGE: usize = 300;

/// A response that is not a success.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    headers: HeaderMap,
    /// What the service says, if that is plain text.
    message: String,
}

impl Refusal {
    /// Reads the rest of a response. What cannot be read is as if it were not there.
    pub(super) fn read(response: Response<Body>, stall_timeout: Duration, token: &str) -> Self {
        let (parts, body) = response.into_parts();
        let mut bytes = Vec::new();
        let reader = body.into_with_config().limit(MAX_BODY).reader();
        let _ = Paced::new(reader, stall_timeout).take(MAX_BODY).read_to_end(&mut bytes);
        let text = concealed(&String::from_utf8_lossy(&bytes), [token]);
        Self::new(parts.status, parts.headers, &text)
    }

    fn new(status: StatusCode, headers: HeaderMap, text: &str) -> Self {
        let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let is_plain = kind.is_some_and(|kind| kind.starts_with("text/plain"));
        let message: String = text.trim().chars().take(MAX_MESSAGE).collect();
        let message = if is_plain { message } else { String::new() };
        Self { status, headers, message }
    }

    /// Returns true if the service did not do what was asked, and will not.
    pub(super) fn is_definite(&self) -> bool {
        self.status.is_client_error() && !self.is_temporary()
    }

    /// Returns true if the same request may succeed later. 498 is Swift's limit of the rate.
    fn is_temporary(&self) -> bool {
        matches!(self.status.as_u16(), 408 | 425 | 429 | 498 | 500 | 502..=504)
    }

    /// Returns the failure of the request.
    pub(super) fn into_failure(self) -> Failure {
        let wait = retry_after(&self.headers);
        let is_temporary = self.is_temporary();
        let kind = match self.status.as_u16() {
            401 | 403 | 407 => io::ErrorKind::PermissionDenied,
            404 | 410 => io::ErrorKind::NotFound,
            _ => io::ErrorKind::Other,
        };
        let error = io::Error::new(kind, Unexpected(self.text()));
        if is_temporary { Failure::Temporary(error, wait) } else { Failure::Final(error) }
    }

    fn text(&self) -> String {
        let known = match self.status.as_u16() {
            401 => Some("the token was refused"),
            403 => Some("this user may not do that"),
            404 => Some("there is no container or object of this name"),
            412 => Some("the object has changed, or exists already"),
            413 => Some("the object would be larger than the store or its quota allows"),
            422 => Some("the store received other bytes than were sent"),
            507 => Some("the store is full"),
            _ => None,
        };
        let said = match &*self.message {
            "" => String::new(),
            message => format!(": {}", diskimg::printable(message)),
        };
        match known {
            Some(known) => format!("{known} ({}{said})", self.status),
            None => format!("the server answered {}{said}", self.status),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: u16, kind: &'static str, text: &str) -> Refusal {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, kind.parse().expect("is valid"));
        Refusal::new(StatusCode::from_u16(status).expect("is one"), headers, text)
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let text = refusal(400, "text/plain; charset=UTF-8", "Errors:\n/c/o, 404\x1b[0m\n").text();
        assert!(text.starts_with("the server answered 400 Bad Request: Errors:"), "{text}");
        assert!(!text.contains(char::is_control), "{text:?}");
        assert_eq!(
            refusal(404, "text/html", "<html>x</html>").text(),
            "there is no container or object of this name (404 Not Found)"
        );
        for (status, is_definite) in [(400, true), (412, true), (429, false), (503, false)] {
            assert_eq!(refusal(status, "text/html", "").is_definite(), is_definite, "{status}");
        }
    }
}
