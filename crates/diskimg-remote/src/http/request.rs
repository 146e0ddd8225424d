//! What is requested: URLs, RFC 3986, and the secrets in them.

use crate::percent::{decoded, encoded};
use base64::prelude::{BASE64_STANDARD, Engine};
use diskimg::open::Url;
use diskimg::{Error, Result};
use std::fmt;

use ureq::http::{HeaderValue, Uri};

/// What is requested, and with which headers.
#[derive(Clone)]
pub(super) struct Request {
    pub(super) uri: Uri,
    /// The URL without passwords.
    shown: String,
    /// `Authorization` of the user in the URL.
    pub(super) authorization: Option<HeaderValue>,
    /// Whether the host is the one that the caller named, which may see the caller's secrets.
    pub(super) is_original_host: bool,
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
    pub(super) fn redirected(&self, location: &str) -> Result<Self> {
        let location = location.split('#').next().unwrap_or_default();
        // It may contain tokens.
        let shown = || Url::new(location).map_or_else(String::new, |url| format!(": {url}"));
        let target = resolve(&self.uri, location).ok_or_else(|| {
            Error::invalid(format!("the server redirects to a malformed location{}", shown()))
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

fn malformed() -> Error {
    Error::invalid("the URL is malformed; expected http[s]://HOST[:PORT]/PATH")
}

/// Returns the value of `Authorization`: RFC 7617.
pub(super) fn basic(user: &[u8], password: &[u8]) -> HeaderValue {
    let text = format!("Basic {}", BASE64_STANDARD.encode([user, b":", password].concat()));
    let mut value = HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

/// Returns the location of a reference relative to `base`: RFC 3986, section 5.2. A user in it is
/// removed: the server must not choose what this client sends.
fn resolve(base: &Uri, reference: &str) -> Option<Uri> {
    let colon = reference.find(':').filter(|&at| !reference[..at].contains(['/', '?', '#']));
    let (scheme, rest) = match colon {
        Some(at) => (&reference[..at], &reference[at + 1..]),
        None => (base.scheme_str()?, reference),
    };
    let (authority, path) = match rest.strip_prefix("//") {
        Some(rest) => {
            let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
            (authority.rsplit('@').next()?, path.to_owned())
        }
        // `mailto:x` and `http:x` name no server.
        None if colon.is_some() => return None,
        None => (
            base.authority()?.as_str(),
            match rest {
                "" => base.path_and_query()?.as_str().to_owned(),
                _ if rest.starts_with('/') => rest.to_owned(),
                _ if rest.starts_with('?') => format!("{}{rest}", base.path()),
                _ => format!("{}{rest}", directory(base.path())),
            },
        ),
    };
    let (path, query) = path.split_at(path.find('?').unwrap_or(path.len()));
    let path = without_dots(path);
    format!("{scheme}://{authority}{path}{query}")
        .parse()
        .ok()
        .filter(|uri: &Uri| uri.host().is_some())
}

/// Removes `.` and `..` from a path: section 5.2.4.
fn without_dots(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/').skip(1) {
        match part {
            "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let ends_in_directory = matches!(path.rsplit('/').next(), Some("." | ".."));
    let slash = if ends_in_directory && !parts.is_empty() { "/" } else { "" };
    format!("/{}{slash}", parts.join("/"))
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
            ("/q?u=http://x/", "http://h:1/q?u=http://x/"),
            ("../../x", "http://h:1/x"),
            ("/a/./b/../c/..", "http://h:1/a/"),
            ("http://u:p@i/x", "http://i/x"),
            ("http://i?x", "http://i/?x"),
            ("ftp://i/x", "ftp://i/x"),
        ] {
            let found = resolve(&base, reference).expect(reference);
            assert_eq!(found.to_string(), target, "{reference}");
        }
        for wrong in ["http:///x", "mailto:x", "http:x", "http:/x", "javascript:1", "http://a b/"] {
            assert_eq!(resolve(&base, wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_user_of_a_url_is_decoded_and_not_shown() {
        let url = Url::new("http://us%40er:p%3aw@h/x").expect("is a URL");
        let request = Request::new(&url).expect("is valid");
        let expected = basic(b"us@er", b"p:w");
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
