//! Names of hosts and their addresses.

use crate::addresses::is_private;
use std::net::SocketAddr;
use ureq::Error;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// Resolves names, and refuses those of which an address is private. What is checked is what is
/// connected to, so that a name cannot have another address the next time.
#[derive(Debug)]
pub(super) struct CheckedResolver {
    inner: DefaultResolver,
    forbids_private: bool,
}

impl CheckedResolver {
    pub(super) fn new(forbids_private: bool) -> Self {
        Self { inner: DefaultResolver::default(), forbids_private }
    }
}

impl Resolver for CheckedResolver {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let found = self.inner.resolve(uri, config, timeout)?;
        match found.iter().map(SocketAddr::ip).find(|&ip| is_private(ip)) {
            Some(ip) if self.forbids_private => {
                let message = format!("the address {ip} is private, which is not allowed");
                Err(std::io::Error::new(std::io::ErrorKind::PermissionDenied, message).into())
            }
            _ => Ok(found),
        }
    }
}
