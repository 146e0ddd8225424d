//! Names of objects.
//!
//! ```text
//!   swift://CONTAINER/OBJECT[?cloud=NAME]              this user's cloud
//!   swift+https://USER:KEY@AUTH/CONTAINER/OBJECT       as Glance records the location of an image
//! ```

use crate::openstack::Credentials;
use crate::percent::{decoded, encoded, name_decoded};
use diskimg::open::Url;
use diskimg::{Error, Result};

/// Maximum length in bytes of the name of a container.
const MAX_CONTAINER: usize = 256;

/// An object, as the caller names it.
#[derive(Debug)]
pub(super) struct ObjectUrl {
    pub(super) container: String,
    pub(super) name: String,
    /// The cloud in `clouds.yaml`.
    pub(super) cloud: Option<String>,
    /// Those of the location of an image in Glance.
    pub(super) credentials: Option<Credentials>,
}

impl ObjectUrl {
    /// Parses a URL. Names are percent-encoded; `#` has no special meaning in them.
    ///
    /// # Errors
    /// Returns [`Invalid`](diskimg::ErrorKind::Invalid) if it is malformed.
    pub(super) fn parse(url: &Url) -> Result<Self> {
        match url.as_str().strip_prefix("swift://") {
            Some(text) => Self::parse_own(text),
            None => Self::parse_glance(url),
        }
    }

    fn parse_own(text: &str) -> Result<Self> {
        let malformed =
            || Error::invalid("the URL is malformed; expected swift://CONTAINER/OBJECT");
        let (path, query) = match text.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (text, None),
        };
        let (container, name) = path.split_once('/').ok_or_else(malformed)?;
        if container.contains('@') {
            return Err(Error::invalid("the URL of an object has no user and password")
                .hint("name a cloud of clouds.yaml, or set OS_USERNAME and OS_PASSWORD"));
        }
        let (container, name) = (name_decoded(container)?, name_decoded(name)?);
        require_container(&container)?;
        if name.is_empty() {
            return Err(malformed());
        }
        let mut cloud = None;
        for item in query.into_iter().flat_map(|query| query.split('&')) {
            let (key, value) = item.split_once('=').unwrap_or((item, ""));
            if key != "cloud" {
                return Err(Error::invalid(format!("the URL has the parameter '{key}'"))
                    .hint("the only parameter is cloud; a '?' in a name is %3F"));
            }
            let value = name_decoded(value)?;
            if value.is_empty() || cloud.replace(value).is_some() {
                return Err(Error::invalid(format!("the URL has no single value of '{key}'")));
            }
        }
        Ok(Self { container, name, cloud, credentials: None })
    }

    /// Parses the location of an image in Glance's Swift store. The last two components of the path
    /// are the container and the object, and what is before them is the URL of the authentication.
    fn parse_glance(url: &Url) -> Result<Self> {
        const FORM: &str = "the location is malformed; expected \
                            swift+https://USER:KEY@HOST/AUTH/CONTAINER/OBJECT";
        let malformed = || Error::invalid(FORM);
        let text = url.as_str().strip_prefix("swift+").ok_or_else(malformed)?;
        let (scheme, rest) = text.split_once("://").ok_or_else(malformed)?;
        if rest.contains(['?', '#']) {
            return Err(malformed());
        }
        let (authority, _) = rest.split_once('/').ok_or_else(malformed)?;
        let Some((login, _)) = authority.rsplit_once('@') else {
            return Err(Error::invalid("the location names no user")
                .hint("swift://CONTAINER/OBJECT is read as this user"));
        };
        // A user can contain `:`, between an account and its user.
        let (user, key) = login.rsplit_once(':').ok_or_else(malformed)?;
        // The key must not be shown.
        let text = |part| String::from_utf8(decoded(part)).map_err(|_| malformed());
        let (user, key) = (text(user)?, text(key)?);
        let mut parts = rest[login.len() + 1..].rsplitn(3, '/');
        let (name, container) = (parts.next(), parts.next());
        let auth = parts.next().ok_or_else(malformed)?;
        let container = name_decoded(container.unwrap_or_default())?;
        let name = name_decoded(name.unwrap_or_default())?;
        require_container(&container)?;
        if name.is_empty() {
            return Err(malformed());
        }
        let auth_url = format!("{scheme}://{auth}");
        let credentials = match user.split_once(':') {
            Some((project, user)) if !is_v1(&auth_url) => {
                Credentials::password(auth_url, user, key, project)
            }
            _ => Credentials::v1(auth_url, user, key),
        };
        Ok(Self { container, name, cloud: None, credentials: Some(credentials) })
    }
}

/// Returns true for the URL of Swift's own authentication.
fn is_v1(auth_url: &str) -> bool {
    let last = auth_url.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    last == "v1" || last == "v1.0"
}

fn require_container(name: &str) -> Result<()> {
    match (1..=MAX_CONTAINER).contains(&name.len()) && !name.contains('/') {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "'{}' is not the name of a container",
            diskimg::printable(name)
        ))),
    }
}

/// Returns the path of a container, or of an object in it.
pub(super) fn path(container: &str, name: Option<&str>) -> String {
    let name = name.map(|name| {
        let parts: Vec<_> = name.split('/').map(encoded).collect();
        format!("/{}", parts.join("/"))
    });
    format!("/{}{}", encoded(container), name.unwrap_or_default())
}

/// Returns the URL of the object `name`, a path relative to that of `url` up to its last slash.
/// Returns `None` if it leaves the container.
pub(super) fn join(url: &str, name: &str) -> Option<String> {
    let text = url.strip_prefix("swift://")?;
    let (path, query) = text.split_at(text.find('?').unwrap_or(text.len()));
    let (container, object) = path.split_once('/')?;
    let mut parts: Vec<String> = object.split('/').map(str::to_owned).collect();
    parts.pop();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(encoded(part)),
        }
    }
    Some(format!("swift://{container}/{}{query}", parts.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ObjectUrl> {
        ObjectUrl::parse(&Url::new(text).expect("is a URL"))
    }

    #[test]
    fn objects_are_named_by_urls() {
        let found = parse("swift://my%20c/a%20b/c#d.qcow2?cloud=x%2Fy").expect("is valid");
        assert_eq!((&*found.container, &*found.name), ("my c", "a b/c#d.qcow2"));
        assert_eq!(found.cloud.as_deref(), Some("x/y"));
        assert_eq!(path(&found.container, Some("ü/a b")), "/my%20c/%C3%BC/a%20b");
        for wrong in [
            "swift:/c/o",
            "swift://c",
            "swift://c/",
            "swift:///o",
            "swift://a%2Fb/o",
            "swift://user:secret@c/o",
            "swift://c/o?temp_url_sig=x",
            "swift://c/o?cloud=",
            "swift://c/o?cloud=a&cloud=b",
            "swift://c/%FF",
            "swift+https://h/v3/c/o",
            "swift+https://user:secret@h/o",
            "swift+https://secret@h/v3/c/o",
            "swift+https://user:secret@h/v3/c/o?x",
        ] {
            let error = parse(wrong).expect_err(wrong).to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn locations_of_glance_have_their_own_credentials() {
        use crate::openstack::Credentials as C;
        let show = |credentials: &C| format!("{credentials:?} {}", credentials.described());
        for (url, expected) in [
            (
                "swift+http://acc:us%40er:k%2Fey@h:1/auth/v1.0/c/o",
                C::v1("http://h:1/auth/v1.0", "acc:us@er", "k/ey"),
            ),
            (
                "swift+https://proj%3Auser:key@h/identity/v3/c/o",
                C::password("https://h/identity/v3", "user", "key", "proj"),
            ),
        ] {
            let found = parse(url).expect(url);
            assert_eq!((&*found.container, &*found.name), ("c", "o"));
            let credentials = found.credentials.expect("has some");
            assert_eq!(show(&credentials), show(&expected));
        }
    }

    #[test]
    fn names_are_joined_to_the_directory_of_the_object() {
        for (url, name, joined) in [
            ("swift://c/a/b.qcow2", "c d.raw", "swift://c/a/c%20d.raw"),
            ("swift://c/a?cloud=x", "b", "swift://c/b?cloud=x"),
            ("swift://c/a/b/c", "../d?e", "swift://c/a/d%3Fe"),
        ] {
            assert_eq!(join(url, name).as_deref(), Some(joined), "{url} {name}");
        }
        assert_eq!(join("swift://c/a", "../b"), None);
        assert_eq!(join("swift+https://p:u:k@h/v3/c/a", "b"), None);
    }
}
