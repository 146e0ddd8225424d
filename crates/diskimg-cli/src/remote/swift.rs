//! OpenStack's object store.

use super::lazy::Lazy;
use super::{Known, NetworkArgs};
use diskimg::open::Protocol;
use diskimg_remote::swift::{Swift, SwiftOptions};
use std::path::PathBuf;
use std::sync::Arc;

pub(super) const SWIFT: Known = Known::new(SCHEMES, protocol, files);

const SCHEMES: &[&str] = &["swift", "swift+http", "swift+https"];

fn protocol(args: &NetworkArgs) -> Arc<dyn Protocol> {
    let args = args.clone();
    let make = move || Ok(Arc::new(Swift::with_options(options(&args))?) as Arc<dyn Protocol>);
    Arc::new(Lazy::new(SCHEMES, make))
}

fn files(args: &NetworkArgs) -> Vec<PathBuf> {
    options(args).files()
}

fn options(args: &NetworkArgs) -> SwiftOptions {
    let mut options = SwiftOptions::default();
    options.http.ca_bundle.clone_from(&args.ca_bundle);
    options.http.insecure = args.insecure;
    options.http.forbid_private_addresses = args.no_private_addresses;
    options.cloud.clone_from(&args.openstack.os_cloud);
    options.region.clone_from(&args.openstack.os_region_name);
    options.interface.clone_from(&args.openstack.os_interface);
    options
}
