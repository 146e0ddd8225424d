//! How requests are authorized: by the key of an account, by a shared access signature, or by a token
//! of Microsoft Entra ID.

use crate::http::answer::Unexpected;
use crate::http::transport::{Attempt, wrong};
use crate::tokens::{Secret, Tokens, may_be_sent};
use base64::prelude::{BASE64_STANDARD, Engine};
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use sha2::Sha256;
use std::fmt;
use ureq::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use zeroize::Zeroizing;

/// The version of the service's interface that is used: the first with blocks of 4000 MiB is
/// 2019-12-12.
const API_VERSION: HeaderValue = HeaderValue::from_static("2021-08-06");

/// Headers that are part of a signature, in order, besides those that begin with `x-ms-`.
const SIGNED: [HeaderName; 11] = [
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_LENGTH,
    HeaderName::from_static("content-md5"),
    header::CONTENT_TYPE,
    header::DATE,
    header::IF_MODIFIED_SINCE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_UNMODIFIED_SINCE,
    header::RANGE,
];

/// How requests for the blobs of an account are authorized.
#[derive(Debug)]
pub(super) enum Access {
    Anonymous,
    /// By the key of the account ("Shared Key").
    Key {
        account: String,
        key: AccountKey,
    },
    /// By a part of the query.
    Signature(Secret),
    Tokens(Tokens),
}

/// The key of an account.
pub(super) struct AccountKey(Zeroizing<Vec<u8>>);

impl From<Vec<u8>> for AccountKey {
    fn from(key: Vec<u8>) -> Self {
        Self(Zeroizing::new(key))
    }
}

impl fmt::Debug for AccountKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Access {
    /// Finds out whether there is an authorization.
    pub(super) fn prepare(&self) -> Attempt<()> {
        match self {
            Self::Tokens(tokens) => tokens.get().map(drop),
            Self::Anonymous | Self::Key { .. } | Self::Signature(_) => Ok(()),
        }
    }

    /// Returns the query that authorizes requests.
    pub(super) fn query(&self) -> Option<&str> {
        match self {
            Self::Signature(signature) => Some(signature.text()),
            Self::Anonymous | Self::Key { .. } | Self::Tokens(_) => None,
        }
    }

    /// Adds the headers that authorize a request. `Content-Length` must be there if there is a body.
    pub(super) fn authorize(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &mut HeaderMap,
    ) -> Attempt<()> {
        headers.insert(HeaderName::from_static("x-ms-version"), API_VERSION);
        let value = match self {
            Self::Anonymous | Self::Signature(_) => return Ok(()),
            Self::Tokens(_) if !may_be_sent(uri) => {
                return Err(wrong(Unexpected("tokens are sent by https only".into())));
            }
            Self::Tokens(tokens) => format!("Bearer {}", tokens.get()?.text()),
            Self::Key { account, key } => {
                let now = DateTimePrinter::new().timestamp_to_rfc9110_string(&Timestamp::now());
                let malformed = |_| wrong(Unexpected("the time cannot be sent".into()));
                let date = HeaderValue::try_from(now.unwrap_or_default()).map_err(malformed)?;
                headers.insert(HeaderName::from_static("x-ms-date"), date);
                let text = text_to_sign(account, method, uri, headers);
                format!("SharedKey {account}:{}", signature(key, &text))
            }
        };
        let malformed = |_| wrong(Unexpected("the authorization cannot be sent".into()));
        let mut value = HeaderValue::try_from(value).map_err(malformed)?;
        value.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, value);
        Ok(())
    }

    /// Returns what must not be shown of messages.
    pub(super) fn secrets(&self) -> Vec<String> {
        match self {
            Self::Signature(signature) => {
                let values = signature.text().split('&').filter_map(|item| item.split_once('='));
                let values = values.filter(|(name, _)| *name == "sig").map(|(_, value)| value);
                values.flat_map(|v| [v.to_owned(), decoded(v)]).collect()
            }
            Self::Tokens(tokens) => {
                tokens.known().map(|token| token.text().to_owned()).into_iter().collect()
            }
            // A signature is valid for one request.
            Self::Anonymous | Self::Key { .. } => Vec::new(),
        }
    }
}

fn decoded(text: &str) -> String {
    String::from_utf8_lossy(&crate::percent::decoded(text)).into_owned()
}

fn signature(key: &AccountKey, text: &str) -> String {
    // Keys may have any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&key.0) else { return String::new() };
    mac.update(text.as_bytes());
    BASE64_STANDARD.encode(mac.finalize().into_bytes())
}

/// Returns what the key of the account signs: "Authorize with Shared Key" of the documentation.
fn text_to_sign(account: &str, method: &Method, uri: &Uri, headers: &HeaderMap) -> String {
    let value = |name: &HeaderName| {
        let value = headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        // Since version 2015-02-21.
        if *name == header::CONTENT_LENGTH && value == "0" { "" } else { value }
    };
    let mut text = format!("{method}\n");
    for name in SIGNED {
        text += value(&name);
        text.push('\n');
    }
    let mut own: Vec<_> = headers.keys().filter(|n| n.as_str().starts_with("x-ms-")).collect();
    own.sort_by_key(|name| name.as_str());
    for name in own {
        text += &format!("{name}:{}\n", value(name).trim());
    }
    text += &format!("/{account}{}", uri.path());
    let query = uri.query().unwrap_or_default().split('&').filter(|item| !item.is_empty());
    let mut query: Vec<_> = query
        .map(|item| item.split_once('=').unwrap_or((item, "")))
        .map(|(name, value)| (name.to_ascii_lowercase(), decoded(value)))
        .collect();
    query.sort();
    for (name, value) in query {
        text += &format!("\n{name}:{value}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_signed() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-ms-version", "2021-08-06"),
            ("x-ms-date", "Sun, 25 Sep 2011 22:50:32 GMT"),
            ("content-length", "0"),
            ("range", "bytes=0-9"),
            ("if-match", "\"0x1\""),
        ] {
            let name: HeaderName = name.parse().expect("is valid");
            headers.insert(name, HeaderValue::from_static(value));
        }
        let uri: Uri = "http://h/acc/c/a%20b?comp=block&blockid=QQ%3D%3D".parse().expect("is one");
        let text = text_to_sign("acc", &Method::GET, &uri, &headers);
        let expected = "GET\n\n\n\n\n\n\n\n\"0x1\"\n\n\nbytes=0-9\n\
                        x-ms-date:Sun, 25 Sep 2011 22:50:32 GMT\nx-ms-version:2021-08-06\n\
                        /acc/acc/c/a%20b\nblockid:QQ==\ncomp:block";
        assert_eq!(text, expected);
    }
}
