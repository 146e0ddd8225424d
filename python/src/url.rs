//! Images on servers.

use crate::errors::{Raise, bad_value};
use diskimg::open::{Location, OpenMode, Protocol, Protocols, Url};
use diskimg::storage::edit::Storage;
use diskimg::storage::source::Source;
use diskimg::{Image, OpenOptions, Output};
use diskimg_remote::http::{Http, HttpOptions};
use diskimg_remote::nbd::{Nbd, NbdOptions};
use diskimg_remote::rbd::Rbd;
use diskimg_remote::s3::{Keys, S3, S3Options};
use diskimg_remote::swift::{Credentials, Swift, SwiftOptions};
use pyo3::prelude::*;
use std::path::PathBuf;
use std::sync::Arc;

/// A URL and how its server is accessed. Corresponds to `UrlArgs` in `_url.py`.
#[derive(FromPyObject)]
struct UrlArgs(String, Vec<(String, String)>, Option<PathBuf>, bool, bool, bool, S3Args, SwiftArgs);

/// How Swift is accessed. Corresponds to `SwiftArgs` in `_url.py`.
#[derive(FromPyObject)]
struct SwiftArgs(
    Option<String>,
    Option<String>,
    Option<String>,
    Option<(String, String, String)>,
    Option<(String, String)>,
    bool,
);

impl SwiftArgs {
    fn options(self, http: HttpOptions) -> SwiftOptions {
        let Self(cloud, region, interface, v1, token, create_only) = self;
        let mut options = SwiftOptions::default();
        options.http = http;
        (options.cloud, options.region, options.interface) = (cloud, region, interface);
        options.credentials = match (v1, token) {
            (Some((url, user, key)), _) => Some(Credentials::v1(url, user, key)),
            (None, Some((url, token))) => Some(Credentials::token(url, token)),
            (None, None) => None,
        };
        options.create_only = create_only;
        options
    }
}

/// How an S3 store is accessed. Corresponds to `S3Args` in `_url.py`.
#[derive(FromPyObject)]
struct S3Args(
    Option<String>,
    Option<String>,
    Option<String>,
    Option<(String, String, Option<String>)>,
    bool,
    bool,
    bool,
    Option<PathBuf>,
);

impl S3Args {
    fn options(self, http: HttpOptions) -> S3Options {
        let Self(endpoint, region, profile, keys, anonymous, requester_pays, create_only, resume) =
            self;
        let mut options = S3Options::default();
        options.http = http;
        (options.endpoint, options.region, options.profile) = (endpoint, region, profile);
        options.keys = keys.map(|(access, secret, token)| Keys::new(access, secret, token));
        options.anonymous = anonymous;
        options.requester_pays = requester_pays;
        options.create_only = create_only;
        options.resume = resume;
        options
    }
}

impl UrlArgs {
    /// Returns the URL and the protocol that opens it.
    fn image(self, py: Python<'_>) -> PyResult<RemoteImage> {
        let Self(url, headers, ca_bundle, insecure, netrc, private_addresses, s3, swift) = self;
        let wrong =
            || bad_value("a URL must begin with http:, https:, s3:, swift:, nbd:, nbds: or rbd:");
        let url = Url::new(url).ok_or_else(wrong)?;
        let is_http = matches!(url.scheme(), "http" | "https");
        if !is_http && !headers.is_empty() {
            return Err(bad_value("headers are for http: and https:"));
        }
        let mut options = HttpOptions::default();
        options.headers = headers;
        options.ca_bundle.clone_from(&ca_bundle);
        options.insecure = insecure;
        options.netrc = options.netrc.filter(|_| netrc);
        options.forbid_private_addresses = !private_addresses;
        let protocol: Arc<dyn Protocol> = match url.scheme() {
            _ if is_http => Arc::new(Http::with_options(options).or_raise(py)?),
            "s3" => Arc::new(S3::with_options(s3.options(options)).or_raise(py)?),
            "swift" | "swift+http" | "swift+https" => {
                Arc::new(Swift::with_options(swift.options(options)).or_raise(py)?)
            }
            "rbd" if !private_addresses => {
                return Err(bad_value("the addresses of a cluster cannot be restricted"));
            }
            "rbd" => Arc::new(Rbd::new()),
            scheme if Nbd::SCHEMES.contains(&scheme) => {
                let mut options = NbdOptions::default();
                options.ca_bundle = ca_bundle;
                options.insecure = insecure;
                options.forbid_private_addresses = !private_addresses;
                Arc::new(Nbd::with_options(options))
            }
            _ => return Err(wrong()),
        };
        Ok(RemoteImage { url, protocol })
    }
}

/// An image on a server.
pub(crate) struct RemoteImage {
    url: Url,
    protocol: Arc<dyn Protocol>,
}

impl RemoteImage {
    /// Creates it from the arguments of a URL; `None` for any other object.
    pub(crate) fn new(object: &Bound<'_, PyAny>) -> PyResult<Option<Self>> {
        let url = object.extract::<UrlArgs>().ok();
        url.map(|url| url.image(object.py())).transpose()
    }

    /// Returns the name used in messages.
    pub(crate) fn name(&self) -> String {
        self.url.to_string()
    }

    /// Opens it.
    pub(crate) fn open(self, options: &OpenOptions) -> diskimg::Result<Image> {
        options.clone().protocol(self.protocol).open_location(&self.url.into())
    }

    /// Returns the bytes of the file itself.
    pub(crate) fn source(&self) -> diskimg::Result<Arc<dyn Source>> {
        let source = self.protocol.open(&self.location(), &OpenMode::default());
        source.map_err(|e| e.in_file(self.name()))
    }

    /// Creates a new image on the server.
    pub(crate) fn create(&self) -> diskimg::Result<Output> {
        self.protocols().create(&self.location())
    }

    /// Opens the existing image on the server for writing.
    pub(crate) fn modify(&self) -> diskimg::Result<Arc<dyn Storage>> {
        self.protocols().modify(&self.location())
    }

    fn location(&self) -> Location {
        self.url.clone().into()
    }

    fn protocols(&self) -> Protocols {
        let mut protocols = Protocols::new();
        protocols.insert(Arc::clone(&self.protocol));
        protocols
    }
}

/// Returns a URL without user, password and the values of its query.
#[pyfunction]
pub(crate) fn shown_url(url: String) -> String {
    // Without a scheme, it is no URL, but may contain a password.
    Url::new(url).map_or_else(|| "***".to_owned(), |url| url.to_string())
}
