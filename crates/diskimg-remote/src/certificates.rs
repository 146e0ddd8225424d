//! The authorities whose certificates the system trusts.

use std::env;
use std::path::PathBuf;

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
pub(crate) fn system_bundle() -> Option<PathBuf> {
    let named = env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    named.or_else(|| SYSTEM.iter().map(PathBuf::from).find(|path| path.is_file()))
}
