//! Names of objects: `s3://BUCKET/KEY[?versionId=ID&endpoint=URL&region=NAME]`, and the URLs of requests.

use crate::percent::{encoded, name_decoded};
use diskimg::open::Url;
use diskimg::{Error, Result};

/// An object, as the caller names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ObjectUrl {
    pub(crate) bucket: String,
    pub(crate) key: String,
    /// `versionId`: a version of an object in a bucket that keeps old ones.
    pub(crate) version: Option<String>,
    pub(crate) endpoint: Option<String>,
    pub(crate) region: Option<String>,
}

impl ObjectUrl {
    /// Parses a URL. The key is percent-encoded; `#` has no special meaning in it.
    ///
    /// # Errors
    /// Returns [`Invalid`](diskimg::ErrorKind::Invalid) if it is malformed, and
    /// [`Unsupported`](diskimg::ErrorKind::Unsupported) for a directory bucket (S3 Express).
    pub(crate) fn parse(url: &Url) -> Result<Self> {
        let malformed = || Error::invalid("the URL is malformed; expected s3://BUCKET/KEY");
        let text = url.as_str().strip_prefix("s3://").ok_or_else(malformed)?;
        let (path, query) = match text.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (text, None),
        };
        let (bucket, key) = path.split_once('/').ok_or_else(malformed)?;
        if bucket.contains('@') {
            return Err(Error::invalid("the URL of an object has no user and password")
                .hint("name a profile, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"));
        }
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        if !(3..=255).contains(&bucket.len()) || !bucket.bytes().all(is_allowed) {
            return Err(Error::invalid(format!("'{bucket}' is not the name of a bucket")));
        }
        if bucket.ends_with("--x-s3") {
            return Err(Error::unsupported("directory buckets (S3 Express) are not supported"));
        }
        let key = name_decoded(key)?;
        if key.is_empty() {
            return Err(malformed());
        }
        let mut parsed =
            Self { bucket: bucket.to_owned(), key, version: None, endpoint: None, region: None };
        for item in query.into_iter().flat_map(|query| query.split('&')) {
            let (name, value) = item.split_once('=').unwrap_or((item, ""));
            let place = match name {
                "versionId" => &mut parsed.version,
                "endpoint" => &mut parsed.endpoint,
                "region" => &mut parsed.region,
                _ => {
                    return Err(Error::invalid(format!("the URL has the parameter '{name}'"))
                        .hint(
                            "parameters are versionId, endpoint and region; a '?' in a key is %3F",
                        ));
                }
            };
            let value = name_decoded(value)?;
            if value.is_empty() || place.replace(value).is_some() {
                return Err(Error::invalid(format!("the URL has no single value of '{name}'")));
            }
        }
        Ok(parsed)
    }
}

/// Returns the URL of the object `name`, a path relative to the key of `url` up to its last slash, of
/// the newest version. Returns `None` if it leaves the bucket.
pub(crate) fn join(url: &str, name: &str) -> Option<String> {
    let text = url.strip_prefix("s3://")?;
    let (path, query) = text.split_once('?').unwrap_or((text, ""));
    let (bucket, key) = path.split_once('/')?;
    let mut parts: Vec<String> = key.split('/').map(str::to_owned).collect();
    parts.pop();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(encoded(part)),
        }
    }
    let kept = query.split('&').filter(|item| !item.is_empty() && !item.starts_with("versionId="));
    let query = kept.collect::<Vec<_>>().join("&");
    let separator = if query.is_empty() { "" } else { "?" };
    Some(format!("s3://{bucket}/{}{separator}{query}", parts.join("/")))
}

/// A service that is compatible with S3.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// `http` or `https`.
    pub(crate) scheme: &'static str,
    /// Host, and port if it is not the default one.
    pub(crate) authority: String,
    /// Path without a slash at its end.
    path: String,
}

impl Endpoint {
    /// Parses a URL without user, query and fragment.
    ///
    /// # Errors
    /// Returns [`Invalid`](diskimg::ErrorKind::Invalid) if it is malformed.
    pub(crate) fn parse(url: &str) -> Result<Self> {
        let malformed =
            || Error::invalid("the endpoint is malformed; expected http[s]://HOST[:PORT]");
        let (scheme, rest) = url.split_once("://").ok_or_else(malformed)?;
        let (scheme, port) = match scheme {
            "http" => ("http", ":80"),
            "https" => ("https", ":443"),
            _ => return Err(malformed()),
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let authority = authority.strip_suffix(port).unwrap_or(authority);
        let uri: Option<ureq::http::Uri> = format!("{scheme}://{authority}{path}").parse().ok();
        let has_host = uri.is_some_and(|uri| uri.host().is_some_and(|host| !host.is_empty()));
        if !has_host || rest.contains(['?', '#', '@']) {
            return Err(malformed());
        }
        let path = path.trim_end_matches('/').to_owned();
        Ok(Self { scheme, authority: authority.to_ascii_lowercase(), path })
    }

    /// Returns that of Amazon for a bucket in a region.
    fn of_amazon(bucket: &str, region: &str) -> (Self, bool) {
        let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
        // The certificate is for `*.s3.REGION.amazonaws.com`: no more dots. Old buckets have names
        // that are not names of hosts.
        let is_label =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let is_host = bucket.len() <= 63 && bucket.bytes().all(is_label);
        let host = if is_host { format!("{bucket}.") } else { String::new() };
        let authority = format!("{host}s3.{region}.{domain}");
        (Self { scheme: "https", authority, path: String::new() }, is_host)
    }
}

/// Returns the URL of an object, without a query: at `endpoint`, or else at Amazon in a region.
pub(crate) fn request_url(
    endpoint: Option<&Endpoint>,
    region: &str,
    bucket: &str,
    key: &str,
) -> String {
    let (endpoint, has_bucket) = match endpoint {
        Some(endpoint) => (endpoint.clone(), false),
        None => Endpoint::of_amazon(bucket, region),
    };
    let Endpoint { scheme, authority, path } = endpoint;
    let bucket = if has_bucket { String::new() } else { format!("/{bucket}") };
    let key: Vec<_> = key.split('/').map(encoded).collect();
    format!("{scheme}://{authority}{path}{bucket}/{}", key.join("/"))
}

/// Returns true for what can be the name of a region, which becomes a part of the name of a host.
pub(crate) fn is_region(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=63).contains(&name.len()) && name.bytes().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ObjectUrl> {
        ObjectUrl::parse(&Url::new(text).expect("is a URL"))
    }

    #[test]
    fn objects_are_named_by_urls() {
        let found = parse("s3://my-bucket/a%20b/c#d.qcow2").expect("is valid");
        assert_eq!((&*found.bucket, &*found.key), ("my-bucket", "a b/c#d.qcow2"));
        for (key, meant) in
            [("%EF%BF%BD", "\u{fffd}"), ("\u{fffd}%c3%BC", "\u{fffd}ü"), ("%+f%", "%+f%")]
        {
            assert_eq!(parse(&format!("s3://bucket/{key}")).expect(key).key, meant);
        }
        let all = "s3://b.c/k?versionId=a%2Bb&endpoint=http%3A//h:1&region=r-1";
        let found = parse(all).expect("is valid");
        assert_eq!(found.version.as_deref(), Some("a+b"));
        assert_eq!(found.endpoint.as_deref(), Some("http://h:1"));
        assert_eq!(found.region.as_deref(), Some("r-1"));
        for wrong in [
            "s3:/bucket/k",
            "s3://bucket",
            "s3://bucket/",
            "s3:///k",
            "s3://ab/k",
            "s3://bu%63ket/k",
            "s3://key:secret@bucket/k",
            "s3://bucket--x-s3/k",
            "s3://bucket/k?acl",
            "s3://bucket/k?versionId=",
            "s3://bucket/k?region=a&region=b",
            "s3://bucket:80/k",
            "s3://bucket/%FF%FEx",
            "s3://bucket/k%C3",
            "s3://bucket/k?versionId=%ED%A0%80",
        ] {
            let error = parse(wrong).expect_err(wrong).to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn names_are_joined_to_the_directory_of_the_key() {
        for (url, name, joined) in [
            ("s3://bucket/a/b.qcow2", "c d.raw", "s3://bucket/a/c%20d.raw"),
            ("s3://bucket/a?versionId=1&region=r", "b", "s3://bucket/b?region=r"),
            ("s3://bucket/a/b/c", "../d?e", "s3://bucket/a/d%3Fe"),
        ] {
            assert_eq!(join(url, name).as_deref(), Some(joined), "{url} {name}");
        }
        assert_eq!(join("s3://bucket/a", "../b"), None);
    }

    #[test]
    fn a_bucket_is_in_the_host_where_that_is_possible() {
        let amazon = |bucket, region| request_url(None, region, bucket, "a b/ü");
        let name = "https://my-bucket.s3.eu-west-1.amazonaws.com/a%20b/%C3%BC";
        assert_eq!(amazon("my-bucket", "eu-west-1"), name);
        let name = "https://s3.cn-north-1.amazonaws.com.cn/my.bucket/a%20b/%C3%BC";
        assert_eq!(amazon("my.bucket", "cn-north-1"), name);
        let endpoint = Endpoint::parse("HTTPS://x").map(|_| ()).expect_err("is malformed");
        assert!(endpoint.to_string().contains("endpoint"), "{endpoint}");
        let endpoint = Endpoint::parse("https://Host:443/base/").expect("is valid");
        assert_eq!(request_url(Some(&endpoint), "r", "b", "k"), "https://host/base/b/k");
        for wrong in ["ftp://h", "http://", "http://u:p@h", "http://h?x", "http://a b", "h:1"] {
            assert!(Endpoint::parse(wrong).is_err(), "{wrong}");
        }
        assert!(is_region("eu-west-1") && !is_region("a.evil.org/") && !is_region(""));
    }
}
