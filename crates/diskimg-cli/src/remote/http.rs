//! HTTP and HTTPS.

use super::lazy::Lazy;
use super::{Known, NetworkArgs};
use diskimg::open::Protocol;
use diskimg::{Error, Result};
use diskimg_remote::http::{Http, HttpOptions};
use std::path::PathBuf;
use std::sync::Arc;

pub(super) const HTTP: Known = Known::new(SCHEMES, protocol, files);

const SCHEMES: &[&str] = &["http", "https"];

fn protocol(args: &NetworkArgs) -> Arc<dyn Protocol> {
    let args = args.clone();
    let make = move || Ok(Arc::new(Http::with_options(options(&args)?)?) as Arc<dyn Protocol>);
    Arc::new(Lazy::new(SCHEMES, make))
}

fn files(args: &NetworkArgs) -> Vec<PathBuf> {
    let mut files = without_headers(args).files();
    files.extend(args.header_file.clone());
    files
}

fn without_headers(args: &NetworkArgs) -> HttpOptions {
    let mut options = HttpOptions::default();
    options.ca_bundle.clone_from(&args.ca_bundle);
    options.insecure = args.insecure;
    options.forbid_private_addresses = args.no_private_addresses;
    options
}

fn options(args: &NetworkArgs) -> Result<HttpOptions> {
    let mut options = without_headers(args);
    if let Some(file) = &args.header_file {
        let text = std::fs::read_to_string(file)
            .map_err(|e| Error::io("cannot read the headers", e).in_file(file))?;
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            // The line is secret.
            let (name, value) = line.split_once(':').ok_or_else(|| {
                Error::invalid("a line is not of the form NAME: VALUE").in_file(file)
            })?;
            options.headers.push((name.trim().to_owned(), value.trim().to_owned()));
        }
    }
    Ok(options)
}
