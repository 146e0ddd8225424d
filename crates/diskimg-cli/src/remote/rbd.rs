//! Ceph's block devices.

use super::Known;
use diskimg::open::Node;
use diskimg_remote::rbd::Rbd;
use std::path::PathBuf;
use std::sync::Arc;

pub(super) const RBD: Known = Known {
    // A malformed URL is not opened.
    files_of: |_, url| Rbd::new().files(url).unwrap_or_default(),
    files_of_node,
    prepare: Rbd::load,
    ..Known::new(&["rbd"], |_| Arc::new(Rbd::new()), |_| Vec::new())
};

fn files_of_node(node: &Node) -> Vec<PathBuf> {
    let (conf, user) = (node.values("conf"), node.values("user"));
    Rbd::new().files_of_node(conf.first().copied(), user.first().copied())
}
