//! What of a server's answers is parsed here, for fuzzing. Status lines, headers and chunks are parsed
//! by `ureq`.

use super::answer::{ContentRange, Version, require_plain};
use super::netrc;
use super::request::{Request, join};
use diskimg::open::Url;
use ureq::http::{HeaderMap, HeaderName, HeaderValue};

const BASE: &str = "https://user:secret@host.example:8443/a/b/disk.qcow2?token=t";

/// Parses a text: lines of headers, each `NAME: VALUE`, then one as a location to which a server
/// redirects, and one as a name inside an image.
///
/// # Panics
/// If what was found could harm the user who reads it.
pub(super) fn run(text: &str) {
    let mut headers = HeaderMap::new();
    for line in text.lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.trim().parse()) {
            let value: HeaderValue = value;
            headers.append(name, value);
        }
    }
    if let Some(ContentRange { range: Some(range), total }) = ContentRange::of(&headers) {
        assert!(range.start < range.end && total.is_none_or(|total| range.end <= total));
    }
    if let Ok(version) = Version::of(&headers) {
        assert!(version.matches(&version));
    }
    let _ = require_plain(&headers);
    let first = text.lines().next().unwrap_or_default();
    check_redirect(first);
    check_name(first);
    let _ = netrc::login(text, "host.example");
}

/// A redirect keeps the scheme, and only the same host gets what is secret.
fn check_redirect(location: &str) {
    let Some(url) = Url::new(BASE) else { return };
    let Ok(request) = Request::new(&url) else { panic!("{BASE} is valid") };
    let Ok(target) = request.redirected(location) else { return };
    assert_eq!(target.uri.scheme_str(), Some("https"));
    let is_same = target.uri.authority() == request.uri.authority();
    assert!(is_same || target.authorization.is_none() && !target.is_original_host);
    assert!(!format!("{target:?}").contains("secret"));
}

/// A name inside an image stays on the server.
fn check_name(name: &str) {
    let Some(joined) = join(BASE, name) else { return };
    let path = joined.strip_prefix("https://user:secret@host.example:8443/");
    let path = path.unwrap_or_else(|| panic!("{name:?} leaves the server: {joined}"));
    assert!(path.split('/').all(|part| part != ".."), "{joined}");
}

/// Returns inputs for [`run`].
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let seeds: [&str; 4] = [
        "Content-Range: bytes 0-65535/1000000\nETag: \"a\"\nLast-Modified: x",
        "ETag: W/\"b\"\nContent-Encoding: identity\nContent-Range: bytes */0",
        "https://other.example/x?y#z\nTransfer-Encoding: chunked",
        "../../c d?.raw\nmachine host.example login u password \"p\"",
    ];
    seeds.iter().map(|text| text.as_bytes().to_vec()).collect()
}
