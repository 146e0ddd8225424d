//! Names of exports: NBD URIs, and QEMU's older names.
//!
//! ```text
//!   nbd://HOST[:PORT]/EXPORT                  nbd+unix:///EXPORT?socket=PATH
//!   nbds://HOST[:PORT]/EXPORT?tls-…           nbds+unix:///EXPORT?socket=PATH&tls-…
//!   nbd:HOST:PORT[:exportname=EXPORT]         nbd:unix:PATH[:exportname=EXPORT]
//! ```
//!
//! See `doc/uri.md` of the NBD project. Parameters that are unknown are errors, as it demands. Those
//! that begin with `x-` are not in it: options of QEMU's nodes, which are translated to URIs.

use super::wire::{MAX_STRING, PORT};
use diskimg::storage::source::HostFileId;
use diskimg::{Error, Result};
use std::fmt;
use std::net::ToSocketAddrs;
use std::path::PathBuf;

/// The schemes of names of exports.
pub(super) const SCHEMES: &[&str] =
    &["nbd", "nbd+tcp", "nbd+unix", "nbds", "nbds+tcp", "nbds+unix"];

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) address: Address,
    pub(super) export: String,
    /// With TLS.
    pub(super) tls: Option<TlsParameters>,
    pub(super) extra: Extra,
}

/// Parameters that are not in the specification.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Extra {
    /// `x-dirty-bitmap`: a context of metadata that is shown instead of the data.
    pub(super) context: Option<String>,
    /// `x-tls-creds`: a name that is known to the caller.
    pub(super) credentials: Option<String>,
    /// `x-open-timeout`, in seconds.
    pub(super) open_timeout: Option<u32>,
    /// `x-reconnect-delay`, in seconds.
    pub(super) reconnect_delay: Option<u32>,
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    Tcp {
        /// Without the brackets of an IPv6 address.
        host: String,
        port: u16,
    },
    Unix(PathBuf),
}

impl Address {
    /// Returns the identity of an export at this address. Other addresses of the same server are
    /// others, but other spellings of one are not.
    pub(super) fn identity(&self, export: &str) -> HostFileId {
        let place = match self {
            Self::Tcp { host, port } => {
                let found = (host.as_str(), *port).to_socket_addrs();
                let mut found: Vec<_> = found.into_iter().flatten().collect();
                found.sort_unstable();
                format!("{found:?}")
            }
            Self::Unix(path) => format!("{:?}", HostFileId::at(path)),
        };
        HostFileId::elsewhere(&format!("nbd {place}\0{export}"))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// What a name says about TLS. What it does not say is up to the caller.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct TlsParameters {
    /// `tls-certificates`: a directory.
    pub(super) certificates: Option<PathBuf>,
    /// `tls-hostname`: the name in the server's certificate.
    pub(super) hostname: Option<String>,
    /// `tls-verify-peer`.
    pub(super) verify_peer: Option<bool>,
}

impl Target {
    /// Parses a name.
    ///
    /// # Errors
    /// Returns [`Invalid`](diskimg::ErrorKind::Invalid) if it is malformed, and
    /// [`Unsupported`](diskimg::ErrorKind::Unsupported) for pre-shared keys.
    pub(super) fn parse(name: &str) -> Result<Self> {
        let target = match name.split_once("://") {
            Some((scheme, rest)) if SCHEMES.contains(&scheme) => Self::parse_uri(scheme, rest),
            _ => Self::parse_old(name),
        }?;
        match target.export.len() > MAX_STRING {
            true => Err(invalid(format!("the name of an export has at most {MAX_STRING} bytes"))),
            false => Ok(target),
        }
    }

    fn parse_uri(scheme: &str, rest: &str) -> Result<Self> {
        if rest.contains('#') {
            return Err(invalid("an NBD URI has no fragment; '#' is written as %23"));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, export) = rest.split_once('/').unwrap_or((rest, ""));
        let is_unix = scheme.ends_with("+unix");
        let mut socket = None;
        let mut tls = scheme.starts_with("nbds").then(TlsParameters::default);
        let mut extra = Extra::default();
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let value = decode(value)?;
            match (key, &mut tls) {
                ("socket", _) if is_unix => socket = Some(PathBuf::from(value)),
                ("x-dirty-bitmap", _) => extra.context = Some(context(value)?),
                ("x-open-timeout", _) => extra.open_timeout = Some(seconds(key, &value)?),
                ("x-reconnect-delay", _) => extra.reconnect_delay = Some(seconds(key, &value)?),
                ("x-tls-creds", Some(_)) => extra.credentials = Some(value),
                ("tls-psk-file", _) => return Err(no_shared_keys()),
                ("tls-type", Some(_)) => require_x509(&value)?,
                ("tls-certificates", Some(tls)) => tls.certificates = Some(value.into()),
                ("tls-hostname", Some(tls)) => tls.hostname = Some(value),
                ("tls-verify-peer", Some(tls)) => tls.verify_peer = Some(switch(key, &value)?),
                _ => return Err(unknown_parameter(scheme, key)),
            }
        }
        let address = match is_unix {
            false => tcp_address(authority)?,
            true if !authority.is_empty() => {
                return Err(invalid(format!("{scheme}: has no host: {scheme}:///EXPORT?socket=…")));
            }
            true => {
                let socket = socket.filter(|path| !path.as_os_str().is_empty());
                let missing = || invalid(format!("{scheme}: needs the parameter 'socket'"));
                Address::Unix(socket.ok_or_else(missing)?)
            }
        };
        Ok(Self { address, export: decode(export)?, tls, extra })
    }

    /// QEMU's names before there were URIs. Nothing in them is percent-encoded.
    fn parse_old(name: &str) -> Result<Self> {
        let malformed = || {
            invalid("expected nbd://HOST/EXPORT, nbd+unix:///EXPORT?socket=PATH or nbd:HOST:PORT")
        };
        let rest = name.strip_prefix("nbd:").ok_or_else(malformed)?;
        let (place, export) = rest.split_once(":exportname=").unwrap_or((rest, ""));
        if place.ends_with(":exportname") || place.contains(":exportname:") {
            return Err(invalid(
                "the name of the export follows '=': nbd:HOST:PORT:exportname=NAME",
            ));
        }
        let address = match place.strip_prefix("unix:") {
            Some("") => return Err(malformed()),
            Some(path) => Address::Unix(path.into()),
            // The port is not optional.
            None => match tcp_address(place)? {
                address if place.contains(':') && !place.ends_with(']') => address,
                _ => return Err(malformed()),
            },
        };
        Ok(Self { address, export: export.to_owned(), tls: None, extra: Extra::default() })
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::invalid(message.into())
}

fn unknown_parameter(scheme: &str, key: &str) -> Error {
    match key.starts_with("tls-") {
        true => invalid(format!("the parameter '{key}' is for nbds:, not for {scheme}:")),
        false => invalid(format!("unknown parameter '{key}' of a {scheme}: URI")),
    }
}

fn no_shared_keys() -> Error {
    Error::unsupported("TLS with pre-shared keys is not supported, only with certificates")
}

fn require_x509(kind: &str) -> Result<()> {
    match kind {
        "x509" => Ok(()),
        "psk" => Err(no_shared_keys()),
        "anon" => Err(Error::unsupported("TLS without certificates is not supported")),
        _ => Err(invalid("the parameter 'tls-type' is x509")),
    }
}

fn switch(key: &str, value: &str) -> Result<bool> {
    match value {
        "1" | "true" | "on" | "yes" => Ok(true),
        "0" | "false" | "off" | "no" => Ok(false),
        _ => Err(invalid(format!("the parameter '{key}' is true or false"))),
    }
}

fn seconds(key: &str, value: &str) -> Result<u32> {
    value.parse().map_err(|_| invalid(format!("the parameter '{key}' is a number of seconds")))
}

/// A name of a context, `NAMESPACE:NAME`.
fn context(value: String) -> Result<String> {
    match value.contains(':') && value.len() <= MAX_STRING {
        true => Ok(value),
        false => Err(invalid("a context of metadata is named like qemu:dirty-bitmap:NAME")),
    }
}

/// Parses `HOST[:PORT]`; no host is this one.
fn tcp_address(authority: &str) -> Result<Address> {
    if authority.contains('@') {
        // The name of a pre-shared key.
        return Err(Error::unsupported("an NBD URI with a user name is not supported")
            .hint("user names are for TLS with pre-shared keys"));
    }
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) if host.parse::<std::net::Ipv6Addr>().is_ok() => {
            (host.to_owned(), port.strip_prefix(':').or(Some(port).filter(|port| !port.is_empty())))
        }
        None if !authority.starts_with('[') => match authority.split_once(':') {
            Some((host, port)) => (decode(host)?, Some(port)),
            None => (decode(authority)?, None),
        },
        _ => return Err(invalid("an address in brackets is an IPv6 address")),
    };
    let port = match port {
        None | Some("") => PORT,
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits
            .parse()
            .ok()
            .filter(|&port| port != 0)
            .ok_or_else(|| invalid("a port is a number up to 65535"))?,
        Some(_) => return Err(invalid("a port is a number up to 65535")),
    };
    let host = if host.is_empty() { "localhost".to_owned() } else { host };
    Ok(Address::Tcp { host, port })
}

/// Decodes `%20` and the like.
fn decode(text: &str) -> Result<String> {
    let digit = |byte: Option<&u8>| byte.and_then(|&byte| char::from(byte).to_digit(16));
    let malformed = || invalid("a '%' in a URI is followed by two hexadecimal digits");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            let digits = digit(rest.first()).zip(digit(rest.get(1)));
            let (high, low) = digits.ok_or_else(malformed)?;
            bytes.push((high << 4 | low) as u8);
            rest = &rest[2..];
        } else {
            bytes.push(byte);
        }
    }
    match String::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err(invalid("a part of the URI is not text")),
    }
}

/// Encodes a part of a URI.
pub(super) fn encode(text: &str) -> String {
    text.bytes().fold(String::new(), |encoded, byte| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' | b':' => {
            encoded + char::from(byte).encode_utf8(&mut [0; 4])
        }
        _ => encoded + &format!("%{byte:02X}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use diskimg::ErrorKind;

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp { host: host.into(), port }
    }

    #[test]
    fn names_of_exports() {
        for (name, address, export) in [
            ("nbd://host/disk", tcp("host", 10809), "disk"),
            ("nbd+tcp://host/disk", tcp("host", 10809), "disk"),
            ("nbd://host", tcp("host", 10809), ""),
            ("nbd://host:/", tcp("host", 10809), ""),
            ("nbd:///x", tcp("localhost", 10809), "x"),
            ("nbd://127.0.0.1:10810//a/b%20c%2f", tcp("127.0.0.1", 10810), "/a/b c/"),
            ("nbd://[::1]/x", tcp("::1", 10809), "x"),
            ("nbd://[fe80::1]:99/x", tcp("fe80::1", 99), "x"),
            ("nbd+unix:///disk?socket=/run/a%20b", Address::Unix("/run/a b".into()), "disk"),
            ("nbd+unix://?socket=s", Address::Unix("s".into()), ""),
            ("nbd:unix:/run/x", Address::Unix("/run/x".into()), ""),
            ("nbd:unix:/run/x:exportname=a:b%20", Address::Unix("/run/x".into()), "a:b%20"),
            ("nbd:host:1", tcp("host", 1), ""),
            ("nbd:[::1]:10809:exportname=d", tcp("::1", 10809), "d"),
        ] {
            let export = export.to_owned();
            let expected = Target { address, export, tls: None, extra: Extra::default() };
            assert_eq!(Target::parse(name).expect(name), expected, "{name}");
        }
    }

    #[test]
    fn parameters_of_tls() {
        let name =
            "nbds://host/x?tls-type=x509&tls-certificates=/a&tls-hostname=h&tls-verify-peer=0";
        let tls = Target::parse(name).expect("parses").tls.expect("has TLS");
        assert_eq!(tls.certificates, Some("/a".into()));
        assert_eq!((tls.hostname.as_deref(), tls.verify_peer), (Some("h"), Some(false)));
        let unix = Target::parse("nbds+unix:///?socket=s").expect("parses");
        assert_eq!(unix.tls, Some(TlsParameters::default()));
        for name in [
            "nbds://host/?tls-psk-file=/keys",
            "nbds://host/?tls-type=psk",
            "nbds://host/?tls-type=anon",
            "nbds://alice@host/",
        ] {
            let error = Target::parse(name).expect_err(name);
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{name}: {error}");
        }
    }

    #[test]
    fn malformed_names_are_refused() {
        for name in [
            "nbd://host/x?unknown=1",
            "nbd://host/x?socket=/run/x",
            "nbd://host/x?tls-hostname=h",
            "nbd://host/x#1",
            "nbd://host/x?x-dirty-bitmap=b0",
            "nbd://host/x?x-open-timeout=soon",
            "nbd://host:0/",
            "nbd://host:65536/",
            "nbd://host:+1/",
            "nbd://[host]/",
            "nbd://[::1/",
            "nbd://host/%2",
            "nbd://host/%ff",
            "nbd://host/a%00",
            "nbd+unix:///x",
            "nbd+unix:///x?socket=",
            "nbd+unix://host/x?socket=s",
            "nbds://host/?tls-verify-peer=maybe",
            "nbd:",
            "nbd:host",
            "nbd:[::1]",
            "nbd:unix:",
            "nbd+unix:/run/x",
        ] {
            let error = Target::parse(name).expect_err(name);
            assert_eq!(error.kind(), ErrorKind::Invalid, "{name}: {error}");
        }
        for name in ["nbd:host:1:exportname", "nbd:host:1:exportname:d", "nbd:unix:/s:exportname"] {
            let error = Target::parse(name).expect_err(name).to_string();
            assert!(error.contains("nbd:HOST:PORT:exportname=NAME"), "{name}: {error}");
        }
        let long = format!("nbd://host/{}", "x".repeat(MAX_STRING + 1));
        Target::parse(&long).expect_err("long");
    }
}
