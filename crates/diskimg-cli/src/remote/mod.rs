//! Images behind network protocols: one module per protocol.

#[cfg(feature = "azure")]
mod azure;
#[cfg(feature = "gcs")]
mod gcs;
#[cfg(feature = "http")]
mod http;
#[cfg_attr(not(feature = "http"), expect(dead_code, reason = "no protocol uses it"))]
mod lazy;
#[cfg(feature = "nbd")]
mod nbd;
#[cfg(feature = "rbd")]
mod rbd;
#[cfg(feature = "s3")]
mod s3;
#[cfg(feature = "swift")]
mod swift;

use diskimg::open::{Location, Node, Protocol, Protocols, Url};
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
    /// `--object tls-creds-x509`.
    #[arg(skip)]
    #[cfg_attr(not(feature = "nbd"), expect(dead_code, reason = "only NBD uses it"))]
    credentials: Vec<TlsCredentials>,
    /// `--no-clobber`.
    #[arg(skip)]
    #[cfg_attr(
        not(any(feature = "azure", feature = "gcs", feature = "s3", feature = "swift")),
        expect(dead_code, reason = "only stores of objects replace images")
    )]
    create_only: bool,
    #[cfg(feature = "s3")]
    #[command(flatten)]
    s3: S3Args,
    #[cfg(feature = "swift")]
    #[command(flatten)]
    openstack: OpenStackArgs,
}

/// How stores of objects are accessed. The names are those of Amazon's own command.
#[cfg(feature = "s3")]
#[derive(Debug, Clone, Default, clap::Args)]
struct S3Args {
    /// Access the S3 store at URL instead of Amazon's
    #[arg(long, value_name = "URL")]
    endpoint_url: Option<String>,
    /// Name the region of S3 buckets
    #[arg(long, value_name = "NAME")]
    region: Option<String>,
    /// Use the keys of a profile of AWS
    #[arg(long_help = "Use the keys and settings of a profile in ~/.aws for s3: URLs")]
    #[arg(long = "profile", value_name = "NAME")]
    aws_profile: Option<String>,
    /// Read public S3 objects without keys
    #[arg(long)]
    no_sign_request: bool,
    /// Pay for requests to the S3 buckets of others
    #[arg(long)]
    request_payer: bool,
    /// `convert --resume`.
    #[arg(skip)]
    resume: Option<PathBuf>,
}

/// How clouds are accessed. The names are those of OpenStack's own command.
#[cfg(feature = "swift")]
#[derive(Debug, Clone, Default, clap::Args)]
struct OpenStackArgs {
    /// Use a cloud of clouds.yaml
    #[arg(long_help = "Use the settings of a cloud in clouds.yaml for swift: URLs")]
    #[arg(long, value_name = "NAME")]
    os_cloud: Option<String>,
    /// Name the region of the cloud
    #[arg(long, value_name = "NAME")]
    os_region_name: Option<String>,
    /// Use the public, internal or admin endpoint
    #[arg(long, value_name = "NAME")]
    os_interface: Option<String>,
}

/// Certificates of a client.
#[derive(Debug, Clone)]
#[cfg_attr(not(feature = "nbd"), expect(dead_code, reason = "only NBD uses them"))]
pub(crate) struct TlsCredentials {
    pub(crate) id: String,
    pub(crate) directory: PathBuf,
    pub(crate) verify_peer: bool,
}

/// A protocol that this program has.
struct Known {
    /// Schemes of its URLs, which are also the drivers of its nodes.
    schemes: &'static [&'static str],
    /// Returns the protocol. Nothing is read before a URL is opened.
    protocol: fn(&NetworkArgs) -> Arc<dyn Protocol>,
    /// Returns the files that it reads.
    files: fn(&NetworkArgs) -> Vec<PathBuf>,
    /// Returns the files that it reads for a URL, beyond those.
    files_of: fn(&NetworkArgs, &Url) -> Vec<PathBuf>,
    /// Returns the files that it reads for a description, beyond those.
    files_of_node: fn(&Node) -> Vec<PathBuf>,
    /// Loads what the sandbox does not allow to load later.
    prepare: fn(),
}

impl Known {
    /// Returns a protocol that reads only `files`, and loads nothing.
    #[cfg_attr(
        not(any(
            feature = "http",
            feature = "nbd",
            feature = "rbd",
            feature = "s3",
            feature = "swift"
        )),
        expect(dead_code, reason = "there is no protocol")
    )]
    const fn new(
        schemes: &'static [&'static str],
        protocol: fn(&NetworkArgs) -> Arc<dyn Protocol>,
        files: fn(&NetworkArgs) -> Vec<PathBuf>,
    ) -> Self {
        Self {
            schemes,
            protocol,
            files,
            files_of: |_, _| Vec::new(),
            files_of_node: |_| Vec::new(),
            prepare: || {},
        }
    }
}

/// All protocols but that of files.
const KNOWN: &[Known] = &[
    #[cfg(feature = "azure")]
    azure::AZURE,
    #[cfg(feature = "gcs")]
    gcs::GCS,
    #[cfg(feature = "http")]
    http::HTTP,
    #[cfg(feature = "nbd")]
    nbd::NBD,
    #[cfg(feature = "rbd")]
    rbd::RBD,
    #[cfg(feature = "s3")]
    s3::S3_STORES,
    #[cfg(feature = "swift")]
    swift::SWIFT,
];

impl NetworkArgs {
    /// Adds the certificates of this client that descriptions may name.
    pub(crate) fn with_credentials(self, credentials: Vec<TlsCredentials>) -> Self {
        Self { credentials, ..self }
    }

    /// Returns how stores of objects are connected to.
    #[cfg(any(feature = "azure", feature = "gcs"))]
    fn http(&self) -> diskimg_remote::http::HttpOptions {
        let mut options = diskimg_remote::http::HttpOptions::default();
        options.ca_bundle.clone_from(&self.ca_bundle);
        options.insecure = self.insecure;
        options.forbid_private_addresses = self.no_private_addresses;
        options
    }

    /// Sets whether no existing image is replaced.
    pub(crate) fn create_only(self, yes: bool) -> Self {
        Self { create_only: yes, ..self }
    }

    /// Returns the protocols, in a registry.
    pub(crate) fn registry(&self) -> Protocols {
        let mut protocols = Protocols::new();
        for protocol in self.protocols() {
            protocols.insert(protocol);
        }
        protocols
    }

    /// Returns the protocols. Nothing is read before a URL is opened.
    pub(crate) fn protocols(&self) -> impl Iterator<Item = Arc<dyn Protocol>> {
        KNOWN.iter().map(|known| (known.protocol)(self))
    }

    /// Returns the files that are read to access the server of a URL.
    pub(crate) fn files_of(&self, url: &Url) -> Vec<PathBuf> {
        let known = known(url.scheme());
        let files = |known: &Known| [(known.files)(self), (known.files_of)(self, url)].concat();
        known.map(files).unwrap_or_default()
    }

    /// Returns the files that are read to access the servers of a description.
    pub(crate) fn files_of_node(&self, node: &Node) -> Vec<PathBuf> {
        let known = node.drivers().into_iter().filter_map(known);
        known
            .flat_map(|known| [(known.files)(self), (known.files_of_node)(node)].concat())
            .collect()
    }
}

/// Returns the protocol with this scheme.
fn known(scheme: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.schemes.contains(&scheme))
}

/// Returns true if a protocol has this scheme.
pub(crate) fn is_scheme(scheme: &str) -> bool {
    known(scheme).is_some()
}

/// Loads what the protocol with this scheme loads, before the sandbox forbids that.
pub(crate) fn prepare(scheme: &str) {
    if let Some(known) = known(scheme) {
        (known.prepare)();
    }
}

/// Returns `name` as a URL if a protocol opens it.
pub(crate) fn url(name: &Path) -> Option<Url> {
    match name.to_str()?.parse() {
        Ok(Location::Url(url)) if is_scheme(url.scheme()) => Some(url),
        _ => None,
    }
}

/// How a process connects to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Connections {
    /// To any host.
    Internet,
    /// To a process of this host, by a Unix socket.
    Unix,
    /// To the servers of a cluster, by a library.
    Cluster,
}

impl Connections {
    /// Returns how the server of a URL is connected to.
    pub(crate) fn of(url: &Url) -> Self {
        match url.scheme() {
            "rbd" => Self::Cluster,
            scheme if scheme.ends_with("+unix") => Self::Unix,
            _ if url.as_str().starts_with("nbd:unix:") => Self::Unix,
            _ => Self::Internet,
        }
    }

    /// Returns true if a server of a description is connected to in this way.
    pub(crate) fn any_of(self, node: &Node) -> bool {
        // That of NBD servers, and of the hosts of others.
        let types = node.values("type");
        let unix = types.contains(&"unix");
        node.drivers().into_iter().any(|driver| match driver {
            "rbd" => self == Self::Cluster,
            "nbd" if unix => self == Self::Unix || self == Self::Internet && types.len() > 1,
            scheme => self == Self::Internet && is_scheme(scheme),
        })
    }
}

/// An image on a server, and how the server is accessed.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) url: Url,
    pub(crate) network: NetworkArgs,
}

impl Server {
    /// Returns where the image is.
    pub(crate) fn location(&self) -> Location {
        self.url.clone().into()
    }

    /// Records uploads in `state`, and continues that which it records. Returns false if uploads to
    /// this server cannot be continued.
    #[cfg_attr(not(feature = "s3"), expect(unused_variables, reason = "no protocol uploads"))]
    pub(crate) fn resume(&mut self, state: &Path) -> bool {
        #[cfg(feature = "s3")]
        if self.url.scheme() == "s3" {
            self.network.s3.resume = Some(state.to_owned());
            return true;
        }
        false
    }

    /// Returns the files that are read to access the server.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        self.network.files_of(&self.url)
    }

    /// Returns the URL for messages, without secrets.
    pub(crate) fn name(&self) -> String {
        self.url.to_string()
    }

    /// Returns the protocols, one of which is that of the URL.
    pub(crate) fn protocols(&self) -> Protocols {
        self.network.registry()
    }
}
