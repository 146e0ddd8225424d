//! Azure Blob Storage.

use super::lazy::Lazy;
use super::{Known, NetworkArgs};
use diskimg::open::Protocol;
use diskimg_remote::azure::{Azure, AzureOptions};
use std::path::PathBuf;
use std::sync::Arc;

pub(super) const AZURE: Known = Known::new(SCHEMES, protocol, files);

const SCHEMES: &[&str] = &["az"];

fn protocol(args: &NetworkArgs) -> Arc<dyn Protocol> {
    let args = args.clone();
    let make = move || Ok(Arc::new(Azure::with_options(options(&args))?) as Arc<dyn Protocol>);
    Arc::new(Lazy::new(SCHEMES, make))
}

fn files(args: &NetworkArgs) -> Vec<PathBuf> {
    options(args).files()
}

fn options(args: &NetworkArgs) -> AzureOptions {
    let mut options = AzureOptions::default();
    options.http = args.http();
    options.anonymous = args.s3.no_sign_request;
    options.create_only = args.create_only;
    options
}
