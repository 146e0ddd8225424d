//! NBD.

use super::{Known, NetworkArgs};
use diskimg::open::{Node, Protocol, Url};
use diskimg_remote::nbd::{Nbd, NbdOptions};
use std::path::PathBuf;
use std::sync::Arc;

pub(super) const NBD: Known =
    Known { files_of, files_of_node, ..Known::new(Nbd::SCHEMES, protocol, |_| Vec::new()) };

fn protocol(args: &NetworkArgs) -> Arc<dyn Protocol> {
    Arc::new(nbd(args))
}

fn nbd(args: &NetworkArgs) -> Nbd {
    let mut options = NbdOptions::default();
    options.ca_bundle.clone_from(&args.ca_bundle);
    options.insecure = args.insecure;
    options.forbid_private_addresses = args.no_private_addresses;
    Nbd::with_options(options)
}

/// Returns the files that are read to access an export.
fn files_of(args: &NetworkArgs, url: &Url) -> Vec<PathBuf> {
    // A malformed URL is not opened.
    nbd(args).files(url.as_str()).unwrap_or_default()
}

/// Returns the files that are read to access an export that is described: to resolve a name.
fn files_of_node(_: &Node) -> Vec<PathBuf> {
    nbd(&NetworkArgs::default()).files("nbd://host/").unwrap_or_default()
}
