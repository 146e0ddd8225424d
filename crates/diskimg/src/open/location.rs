//! Locations: where an image is, as a user names it.

use crate::error::{Error, Result};
use crate::open::external_files::plain_path;
use std::fmt;
use std::path::{MAIN_SEPARATOR, Path, PathBuf};
use std::str::FromStr;

/// Where an image is.
///
/// A name with a colon before its first slash is a [`Url`]; every other name, `file:PATH` and
/// `file:///PATH` are paths. For a file whose name has a colon, write `./NAME`. Names inside images
/// are never locations: see [`ExternalFiles`](crate::ExternalFiles).
///
/// ```
/// use diskimg::open::Location;
/// use std::path::PathBuf;
///
/// assert_eq!("./a:b".parse::<Location>()?, Location::Path(PathBuf::from("./a:b")));
/// let Location::Url(url) = "https://me:secret@host/disk.qcow2".parse()? else { panic!() };
/// assert_eq!(url.scheme(), "https");
/// assert_eq!(url.to_string(), "https://***@host/disk.qcow2");
/// # Ok::<(), diskimg::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Location {
    /// A file or device of this host.
    Path(PathBuf),
    /// A URL. A [`Protocol`](crate::open::Protocol) opens it.
    Url(Url),
}

impl FromStr for Location {
    type Err = Error;

    /// Parses what a user types. Accesses no files.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) if the name is empty or contains a NUL byte,
    /// and [`Unsupported`](crate::ErrorKind::Unsupported) for `file://HOST/PATH`.
    fn from_str(name: &str) -> Result<Self> {
        if name.is_empty() {
            return Err(Error::invalid("the file name is empty"));
        }
        if name.contains('\0') {
            return Err(Error::invalid("the file name contains a NUL byte"));
        }
        match (plain_path(name), Url::new(name)) {
            // `file:a:b` is the file `./a:b`; `a:b` would be a URL.
            (Some(path), _) if path.to_str().and_then(Url::new).is_some() => {
                Ok(Self::Path(Path::new(".").join(path)))
            }
            (Some(path), _) => Ok(Self::Path(path.to_owned())),
            (None, Some(url)) if url.scheme() != "file" => Ok(Self::Url(url)),
            (None, _) => Err(Error::unsupported("a file: name has no host, only a path")),
        }
    }
}

impl From<PathBuf> for Location {
    fn from(path: PathBuf) -> Self {
        Self::Path(path)
    }
}

impl From<Url> for Location {
    fn from(url: Url) -> Self {
        Self::Url(url)
    }
}

/// Without the user and password of a URL.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Url(url) => url.fmt(f),
        }
    }
}

/// A scheme, a colon, and text that the scheme's [`Protocol`](crate::open::Protocol) interprets.
///
/// The scheme is in lower case: `NBD://host/` is the same as `nbd://host/` (RFC 3986, section 3.1).
///
/// `Display` and `Debug` replace the user and password of `scheme://user:password@host/…` and the
/// values of a query by `***`; [`as_str`](Self::as_str) returns them. Those of NBD are not secret.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Url {
    text: String,
    /// Length in bytes of the scheme.
    scheme: usize,
}

impl Url {
    /// Returns `text` as a URL, or `None` if it has no colon before its first slash.
    pub fn new(text: impl Into<String>) -> Option<Self> {
        let mut text = text.into();
        let scheme = text.find([':', '/', MAIN_SEPARATOR])?;
        text[..scheme].make_ascii_lowercase();
        text[scheme..].starts_with(':').then_some(Self { text, scheme })
    }

    /// Returns the text before the first colon.
    pub fn scheme(&self) -> &str {
        &self.text[..self.scheme]
    }

    /// Returns the whole URL, with its user and password.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the URL up to the last slash of its path. A URL with a host and no path has the path
    /// `/`; one without slashes is in no directory but the scheme.
    pub(crate) fn directory(&self) -> String {
        let end = self.text.find(['?', '#']).unwrap_or(self.text.len());
        let (scheme, rest) = self.text[..end].split_at(self.scheme + 1);
        let path = match rest.strip_prefix("//") {
            Some(host) if !host.contains('/') => return format!("{scheme}//{host}/"),
            _ => rest,
        };
        format!("{scheme}{}", &path[..path.rfind('/').map_or(0, |slash| slash + 1)])
    }

    /// Returns the last component of the path: the name of the file.
    pub fn file_name(&self) -> &str {
        let end = self.text.find(['?', '#']).unwrap_or(self.text.len());
        let path = &self.text[self.scheme + 1..end];
        // `rbd:POOL/IMAGE@SNAPSHOT:KEY=VALUE`
        let path = match path.starts_with("//") {
            true => path,
            false => path.split([':', '@']).next().unwrap_or(path),
        };
        path.rsplit('/').next().unwrap_or(path)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, rest) = self.text.split_at(self.scheme + 1);
        let (slashes, rest) = rest.split_at(if rest.starts_with("//") { 2 } else { 0 });
        let rest = &rest[secret_len(rest, !slashes.is_empty())..];
        let hidden = if rest.starts_with('@') { "***" } else { "" };
        let (path, query) = rest.split_at(rest.find('?').unwrap_or(rest.len()));
        match slashes {
            "" => write!(f, "{scheme}{hidden}{}", without_keys(path))?,
            _ => write!(f, "{scheme}{slashes}{hidden}{path}")?,
        }
        if scheme.starts_with("nbd") {
            // Names of files and hosts.
            return f.write_str(query);
        }
        // Values may be signatures and tokens.
        for (number, item) in query.split(['?', '&']).skip(1).enumerate() {
            let name = item.split_once('=').map_or("", |(name, _)| name);
            let separator = if number == 0 { '?' } else { '&' };
            write!(f, "{separator}{name}{}***", if name.is_empty() { "" } else { "=" })?;
        }
        Ok(())
    }
}

/// Replaces the values of keys and passwords in `rbd:POOL/IMAGE:KEY=VALUE`. A backslash escapes a
/// colon.
fn without_keys(path: &str) -> String {
    let (mut shown, mut rest) = (String::new(), path);
    while !rest.is_empty() {
        let is_end = |&(at, c): &(usize, char)| c == ':' && !rest[..at].ends_with('\\');
        let end = rest.char_indices().find(is_end).map_or(rest.len(), |(at, _)| at + 1);
        let (item, after) = rest.split_at(end);
        match item.split_once('=') {
            Some((key, value)) if is_secret(key) => {
                let colon = if value.ends_with(':') { ":" } else { "" };
                shown += &format!("{key}=***{colon}");
            }
            _ => shown += item,
        }
        rest = after;
    }
    shown
}

/// Returns true if an option is a secret, by its name: `key`, but not `keyring` and `keyfile`.
fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    ["key", "password", "secret", "token"].iter().any(|word| key.ends_with(word))
}

/// Returns the length of the user and password at the start of what follows a scheme. They end
/// with an `@`. A password may contain characters that should have been encoded.
fn secret_len(rest: &str, has_host: bool) -> usize {
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, _) = rest.split_at(end);
    if let (Some(at), true) = (authority.rfind('@'), has_host) {
        return at;
    }
    let Some(at) = rest.rfind('@') else { return 0 };
    match rest[..at].split_once(':') {
        // `host:80/a@b`: a port, not a password.
        Some((host, after)) if !host.contains(['/', '?', '#']) => {
            let digits = after.find(['/', '?', '#']).map_or(after, |end| &after[..end]);
            let is_port = has_host && digits.bytes().all(|byte| byte.is_ascii_digit());
            if is_port { 0 } else { at }
        }
        _ => 0,
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Url({self})")
    }
}

/// Splits `appliance.ova:2` into the path of an existing file and a disk in it. Returns `None` for
/// any other name, including the path of an existing file.
pub fn appliance_and_disk(name: &Path) -> Option<(&Path, &str)> {
    let (path, disk) = name.to_str()?.rsplit_once(':')?;
    let path = plain_path(path)?;
    (!disk.is_empty() && !name.exists() && path.is_file()).then_some((path, disk))
}

/// Returns the path in a name given by the user.
///
/// # Errors
/// Returns [`Unsupported`](crate::ErrorKind::Unsupported) for other protocols (`nbd:`, `json:`), and
/// [`Invalid`](crate::ErrorKind::Invalid) for an empty name.
pub fn local_path(name: &Path) -> Result<PathBuf> {
    // The path of an existing file is used even if it looks like a protocol.
    match name.to_str() {
        Some(text) if !name.exists() => match text.parse()? {
            Location::Path(path) => Ok(path),
            // The caller's name for messages would contain the password.
            Location::Url(url) => Err(unknown_protocol(url.scheme()).in_file(url.to_string())),
        },
        _ => Ok(name.to_owned()),
    }
}

/// Returns the error for a name whose protocol is not known or not supported.
pub(crate) fn unknown_protocol(scheme: &str) -> Error {
    Error::unsupported(format!("Unknown protocol '{scheme}'"))
        .hint("not every operation takes URLs; for a file whose name has a colon, write ./NAME")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_colon_before_its_first_slash_is_a_url() {
        for (name, scheme) in [
            ("nbd:unix:/run/x", "nbd"),
            ("nbd+unix:///x?socket=/run/x", "nbd+unix"),
            ("https://host:80/a:b", "https"),
            ("json:{}", "json"),
            ("a,b:c.raw", "a,b"),
            (":x", ""),
        ] {
            let upper = name.replacen(scheme, &scheme.to_uppercase(), 1);
            assert_eq!(Url::new(upper), Url::new(name));
            let Location::Url(url) = name.parse().expect(name) else { panic!("{name}: a path") };
            assert_eq!((url.scheme(), url.as_str()), (scheme, name));
        }
        for (name, path) in [
            ("a.raw", "a.raw"),
            ("./a:b", "./a:b"),
            ("/dev/disk/by-path/pci-0:1", "/dev/disk/by-path/pci-0:1"),
            ("file:a.raw?x", "a.raw?x"),
            ("file:///a", "/a"),
        ] {
            assert_eq!(name.parse::<Location>().expect(name), Location::Path(path.into()));
        }
        for name in ["", "a\0b", "file:", "file://host/x"] {
            name.parse::<Location>().expect_err(name);
        }
    }

    #[test]
    fn users_and_passwords_are_not_printed() {
        for (url, printed) in [
            ("https://u:p@host/x", "https://***@host/x"),
            ("https://token@host", "https://***@host"),
            ("https://u:p@x@host:1?a=b@c", "https://***@host:1?a=***"),
            (
                "https://host/x?versionId=3&X-Sig=abc&flag",
                "https://host/x?versionId=***&X-Sig=***&***",
            ),
            ("ftp://me:hun/ter2@h/x", "ftp://***@h/x"),
            ("ftp://me:hun#ter2@h/x", "ftp://***@h/x"),
            ("ftp:me:hunter2@h/x", "ftp:***@h/x"),
            ("https://host:8080/a@b", "https://host:8080/a@b"),
            ("https://host/a@b", "https://host/a@b"),
            ("rbd:pool/image@snapshot", "rbd:pool/image@snapshot"),
            ("nbd+unix:///a?socket=/run/b", "nbd+unix:///a?socket=/run/b"),
        ] {
            let location: Location = url.parse().expect(url);
            assert_eq!(location.to_string(), printed);
            assert_eq!(format!("{location:?}"), format!("Url(Url({printed}))"));
        }
    }

    #[test]
    fn the_directory_of_a_url_ends_with_the_last_slash_of_its_path() {
        for (url, directory) in [
            ("https://host/a/b?c=/d/", "https://host/a/"),
            ("https://me:pw@host?id=1", "https://me:pw@host/"),
            ("https://host", "https://host/"),
            ("mem:a", "mem:"),
            ("mem:a/b#/c", "mem:a/"),
        ] {
            assert_eq!(Url::new(url).expect(url).directory(), directory);
        }
    }

    #[test]
    fn keys_in_names_of_a_cluster_are_not_shown() {
        let shown = |text: &str| Url::new(text).expect("is a URL").to_string();
        assert_eq!(shown("rbd:p/i@s:id=a:key=A==:conf=/c"), "rbd:p/i@s:id=a:key=***:conf=/c");
        assert_eq!(shown(r"rbd:p/i:Secret=a\:b:keyring=/k"), "rbd:p/i:Secret=***:keyring=/k");
        assert_eq!(shown("rbd:p/i:key=A"), "rbd:p/i:key=***");
        let name = |text: &str| Url::new(text).expect("is a URL").file_name().to_owned();
        assert_eq!(name("rbd:p/n/i.qcow2@s:conf=/etc/c"), "i.qcow2");
        assert_eq!(name("https://h:1/a/i.qcow2?x=/y"), "i.qcow2");
    }
}
