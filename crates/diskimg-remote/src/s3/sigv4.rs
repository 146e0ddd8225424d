//! Signatures of requests: AWS Signature Version 4.
//!
//! ```text
//!   request ─► canonical request ─► SHA-256 ─► string to sign ┐
//!   secret ─► key of the date ─► region ─► service ───────────┴► HMAC ─► Authorization
//! ```

use super::credentials::Keys;
use crate::upload::hash::hex;
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use std::fmt::Write;
use ureq::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// The hash of a body that is not signed: over HTTPS.
pub(crate) const UNSIGNED_PAYLOAD: &str = "UNSIGNED-PAYLOAD";

/// For whom a request is signed, and when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scope<'a> {
    pub(crate) region: &'a str,
    pub(crate) service: &'a str,
    pub(crate) time: Timestamp,
}

/// Adds the headers that authorize a request to `headers`, all of which are signed. `payload` is the
/// hash of the body. The query of `uri` must be encoded, and the names of its parameters unique.
pub(crate) fn sign(
    method: &Method,
    uri: &Uri,
    headers: &mut HeaderMap,
    payload: &str,
    keys: &Keys,
    scope: Scope<'_>,
) {
    let time = scope.time.strftime("%Y%m%dT%H%M%SZ").to_string();
    set(headers, "x-amz-date", &time);
    if let Some(token) = keys.token() {
        set(headers, "x-amz-security-token", token);
    }
    let host = uri.authority().map_or("", |authority| authority.as_str());
    let (signed, canonical) = canonical(method, uri, headers, host, payload);
    let date = &time[..8];
    let Scope { region, service, .. } = scope;
    let range = format!("{date}/{region}/{service}/aws4_request");
    let to_sign = format!("{ALGORITHM}\n{time}\n{range}\n{}", sha256_hex(canonical.as_bytes()));
    let mut key = hmac(format!("AWS4{}", keys.secret()).as_bytes(), date);
    for part in [region, service, "aws4_request"] {
        key = hmac(&key, part);
    }
    let signature = hex(&hmac(&key, &to_sign));
    let access = keys.access();
    let value = format!(
        "{ALGORITHM} Credential={access}/{range}, SignedHeaders={signed}, Signature={signature}"
    );
    set(headers, header::AUTHORIZATION.as_str(), &value);
}

/// Returns the names of the signed headers, and the canonical request.
fn canonical(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    host: &str,
    payload: &str,
) -> (String, String) {
    let mut lines = vec![("host", host.to_owned())];
    for name in headers.keys() {
        let values = headers.get_all(name).iter();
        let values = values.map(|value| words(&String::from_utf8_lossy(value.as_bytes())));
        lines.push((name.as_str(), values.collect::<Vec<_>>().join(",")));
    }
    lines.sort_unstable();
    let signed = lines.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let mut query: Vec<_> = uri.query().unwrap_or_default().split('&').collect();
    query.retain(|item| !item.is_empty());
    query.sort_unstable_by_key(|item| item.split_once('=').unwrap_or((item, "")));
    let with_sign = |item: &str| match item.contains('=') {
        true => item.to_owned(),
        false => format!("{item}="),
    };
    let query = query.into_iter().map(with_sign).collect::<Vec<_>>().join("&");
    let mut text = format!("{method}\n{}\n{query}\n", uri.path());
    for (name, value) in &lines {
        let _ = writeln!(text, "{name}:{value}");
    }
    let _ = write!(text, "\n{signed}\n{payload}");
    (signed, text)
}

/// Returns a value without spaces at its ends and with single ones between its words.
fn words(value: &str) -> String {
    value.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

fn set(headers: &mut HeaderMap, name: &'static str, value: &str) {
    // Neither keys nor tokens that were read have characters that a header cannot have.
    if let Ok(mut value) = HeaderValue::try_from(value) {
        value.set_sensitive(true);
        headers.insert(HeaderName::from_static(name), value);
    }
}

fn hmac(key: &[u8], text: &str) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("keys of any length are allowed");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().into()
}

/// Returns the SHA-256 hash of `bytes` in hexadecimal.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the signature of a request with the keys of Amazon's documentation.
    fn signature(
        method: Method,
        url: &str,
        headers: &[(&'static str, &str)],
        payload: &str,
        is_suite: bool,
    ) -> String {
        let keys = match is_suite {
            true => Keys::new("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", None),
            false => {
                Keys::new("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", None)
            }
        };
        let (time, service) = match is_suite {
            true => ("2015-08-30T12:36:00Z", "service"),
            false => ("2013-05-24T00:00:00Z", "s3"),
        };
        let mut map = HeaderMap::new();
        for &(name, value) in headers {
            map.append(name, value.parse().expect("is valid"));
        }
        let time = time.parse().expect("is a time");
        let uri = url.parse().expect("is valid");
        let scope = Scope { region: "us-east-1", service, time };
        sign(&method, &uri, &mut map, payload, &keys, scope);
        let value = map["authorization"].to_str().expect("is text");
        value.rsplit('=').next().expect("has a signature").to_owned()
    }

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn requests_of_the_published_suite_have_its_signatures() {
        assert_eq!(sha256_hex(b""), EMPTY);
        let get = |url: &str| signature(Method::GET, url, &[], EMPTY, true);
        assert_eq!(
            get("https://example.amazonaws.com/"),
            "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
        );
        assert_eq!(
            get("https://example.amazonaws.com/?Param2=value2&Param1=value1"),
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"
        );
        let post = signature(Method::POST, "https://example.amazonaws.com/", &[], EMPTY, true);
        assert_eq!(post, "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b");
    }

    #[test]
    fn requests_of_the_s3_documentation_have_its_signatures() {
        let host = "https://examplebucket.s3.amazonaws.com";
        let hash = ("x-amz-content-sha256", EMPTY);
        let range = ("range", "bytes=0-9");
        assert_eq!(
            signature(Method::GET, &format!("{host}/test.txt"), &[range, hash], EMPTY, false),
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        );
        let body = sha256_hex(b"Welcome to Amazon S3.");
        let headers = [
            ("date", "Fri, 24 May 2013 00:00:00 GMT"),
            ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
            ("x-amz-content-sha256", &*body),
        ];
        assert_eq!(
            signature(Method::PUT, &format!("{host}/test%24file.text"), &headers, &body, false),
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
        );
        for (query, expected) in [
            ("lifecycle", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
            (
                "max-keys=2&prefix=J",
                "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
            ),
        ] {
            let url = format!("{host}/?{query}");
            assert_eq!(signature(Method::GET, &url, &[hash], EMPTY, false), expected, "{query}");
        }
    }
}
