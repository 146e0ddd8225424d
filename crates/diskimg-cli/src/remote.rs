//! Images behind network protocols.

use diskimg::open::{Location, Url};
use std::path::{Path, PathBuf};

/// How servers are accessed: options of the commands that read images.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct NetworkArgs {
    /// Trust the certificates in FILE for https
    #[arg(
        long_help = "Trust the certificates of authorities in FILE (PEM) instead of the system's"
    )]
    #[arg(long, value_name = "FILE")]
    ca_bundle: Option<PathBuf>,
    /// Do not verify certificates
    #[arg(long_help = "Do not verify certificates: anyone on the way can change the image")]
    #[arg(long)]
    insecure: bool,
    /// Send the headers in FILE, one per line
    #[arg(long_help = "Send the headers in FILE, one 'NAME: VALUE' per line, to the URL's host")]
    #[arg(long, value_name = "FILE")]
    header_file: Option<PathBuf>,
    /// Refuse servers with private addresses
    #[arg(long_help = "Refuse servers whose addresses are private, local or link-local")]
    #[arg(long)]
    no_private_addresses: bool,
}

/// Returns `name` as a URL if a protocol opens it.
pub(crate) fn url(name: &Path) -> Option<Url> {
    match name.to_str()?.parse() {
        Ok(Location::Url(url)) if SCHEMES.contains(&url.scheme()) => Some(url),
        _ => None,
    }
}

#[cfg(feature = "http")]
const SCHEMES: &[&str] = &["http", "https"];
#[cfg(not(feature = "http"))]
const SCHEMES: &[&str] = &[];

#[cfg(not(feature = "http"))]
mod none {
    use super::NetworkArgs;
    use diskimg::open::Protocol;
    use std::path::PathBuf;
    use std::sync::Arc;

    impl NetworkArgs {
        /// Returns the protocols.
        pub(crate) fn protocols(&self) -> Vec<Arc<dyn Protocol>> {
            Vec::new()
        }

        /// Returns the files that are read to access servers.
        pub(crate) fn files(&self) -> Vec<PathBuf> {
            Vec::new()
        }
    }
}

#[cfg(feature = "http")]
mod http {
    use super::NetworkArgs;
    use diskimg::open::{Location, OpenMode, Protocol};
    use diskimg::storage::source::Source;
    use diskimg::{Error, Result};
    use diskimg_remote::http::{Http, HttpOptions};
    use std::path::PathBuf;
    use std::sync::{Arc, Mutex, PoisonError};

    impl NetworkArgs {
        /// Returns the protocols. Nothing is read before a URL is opened.
        pub(crate) fn protocols(&self) -> Vec<Arc<dyn Protocol>> {
            vec![Arc::new(Lazy { args: self.clone(), http: Mutex::default() })]
        }

        /// Returns the files that are read to access servers.
        pub(crate) fn files(&self) -> Vec<PathBuf> {
            let mut files = self.without_headers().files();
            files.extend(self.header_file.clone());
            files
        }

        fn without_headers(&self) -> HttpOptions {
            let mut options = HttpOptions::default();
            options.ca_bundle.clone_from(&self.ca_bundle);
            options.insecure = self.insecure;
            options.forbid_private_addresses = self.no_private_addresses;
            options
        }

        fn options(&self) -> Result<HttpOptions> {
            let mut options = self.without_headers();
            if let Some(file) = &self.header_file {
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
    }

    /// HTTP. Certificates and passwords are read when the first URL is opened.
    #[derive(Debug)]
    struct Lazy {
        args: NetworkArgs,
        http: Mutex<Option<Arc<Http>>>,
    }

    impl Lazy {
        fn http(&self) -> Result<Arc<Http>> {
            let mut http = self.http.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(http) = &*http {
                return Ok(Arc::clone(http));
            }
            let new = Arc::new(Http::with_options(self.args.options()?)?);
            *http = Some(Arc::clone(&new));
            Ok(new)
        }
    }

    impl Protocol for Lazy {
        fn schemes(&self) -> &[&str] {
            super::SCHEMES
        }

        fn open(&self, at: &Location, how: &OpenMode) -> Result<Arc<dyn Source>> {
            self.http()?.open(at, how)
        }

        fn join(&self, base: &Location, name: &str) -> Result<Location> {
            self.http()?.join(base, name)
        }
    }
}
