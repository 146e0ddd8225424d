//! Names of images in a cluster.

use crate::percent::name_decoded;
use diskimg::open::{NodeUrl, Url};
use diskimg::{Error, Result};

/// Keys that name the image in a description of QEMU, and those that make no difference here.
const IGNORED: [&str; 2] = ["auth-client-required", "auth-client-required.0"];

/// An image, and how its cluster is accessed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Name {
    /// The UUID that the cluster must have.
    pub(super) fsid: Option<String>,
    pub(super) pool: String,
    pub(super) namespace: Option<String>,
    pub(super) image: String,
    pub(super) snapshot: Option<String>,
    /// Options of the client, in order: `id`, `conf` and Ceph's own.
    pub(super) options: Vec<(String, String)>,
}

impl Name {
    /// Parses `rbd:POOL/[NAMESPACE/]IMAGE[@SNAPSHOT][:KEY=VALUE…]`, QEMU's form, or
    /// `rbd://FSID/POOL/IMAGE/SNAPSHOT`, that of Glance.
    ///
    /// # Errors
    /// Returns [`Invalid`](diskimg::ErrorKind::Invalid) if it is malformed.
    pub(super) fn parse(url: &Url) -> Result<Self> {
        let rest = &url.as_str()[url.scheme().len() + 1..];
        match rest.strip_prefix("//") {
            Some(rest) => Self::of_glance(rest),
            None => Self::of_qemu(rest),
        }
    }

    fn of_glance(rest: &str) -> Result<Self> {
        let form = "expected rbd://FSID/POOL/IMAGE/SNAPSHOT";
        let parts: Vec<_> = rest.split('/').map(name_decoded).collect::<Result<_>>()?;
        let [fsid, pool, image, snapshot] = parts.as_slice() else {
            return Err(Error::invalid(form));
        };
        if [fsid, pool, image].iter().any(|part| part.is_empty()) {
            return Err(Error::invalid(form));
        }
        Ok(Self {
            fsid: Some(fsid.clone()),
            pool: pool.clone(),
            image: image.clone(),
            snapshot: (!snapshot.is_empty()).then(|| snapshot.clone()),
            ..Self::default()
        })
    }

    fn of_qemu(rest: &str) -> Result<Self> {
        let form = || Error::invalid("expected rbd:POOL/[NAMESPACE/]IMAGE[@SNAPSHOT][:KEY=VALUE]");
        let mut parts = split(rest, ':');
        let spec = parts.remove(0);
        let mut path = split(spec, '/');
        let image = path.pop().ok_or_else(form)?;
        let (pool, namespace) = match path.as_slice() {
            [pool] => (*pool, None),
            [pool, namespace] => (*pool, Some(*namespace)),
            _ => return Err(form()),
        };
        let (image, snapshot) = match split(image, '@').as_slice() {
            [image] => (*image, None),
            [image, snapshot] => (*image, Some(*snapshot)),
            _ => return Err(form()),
        };
        let mut name = Self {
            fsid: None,
            pool: unescaped(pool),
            namespace: namespace.map(unescaped).filter(|name| !name.is_empty()),
            image: unescaped(image),
            snapshot: snapshot.map(unescaped).filter(|name| !name.is_empty()),
            options: Vec::new(),
        };
        if name.pool.is_empty() || name.image.is_empty() {
            return Err(form());
        }
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            let (key, value) = match split(part, '=').as_slice() {
                [key] => return Err(Error::invalid(format!("the option {key:?} has no value"))),
                [key, ..] => (unescaped(key), unescaped(&part[key.len() + 1..])),
                [] => continue,
            };
            name.options.push((key, value));
        }
        Ok(name)
    }

    /// Returns the URL that a description with QEMU's options denotes.
    ///
    /// # Errors
    /// Returns [`Invalid`](diskimg::ErrorKind::Invalid) if an option is missing, and
    /// [`Unsupported`](diskimg::ErrorKind::Unsupported) for `key-secret`.
    pub(super) fn url_of_node(node: &mut NodeUrl<'_>) -> Result<Url> {
        let mut require = |key: &str| {
            let missing = || Error::invalid(format!("Parameter '{key}' is missing"));
            node.take(key)?.ok_or_else(missing)
        };
        let mut name = Self {
            pool: require("pool")?,
            image: require("image")?,
            namespace: node.take("namespace")?,
            snapshot: node.take("snapshot")?,
            ..Self::default()
        };
        if node.take("key-secret")?.is_some() {
            let error = Error::unsupported("the option 'key-secret' is not supported");
            return Err(error.hint("name a keyring in the configuration"));
        }
        node.ignore(&IGNORED);
        for (key, option) in [("user", "id"), ("conf", "conf")] {
            let value = node.take(key)?;
            name.options.extend(value.map(|value| (option.to_owned(), value)));
        }
        let mut servers = Vec::new();
        for number in 0.. {
            let (host, port) = (format!("server.{number}.host"), format!("server.{number}.port"));
            let (Some(host), Some(port)) = (node.take(&host)?, node.take(&port)?) else { break };
            let host = if host.contains(':') { format!("[{host}]") } else { host };
            servers.push(format!("{host}:{port}"));
        }
        if !servers.is_empty() {
            name.options.push(("mon_host".to_owned(), servers.join(",")));
        }
        let wrong = || Error::invalid("the image has no name");
        Url::new(name.to_string()).ok_or_else(wrong)
    }

    /// Returns the value of an option of the client; the last one counts.
    pub(super) fn option(&self, key: &str) -> Option<&str> {
        let found = self.options.iter().rev().find(|(name, _)| name == key);
        found.map(|(_, value)| value.as_str())
    }

    /// Returns the name of the image for messages.
    pub(super) fn shown(&self) -> String {
        let namespace = self.namespace.as_ref().map_or(String::new(), |name| format!("{name}/"));
        let snapshot = self.snapshot.as_ref().map_or(String::new(), |name| format!("@{name}"));
        format!("{}/{namespace}{}{snapshot}", self.pool, self.image)
    }
}

/// In QEMU's form.
impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rbd:{}/", escaped(&self.pool))?;
        if let Some(namespace) = &self.namespace {
            write!(f, "{}/", escaped(namespace))?;
        }
        write!(f, "{}", escaped(&self.image))?;
        if let Some(snapshot) = &self.snapshot {
            write!(f, "@{}", escaped(snapshot))?;
        }
        for (key, value) in &self.options {
            write!(f, ":{}={}", escaped(key), escaped(value))?;
        }
        Ok(())
    }
}

/// Splits text at a character that is not escaped by a backslash. Never returns nothing.
fn split(text: &str, at: char) -> Vec<&str> {
    let (mut parts, mut start, mut is_escaped) = (Vec::new(), 0, false);
    for (index, c) in text.char_indices() {
        if c == at && !is_escaped {
            parts.push(&text[start..index]);
            start = index + c.len_utf8();
        }
        is_escaped = c == '\\' && !is_escaped;
    }
    parts.push(&text[start..]);
    parts
}

/// Removes backslashes.
fn unescaped(text: &str) -> String {
    let mut chars = text.chars();
    let mut out = String::new();
    while let Some(c) = chars.next() {
        out.push(if c == '\\' { chars.next().unwrap_or(c) } else { c });
    }
    out
}

fn escaped(text: &str) -> String {
    let is_special = |c: char| ['\\', ':', '/', '@', '='].contains(&c);
    text.chars().flat_map(|c| is_special(c).then_some('\\').into_iter().chain([c])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Name> {
        Name::parse(&Url::new(text).expect("is a URL"))
    }

    #[test]
    fn names_of_qemu_are_parsed_and_written() {
        let name =
            |pool: &str, namespace: Option<&str>, image: &str, snapshot: Option<&str>| Name {
                pool: pool.to_owned(),
                namespace: namespace.map(str::to_owned),
                image: image.to_owned(),
                snapshot: snapshot.map(str::to_owned),
                ..Name::default()
            };
        for (text, expected) in [
            ("rbd:vms/a", name("vms", None, "a", None)),
            ("rbd:vms/ns/a@b", name("vms", Some("ns"), "a", Some("b"))),
            (r"rbd:v\:m\/s/a\@b\\", name("v:m/s", None, r"a@b\", None)),
        ] {
            assert_eq!(parse(text).expect(text), expected);
            assert_eq!(parse(&expected.to_string()).expect(text), expected);
        }
        let found = parse(r"rbd:p/i@s:id=cinder:conf=/etc/ceph/c.conf:mon_host=a\:6789\,b:key=a==")
            .expect("is valid");
        let options = [
            ("id", "cinder"),
            ("conf", "/etc/ceph/c.conf"),
            ("mon_host", "a:6789,b"),
            ("key", "a=="),
        ];
        let options = options.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(found.options, options);
        assert_eq!(parse(&found.to_string()).expect("is valid"), found);
        for wrong in ["rbd:", "rbd:pool", "rbd:/i", "rbd:p/", "rbd:a/b/c/d", "rbd:p/i@a@b"] {
            parse(wrong).expect_err(wrong);
        }
        parse("rbd:p/i:id").expect_err("no value");
    }

    #[test]
    fn names_of_glance_are_parsed() {
        let found = parse("rbd://0-1/im%2Fages/0a-b/snap").expect("is valid");
        assert_eq!(found.fsid.as_deref(), Some("0-1"));
        assert_eq!((&*found.pool, &*found.image), ("im/ages", "0a-b"));
        assert_eq!(found.snapshot.as_deref(), Some("snap"));
        for wrong in [
            "rbd://image",
            "rbd://a/b/c",
            "rbd:///b/c/d",
            "rbd://a/b/c/d/e",
            // It is not taken for U+FFFD.
            "rbd://0-1/images/0a%FFb/snap",
        ] {
            parse(wrong).expect_err(wrong);
        }
        assert_eq!(parse("rbd://0-1/%+f/i/s").expect("is valid").pool, "%+f");
    }
}
