//! Ceph's block devices (RBD): `rbd:POOL/IMAGE` and `rbd://FSID/POOL/IMAGE/SNAPSHOT`.
//!
//! ```text
//!   Name ─► Cluster (librados) ─► Pool ─► Image (librbd) ─┬► RbdSource   what is stored, parents included
//!                                                         ├► RbdStorage  an existing image in place
//!                                                         └► NewImage    a new one, renamed when complete
//! ```
//!
//! The libraries `librados.so.2` and `librbd.so.1` are loaded when the first image is opened, so that
//! a program needs them only then. A statically linked program cannot load them.

mod files;
mod library;
mod name;
mod source;
mod storage;

use diskimg::open::{Location, NodeUrl, OpenMode, Protocol, Url};
use diskimg::storage::edit::Storage;
use diskimg::storage::output::Publish;
use diskimg::storage::source::{HostFileId, Source};
use diskimg::{Error, Remedy, Result};
use library::{Cluster, Libraries, Pool};
use name::Name;
use source::RbdSource;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use storage::{NewImage, RbdStorage};

/// Options of the client that are set before the configuration is read, so that it can change them:
/// time limits, without which a cluster that does not answer is waited for; few threads, each of which
/// takes address space; no messages, and no files but those of the configuration.
const DEFAULTS: [(&str, &str); 9] = [
    ("client_mount_timeout", "30"),
    ("rados_mon_op_timeout", "30"),
    ("rados_osd_op_timeout", "180"),
    ("ms_async_op_threads", "1"),
    ("librados_thread_count", "1"),
    ("log_file", ""),
    ("log_to_stderr", "false"),
    ("err_to_stderr", "false"),
    ("admin_socket", ""),
];

/// The user without `id=`.
const USER: &str = "admin";

/// The libraries, or why they cannot be loaded.
static LIBRARIES: OnceLock<std::result::Result<Arc<Libraries>, String>> = OnceLock::new();

/// Returns the message of the system's loader.
fn message_of(error: libloading::Error) -> String {
    let cause = std::error::Error::source(&error).map(ToString::to_string);
    cause.unwrap_or_else(|| error.to_string())
}

/// How clusters are accessed.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct RbdOptions {
    /// The configuration of Ceph, if the name of the image has no `conf=`. By default, the file that
    /// `CEPH_CONF` in the environment names, or `/etc/ceph/ceph.conf`.
    pub conf: Option<PathBuf>,
    /// The user (without `client.`), if the name of the image has no `id=`. By default, `admin`.
    pub user: Option<String>,
    /// Whether addresses of private networks are refused, for URLs of strangers. Those of a cluster
    /// cannot be checked, and its keys are this user's, so all images are refused then.
    pub forbid_private_addresses: bool,
}

/// The protocol of `rbd:` URLs.
///
/// The names of images are those of QEMU, `rbd:POOL/[NAMESPACE/]IMAGE[@SNAPSHOT][:KEY=VALUE…]`, where
/// `id=USER`, `conf=FILE` and options of Ceph can be set and a backslash escapes a character that has
/// a meaning; and those of Glance, `rbd://FSID/POOL/IMAGE/SNAPSHOT`, for which the cluster must have
/// this identifier.
#[derive(Debug, Default)]
pub struct Rbd {
    options: RbdOptions,
}

impl Rbd {
    /// Creates the protocol with the default options. Loads and connects to nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates the protocol. Loads and connects to nothing.
    pub fn with_options(options: RbdOptions) -> Self {
        Self { options }
    }

    /// Loads Ceph's libraries now instead of when the first image is opened, for a program that
    /// restricts itself. If that fails, opening an image does.
    pub fn load() {
        let _ = LIBRARIES.get_or_init(|| Libraries::load().map(Arc::new).map_err(message_of));
    }

    /// Returns the files that are read to access an image that a node describes, with the values of
    /// its options `conf` and `user`, as [`files`](Self::files).
    pub fn files_of_node(&self, conf: Option<&str>, user: Option<&str>) -> Vec<PathBuf> {
        let user = user.or(self.options.user.as_deref()).unwrap_or(USER);
        let conf = conf.map(Path::new).or(self.options.conf.as_deref());
        files::of(&Name::default(), conf, user)
    }

    /// Returns the files that are read to access the image at a URL, for a program that restricts
    /// itself.
    ///
    /// # Errors
    /// Returns [`Invalid`](diskimg::ErrorKind::Invalid) if the URL is malformed.
    pub fn files(&self, url: &Url) -> Result<Vec<PathBuf>> {
        let name = Name::parse(url)?;
        Ok(files::of(&name, self.options.conf.as_deref(), self.user_of(&name)))
    }

    fn user_of<'a>(&'a self, name: &'a Name) -> &'a str {
        name.option("id").or(self.options.user.as_deref()).unwrap_or(USER)
    }

    fn libraries() -> Result<Arc<Libraries>> {
        let loaded = LIBRARIES.get_or_init(|| Libraries::load().map(Arc::new).map_err(message_of));
        loaded.clone().map_err(|message| {
            Error::unsupported(format!("Ceph's libraries cannot be loaded: {message}"))
                .hint("install librbd1 and librados2, or use an NBD server in front of the cluster")
        })
    }

    /// Connects to the cluster of an image and opens its pool. Also returns the identity of the image.
    fn pool(&self, name: &Name) -> Result<(Arc<Pool>, HostFileId)> {
        if self.options.forbid_private_addresses {
            let message = "the addresses of a cluster cannot be restricted";
            return Err(Error::refused(message));
        }
        let libraries = Self::libraries()?;
        let user = self.user_of(name);
        let io = |what: &'static str| move |e: io::Error| Error::io(what, e);
        let cluster =
            Cluster::new(libraries, user).map_err(io("cannot create a client of Ceph"))?;
        for (key, value) in DEFAULTS {
            // One that a version of Ceph does not know is not needed.
            let _ = cluster.set(key, value);
        }
        let own = self.options.conf.as_ref().map(|file| file.to_string_lossy());
        let conf = name.option("conf").or(own.as_deref());
        match cluster.read_file(conf) {
            Err(e) if conf.is_none() && e.kind() == io::ErrorKind::NotFound => {
                // Without it, the library would print a message.
                let is_configured = name.option("mon_host").is_some()
                    || name.option("mon host").is_some()
                    || std::env::var_os("CEPH_ARGS").is_some();
                if !is_configured {
                    return Err(Error::io("cannot find the configuration of Ceph", e)
                        .hint("name it with :conf=FILE"));
                }
            }
            read => read.map_err(|e| {
                let error = Error::io("cannot read the configuration of Ceph", e);
                match conf {
                    Some(file) => error.in_structure(format!("'{file}'")),
                    None => error,
                }
            })?,
        }
        cluster.read_environment().map_err(io("cannot read the configuration in CEPH_ARGS"))?;
        for (key, value) in &name.options {
            if !["id", "conf"].contains(&&**key) {
                cluster.set(key, value).map_err(|e| {
                    Error::invalid(format!("Ceph does not accept the option {key:?}: {e}"))
                })?;
            }
        }
        cluster.connect().map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Error::io("cannot connect to the cluster", e)
                .hint("a configuration or a keyring is missing; name it with :conf=FILE"),
            _ => Error::io("cannot connect to the cluster", e),
        })?;
        let cluster = Arc::new(cluster);
        let fsid = cluster.fsid().map_err(io("cannot identify the cluster"))?;
        if let Some(expected) = name.fsid.as_ref().filter(|expected| **expected != fsid) {
            let message = format!("the image is in the cluster {expected}, not in {fsid}");
            return Err(Error::invalid(message));
        }
        let namespace = name.namespace.as_deref().unwrap_or_default();
        let spelling = format!("rbd {fsid}\0{}\0{namespace}\0{}", name.pool, name.image);
        let identity = HostFileId::elsewhere(&spelling);
        let pool = cluster.pool(&name.pool, name.namespace.as_deref());
        let pool =
            pool.map_err(|e| Error::io(format!("cannot open the pool '{}'", name.pool), e))?;
        Ok((Arc::new(pool), identity))
    }
}

fn name_of(at: &Location) -> Result<Name> {
    match at {
        Location::Url(url) => Name::parse(url),
        _ => Err(Error::invalid("it is not a URL")),
    }
}

fn cannot_open(name: &Name) -> impl FnOnce(io::Error) -> Error + '_ {
    move |e| Error::io(format!("cannot open the image '{}'", name.shown()), e)
}

impl Protocol for Rbd {
    fn schemes(&self) -> &[&str] {
        &["rbd"]
    }

    fn open(&self, at: &Location, _: &OpenMode) -> Result<Arc<dyn Source>> {
        let name = name_of(at)?;
        let (pool, identity) = self.pool(&name)?;
        // A snapshot does not change.
        let identity = name.snapshot.is_none().then_some(identity);
        let image = pool.open(&name.image, name.snapshot.as_deref(), false);
        let source = image.and_then(|image| RbdSource::new(image, identity));
        let source = source.map_err(cannot_open(&name))?;
        Ok(Arc::new(diskimg::storage::source::Cached::new(Arc::new(source))))
    }

    fn join(&self, _: &Location, _: &str) -> Result<Location> {
        Err(Error::unsupported("images in a cluster are in no directory"))
    }

    fn create(&self, at: &Location) -> Result<Box<dyn Publish>> {
        let name = name_of(at)?;
        let (pool, _) = self.pool(&name)?;
        let image = NewImage::create(&pool, &name.image, name.snapshot.as_deref());
        let image = image.map_err(|e| {
            let exists = e.kind() == io::ErrorKind::AlreadyExists;
            let error = Error::io(format!("cannot create the image '{}'", name.shown()), e);
            if exists { error.with_remedy(Remedy::OverwriteExisting) } else { error }
        })?;
        Ok(Box::new(image))
    }

    fn modify(&self, at: &Location) -> Result<Arc<dyn Storage>> {
        let name = name_of(at)?;
        if name.snapshot.is_some() {
            return Err(Error::invalid("a snapshot cannot be written"));
        }
        let (pool, identity) = self.pool(&name)?;
        let image = pool.open(&name.image, None, true);
        let storage = image.and_then(|image| RbdStorage::existing(image, identity));
        let storage = storage.map_err(cannot_open(&name))?;
        Ok(Arc::new(storage))
    }

    fn node_url(&self, node: &mut NodeUrl<'_>) -> Result<Url> {
        Name::url_of_node(node)
    }
}
