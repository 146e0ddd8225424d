//! Converts into an existing file or device (`-n`).

use super::input::Input;
use super::run::Prepared;
use super::{Reflink, Report, SECTOR, Settings, Sparse};
use crate::error::{Error, ErrorKind, Result};
use crate::model::bitmap::DirtyBitmap;
use crate::model::format::Format;
use crate::model::image::Image;
use crate::model::mutable::WriteRequest;
use crate::model::target::{Target, TargetSpec, UnitEncoder};
use crate::open::OpenOptions;
use crate::open::driver::OpenMutable;
use crate::open::external_files::StandIn;
use crate::ops::new_image::{open_backing, refuse_own_backing, take_backing};
use crate::ops::plan::{self as planning, Plan};
use crate::remedy::Remedy;
use crate::storage::caching::Caching;
use crate::storage::edit::{FileStorage, Storage};
use crate::storage::locking::Lock;
use crate::storage::output::{
    Destination, Durability, Output, OutputError, Planned, Publish, verify_identity,
};
use crate::storage::sink::Sink;
use crate::storage::source::{FileSource, Source};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Runs a conversion into the existing file or device at `path`.
pub(super) fn run(mut settings: Settings<'_>, input: Input, path: &Path) -> Result<Report> {
    let cannot_open = |e| Error::io("cannot open the existing target", e).in_file(path);
    Destination::of(path).map_err(cannot_open)?;
    take_backing(&mut settings.options, &mut settings.backing);
    require_rewritable(&settings, path)?;
    if settings.format == Format::default() {
        refuse_backing(&settings, path)?;
        return overwrite(settings, input, path);
    }
    if let Some(open) = settings.format.driver().open_mutable {
        let storage = FileStorage::open(path).map_err(cannot_open)?;
        let name = path.display().to_string();
        if let Some(existing) = Existing::open(&settings, &input, open, Arc::new(storage), name)? {
            return modify(settings, input, existing);
        }
    }
    refuse_backing(&settings, path)?;
    rewrite(settings, input, path)
}

/// Returns what [`run`] would do. The image is locked, but not changed.
pub(super) fn plan(mut settings: Settings<'_>, input: Input, path: &Path) -> Result<Plan> {
    let cannot_open = |e| Error::io("cannot open the existing target", e).in_file(path);
    Destination::of(path).map_err(cannot_open)?;
    take_backing(&mut settings.options, &mut settings.backing);
    require_rewritable(&settings, path)?;
    if settings.format == Format::default() {
        refuse_backing(&settings, path)?;
        let size = FileSource::open(path).map_err(cannot_open)?.len();
        require_room(input.size(), size, path)?;
        drop(Output::in_place(path, settings.target_is_zero).map_err(cannot_open)?);
        return settings.plan(input, Planned::in_place(path), Some(size));
    }
    if let Some(open) = settings.format.driver().open_mutable {
        let storage = FileStorage::open(path).map_err(cannot_open)?;
        let name = path.display().to_string();
        if let Some(existing) = Existing::open(&settings, &input, open, Arc::new(storage), name)? {
            return plan_modification(settings, input, existing);
        }
    }
    refuse_backing(&settings, path)?;
    let size = open_old(settings.format, path, &|what| cannot_rewrite(what, path))?.size();
    require_room(input.size(), size, path)?;
    settings.plan(input, planning::output(path)?, Some(size))
}

fn plan_modification(
    mut settings: Settings<'_>,
    mut input: Input,
    mut existing: Existing,
) -> Result<Plan> {
    let path = PathBuf::from(&existing.name);
    require_modifiable(&settings, &input, &existing)?;
    let mut prepare = || {
        settings.prepare_existing(&input)?;
        settings.copy_bitmaps(&mut input, &mut *existing.spec)?;
        open_common_backing(&mut settings, existing.storage.path(), &existing)
    };
    prepare().map_err(|e: Error| e.in_file(&path))?;
    let files = Planned::in_place(&path).files();
    Ok(settings.planned(&input, &files, existing.image.size(), input.size()))
}

/// Runs a conversion into existing `storage`. Errors refer to the image as `name`.
pub(super) fn run_on(
    mut settings: Settings<'_>,
    input: Input,
    storage: Arc<dyn Storage>,
    name: String,
) -> Result<Report> {
    take_backing(&mut settings.options, &mut settings.backing);
    let path = PathBuf::from(&name);
    if settings.format == Format::default() {
        refuse_backing(&settings, &path)?;
        let size = storage.len();
        require_room(input.size(), size, &path)?;
        return run_raw(settings, input, Output::to_sink(storage).named(name), size);
    }
    let existing = match settings.format.driver().open_mutable {
        Some(open) => Existing::open(&settings, &input, open, storage, name)?,
        None => None,
    };
    modify(settings, input, existing.ok_or_else(|| only_whole(&path))?)
}

/// Returns what [`run_on`] would do.
pub(super) fn plan_on(
    mut settings: Settings<'_>,
    input: Input,
    storage: Arc<dyn Storage>,
    name: String,
) -> Result<Plan> {
    take_backing(&mut settings.options, &mut settings.backing);
    let path = PathBuf::from(&name);
    if settings.format == Format::default() {
        refuse_backing(&settings, &path)?;
        let size = storage.len();
        require_room(input.size(), size, &path)?;
        return settings.plan(input, Planned::in_place(&path), Some(size));
    }
    let existing = match settings.format.driver().open_mutable {
        Some(open) => Existing::open(&settings, &input, open, storage, name)?,
        None => None,
    };
    plan_modification(settings, input, existing.ok_or_else(|| only_whole(&path))?)
}

/// Returns the error for an existing image that cannot be written in place.
fn only_whole(path: &Path) -> Error {
    Error::unsupported("an image of this kind can only be written as a whole")
        .in_file(path)
        .with_remedy(Remedy::WriteNewImage)
}

/// # Errors
/// Returns [`Invalid`](crate::ErrorKind::Invalid) for a format with several disks.
fn require_rewritable(settings: &Settings<'_>, path: &Path) -> Result<()> {
    if settings.format.driver().appliance.is_none() {
        return Ok(());
    }
    let message = format!("existing {} files cannot be rewritten", settings.format);
    Err(Error::invalid(message).in_file(path).with_remedy(Remedy::WriteNewImage))
}

/// # Errors
/// Returns [`Invalid`](crate::ErrorKind::Invalid) if there is a backing file to compare with.
fn refuse_backing(settings: &Settings<'_>, path: &Path) -> Result<()> {
    if settings.backing.is_none() {
        return Ok(());
    }
    Err(Error::invalid("the existing target has no backing file")
        .in_file(path)
        .with_remedy(Remedy::WriteNewImage))
}

/// An existing image that is open for modification.
struct Existing {
    storage: Arc<dyn Storage>,
    name: String,
    options: OpenOptions,
    /// The image without its backing file.
    image: Image,
    spec: Box<dyn TargetSpec>,
}

impl Existing {
    /// Opens and locks the image. Returns `None` if it can only be rewritten as a whole.
    fn open(
        settings: &Settings<'_>,
        input: &Input,
        open: OpenMutable,
        storage: Arc<dyn Storage>,
        name: String,
    ) -> Result<Option<Self>> {
        let path = PathBuf::from(&name);
        let outcome = || {
            storage.lock(Lock::WRITE).map_err(|e| Error::io("cannot lock it", e))?;
            // Locked above; the files that it names are locked when they are opened to write.
            let options = settings.backing_options.clone().format(settings.format);
            let options = options.snapshot(None).disk(None).metadata_only(false).force_share(true);
            let source: Arc<dyn Source> = storage.clone();
            let image = options.clone().alone().open_source(source, &*name)?;
            if image.shares_data_with(input.identities()) {
                let message = "a file of the existing target is one of the source's own files";
                return Err(Error::refused(message));
            }
            refuse_own_chain(&storage, &name, &image, &options)?;
            let layer = options.open_mutable(storage.clone(), open)?;
            let request = WriteRequest { compress: settings.compress, hides_backing: false };
            let Some(spec) = layer.into_target(&request)? else { return Ok(None) };
            Ok(Some(Self { storage, name, options, image, spec }))
        };
        outcome().map_err(|e: Error| e.in_file(path))
    }

    /// Appends to the input the data that follows it in the last cluster that it fills in part.
    fn append_rest(&self, input: &mut Input) -> Result<()> {
        // The last sector of the source is padded with zeros, as qemu-img does.
        let size = self.image.size();
        let from = input.size().next_multiple_of(SECTOR).min(size);
        let end = from.next_multiple_of(self.spec.quantum()).min(size);
        if from < end {
            // The data may be in a backing file.
            let source: Arc<dyn Source> = self.storage.clone();
            let whole = self.options.open_source(source, &*self.name)?;
            input.push(whole, from..end)?;
        }
        input.pad_to(end);
        Ok(())
    }
}

/// Verifies that none of the files of `image`, which is `name` without its backing file, is a file
/// of its own backing chain: what is written to it would be written there, too.
fn refuse_own_chain(
    storage: &Arc<dyn Storage>,
    name: &str,
    image: &Image,
    options: &OpenOptions,
) -> Result<()> {
    let Some(layer) = image.layers().next() else { return Ok(()) };
    if layer.parent().is_none() || layer.files().len() < 2 {
        return Ok(());
    }
    let source: Arc<dyn Source> = storage.clone();
    let whole = options.open_source(source, name)?;
    match whole.backing().is_some_and(|backing| image.shares_data_with(backing.identities())) {
        true => Err(Error::refused("one of its files is also a file of its own backing file")),
        false => Ok(()),
    }
}

/// Verifies that the input fits into the image, and that there is a backing file if the input is to
/// be compared with one.
fn require_modifiable(settings: &Settings<'_>, input: &Input, existing: &Existing) -> Result<()> {
    let path = Path::new(&existing.name);
    require_room(input.size(), existing.image.size(), path)?;
    match existing.image.layers().next().and_then(|layer| layer.parent()) {
        None => refuse_backing(settings, path),
        Some(_) => Ok(()),
    }
}

/// Opens the backing file that the input is compared with.
fn open_common_backing(
    settings: &mut Settings<'_>,
    path: Option<&Path>,
    existing: &Existing,
) -> Result<Option<Image>> {
    let Some(backing) = &mut settings.backing else { return Ok(None) };
    let image = open_backing(backing, path, &settings.backing_options)?;
    refuse_own_backing(path, &image)?;
    if existing.image.shares_data_with(image.identities()) {
        return Err(Error::refused("a file of the target is one of its backing file"));
    }
    Ok(Some(image))
}

/// Writes into an existing image.
fn modify(mut settings: Settings<'_>, input: Input, existing: Existing) -> Result<Report> {
    require_modifiable(&settings, &input, &existing)?;
    if settings.reflink == Reflink::Auto {
        // It keeps the space that was allocated for it.
        settings.reflink = Reflink::Never;
    }
    let output = Output::to_place(Box::new(ModifiedImage {
        storage: Arc::clone(&existing.storage),
        path: existing.storage.path().map(Path::to_owned),
        files: existing.image.layers().flat_map(|layer| layer.files()).cloned().collect(),
    }))
    .named(&*existing.name);
    run_started(settings, input, output, |settings, input, output| {
        settings.prepare_existing(input)?;
        let len = input.size();
        existing.append_rest(input)?;
        let backing = open_common_backing(settings, output.path(), &existing)?;
        Ok(Prepared { spec: existing.spec, backing, existing: Some(len), selection: None })
    })
}

/// Runs a conversion that overwrites the output. If it fails after it has begun to write, the error
/// says so.
fn run_started(
    settings: Settings<'_>,
    input: Input,
    output: Output,
    prepare: impl FnOnce(&mut Settings<'_>, &mut Input, &mut Output) -> Result<Prepared>,
) -> Result<Report> {
    let has_started = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&has_started);
    let outcome = settings.run_prepared(input, output, |settings, input, output| {
        let prepared = prepare(settings, input, output)?;
        Ok(Prepared { spec: Box::new(Started { spec: prepared.spec, flag }), ..prepared })
    });
    outcome.map_err(|error| match has_started.load(Ordering::Relaxed) {
        true => error.prepend_hint(PARTLY_OVERWRITTEN.into()),
        false => error,
    })
}

/// Overwrites a raw target of `size` bytes.
fn run_raw(settings: Settings<'_>, input: Input, output: Output, size: u64) -> Result<Report> {
    run_started(settings, input, output, |settings, input, output| {
        settings.prepare_new(input, output, Some(size))
    })
}

/// An existing image as a target that records that it is being written.
#[derive(Debug)]
struct Started {
    spec: Box<dyn TargetSpec>,
    flag: Arc<AtomicBool>,
}

impl TargetSpec for Started {
    fn size(&self) -> u64 {
        self.spec.size()
    }

    fn quantum(&self) -> u64 {
        self.spec.quantum()
    }

    fn sequential(&self) -> bool {
        self.spec.sequential()
    }

    fn alignment(&self) -> u64 {
        self.spec.alignment()
    }

    fn encoder(&self) -> Option<Box<dyn UnitEncoder>> {
        self.spec.encoder()
    }

    fn wants_digest(&self) -> bool {
        self.spec.wants_digest()
    }

    fn set_bitmaps(&mut self, bitmaps: Vec<DirtyBitmap>) -> Result<bool> {
        self.spec.set_bitmaps(bitmaps)
    }

    fn start(&self, output: &mut Output) -> Result<Box<dyn Target>> {
        let target = self.spec.start(output)?;
        self.flag.store(true, Ordering::Relaxed);
        Ok(target)
    }
}

/// An image that is modified in place.
#[derive(Debug)]
pub(super) struct ModifiedImage {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) path: Option<PathBuf>,
    /// All files of the image, the main one first.
    pub(super) files: Vec<Arc<dyn Source>>,
}

impl Publish for ModifiedImage {
    fn sink(&self) -> Arc<dyn Sink> {
        self.storage.clone()
    }

    fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    fn set_caching(&mut self, caching: Caching) -> std::result::Result<(), OutputError> {
        let set = self.storage.set_caching(caching);
        set.map_err(|e| OutputError::new(self.path.clone(), e))
    }

    fn require_readable(&self) -> std::result::Result<(), OutputError> {
        if self.files.iter().all(|file| file.path().is_some()) {
            return Ok(());
        }
        let message = "storage without a path cannot be opened again";
        Err(OutputError::new(None, std::io::Error::new(std::io::ErrorKind::Unsupported, message)))
    }

    fn read_back(&self) -> std::result::Result<Vec<StandIn>, OutputError> {
        let open = |file: &Arc<dyn Source>| {
            let path = file.path().unwrap_or(Path::new("")).to_owned();
            match FileSource::open(&path) {
                Ok(file) => Ok((path, Arc::new(file) as Arc<dyn Source>)),
                Err(e) => Err(OutputError::new(Some(path), e)),
            }
        };
        self.files.iter().map(open).collect()
    }

    /// Does nothing: the target has flushed what it wrote.
    fn flush(&self, _: Durability) -> std::result::Result<(), OutputError> {
        Ok(())
    }

    fn publish(self: Box<Self>, _: Durability) -> std::result::Result<(), OutputError> {
        let verify = |file: &Arc<dyn Source>| match file.path() {
            Some(path) if file.identity().is_some() => verify_identity(file.identity(), path),
            _ => Ok(()),
        };
        self.files.iter().try_for_each(verify)
    }
}

/// What a failure costs.
const PARTLY_OVERWRITTEN: &str = "the target may be partly overwritten: each of its sectors has its old \
    or its new bytes";

/// Overwrites a raw target in place.
fn overwrite(settings: Settings<'_>, input: Input, path: &Path) -> Result<Report> {
    let cannot_open = |e| Error::io("cannot open the existing target", e).in_file(path);
    let size = FileSource::open(path).map_err(cannot_open)?.len();
    require_room(input.size(), size, path)?;
    let output = Output::in_place(path, settings.target_is_zero).map_err(cannot_open)?;
    run_raw(settings, input, output, size)
}

/// Replaces a target of any other format with a new image that has the same create options. Data
/// beyond the end of the source is copied from the old image.
fn rewrite(mut settings: Settings<'_>, mut input: Input, path: &Path) -> Result<Report> {
    let unsupported = |what: &str| cannot_rewrite(what, path);
    let old = open_old(settings.format, path, &unsupported)?;
    require_room(input.size(), old.size(), path)?;
    let mut options = old.layers().next().map(|layer| layer.create_options()).unwrap_or_default();
    options.extend(settings.options);
    settings.options = options;
    let size = old.size();
    // The last sector of the source is padded with zeros, as qemu-img does. The old image's data
    // starts at the next sector.
    let from = input.size().next_multiple_of(SECTOR).min(size);
    let output =
        Output::create(path).map_err(|e| Error::io("cannot create the output", e).in_file(path))?;
    if from < size && !(settings.target_is_zero && settings.sparse != Sparse::Off) {
        if !std::fs::metadata(path).is_ok_and(|m| m.is_file()) {
            return Err(unsupported(
                "more bytes than the source, on a device where they would be overwritten",
            ));
        }
        if !output.notes().is_empty() {
            return Err(unsupported(
                "more bytes than the source, in a file that cannot be replaced",
            ));
        }
        for file in old.layers().flat_map(|layer| layer.files()) {
            file.lock(Lock::READ).map_err(|e| Error::io("cannot lock it", e).in_file(path))?;
        }
        input.push(old, from..size)?;
    }
    input.pad_to(size);
    settings.run(input, output, Some(size))
}

/// The error that an image has something that is lost if it is rewritten.
fn cannot_rewrite(what: &str, path: &Path) -> Error {
    Error::unsupported(format!("the existing target has {what}"))
        .in_file(path)
        .with_remedy(Remedy::WriteNewImage)
}

/// Opens the image that is to be rewritten.
///
/// # Errors
/// Returns [`Unsupported`](crate::ErrorKind::Unsupported) if rewriting it would lose something.
fn open_old(format: Format, path: &Path, unsupported: &dyn Fn(&str) -> Error) -> Result<Image> {
    let further_files = || unsupported("further files (extents or a data file)");
    // Not locked yet: the output checks for locks of others, which this process's would prevent.
    let options = OpenOptions::new().format(format).force_share(true);
    let info = options.clone().metadata_only(true).strict(true).open(path)?.info(0)?;
    if info.backing_filename.is_some() {
        return Err(unsupported("a backing file"));
    }
    if !info.snapshots.is_empty() {
        return Err(unsupported("internal snapshots, which would be lost"));
    }
    if info.encrypted {
        return Err(unsupported("encryption"));
    }
    let old = options.open(path).map_err(|e| match e.kind() {
        // There is no backing file, so the policy can only have refused these.
        ErrorKind::Refused => further_files(),
        _ => e,
    })?;
    // VirtualBox's differencing images do not name their parent; it is found by its UUID.
    if old.layers().len() > 1 {
        return Err(unsupported("a backing file"));
    }
    if old.layers().any(|layer| layer.files().len() > 1) {
        return Err(further_files());
    }
    Ok(old)
}

/// # Errors
/// Returns [`Invalid`](crate::ErrorKind::Invalid) if `wanted` bytes do not fit into `size`.
fn require_room(wanted: u64, size: u64, path: &Path) -> Result<()> {
    if wanted > size {
        return Err(Error::invalid(format!(
            "the existing target has {size} bytes, but the source needs {wanted}"
        ))
        .in_file(path));
    }
    Ok(())
}
