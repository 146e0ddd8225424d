//! QEMU's options of a node with the driver `nbd`, as a URI.

use super::uri::encode;
use diskimg::open::{NodeUrl, Url};
use diskimg::{Error, Result};

/// Options that make no difference here, or that say how names are resolved.
const IGNORED: &[&str] = &[
    "server.ipv4",
    "server.ipv6",
    "server.numeric",
    "server.to",
    "server.keep-alive",
    "server.mptcp",
];

/// Returns the URI that a node describes.
///
/// # Errors
/// Returns [`Invalid`](diskimg::ErrorKind::Invalid) if an option is missing or wrong.
pub(super) fn url(node: &mut NodeUrl<'_>) -> Result<Url> {
    if let Some(url) = node.take("url")? {
        return Url::new(url).ok_or_else(|| Error::invalid("the option 'url' is not a URL"));
    }
    let credentials = node.take("tls-creds")?;
    let hostname = node.take("tls-hostname")?;
    if hostname.is_some() && credentials.is_none() {
        return Err(Error::invalid("tls-hostname requires tls-creds"));
    }
    node.ignore(IGNORED);
    // Until QEMU 2.9, these had no prefix.
    let mut take = |key: &str| match node.take(&format!("server.{key}"))? {
        Some(value) => Ok::<_, Error>(Some(value)),
        None => node.take(key),
    };
    let (path, host, port) = (take("path")?, take("host")?, take("port")?);
    let kind = node.take("server.type")?;
    let unexpected = |key| Error::invalid(format!("Parameter '{key}' is unexpected"));
    let missing = |key| Error::invalid(format!("Parameter '{key}' is missing"));
    let (mut url, socket) = match (kind.as_deref(), path, host) {
        (None | Some("unix"), Some(path), None) => {
            ("nbd+unix:///".to_owned(), Some(format!("socket={}", encode(&path))))
        }
        (None | Some("inet"), None, Some(host)) => {
            let port = match (port, &kind) {
                (Some(port), _) => port,
                (None, Some(_)) => return Err(missing("port")),
                (None, None) => super::wire::PORT.to_string(),
            };
            let host = if host.contains(':') { format!("[{host}]") } else { encode(&host) };
            (format!("nbd://{host}:{}/", encode(&port)), None)
        }
        (Some("unix"), None, _) => return Err(missing("path")),
        (Some("inet"), _, None) => return Err(missing("host")),
        (Some("unix"), Some(_), Some(_)) => return Err(unexpected("server.host")),
        (Some("inet"), Some(_), Some(_)) => return Err(unexpected("server.path")),
        (None, Some(_), Some(_)) => {
            return Err(Error::invalid("path and host may not be used at the same time"));
        }
        (None, None, None) => return Err(Error::invalid("NBD server address missing")),
        (Some(other), ..) => {
            let message = format!("Parameter 'type' does not accept value '{other}'");
            return Err(Error::invalid(message));
        }
    };
    url += &encode(&node.take("export")?.unwrap_or_default());
    let mut parameters: Vec<String> = socket.into_iter().collect();
    if let Some(id) = credentials {
        url = url.replacen("nbd", "nbds", 1);
        parameters.push(format!("x-tls-creds={}", encode(&id)));
        parameters.extend(hostname.map(|name| format!("tls-hostname={}", encode(&name))));
    }
    for key in ["x-dirty-bitmap", "open-timeout", "reconnect-delay"] {
        if let Some(value) = node.take(key)? {
            let prefix = if key.starts_with("x-") { "" } else { "x-" };
            parameters.push(format!("{prefix}{key}={}", encode(&value)));
        }
    }
    if !parameters.is_empty() {
        url = format!("{url}?{}", parameters.join("&"));
    }
    Url::new(url).ok_or_else(|| Error::invalid("it is not a URL"))
}
