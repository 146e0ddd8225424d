//! S3 and compatible stores.

use super::lazy::Lazy;
use super::{Known, NetworkArgs};
use diskimg::open::Protocol;
use diskimg_remote::s3::{S3, S3Options};
use std::path::PathBuf;
use std::sync::Arc;

pub(super) const S3_STORES: Known = Known::new(SCHEMES, protocol, files);

const SCHEMES: &[&str] = &["s3"];

fn protocol(args: &NetworkArgs) -> Arc<dyn Protocol> {
    let args = args.clone();
    let make = move || Ok(Arc::new(S3::with_options(options(&args))?) as Arc<dyn Protocol>);
    Arc::new(Lazy::new(SCHEMES, make))
}

fn files(args: &NetworkArgs) -> Vec<PathBuf> {
    options(args).files()
}

fn options(args: &NetworkArgs) -> S3Options {
    let mut options = S3Options::default();
    options.http.ca_bundle.clone_from(&args.ca_bundle);
    options.http.insecure = args.insecure;
    options.http.forbid_private_addresses = args.no_private_addresses;
    let store = &args.s3;
    options.endpoint.clone_from(&store.endpoint_url);
    options.region.clone_from(&store.region);
    options.profile.clone_from(&store.aws_profile);
    options.anonymous = store.no_sign_request;
    options.requester_pays = store.request_payer;
    options.resume.clone_from(&store.resume);
    options.create_only = args.create_only;
    options
}
