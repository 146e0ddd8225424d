//! Google Cloud Storage.

use super::lazy::Lazy;
use super::{Known, NetworkArgs};
use diskimg::open::Protocol;
use diskimg_remote::gcs::{Gcs, GcsOptions};
use std::path::PathBuf;
use std::sync::Arc;

pub(super) const GCS: Known = Known::new(SCHEMES, protocol, files);

const SCHEMES: &[&str] = &["gs"];

fn protocol(args: &NetworkArgs) -> Arc<dyn Protocol> {
    let args = args.clone();
    let make = move || Ok(Arc::new(Gcs::with_options(options(&args))?) as Arc<dyn Protocol>);
    Arc::new(Lazy::new(SCHEMES, make))
}

fn files(args: &NetworkArgs) -> Vec<PathBuf> {
    options(args).files()
}

fn options(args: &NetworkArgs) -> GcsOptions {
    let mut options = GcsOptions::default();
    options.http = args.http();
    options.anonymous = args.s3.no_sign_request;
    options.create_only = args.create_only;
    options
}
