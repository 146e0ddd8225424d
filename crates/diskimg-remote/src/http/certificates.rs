//! The authorities whose certificates are trusted.

use crate::certificates::system_bundle;
use diskimg::{Error, Result};
use std::path::Path;
use std::sync::Arc;
use ureq::tls::{PemItem, RootCerts, parse_pem};

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
