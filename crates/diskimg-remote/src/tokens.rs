//! Tokens that authorize requests (RFC 6750), and when they are renewed.

use crate::http::transport::Attempt;
use crate::s3::credentials::refused;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use ureq::http::Uri;
use zeroize::Zeroizing;

/// Tokens are renewed this long before they expire.
const MARGIN: Duration = Duration::from_secs(300);

/// Longest time that a token is used, in seconds.
const MAX_LIFETIME: u64 = 86_400;

/// Text that is not shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(Zeroizing<String>);

impl Secret {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    pub(crate) fn text(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Returns true if a token can be part of a request for this URL: it is encrypted, or does not leave this
/// host.
pub(crate) fn may_be_sent(uri: &Uri) -> bool {
    let is_own_host = matches!(uri.host(), Some("127.0.0.1" | "localhost" | "[::1]"));
    uri.scheme_str() == Some("https") || is_own_host
}

/// Issues tokens.
pub(crate) trait Issuer: fmt::Debug + Send + Sync {
    /// Asks for a token.
    fn issue(&self) -> Attempt<Issued>;
}

/// A token, and when it is renewed.
#[derive(Debug, Clone)]
pub(crate) struct Issued {
    token: Secret,
    renewed: Instant,
}

impl Issued {
    /// Returns the token in a reply: RFC 6749, section 5.1. `what` is the service.
    pub(crate) fn of_reply(text: &str, what: &str) -> Attempt<Self> {
        let parse = || {
            let reply: serde_json::Value = serde_json::from_str(text).ok()?;
            let token = reply.get("access_token")?.as_str()?;
            // That of some services is a text.
            let lifetime = reply.get("expires_in")?;
            let lifetime = lifetime.as_u64().or_else(|| lifetime.as_str()?.parse().ok())?;
            let lifetime = Duration::from_secs(lifetime.min(MAX_LIFETIME)).saturating_sub(MARGIN);
            let is_word = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
            is_word.then(|| Self { token: Secret::new(token), renewed: Instant::now() + lifetime })
        };
        parse().ok_or_else(|| refused(format!("the reply of {what} is malformed")))
    }
}

/// Provides tokens for requests; one thread at a time asks for them.
#[derive(Debug)]
pub(crate) struct Tokens {
    issuer: Box<dyn Issuer>,
    issued: Mutex<Option<Issued>>,
}

impl Tokens {
    pub(crate) fn new(issuer: impl Issuer + 'static) -> Self {
        Self { issuer: Box::new(issuer), issued: Mutex::default() }
    }

    /// Returns a token that is valid, which may mean to ask for it.
    pub(crate) fn get(&self) -> Attempt<Secret> {
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(issued) = issued.as_ref().filter(|issued| Instant::now() < issued.renewed) {
            return Ok(issued.token.clone());
        }
        Ok(issued.insert(self.issuer.issue()?).token.clone())
    }

    /// Returns the token that was issued last.
    pub(crate) fn known(&self) -> Option<Secret> {
        let issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        issued.as_ref().map(|issued| issued.token.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_with_tokens() {
        for (text, token) in [
            (r#"{"access_token":"a.b","expires_in":3600,"token_type":"Bearer"}"#, Some("a.b")),
            (r#"{"access_token":"a","expires_in":"86399"}"#, Some("a")),
            (r#"{"access_token":"a","expires_in":18446744073709551615}"#, Some("a")),
            (r#"{"access_token":"a\r\nX: y","expires_in":1}"#, None),
            (r#"{"access_token":"","expires_in":1}"#, None),
            (r#"{"access_token":"a"}"#, None),
            ("<html>", None),
        ] {
            let found = Issued::of_reply(text, "a service").ok();
            assert_eq!(found.as_ref().map(|issued| issued.token.text()), token, "{text}");
        }
    }

    /// Issues tokens that must be renewed at once.
    #[derive(Debug)]
    struct Short(Mutex<u32>);

    impl Issuer for Short {
        fn issue(&self) -> Attempt<Issued> {
            let mut count = self.0.lock().expect("is not poisoned");
            *count += 1;
            let text = format!(r#"{{"access_token":"{count}","expires_in":{}}}"#, 298 + *count);
            Issued::of_reply(&text, "a service")
        }
    }

    #[test]
    fn tokens_are_renewed_before_they_expire() {
        let tokens = Tokens::new(Short(Mutex::new(0)));
        assert_eq!(tokens.known(), None);
        let get = || tokens.get().ok().map(|token| token.text().to_owned());
        // The first two expire within five minutes.
        assert_eq!([get(), get()], ["1", "2"].map(|token| Some(token.to_owned())));
        assert_eq!(get().as_deref(), Some("3"));
        assert_eq!(get().as_deref(), Some("3"));
        assert_eq!(format!("{:?}", tokens.known()), "Some(***)");
    }
}
