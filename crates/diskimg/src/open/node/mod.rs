//! Nodes: images that are described by options instead of a file name, as on QEMU's command line.
//!
//! ```text
//!   json:{"driver": "qcow2", "file": {"filename": "a.qcow2"}, "backing": null}
//!   driver=raw,offset=512,size=1M,file.filename=disk.raw
//!
//!   format node: driver (or probed)                 raw: offset, size
//!      ├─ file: a protocol node (file: filename), a raw node (a window), or another format node
//!      ├─ data-file: the same (qcow2)
//!      └─ backing: a format node, or null
//! ```
//!
//! A node comes from the caller, not from an image: names in images are plain paths. A `json:` name
//! in an image may denote one local file (`single_file.rs`), if the caller allows any file.
//!
//! Every key that is not known is an error, because programs test for features in this way.

mod describe;
mod faults;
mod graph;
#[cfg(feature = "json")]
mod json;
mod keys;
mod null;
mod options;
mod single_file;
mod url;
mod window;

pub(crate) use keys::NodeKeys;
#[cfg(feature = "json")]
pub(crate) use single_file::local_file;
pub use single_file::{SingleFile, SingleUrl};
pub use url::NodeUrl;

use crate::error::Result;
use crate::model::image::Image;
use crate::open::OpenOptions;
use crate::open::location::Url;
use crate::storage::source::Source;
use graph::Graph;
use options::NodeOptions;
use std::sync::Arc;

/// An image that is described by options; see [`OpenOptions::open_node`].
///
/// ```no_run
/// use diskimg::OpenOptions;
/// use diskimg::open::Node;
///
/// // The second partition of a disk, by its offset and size.
/// let node = Node::from_options("driver=raw,offset=1M,size=512M,file.filename=disk.raw")?;
/// let image = OpenOptions::new().open_node(&node, "partition")?;
/// # Ok::<(), diskimg::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node(NodeOptions);

impl Node {
    /// Parses `key=value,key=value`, the argument of QEMU's `--image-opts`. `,,` is a literal comma
    /// in a value.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) for an empty key.
    pub fn from_options(text: &str) -> Result<Self> {
        NodeOptions::parse(text).map(Self)
    }

    /// Parses a JSON object, the part of QEMU's `json:` names after the colon. Strings may be in
    /// single quotes.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) if the text is not valid JSON or not an
    /// object.
    #[cfg(feature = "json")]
    pub fn from_json(text: &str) -> Result<Self> {
        json::parse(text).map(Self)
    }
}

impl Node {
    /// Returns the names of the files that the description contains, including those of backing and
    /// data files.
    pub fn file_names(&self) -> Vec<&str> {
        self.0.texts("filename")
    }

    /// Returns the values of the option `key` of all nodes, such as `conf`.
    pub fn values(&self, key: &str) -> Vec<&str> {
        self.0.texts(key)
    }

    /// Returns `text`, from which the node was parsed, without the secrets in it: users, passwords and
    /// queries of URLs, and keys.
    pub fn shown(&self, text: &str) -> String {
        let mut shown = text.to_owned();
        for url in self.0.texts("url").into_iter().filter_map(Url::new) {
            // As it is written in options, and in JSON.
            for spelling in [url.as_str().replace(',', ",,"), url.as_str().replace('/', "\\/")] {
                shown = shown.replace(&spelling, &url.to_string());
            }
            shown = shown.replace(url.as_str(), &url.to_string());
        }
        let secrets = ["key", "password", "cookie", "secret"].map(|key| self.0.texts(key));
        for secret in secrets.concat().into_iter().filter(|secret| !secret.is_empty()) {
            shown = shown.replace(secret, "***");
        }
        shown
    }

    /// Returns the drivers that the description contains: formats, protocols and filters.
    pub fn drivers(&self) -> Vec<&str> {
        self.0.texts("driver")
    }
}

impl OpenOptions {
    /// Opens the image that `node` describes, and its backing chain. Errors refer to it as `name`.
    /// [`Image::name`] is the file's name, or a `json:` name if the image is a part of a file, in
    /// another image, or decrypted; it does not contain explicit backing and data files.
    ///
    /// Options of `node` have the meaning that they have for QEMU. Supported are:
    ///
    /// - the drivers of this library's formats over files, over each other, and over the
    ///   [protocols](Self::protocol) that the caller adds: `driver` is the scheme and `url` the URL,
    ///   unless the protocol has other options ([`Protocol::node_url`](super::Protocol::node_url));
    /// - `null-co` and `null-aio`, which store nothing and read as zeros: `size`, 1 GiB by default,
    ///   and `read-zeroes`, which says that they are known to be zeros;
    /// - `blkdebug` over another node, `image`, for tests: `inject-error` is a list of errors that
    ///   reading (`iotype` `read`) or finding out about holes (`block-status`) returns, everywhere
    ///   or at a `sector`, always or `once`;
    /// - `offset` and `size` of raw;
    /// - `backing`: `null`, or a node instead of the file that the image names;
    /// - `data-file` of qcow2: a node instead of the file that the image names;
    /// - `node-name`, and the name of a node instead of a node in the same description. The file is
    ///   opened first, then the data file, then the backing file;
    /// - `encrypt.key-secret`: the ID of one of the [`secrets`](Self::secrets). (Images cannot be
    ///   decrypted yet.)
    ///
    /// Options that only tune QEMU are ignored.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) for an option that a driver does not have or
    /// that has no valid value, [`Unsupported`](crate::ErrorKind::Unsupported) for drivers and
    /// options of QEMU that are not supported, and the errors of [`open`](Self::open).
    pub fn open_node(&self, node: &Node, name: &str) -> Result<Image> {
        Graph::default().open(self, node.0.clone(), 0).map_err(|e| e.in_file(name))
    }
}

/// What a node says about its image, apart from its files.
#[derive(Debug, Default)]
pub(crate) struct NodeSettings {
    /// Kind of encryption that the image must have, if it is given.
    pub(crate) encryption: Option<String>,
    /// ID of the secret that decrypts the image.
    pub(crate) key_secret: Option<String>,
    /// The external data file, instead of the one that the image names.
    pub(crate) data_file: Option<Arc<dyn Source>>,
}
