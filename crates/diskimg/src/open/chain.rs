//! Opening a backing chain.

use crate::error::{Context, Error, ErrorKind, Result};
use crate::model::format::Format;
use crate::model::image::{Image, Link};
use crate::model::layer::{Layer, ParentLocator, ParentReference};
#[cfg(feature = "compressed")]
use crate::open::compressed;
use crate::open::external_files::{ExternalFiles, Resolver, real_path};
#[cfg(feature = "json")]
use crate::open::node;
#[cfg(feature = "compressed")]
use crate::open::probe::Probing;
use crate::open::protocol::Origin;
use crate::open::{OpenContext, OpenOptions};
use crate::remedy::Remedy;
use crate::storage::source::{HostFileId, Source};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An image that is to be opened.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) source: Arc<dyn Source>,
    /// Its name in messages.
    pub(super) name: String,
    /// Its format, if it is not to be probed.
    pub(super) format: Option<Format>,
    pub(super) place: Place,
}

/// Where an image is, to which the names inside it are relative.
#[derive(Debug, Clone)]
pub(super) enum Place {
    /// A file of this host, or bytes that the caller gave.
    Local,
    /// Opened by a URL.
    Url(Origin),
    /// Inside something that was opened by a URL: names inside the image mean nothing.
    Elsewhere,
}

/// Opens an image and its backing chain.
///
/// # Errors
/// See [`OpenOptions::open`].
pub(super) fn open(options: &OpenOptions, first: Opening) -> Result<Image> {
    let policy = match first.place {
        Place::Elsewhere => ExternalFiles::None,
        Place::Local => options.policy(false),
        Place::Url(_) => options.policy(true),
    };
    let mut chain = Chain { options, links: Vec::new(), seen: Vec::new(), policy };
    let mut next = Some(first);
    while let Some(opening) = next {
        next = chain.add(opening)?;
    }
    Ok(Image::from_links(chain.links))
}

/// A backing chain that is being opened, starting with the top image.
struct Chain<'a> {
    options: &'a OpenOptions,
    links: Vec<Link>,
    seen: Vec<HostFileId>,
    /// Which files the next image may reference.
    policy: ExternalFiles,
}

impl Chain<'_> {
    /// Opens one layer and returns its backing file.
    fn add(&mut self, opening: Opening) -> Result<Option<Opening>> {
        let Opening { source, name, format, place } = opening;
        self.check_depth(&name)?;
        self.check_loop(&*source, &name)?;
        // A protocol may return a temporary file, whose directory means nothing.
        let is_local = matches!(place, Place::Local);
        let origin = match &place {
            Place::Url(origin) => Some(origin),
            Place::Local | Place::Elsewhere => None,
        };
        let path = source.path().filter(|_| is_local).map(Path::to_owned);
        let real = real_path(&*source).filter(|_| is_local);
        let resolver = Resolver {
            origin,
            ..self.options.resolver(path.as_deref(), real.as_deref(), self.policy)
        };
        let is_top = self.links.is_empty();
        let context = OpenContext {
            snapshot: self.options.snapshot.as_ref().filter(|_| is_top),
            disk: self.options.disk.as_deref().filter(|_| is_top),
            node: self.options.node.as_deref().filter(|_| is_top),
            probed: format.is_none(),
            ..self.options.context(resolver)
        };
        let lock = || match resolver.lock {
            Some(lock) => source.lock(lock).map_err(|e| lock_error(e).in_file(&name)),
            None => Ok(()),
        };
        let unpacked = self.unpack(&source, format, lock).in_file(Some(Path::new(&name)))?;
        let (contents, compression) = match unpacked {
            Some((contents, compression)) => (contents, Some(compression)),
            None => (Arc::clone(&source), None),
        };
        let format = match format {
            Some(format) => format,
            None => self.probe(&*contents, &place, &name, compression.is_some())?,
        };
        // A raw image has no metadata, so nothing is read of it.
        if compression.is_none() && !(self.options.metadata_only && format == Format::Raw) {
            lock()?;
        }
        let source = contents;
        let layer = open_layer(source, format, &context).in_file(Some(Path::new(&name)))?;
        if let Some(child) = self.links.last().filter(|_| !self.options.ignore_content_id) {
            require_content((&*child.layer, &child.name), (&*layer, &name))?;
        }
        let parent = layer.parent().cloned();
        let limits = Arc::clone(&self.options.limits);
        self.links.push(Link { layer, name: name.clone(), is_local, compression, limits });
        match parent {
            Some(parent) if self.options.with_parent() => {
                self.open_parent(&parent, resolver).map(Some).map_err(|e| e.in_file(name))
            }
            _ => Ok(None),
        }
    }

    /// Returns the contents of the file and the name of its compression, if it is compressed. It is
    /// locked before.
    #[cfg(feature = "compressed")]
    fn unpack(
        &self,
        file: &Arc<dyn Source>,
        format: Option<Format>,
        lock: impl Fn() -> Result<()>,
    ) -> Result<Option<(Arc<dyn Source>, &'static str)>> {
        // Other images of the chain are files that the image names, which it says more about.
        if !self.links.is_empty() || self.options.probing == Probing::LikeQemu {
            return Ok(None);
        }
        let Some(compression) = compressed::detect(&**file, format)? else { return Ok(None) };
        lock()?;
        let contents = compressed::open(file, compression, &self.options.limits)?;
        Ok(Some((contents, compression.name())))
    }

    /// No file is compressed to a build without the cargo feature `compressed`.
    #[cfg(not(feature = "compressed"))]
    fn unpack(
        &self,
        _: &Arc<dyn Source>,
        _: Option<Format>,
        _: impl Fn() -> Result<()>,
    ) -> Result<Option<(Arc<dyn Source>, &'static str)>> {
        Ok(None)
    }

    fn check_depth(&self, name: &str) -> Result<()> {
        let (depth, max) = (self.links.len() as u64 + 1, self.options.limits.chain_depth);
        if depth <= max {
            return Ok(());
        }
        let found = format!("the backing chain has at least {depth} images");
        let top = self.links.first().map_or(name, |link| &link.name);
        Err(Error::over_limit("chain_depth", found, max).in_file(top))
    }

    /// Returns an error if the file is in the chain already.
    fn check_loop(&mut self, source: &dyn Source, name: &str) -> Result<()> {
        let Some(id) = source.identity() else { return Ok(()) };
        if self.seen.contains(&id) {
            let names: Vec<_> = self.links.iter().map(|l| l.name.as_str()).collect();
            let message = format!("it loops: {} -> {name}", names.join(" -> "));
            return Err(Error::corrupt("backing chain", message).in_file(&self.links[0].name));
        }
        self.seen.push(id);
        Ok(())
    }

    fn probe(
        &self,
        source: &dyn Source,
        place: &Place,
        name: &str,
        is_compressed: bool,
    ) -> Result<Format> {
        // The name of an .ovf says more than its first bytes.
        let path = match place {
            Place::Url(origin) => Some(Path::new(origin.url.file_name())),
            Place::Local | Place::Elsewhere => source.path(),
        };
        #[cfg(feature = "compressed")]
        let contents = path.filter(|_| is_compressed).map(compressed::name_of_contents);
        #[cfg(not(feature = "compressed"))]
        let contents = None::<PathBuf>.filter(|_| is_compressed);
        let path = contents.as_deref().or(path);
        let probed = Format::probe_named(source, path, self.options.probing);
        if self.links.is_empty() {
            return probed.in_file(Some(Path::new(name)));
        }
        // The remedy would apply to the image itself, not to its backing file.
        probed.map_err(|error| {
            error
                .clear_remedy()
                .in_file(name)
                .hint("the image does not record the format of its backing file")
        })
    }

    /// Opens the backing file that the last image references.
    fn open_parent(&mut self, parent: &ParentReference, resolver: Resolver<'_>) -> Result<Opening> {
        let role = "backing file";
        // The caller's files are on this host, wherever the image is.
        let is_given = matches!(parent.locator, ParentLocator::Given(_));
        let resolver = Resolver { origin: resolver.origin.filter(|_| !is_given), ..resolver };
        let format = || parent.format.as_deref().map(Format::of_backing).transpose();
        if let Some(origin) = resolver.origin {
            let origin = origin.join(resolver.policy, role, &parent.name)?;
            let (source, name) = (origin.open(role)?, origin.url.to_string());
            return Ok(Opening { source, name, format: format()?, place: Place::Url(origin) });
        }
        let searched = matches!(parent.locator, ParentLocator::FoundByUuid(_));
        let policy = match parent.locator {
            ParentLocator::FoundByUuid(_) => resolver.search,
            ParentLocator::Given(_) => ExternalFiles::Any,
            _ => resolver.policy,
        };
        if searched {
            self.policy = self.policy.min(ExternalFiles::SameDir);
        }
        // The backing file is locked once its format is known.
        let resolver = Resolver { policy, lock: None, ..resolver };
        let (path, format) = match parent.locator.path() {
            Some(path) => (path.to_owned(), format()?),
            None => match local_file(&parent.name) {
                Some((path, named)) if policy == ExternalFiles::Any => {
                    (path, named.map_or_else(format, |format| Ok(Some(format)))?)
                }
                Some(_) => {
                    let message = format!("its {role} '{}' is not a plain file name", parent.name);
                    return Err(Error::refused(message).with_remedy(Remedy::AllowExternalFiles));
                }
                None => (resolver.resolve(role, &parent.name)?, format()?),
            },
        };
        let source = resolver.open_at(role, &parent.name, &path)?;
        let name = path.display().to_string();
        Ok(Opening { source, name, format, place: Place::Local })
    }
}

/// Maximum length in bytes of a `json:` name that is parsed: several times that of a path.
#[cfg(feature = "json")]
const MAX_JSON_NAME: usize = 16 << 10;

/// Returns the path and format in a `json:` name that denotes one local file.
fn local_file(name: &str) -> Option<(PathBuf, Option<Format>)> {
    #[cfg(feature = "json")]
    return name
        .strip_prefix("json:")
        .filter(|json| json.len() <= MAX_JSON_NAME)
        .and_then(node::local_file)
        .map(|f| (f.path, f.format));
    #[cfg(not(feature = "json"))]
    return None.filter(|_| !name.is_empty());
}

/// A layer and the name of its file.
type Named<'a> = (&'a dyn Layer, &'a str);

/// Checks that a backing file has the content ID that its overlay recorded, if it recorded one.
pub(super) fn require_content(
    (child, child_name): Named<'_>,
    (parent, name): Named<'_>,
) -> Result<()> {
    let Some(wanted) = child.parent_content_id() else { return Ok(()) };
    let found = parent.content_ids();
    if found.contains(&wanted) {
        return Ok(());
    }
    let found = if found.is_empty() { "(none)".to_owned() } else { found.join(", ") };
    Err(Error::corrupt(
        "backing chain",
        format!("the parent '{name}' has the content ID {found}, the image expects {wanted}"),
    )
    .in_file(child_name)
    .hint("the parent was modified after the image was created, or it is a different image")
    .with_remedy(Remedy::IgnoreContentId))
}

/// Converts an error of locking a file that is only read.
pub(crate) fn lock_error(error: std::io::Error) -> Error {
    let error = Error::io("cannot lock it", error);
    match error.kind() {
        ErrorKind::Locked => error.with_remedy(Remedy::ForceShare),
        _ => error,
    }
}

fn open_layer(
    source: Arc<dyn Source>,
    format: Format,
    context: &OpenContext<'_>,
) -> Result<Arc<dyn Layer>> {
    if context.disk.is_some() && format.driver().appliance.is_none() {
        return Err(Error::invalid(format!(
            "{format} images hold one disk, so a disk cannot be selected"
        )));
    }
    (format.driver().open)(source, context)
}
