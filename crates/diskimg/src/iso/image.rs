//! An ISO image, and one of its name spaces as a tree.

use crate::error::{Error, Result};
use crate::iso::SECTOR;
use crate::iso::boot::{BootCatalog, SystemArea};
use crate::iso::content::ExtentSource;
use crate::iso::finding::Findings;
use crate::iso::info::IsoInfo;
use crate::iso::node::{Content, Entry, FileTree, FileType, Node};
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
use crate::storage::number::to_u64;
use crate::storage::source::Source;
use serde::Serialize;
use std::sync::Arc;

/// Which of an image's trees is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Namespace {
    /// Rock Ridge if it is there, else Joliet, else UDF if the ISO 9660 tree holds less, else
    /// ISO 9660's own. UDF comes first where ISO 9660 cuts files short.
    #[default]
    Auto,
    /// POSIX names and attributes in the primary tree.
    RockRidge,
    /// The tree of UTF-16 names.
    Joliet,
    /// ISO 9660's own names: of the enhanced tree (ISO 9660:1999) where there is one.
    Iso,
    /// UDF.
    Udf,
}

/// Which session of a disc that was written several times is shown. A later one usually shows
/// the files of those before it, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Session {
    /// The last one.
    #[default]
    Last,
    /// The first one.
    First,
    /// The one that begins with this sector.
    At(u32),
}

/// How to open an ISO image.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct IsoOptions {
    /// Which tree.
    pub namespace: Namespace,
    /// Which session.
    pub session: Session,
    /// Which files a cue sheet may name: in its own directory (the default, and what
    /// [`ExternalFiles::Any`] comes to as well), or none.
    pub external_files: ExternalFiles,
    /// What could be made up for is an error: the first that is found.
    pub strict: bool,
    /// Bounds.
    pub limits: Limits,
}

/// An ISO image, seen through one of its name spaces. Cheap to clone; shared between threads.
#[derive(Debug, Clone)]
pub struct IsoImage {
    pub(super) source: Arc<dyn Source>,
    pub(super) options: IsoOptions,
    pub(super) descriptors: Arc<Descriptors>,
    /// Sector of the first descriptor of the session that is shown.
    pub(super) first_descriptor: u64,
    pub(super) sessions: Arc<[SessionInfo]>,
    pub(super) udf: Option<Arc<UdfVolume>>,
    /// All trees that can be shown, with their names.
    pub(super) trees: Arc<[(Namespace, Arc<dyn FileTree>)]>,
    namespace: Namespace,
    tree: Arc<dyn FileTree>,
    root: Node,
}

impl IsoImage {
    /// Opens the image whose bytes `source` has: sectors of 2048 bytes or, from a copy of a disc,
    /// of 2352 or so. A cue sheet, told by its name (`.cue`), stands for its first track with data.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if it is no ISO image or has no tree that can be
    /// shown, [`Unsupported`](crate::ErrorKind::Unsupported) for what is not read,
    /// [`Invalid`](crate::ErrorKind::Invalid) if the name space asked for is not there,
    /// [`Io`](crate::ErrorKind::Io).
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
                "this is no ISO image: neither ISO 9660 nor UDF",
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

    /// The name space that is shown.
    pub fn namespace(&self) -> Namespace {
        self.namespace
    }

    /// All name spaces that could be shown.
    pub fn namespaces(&self) -> impl Iterator<Item = Namespace> {
        self.trees.iter().map(|(namespace, _)| *namespace)
    }

    /// What the image says of itself.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io).
    pub fn info(&self) -> Result<IsoInfo> {
        IsoInfo::of(self)
    }

    /// The sessions that were found, the first one first.
    pub fn sessions(&self) -> &[SessionInfo] {
        &self.sessions
    }

    /// The bytes of the image, in sectors of 2048.
    pub fn source(&self) -> &Arc<dyn Source> {
        &self.source
    }

    /// The root directory.
    pub fn root(&self) -> &Node {
        &self.root
    }

    /// What is in a directory of this image, in recorded order.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) if it is none, [`Corrupt`](crate::ErrorKind::Corrupt)
    /// also if a part of it can be read, which [`walk_from`](Self::walk_from) gives;
    /// [`Limit`](crate::ErrorKind::Limit), [`Io`](crate::ErrorKind::Io).
    pub fn read_dir(&self, dir: &Node) -> Result<Vec<Entry>> {
        if !dir.is_dir() {
            return Err(Error::invalid("not a directory"));
        }
        match self.tree.read_dir_as_far(dir)? {
            (entries, None) => Ok(entries),
            (_, Some(lost)) => Err(lost),
        }
    }

    /// The file or directory of this path: names with `/` between them, one before them or
    /// behind them or not. Symbolic links are not followed. A name that is not there is also
    /// looked for as ISO 9660 records it: `NAME.EXT;1`, and without regard to case in that name
    /// space.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) if it is not there; otherwise as
    /// [`read_dir`](Self::read_dir), but that it may be in a part that can be read.
    pub fn lookup(&self, path: &[u8]) -> Result<Node> {
        let mut node = self.root.clone();
        let names = path.split(|&byte| byte == b'/').filter(|name| !matches!(*name, b"" | b"."));
        for (depth, name) in names.enumerate() {
            let missing = || {
                let path = String::from_utf8_lossy(path).into_owned();
                Error::invalid(format!("no file or directory '{path}' in the image"))
            };
            let most = self.options.limits.directory_depth;
            if to_u64(depth) >= most {
                let found = "a path through more directories";
                return Err(Error::over_limit("directory_depth", found, most));
            }
            if !node.is_dir() {
                return Err(missing());
            }
            let (mut entries, lost) = self.tree.read_dir_as_far(&node)?;
            let Some(index) = self.index_of(name, &entries) else {
                return Err(lost.unwrap_or_else(missing));
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

    /// Goes through all that is below the root.
    pub fn walk(&self) -> Walk {
        self.walk_from(self.root.clone(), b"")
    }

    /// Goes through all that is below a directory of this image, whose path that is.
    pub fn walk_from(&self, dir: Node, path: &[u8]) -> Walk {
        let tree = Arc::clone(&self.tree);
        Walk::new(tree, dir, path, self.source.len(), self.options.limits.clone())
    }

    /// The bytes of a regular file, unpacked if it is packed.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) if it is no regular file,
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for interleaved files and files on other
    /// volumes, [`Corrupt`](crate::ErrorKind::Corrupt). Bytes that lie outside the image are an error
    /// when they are read.
    pub fn contents(&self, node: &Node) -> Result<Arc<dyn Source>> {
        if node.file_type != FileType::Regular {
            return Err(Error::invalid("only a regular file has contents"));
        }
        let stretches = |extents| {
            ExtentSource::new(Arc::clone(&self.source), extents)
                .map_err(|e| Error::io("a file longer than any file can be", e))
        };
        Ok(match &node.content {
            Content::Extents(extents) => Arc::new(stretches(extents)?),
            Content::Zisofs { extents, form } => {
                let packed = Arc::new(stretches(extents)?);
                Arc::new(ZisofsSource::new(packed, *form, &self.options.limits)?)
            }
            Content::Unread(why) => {
                return Err(Error::unsupported(format!("a file that is recorded {why}")));
            }
        })
    }

    /// El Torito's boot catalog, if there is one.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if it cannot be read.
    pub fn boot_catalog(&self) -> Result<Option<BootCatalog>> {
        let Some(sector) = self.descriptors.boot_catalog else { return Ok(None) };
        BootCatalog::read(&*self.source, sector).map(Some)
    }

    /// The same; a damaged one is none: [`boot_catalog`](Self::boot_catalog) tells of that.
    pub(super) fn readable_boot_catalog(&self) -> Result<Option<BootCatalog>> {
        match self.boot_catalog() {
            Err(error) if !error.is_of_storage() => Ok(None),
            outcome => outcome,
        }
    }

    /// What the first 32 KiB say to who starts from a disk.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io).
    pub fn system_area(&self) -> Result<SystemArea> {
        let catalog = self.readable_boot_catalog()?;
        SystemArea::read(&*self.source, catalog.as_ref())
    }
}

/// The sector of the first volume descriptor.
fn first_descriptor(session: Session, sessions: &[SessionInfo]) -> Result<u64> {
    let chosen = match session {
        Session::Last => sessions.last(),
        Session::First => sessions.first(),
        Session::At(sector) => return Ok(u64::from(sector) + descriptor::FIRST),
    };
    // Without any: UDF alone, or nothing that we know.
    Ok(chosen.map_or(descriptor::FIRST, |session| session.descriptors_sector))
}

/// The trees of an image, and why others cannot be shown.
#[derive(Debug, Default)]
struct Trees {
    found: Vec<(Namespace, Arc<dyn FileTree>)>,
    /// The first error, for an image without any tree.
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

    /// Damage hides a tree. What the system could not read may be the best one, though.
    fn note(&mut self, error: Error) {
        let worse = |known: &Error| error.is_of_storage() && !known.is_of_storage();
        if self.error.as_ref().is_none_or(worse) {
            self.error = Some(error);
        }
    }

    /// The trees of ISO 9660. One of them may be damaged and another one right.
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

    /// The tree to be shown.
    fn choose(&mut self, wanted: Namespace) -> Result<usize> {
        if wanted != Namespace::Auto {
            return match (self.index(wanted), self.error.take()) {
                (Some(index), _) => Ok(index),
                (None, Some(error)) => Err(error),
                (None, None) => Err(Error::invalid(format!("the image has no {wanted} tree"))),
            };
        }
        if let Some(error) = self.error.take_if(|error| error.is_of_storage()) {
            return Err(error.hint("another tree may be read: --namespace, IsoOptions::namespace"));
        }
        if self.udf_holds_more()? {
            return Ok(self.index(Namespace::Udf).unwrap_or_default());
        }
        let order = [Namespace::RockRidge, Namespace::Joliet, Namespace::Iso, Namespace::Udf];
        let best = order.into_iter().find_map(|namespace| self.index(namespace));
        best.ok_or_else(|| {
            let error = self.error.take();
            error.unwrap_or_else(|| Error::corrupt("ISO image", "it has no tree of files"))
        })
    }

    /// True if UDF's root has files or directories that ISO 9660's best tree does not have (where
    /// often a README says so and nothing else), or the same ones longer.
    fn udf_holds_more(&self) -> Result<bool> {
        let entries = |namespace| {
            let Some(index) = self.index(namespace) else { return Ok(None) };
            let tree = &self.found[index].1;
            match tree.root().and_then(|root| tree.read_dir(&root)) {
                Ok(entries) => Ok(Some(entries)),
                Err(error) if error.is_of_storage() => Err(error),
                Err(_) => Ok(None),
            }
        };
        let Some(udf) = entries(Namespace::Udf)? else { return Ok(false) };
        let mut iso = None;
        for namespace in [Namespace::RockRidge, Namespace::Joliet, Namespace::Iso] {
            if iso.is_none() {
                iso = entries(namespace)?;
            }
        }
        let Some(iso) = iso else { return Ok(true) };
        let longer = |entry: &Entry| {
            let same = iso.iter().find(|other| other.name.eq_ignore_ascii_case(&entry.name));
            entry.node.file_type == FileType::Regular
                && same.is_some_and(|other| other.node.size < entry.node.size)
        };
        Ok(udf.len() > iso.len() || udf.iter().any(longer))
    }
}

impl std::fmt::Display for Namespace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Auto => "auto",
            Self::RockRidge => "Rock Ridge",
            Self::Joliet => "Joliet",
            Self::Iso => "ISO 9660",
            Self::Udf => "UDF",
        })
    }
}
