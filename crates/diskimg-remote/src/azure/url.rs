//! Names of blobs: `az://CONTAINER/BLOB[?account=NAME&endpoint=URL&snapshot=TIME]`, and the URLs of
//! requests.

use crate::percent::{encoded, name_decoded};
use diskimg::open::Url;
use diskimg::{Error, Result};
use ureq::http::Uri;

/// A blob, as the caller names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BlobUrl {
    pub(super) container: String,
    pub(super) name: String,
    /// `snapshot`: an old state of the blob.
    pub(super) snapshot: Option<String>,
    pub(super) account: Option<String>,
    pub(super) endpoint: Option<String>,
}

impl BlobUrl {
    /// Parses a URL. The name of the blob is percent-encoded; `#` has no special meaning in it.
    ///
    /// # Errors
    /// Returns [`Invalid`](diskimg::ErrorKind::Invalid) if it is malformed.
    pub(super) fn parse(url: &Url) -> Result<Self> {
        let malformed = || Error::invalid("the URL is malformed; expected az://CONTAINER/BLOB");
        let text = url.as_str().strip_prefix("az://").ok_or_else(malformed)?;
        let (path, query) = text.split_once('?').unwrap_or((text, ""));
        let (container, name) = path.split_once('/').ok_or_else(malformed)?;
        if container.contains('@') {
            return Err(Error::invalid("the URL of a blob has no user and password")
                .hint("set AZURE_STORAGE_ACCOUNT and AZURE_STORAGE_KEY"));
        }
        // `$root` and `$logs`.
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-$".contains(&byte);
        if !(3..=63).contains(&container.len()) || !container.bytes().all(is_allowed) {
            return Err(Error::invalid(format!("'{container}' is not the name of a container")));
        }
        let name = name_decoded(name)?;
        // Servers and clients would remove them.
        if name.split('/').any(|part| part == "." || part == "..") {
            return Err(Error::invalid("a component of the blob's name is '.' or '..'"));
        }
        if name.is_empty() {
            return Err(malformed());
        }
        let container = container.to_owned();
        let mut parsed = Self { container, name, snapshot: None, account: None, endpoint: None };
        for item in query.split('&').filter(|item| !item.is_empty()) {
            let (name, value) = item.split_once('=').unwrap_or((item, ""));
            let place = match name {
                "snapshot" => &mut parsed.snapshot,
                "account" => &mut parsed.account,
                "endpoint" => &mut parsed.endpoint,
                _ => {
                    return Err(Error::invalid(format!("the URL has the parameter '{name}'"))
                        .hint(
                            "parameters are account, endpoint and snapshot; a '?' in a name is %3F",
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

/// Returns the URL of a blob service, without a slash at its end.
///
/// # Errors
/// Returns [`Invalid`](diskimg::ErrorKind::Invalid) if the endpoint or the name of the account is
/// malformed.
pub(super) fn base(endpoint: Option<&str>, account: &str) -> Result<String> {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let Some(endpoint) = endpoint else {
        return match account.chars().all(is_word) {
            true => Ok(format!("https://{account}.blob.core.windows.net")),
            false => Err(Error::invalid(format!("'{account}' is not the name of an account"))),
        };
    };
    let malformed = || Error::invalid("the endpoint is malformed; expected http[s]://HOST[:PORT]");
    let uri: Uri = endpoint.trim_end_matches('/').parse().map_err(|_| malformed())?;
    let (Some("http" | "https"), Some(host), None) =
        (uri.scheme_str(), uri.authority(), uri.query())
    else {
        return Err(malformed());
    };
    if host.as_str().contains('@') || endpoint.contains('#') {
        return Err(malformed());
    }
    Ok(uri.to_string().trim_end_matches('/').to_owned())
}

/// Returns the URL of the requests for a blob.
pub(super) fn request_url(base: &str, container: &str, name: &str) -> String {
    let name = name.split('/').map(encoded).collect::<Vec<_>>().join("/");
    format!("{base}/{container}/{name}")
}

/// Returns the URL of the blob `name`, a path relative to the blob of `url` up to its last slash, in
/// its current state. Returns `None` if it leaves the container.
pub(super) fn join(url: &str, name: &str) -> Option<String> {
    let text = url.strip_prefix("az://")?;
    let (path, query) = text.split_once('?').unwrap_or((text, ""));
    let (container, blob) = path.split_once('/')?;
    let mut parts: Vec<String> = blob.split('/').map(str::to_owned).collect();
    parts.pop();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(encoded(part)),
        }
    }
    let kept = query.split('&').filter(|item| !item.is_empty() && !item.starts_with("snapshot="));
    let query = kept.collect::<Vec<_>>().join("&");
    let separator = if query.is_empty() { "" } else { "?" };
    Some(format!("az://{container}/{}{separator}{query}", parts.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<BlobUrl> {
        BlobUrl::parse(&Url::new(text).expect("is a URL"))
    }

    #[test]
    fn names_of_blobs() {
        let found = parse(
            "az://disks/a/b%20c%3F.qcow2?account=acc&snapshot=2026%3A1&endpoint=http%3A%2F%2Fh",
        )
        .expect("is valid");
        assert_eq!((&*found.container, &*found.name), ("disks", "a/b c?.qcow2"));
        assert_eq!(found.snapshot.as_deref(), Some("2026:1"));
        assert_eq!(found.account.as_deref(), Some("acc"));
        assert_eq!(found.endpoint.as_deref(), Some("http://h"));
        for wrong in [
            "az:disks/a",
            "az://disks",
            "az://disks/",
            "az://di/a",
            "az://u:p@disks/a",
            "az://di.sks/a",
            "az://disks/%ff",
            "az://disks/a/../b",
            "az://disks/a?sig=x",
            "az://disks/a?account=",
            "az://disks/a?account=a&account=b",
        ] {
            parse(wrong).expect_err(wrong);
        }
    }

    #[test]
    fn the_service_of_an_account() {
        let url = |endpoint, account| base(endpoint, account).ok();
        assert_eq!(url(None, "acc1").as_deref(), Some("https://acc1.blob.core.windows.net"));
        let emulator = url(Some("http://127.0.0.1:10000/dev/"), "dev");
        assert_eq!(emulator.as_deref(), Some("http://127.0.0.1:10000/dev"));
        assert_eq!(
            request_url(&emulator.expect("is valid"), "c", "a b/\u{e9}#"),
            "http://127.0.0.1:10000/dev/c/a%20b/%C3%A9%23"
        );
        for (endpoint, account) in [
            (None, "a.b/c"),
            (Some("ftp://h"), "a"),
            (Some("http://u:p@h"), "a"),
            (Some("http://h?sig=1"), "a"),
            (Some("host"), "a"),
        ] {
            base(endpoint, account).expect_err("is malformed");
        }
    }

    #[test]
    fn names_inside_images_stay_in_the_container() {
        let join = |name| join("az://c/a/b?snapshot=1&account=x", name);
        assert_eq!(join("d e").as_deref(), Some("az://c/a/d%20e?account=x"));
        assert_eq!(join("../d").as_deref(), Some("az://c/d?account=x"));
        assert_eq!(join("../../d"), None);
    }
}
