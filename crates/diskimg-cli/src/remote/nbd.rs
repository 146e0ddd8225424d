//! NBD.

use super::{Known, NetworkArgs, TlsCredentials};
use diskimg::open::{Node, Protocol, Url};
use diskimg_remote::nbd::{self, Nbd, NbdOptions};
use std::path::PathBuf;
use std::sync::Arc;

pub(super) const NBD: Known =
    Known { files_of, files_of_node, ..Known::new(Nbd::SCHEMES, protocol, files) };

fn protocol(args: &NetworkArgs) -> Arc<dyn Protocol> {
    Arc::new(configured(args))
}

fn configured(args: &NetworkArgs) -> Nbd {
    let mut options = NbdOptions::default();
    options.ca_bundle.clone_from(&args.ca_bundle);
    options.insecure = args.insecure;
    options.forbid_private_addresses = args.no_private_addresses;
    for TlsCredentials { id, directory, verify_peer } in args.credentials.clone() {
        options.credentials.insert(id, nbd::TlsCredentials { directory, verify_peer });
    }
    Nbd::with_options(options)
}

/// Returns the files of credentials.
fn files(args: &NetworkArgs) -> Vec<PathBuf> {
    args.credentials.iter().map(|credentials| credentials.directory.clone()).collect()
}

/// Returns the files that are read to access an export.
fn files_of(args: &NetworkArgs, url: &Url) -> Vec<PathBuf> {
    // A malformed URL is not opened.
    configured(args).files(url.as_str()).unwrap_or_default()
}

/// Returns the files that are read to access an export that is described: to resolve a name.
fn files_of_node(_: &Node) -> Vec<PathBuf> {
    configured(&NetworkArgs::default()).files("nbd://host/").unwrap_or_default()
}
