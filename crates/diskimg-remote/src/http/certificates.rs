//! The authorities whose certificates are trusted.

use diskimg::{Error, Result};
use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use ureq::tls::{PemItem, RootCerts, parse_pem};

/// Where distributions of Linux and BSD keep the certificates.
const SYSTEM: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/usr/local/share/certs/ca-root-nss.crt",
];

/// Returns the file with the certificates of this system: `SSL_CERT_FILE` in the environment, or that
/// of the distribution.
pub(super) fn system_bundle() -> Option<PathBuf> {
    let named = env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    named.or_else(|| SYSTEM.iter().map(PathBuf::from).find(|path| path.is_file()))
}

/// Returns the certificates in `file`, or else those of the system, or else Mozilla's.
///
/// # Errors
/// Returns [`Io`](diskimg::ErrorKind::Io) if the file cannot be read, and
/// [`Invalid`](diskimg::ErrorKind::Invalid) if it has no certificate.
pub(super) fn trusted(file: Option<&Path>) -> Result<RootCerts> {
    let file = match file {
        Some(file) => file.to_owned(),
        None if cfg!(any(windows, target_os = "macos")) => return Ok(RootCerts::PlatformVerifier),
        None => match system_bundle() {
            Some(file) => file,
            None => return Ok(RootCerts::WebPki),
        },
    };
    let text = std::fs::read(&file)
        .map_err(|e| Error::io("cannot read the certificates", e).in_file(&file))?;
    let certificates = parse_pem(&text).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    let certificates: Vec<_> = certificates.collect();
    match certificates.is_empty() {
        true => Err(Error::invalid("it has no certificate").in_file(&file)),
        false => Ok(RootCerts::Specific(Arc::new(certificates))),
    }
}
