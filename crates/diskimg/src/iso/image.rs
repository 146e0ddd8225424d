//! An ISO image, and one of its namespaces as a directory tree.

use crate::error::{Error, Result};
use crate::iso::SECTOR;
use crate::iso::boot::{BootCatalog, SystemArea};
use crate::iso::content::ExtentSource;
use crate::iso::finding::{Finding, FindingCode, Findings};
use crate::iso::info::IsoInfo;
use crate::iso::node::{Content, Entry, FileTree, FileType, Listing, Node};
use crate::iso::read::cue;
use crate::iso::read::descriptor::{self, Descriptors, VolumeKind};
use crate::iso::read::sectors;
use crate::iso::read::sessions::{self, SessionInfo};
use crate::iso::read::tree::RecordTree;
use crate::iso::read::zisofs::ZisofsSource;
use crate::iso::udf::{self, UdfVolume};
use crate::iso::walk::Walk;
use crate::open::external_files::ExternalFiles;
use crate::open::limits::Limits;
use crate::remedy::Remedy;
use crate::report::finding::Severity;
use crate::storage::number::to_u64;
use crate::storage::source::Source;
use serde::Serialize;
use std::collections::HashMap;
use std::sync::Arc;

/// Which of an image's directory trees to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Namespace {
    /// Rock Ridge if present, else UDF, else Joliet, else ISO 9660. UDF takes precedence over Rock
    /// Ridge if its root directory has more entries, or longer files of the same names, and is not
    /// used if the root directory of the other tree has more entries. In the trees of ISO 9660 and
    /// Joliet, names may be shortened.
    #[default]
    Auto,
    /// POSIX names and attributes in the primary tree.
    RockRidge,
    /// The supplementary tree with UCS-2 names.
    Joliet,
    /// ISO 9660 names, from the enhanced tree (ISO 9660:1999) if there is one.
    Iso,
    /// UDF.
    Udf,
}

/// Which session of a multisession disc to use. A later session usually also contains the files of
/// the earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Session {
    /// The last session.
    #[default]
    Last,
    /// The first session.
    First,
    /// The session that begins at this sector.
    At(u32),
}

/// How to open an ISO image.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct IsoOptions {
    /// Which directory tree to use.
    pub namespace: Namespace,
    /// Which session to use.
    pub session: Session,
    /// Which files a cue sheet may refer to: those in its own directory (the default;
    /// [`ExternalFiles::Any`] allows no more), or none.
    pub external_files: ExternalFiles,
    /// Treat damage that could be tolerated as an error: the first instance is returned.
    pub strict: bool,
    /// Resource limits.
    pub limits: Limits,
}

/// An ISO image, read through one of its namespaces. Cheap to clone; can be shared between
/// threads.
#[derive(Debug, Clone)]
pub struct IsoImage {
    pub(super) source: Arc<dyn Source>,
    pub(super) options: IsoOptions,
    pub(super) descriptors: Arc<Descriptors>,
    /// Sector of the first volume descriptor of the selected session.
    pub(super) first_descriptor: u64,
    pub(super) sessions: Arc<[SessionInfo]>,
    pub(super) udf: Option<Arc<UdfVolume>>,
    /// All trees that can be selected, with their namespaces.
    pub(super) trees: Arc<[(Namespace, Arc<dyn FileTree>)]>,
    namespace: Namespace,
    tree: Arc<dyn FileTree>,
    root: Node,
}

impl IsoImage {
    /// Opens the image in `source`: sectors of 2048 bytes or raw CD sectors (such as 2352 bytes).
    /// For a cue sheet, recognized by its file name extension (`.cue`), opens the first data track.
    ///
    /// # Errors
    /// - [`Corrupt`](crate::ErrorKind::Corrupt) if it is not an ISO image or has no readable
    ///   directory tree.
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) if it uses a feature that is not supported.
    /// - [`Invalid`](crate::ErrorKind::Invalid) if the image does not have the requested name
    ///   space.
    /// - [`Io`](crate::ErrorKind::Io) if reading fails.
    pub fn open(source: Arc<dyn Source>, options: &IsoOptions) -> Result<Self> {
        let source = sectors::cooked(cue::track(source, options)?)?;
        let sessions: Arc<[SessionInfo]> = sessions::find(&*source)?.into();
        let first = first_descriptor(options.session, &sessions)?;
        let mut findings = if options.strict { Findings::Strict } else { Findings::Ignored };
        let descriptors = descriptor::read(&*source, first, &mut findings)?;
        let udf = udf::open(Arc::clone(&source), &options.limits);
        if descriptors.volumes.is_empty() && matches!(udf, Ok(None)) {
            return Err(Error::corrupt(
                "volume descriptors",
                "not an ISO image: neither ISO 9660 nor UDF",
            )
            .at(first.saturating_mul(SECTOR)));
        }
        let mut trees = Trees::default();
        trees.add_record_trees(&source, &descriptors, options);
        let udf = trees.add_udf(udf);
        let chosen = trees.choose(options.namespace)?;
        let (namespace, tree) = trees.found[chosen].clone();
        let root = tree.root()?;
        Ok(Self {
            source,
            options: options.clone(),
            descriptors: Arc::new(descriptors),
            first_descriptor: first,
            sessions,
            udf,
            trees: trees.found.into(),
            namespace,
            tree,
            root,
        })
    }

    /// Returns the limits for reading the image.
    pub(super) fn limits(&self) -> &Limits {
        &self.options.limits
    }

    /// Returns the selected directory tree and its root.
    #[cfg(feature = "files")]
    pub(crate) fn into_tree(self) -> (Arc<dyn FileTree>, Node) {
        (self.tree, self.root)
    }

    /// Returns the selected name space.
    pub fn namespace(&self) -> Namespace {
        self.namespace
    }

    /// Returns all namespaces that can be selected.
    pub fn namespaces(&self) -> impl Iterator<Item = Namespace> {
        self.trees.iter().map(|(namespace, _)| *namespace)
    }

    /// Returns information about the image.
    ///
    /// # Errors
    /// Returns [`Io`](crate::ErrorKind::Io) if reading fails.
    pub fn info(&self) -> Result<IsoInfo> {
        IsoInfo::of(self)
    }

    /// Returns the sessions of the image, in recorded order.
    pub fn sessions(&self) -> &[SessionInfo] {
        &self.sessions
    }

    /// Returns the contents of the image, as sectors of 2048 bytes.
    pub fn source(&self) -> &Arc<dyn Source> {
        &self.source
    }

    /// Returns a finding if a volume extends beyond the end of the image. Files in the part that is
    /// missing cannot be read; the others can.
    pub fn truncated(&self) -> Option<Finding> {
        self.truncations().max_by_key(|(end, _)| *end).map(|(_, finding)| finding)
    }

    /// Returns the end of each volume that extends beyond the end of the image, and its finding.
    pub(super) fn truncations(&self) -> impl Iterator<Item = (u64, Finding)> {
        let len = self.source.len();
        let volumes = self.descriptors.volumes.iter();
        let volumes = volumes.map(|v| ("volume", v.bytes(), Some(v.sector * SECTOR + 80)));
        let udf = self.udf.iter().filter(|udf| !udf.partitions.is_incremental());
        let udf = udf.map(|udf| ("UDF partition", udf.partitions.end(), None));
        let cut = volumes.chain(udf).filter(move |(_, end, _)| *end > len);
        cut.map(move |(what, end, offset)| {
            let message =
                format!("the {what} has {end} bytes, but the image only {len}: it is truncated");
            let finding = Finding::new(FindingCode::Truncated, Severity::Warning, message);
            (end, offset.into_iter().fold(finding, Finding::at))
        })
    }

    /// Returns the root directory.
    pub fn root(&self) -> &Node {
        &self.root
    }

    /// Returns the entries of a directory of this image, in recorded order.
    ///
    /// # Errors
    /// - [`Invalid`](crate::ErrorKind::Invalid) if `dir` is not a directory.
    /// - [`Corrupt`](crate::ErrorKind::Corrupt) if the directory is damaged, even if some of its
    ///   entries can be read. [`walk_from`](Self::walk_from) yields those.
    /// - [`Limit`](crate::ErrorKind::Limit) if the directory exceeds one of the limits.
    /// - [`Io`](crate::ErrorKind::Io) if reading fails.
    pub fn read_dir(&self, dir: &Node) -> Result<Vec<Entry>> {
        if !dir.is_dir() {
            return Err(Error::invalid("not a directory"));
        }
        match self.tree.read_dir_partial(dir)? {
            (listing, None) => Ok(listing.entries),
            (_, Some(error)) => Err(error),
        }
    }

    /// Returns the file or directory at `path`: names separated by `/`, with an optional leading or
    /// trailing `/`. Symbolic links are not followed. A name ending in the ISO 9660 version number
    /// `;1` also matches without it, and in the [`Iso`](Namespace::Iso) name space case is ignored
    /// if no name matches exactly.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) if there is no such file or directory,
    /// otherwise the errors of [`read_dir`](Self::read_dir), unless a damaged directory has a
    /// readable entry of that name.
    pub fn lookup(&self, path: &[u8]) -> Result<Node> {
        let mut node = self.root.clone();
        let names = path.split(|&byte| byte == b'/').filter(|name| !matches!(*name, b"" | b"."));
        for (depth, name) in names.enumerate() {
            let missing = || {
                let path = String::from_utf8_lossy(path).into_owned();
                Error::invalid(format!("no file or directory '{path}' in the image"))
            };
            let limit = self.options.limits.directory_depth;
            if to_u64(depth) >= limit {
                let found = "a path with more nested directories";
                return Err(Error::over_limit("directory_depth", found, limit));
            }
            if !node.is_dir() {
                return Err(missing());
            }
            let (Listing { mut entries, .. }, error) = self.tree.read_dir_partial(&node)?;
            let Some(index) = self.index_of(name, &entries) else {
                return Err(error.unwrap_or_else(missing));
            };
            node = entries.swap_remove(index).node;
        }
        Ok(node)
    }

    fn index_of(&self, name: &[u8], entries: &[Entry]) -> Option<usize> {
        let exactly = |wanted: &[u8]| entries.iter().position(|entry| entry.name == wanted);
        let bare = name.strip_suffix(b";1").unwrap_or(name);
        exactly(name).or_else(|| exactly(bare)).or_else(|| {
            let folded = self.namespace == Namespace::Iso;
            folded.then(|| entries.iter().position(|e| e.name.eq_ignore_ascii_case(bare)))?
        })
    }

    /// Returns an iterator over all files and directories below the root.
    pub fn walk(&self) -> Walk {
        self.walk_from(self.root.clone(), b"")
    }

    /// Returns an iterator over all files and directories below `dir`, a directory of this image
    /// with the path `path`.
    pub fn walk_from(&self, dir: Node, path: &[u8]) -> Walk {
        let tree = Arc::clone(&self.tree);
        Walk::new(tree, dir, path, self.source.len(), self.options.limits.clone())
    }

    /// Returns the contents of a regular file, decompressed if it is compressed with zisofs.
    ///
    /// Bytes outside the image are an error when they are read.
    ///
    /// # Errors
    /// - [`Invalid`](crate::ErrorKind::Invalid) if it is not a regular file.
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) if it is interleaved or on another volume.
    /// - [`Corrupt`](crate::ErrorKind::Corrupt) if its zisofs header is damaged.
    pub fn contents(&self, node: &Node) -> Result<Arc<dyn Source>> {
        if node.file_type != FileType::Regular {
            return Err(Error::invalid("only a regular file has contents"));
        }
        let open_extents = |extents| ExtentSource::new(Arc::clone(&self.source), extents);
        Ok(match &node.content {
            Content::Extents(extents) => Arc::new(open_extents(extents)?),
            Content::Zisofs { extents, parameters } => {
                let compressed = Arc::new(open_extents(extents)?);
                Arc::new(ZisofsSource::new(compressed, *parameters, &self.options.limits)?)
            }
            Content::Unsupported(why) => {
                return Err(Error::unsupported(format!("the file is recorded {why}")));
            }
        })
    }

    /// Returns the El Torito boot catalog, if there is one.
    ///
    /// # Errors
    /// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if the catalog is damaged,
    /// [`Io`](crate::ErrorKind::Io) if reading fails.
    pub fn boot_catalog(&self) -> Result<Option<BootCatalog>> {
        let Some(sector) = self.descriptors.boot_catalog else { return Ok(None) };
        BootCatalog::read(&*self.source, sector).map(Some)
    }

    /// Like [`boot_catalog`](Self::boot_catalog), but returns `None` for a damaged catalog.
    pub(super) fn readable_boot_catalog(&self) -> Result<Option<BootCatalog>> {
        match self.boot_catalog() {
            Err(error) if !error.is_storage_failure() => Ok(None),
            outcome => outcome,
        }
    }

    /// Returns the partition tables and the boot code in the system area (the first 32 KiB).
    ///
    /// # Errors
    /// Returns [`Io`](crate::ErrorKind::Io) if reading fails.
    pub fn system_area(&self) -> Result<SystemArea> {
        let catalog = self.readable_boot_catalog()?;
        SystemArea::read(&*self.source, catalog.as_ref())
    }
}

/// Returns the sector of the first volume descriptor.
fn first_descriptor(session: Session, sessions: &[SessionInfo]) -> Result<u64> {
    let chosen = match session {
        Session::Last => sessions.last(),
        Session::First => sessions.first(),
        Session::At(sector) => return Ok(u64::from(sector) + descriptor::FIRST),
    };
    // Without sessions, the image has only UDF or is not an ISO image.
    Ok(chosen.map_or(descriptor::FIRST, |session| session.descriptors_sector))
}

/// The directory trees of an image, and the error that another one could not be opened with.
#[derive(Debug, Default)]
struct Trees {
    found: Vec<(Namespace, Arc<dyn FileTree>)>,
    /// The error to return if no tree can be used: the first one, or the first I/O error.
    error: Option<Error>,
}

impl Trees {
    fn add(&mut self, namespace: Namespace, tree: Result<impl FileTree + 'static>) {
        match tree {
            Ok(tree) => self.found.push((namespace, Arc::new(tree))),
            Err(error) => {
                self.note(error);
            }
        }
    }

    /// Records why a tree cannot be used. A damaged tree is skipped; an I/O error takes precedence,
    /// because the tree it affects may be the best one.
    fn note(&mut self, error: Error) {
        let worse = |known: &Error| error.is_storage_failure() && !known.is_storage_failure();
        if self.error.as_ref().is_none_or(worse) {
            self.error = Some(error);
        }
    }

    /// Adds the trees of ISO 9660. One may be damaged while another is intact.
    fn add_record_trees(
        &mut self,
        source: &Arc<dyn Source>,
        descriptors: &Descriptors,
        options: &IsoOptions,
    ) {
        let open = |kind| {
            let volume = descriptors.of(kind)?;
            let limits = &options.limits;
            Some(RecordTree::open(Arc::clone(source), volume, limits, options.strict))
        };
        let primary = open(VolumeKind::Primary);
        if let Some(Ok(primary)) = &primary
            && let Some(tree) = primary.with_rock_ridge().transpose()
        {
            self.add(Namespace::RockRidge, tree);
        }
        if let Some(joliet) = open(VolumeKind::Joliet) {
            self.add(Namespace::Joliet, joliet);
        }
        match (open(VolumeKind::Enhanced), primary) {
            (Some(Ok(enhanced)), _) => self.add(Namespace::Iso, Ok(enhanced)),
            (_, Some(primary)) => self.add(Namespace::Iso, primary),
            (Some(enhanced), None) => self.add(Namespace::Iso, enhanced),
            (None, None) => {}
        }
    }

    fn add_udf(&mut self, udf: Result<Option<UdfVolume>>) -> Option<Arc<UdfVolume>> {
        match udf {
            Ok(Some(volume)) => {
                let volume = Arc::new(volume);
                self.found.push((Namespace::Udf, volume.clone()));
                Some(volume)
            }
            Ok(None) => None,
            Err(error) => {
                self.note(error);
                None
            }
        }
    }

    fn index(&self, wanted: Namespace) -> Option<usize> {
        self.found.iter().position(|(namespace, _)| *namespace == wanted)
    }

    /// Returns the index of the tree to use.
    fn choose(&mut self, wanted: Namespace) -> Result<usize> {
        if wanted != Namespace::Auto {
            return match (self.index(wanted), self.error.take()) {
                (Some(index), _) => Ok(index),
                (None, Some(error)) => Err(error),
                (None, None) => {
                    Err(Error::invalid(format!("the image has no {} tree", wanted.title())))
                }
            };
        }
        if let Some(error) = self.error.take_if(|error| error.is_storage_failure()) {
            return Err(error.with_remedy(Remedy::ChooseNamespace));
        }
        if self.udf_is_better()? {
            return Ok(self.index(Namespace::Udf).unwrap_or_default());
        }
        let order = [Namespace::RockRidge, Namespace::Joliet, Namespace::Iso, Namespace::Udf];
        let best = order.into_iter().find_map(|namespace| self.index(namespace));
        best.ok_or_else(|| {
            let error = self.error.take();
            error.unwrap_or_else(|| Error::corrupt("ISO image", "it has no directory tree"))
        })
    }

    /// Returns true if UDF is to be used instead of the best ISO 9660 tree: if its root directory
    /// has more entries (on such discs, the other often has only a README) or longer files of the
    /// same names, or if the names in the other tree may be shortened.
    fn udf_is_better(&self) -> Result<bool> {
        let entries = |namespace| {
            let Some(index) = self.index(namespace) else { return Ok(None) };
            let tree = &self.found[index].1;
            match tree.root().and_then(|root| tree.read_dir(&root)) {
                Ok(listing) => Ok(Some(listing.entries)),
                Err(error) if error.is_storage_failure() => Err(error),
                Err(_) => Ok(None),
            }
        };
        let Some(udf) = entries(Namespace::Udf)? else { return Ok(false) };
        let mut iso = None;
        let full_names = self.index(Namespace::RockRidge).is_some();
        for namespace in [Namespace::RockRidge, Namespace::Joliet, Namespace::Iso] {
            if iso.is_none() {
                iso = entries(namespace)?;
            }
        }
        let Some(iso) = iso else { return Ok(true) };
        let mut sizes = HashMap::new();
        for entry in &iso {
            sizes.entry(entry.name.to_ascii_lowercase()).or_insert(entry.node.size);
        }
        let longer = |entry: &Entry| {
            let size = sizes.get(&entry.name.to_ascii_lowercase());
            entry.node.file_type == FileType::Regular
                && size.is_some_and(|&size| size < entry.node.size)
        };
        let more = udf.len() > iso.len() || udf.len() == iso.len() && !full_names;
        Ok(more || udf.iter().any(longer))
    }
}

impl Namespace {
    /// Returns the standard's name of the tree, for people.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::RockRidge => "Rock Ridge",
            Self::Joliet => "Joliet",
            Self::Iso => "ISO 9660",
            Self::Udf => "UDF",
        }
    }
}
