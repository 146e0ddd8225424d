//! Why a service refused a request: the status, and a code and a message in XML or JSON.

use super::xml::Reply;
use crate::http::answer::Unexpected;
use crate::http::body::Paced;
use crate::http::transport::{Failure, retry_after};
use crate::percent::encoded;
use std::io::{self, Read};
use std::time::Duration;
use ureq::Body;
use ureq::http::{HeaderMap, Response, StatusCode};

/// Maximum length in bytes of what is read of a refusal.
const MAX_BODY: u64 = 64 << 10;

/// Maximum length in bytes of a code.
const MAX_CODE: usize = 64;

/// Minimum length in bytes of a secret: replacing shorter ones would spoil messages.
const MIN_SECRET: usize = 4;

/// Maximum number of characters of a message that are repeated.
const MAX_MESSAGE: usize = 300;

/// A response that is not a success.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// Such as `NoSuchKey`; empty if the service states none.
    pub(crate) code: String,
    message: String,
    /// The region in which the bucket is.
    pub(crate) region: Option<String>,
}

impl Refusal {
    /// Reads the rest of a response. What cannot be read is as if it were not there.
    pub(crate) fn read(response: Response<Body>, stall_timeout: Duration) -> Self {
        let (parts, body) = response.into_parts();
        let mut bytes = Vec::new();
        let reader = body.into_with_config().limit(MAX_BODY).reader();
        let _ = Paced::new(reader, stall_timeout).take(MAX_BODY).read_to_end(&mut bytes);
        Self::parse(parts.status, parts.headers, &String::from_utf8_lossy(&bytes))
    }

    /// Interprets the text of a response.
    pub(crate) fn parse(status: StatusCode, headers: HeaderMap, text: &str) -> Self {
        let (mut code, mut message, mut region) = (String::new(), String::new(), None);
        if let Some(reply) = Reply::parse(text) {
            let find = |name| reply.find(name).unwrap_or_default().to_owned();
            (code, message) = (find("Code"), find("Message"));
            region = reply.find("Region").map(str::to_owned);
        } else if let Ok(reply) = serde_json::from_str::<serde_json::Value>(text) {
            let find = |names: &[&str]| {
                let found = names.iter().find_map(|name| reply.get(name)?.as_str());
                found.unwrap_or_default().to_owned()
            };
            (code, message) = (find(&["code", "Code", "__type"]), find(&["message", "Message"]));
        }
        let header = headers.get("x-amz-bucket-region").and_then(|value| value.to_str().ok());
        region = header.map(str::to_owned).or(region);
        let mut refusal = Self { status, headers, code: String::new(), message, region };
        refusal.set_code(code);
        refusal
    }

    /// Sets the code, without characters that codes do not have.
    pub(crate) fn set_code(&mut self, mut code: String) {
        code.retain(is_of_code);
        // A longer one is something else.
        if code.len() > MAX_CODE {
            code.clear();
        }
        self.code = code;
    }

    /// Replaces secrets in what the service says, which may repeat the request.
    pub(crate) fn conceal<'s>(&mut self, secrets: impl IntoIterator<Item = &'s str>) {
        const STARS: &str = "***";
        for secret in secrets.into_iter().filter(|secret| secret.len() >= MIN_SECRET) {
            for form in [secret.to_owned(), encoded(secret), form_encoded(secret)] {
                self.message = self.message.replace(&form, STARS);
            }
            let in_code: String = secret.chars().filter(|&c| is_of_code(c)).collect();
            if in_code.len() >= MIN_SECRET && self.code.contains(&in_code) {
                self.code = STARS.to_owned();
            }
        }
    }

    /// Returns true if the same request may succeed later.
    pub(crate) fn is_temporary(&self) -> bool {
        const CODES: [&str; 9] = [
            "SlowDown",
            "InternalError",
            "RequestTimeout",
            "ServiceUnavailable",
            "Throttling",
            "ThrottlingException",
            "RequestThrottled",
            "TooManyRequests",
            "OperationAborted",
        ];
        let is_status = matches!(self.status.as_u16(), 408 | 425 | 429 | 500 | 502 | 503 | 504);
        is_status || CODES.contains(&&*self.code)
    }

    /// Returns true if the keys have expired, but others may be valid.
    pub(crate) fn is_expired(&self) -> bool {
        matches!(
            &*self.code,
            "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" | "InvalidToken"
        )
    }

    /// Returns the failure of the request.
    pub(crate) fn into_failure(self) -> Failure {
        let wait = retry_after(&self.headers);
        let is_temporary = self.is_temporary();
        let kind = match (self.status.as_u16(), &*self.code) {
            (_, "NoSuchKey" | "NoSuchBucket" | "NoSuchVersion") | (404 | 410, _) => {
                io::ErrorKind::NotFound
            }
            (401 | 403 | 407, _) => io::ErrorKind::PermissionDenied,
            _ => io::ErrorKind::Other,
        };
        let error = io::Error::new(kind, Unexpected(self.text()));
        if is_temporary { Failure::Temporary(error, wait) } else { Failure::Final(error) }
    }

    /// Returns a sentence for the user.
    fn text(&self) -> String {
        let known = match &*self.code {
            "NoSuchKey" => Some("there is no object of this name"),
            "NoSuchVersion" => Some("there is no such version of the object"),
            "NoSuchBucket" => Some("there is no bucket of this name"),
            "NoSuchUpload" => Some("the upload was aborted by someone else"),
            "InvalidObjectState" => {
                Some("the object is archived: restore it first, which takes minutes to hours")
            }
            "SignatureDoesNotMatch" => Some("the secret access key is wrong"),
            "InvalidAccessKeyId" => Some("the access key is not known"),
            "ExpiredToken" => Some("the access keys have expired"),
            "RequestTimeTooSkewed" => Some("the clock of this host is wrong"),
            "EntityTooLarge" => Some("the object would be larger than the store allows"),
            "MethodNotAllowed" => Some("this version of the object is a mark of its deletion"),
            "PreconditionFailed" => Some("the object has changed, or exists already"),
            _ => None,
        };
        let said = format!("the server answered {}", self.status);
        match (known, &*self.code) {
            (Some(known), code) => format!("{known} ({code})"),
            (None, "") => said,
            // The server's own words may be of any length.
            (None, code) => {
                let message: String = self.message.chars().take(MAX_MESSAGE).collect();
                let colon = if message.is_empty() { "" } else { ": " };
                format!("{said}: {code}{colon}{}", diskimg::printable(message.trim_end()))
            }
        }
    }
}

fn is_of_code(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '.' || c == '_'
}

/// Returns text percent-encoded with digits in lower case.
fn form_encoded(text: &str) -> String {
    let lower = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        byte => format!("%{byte:02x}"),
    };
    text.bytes().map(lower).collect()
}

/// Checks what is said to the user of a reply.
///
/// # Panics
/// If it has control characters or is too long.
pub(crate) fn check(text: &str) {
    let refusal = Refusal::parse(StatusCode::BAD_REQUEST, HeaderMap::new(), text);
    assert!(refusal.code.len() <= MAX_CODE);
    let is_temporary = refusal.is_temporary();
    let (Failure::Temporary(error, _) | Failure::Final(error)) = refusal.into_failure();
    let said = error.to_string();
    // A character may be shown as several.
    assert!(said.len() < 200 + 16 * MAX_MESSAGE, "{is_temporary} {said}");
    assert!(!said.contains(char::is_control), "{said:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: u16, text: &str) -> Refusal {
        let status = StatusCode::from_u16(status).expect("is a status");
        Refusal::parse(status, HeaderMap::new(), text)
    }

    fn failure(status: u16, text: &str) -> (bool, io::Error) {
        match refusal(status, text).into_failure() {
            Failure::Temporary(error, _) => (true, error),
            Failure::Final(error) => (false, error),
        }
    }

    #[test]
    fn codes_have_precedence_over_the_status() {
        let xml = |code: &str| format!("<Error><Code>{code}</Code><Message>M</Message></Error>");
        for (status, code, is_temporary, kind, text) in [
            (404, "NoSuchKey", false, io::ErrorKind::NotFound, "no object"),
            (403, "InvalidObjectState", false, io::ErrorKind::PermissionDenied, "archived"),
            (400, "RequestTimeout", true, io::ErrorKind::Other, "RequestTimeout"),
            (200, "InternalError", true, io::ErrorKind::Other, "InternalError"),
            (503, "SlowDown", true, io::ErrorKind::Other, "SlowDown"),
            (403, "AccessDenied", false, io::ErrorKind::PermissionDenied, "AccessDenied: M"),
            (400, "InvalidPart", false, io::ErrorKind::Other, "InvalidPart"),
        ] {
            let (temporary, error) = failure(status, &xml(code));
            assert_eq!((temporary, error.kind()), (is_temporary, kind), "{code}");
            assert!(error.to_string().contains(text), "{code}: {error}");
        }
        assert_eq!(failure(502, "<html>").1.to_string(), "the server answered 502 Bad Gateway");
        let json = "{\"code\":\"Odd\",\"message\":\"\\u001b[0m\"}";
        assert!(!failure(400, json).1.to_string().contains('\x1b'));
        let json = "{\"__type\":\"ExpiredTokenException\",\"message\":\"old\"}";
        assert!(refusal(400, json).is_expired());
    }

    #[test]
    fn secrets_are_not_repeated() {
        let secret = "ab/C+d&e==";
        let xml = "<Error><Code>C</Code><Message>1 ab/C+d&amp;e== 2 ab%2FC%2Bd%26e%3D%3D 3 \
                   ab%2fC%2bd%26e%3d%3d.</Message></Error>";
        let mut found = refusal(400, xml);
        found.conceal([secret, "", "e"]);
        assert_eq!(found.text(), "the server answered 400 Bad Request: C: 1 *** 2 *** 3 ***.");
        let mut found =
            refusal(400, "{\"code\":\"ab/C+d&e==\",\"message\":\"\\u0061b\\/C+d&e==\"}");
        found.conceal([secret]);
        assert_eq!(found.text(), "the server answered 400 Bad Request: ***: ***");
        let long = format!("<Error><Code>{}</Code></Error>", "a".repeat(MAX_CODE + 1));
        assert_eq!(refusal(400, &long).text(), "the server answered 400 Bad Request");
    }

    #[test]
    fn the_region_is_in_a_header_or_in_the_text() {
        let text = "<Error><Code>AuthorizationHeaderMalformed</Code><Region>r-2</Region></Error>";
        assert_eq!(refusal(400, text).region.as_deref(), Some("r-2"));
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-bucket-region", "r-3".parse().expect("is valid"));
        let found = Refusal::parse(StatusCode::MOVED_PERMANENTLY, headers, text);
        assert_eq!(found.region.as_deref(), Some("r-3"));
    }
}
