//! Ceph's block devices.

use super::{Known, NetworkArgs};
use diskimg::open::{Node, Protocol};
use diskimg_remote::rbd::{Rbd, RbdOptions};
use std::path::PathBuf;
use std::sync::Arc;

pub(super) const RBD: Known = Known {
    // A malformed URL is not opened.
    files_of: |_, url| Rbd::new().files(url).unwrap_or_default(),
    files_of_node,
    prepare: Rbd::load,
    ..Known::new(&["rbd"], protocol, |_| Vec::new())
};

fn protocol(args: &NetworkArgs) -> Arc<dyn Protocol> {
    let mut options = RbdOptions::default();
    options.forbid_private_addresses = args.no_private_addresses;
    Arc::new(Rbd::with_options(options))
}

fn files_of_node(node: &Node) -> Vec<PathBuf> {
    let (conf, user) = (node.values("conf"), node.values("user"));
    Rbd::new().files_of_node(conf.first().copied(), user.first().copied())
}
