//! Reading sparse bundles.

use super::bands::Bands;
use super::check;
use super::info_plist::InfoPlist;
use super::{BANDS, INFO_COPY, INFO_PLIST, TOKEN};
use crate::error::{Error, ErrorKind, Result};
use crate::model::extent::{Extent, HostOffset, Kind, push};
use crate::model::format::Format;
use crate::model::layer::{DiskLayout, Layer};
use crate::model::sealed::Sealed;
use crate::open::OpenContext;
use crate::open::external_files::{ExternalFiles, Resolver};
use crate::report::check::{CheckReport, Finding};
use crate::report::info::{Details, Value};
use crate::storage::number::to_u64;
use crate::storage::source::Source;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Index of the bands in the layer's files, after the property list.
const BANDS_FILE: usize = 1;

/// A sparse bundle.
#[derive(Debug)]
pub(crate) struct SparseBundle {
    /// The property list; the bands, if they were listed; the copy of the property list, if that is
    /// read.
    files: Vec<Arc<dyn Source>>,
    plist: InfoPlist,
    /// `None` if only the property list was requested.
    bands: Option<Arc<Bands>>,
    /// Why the bands could not be listed, although they were requested.
    unlisted: Option<String>,
    /// True if the disk is encrypted, so that it cannot be read.
    encrypted: bool,
    warnings: Vec<String>,
    /// How the copy of the property list differs.
    pub(super) copy_differs: Option<String>,
}

impl SparseBundle {
    pub(super) fn open(source: Arc<dyn Source>, context: &OpenContext<'_>) -> Result<Self> {
        let resolver = resolver(context);
        let with_files = !context.metadata_only || context.with_extents;
        let mut files = vec![Arc::clone(&source)];
        let (plist, warnings, copy) = read_plist(&source, &resolver, context)?;
        let mut opened = Self {
            files: Vec::new(),
            plist,
            bands: None,
            unlisted: None,
            encrypted: false,
            warnings,
            copy_differs: None,
        };
        if with_files {
            match is_encrypted(&resolver) {
                Ok(encrypted) => opened.encrypted = encrypted,
                Err(_) if context.metadata_only => {}
                Err(error) => return Err(error),
            }
            if opened.encrypted && !context.metadata_only {
                return Err(encrypted());
            }
            match Bands::list(plist, &resolver, context.limits) {
                Ok(bands) => {
                    let bands = Arc::new(bands);
                    let source: Arc<dyn Source> = bands.clone();
                    files.push(source);
                    opened.bands = Some(bands);
                }
                // The rest of the metadata can still be reported.
                Err(error) if context.metadata_only => {
                    opened.unlisted = Some(error.without_remedy());
                }
                Err(error) => return Err(error),
            }
            if copy.is_none() {
                opened.copy_differs = copy_differs(&plist, &*source, &resolver, context);
            }
        }
        files.extend(copy);
        opened.files = files;
        Ok(opened)
    }

    pub(super) fn plist(&self) -> &InfoPlist {
        &self.plist
    }

    /// Returns the bands.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) if they were not requested, or could not be listed.
    pub(super) fn bands(&self) -> Result<&Bands> {
        self.bands.as_deref().ok_or_else(|| {
            let why = self.unlisted.as_deref().unwrap_or("only the image's metadata was requested");
            Error::invalid(format!("the bands are not known: {why}")).losing(0..self.plist.size)
        })
    }
}

fn encrypted() -> Error {
    Error::unsupported("an encrypted disk: its file 'token' is not empty")
        .hint("decrypt it with hdiutil convert")
}

/// Returns the resolver for the files of the bundle. If only metadata is requested, no files
/// outside the bundle are opened.
fn resolver<'a>(context: &OpenContext<'a>) -> Resolver<'a> {
    match context.resolver.policy {
        ExternalFiles::Any if context.metadata_only => {
            Resolver { policy: ExternalFiles::SameDir, ..context.resolver }
        }
        _ => context.resolver,
    }
}

/// The property list, warnings about it, and the file of its copy, if that was read instead.
type ReadPlist = (InfoPlist, Vec<String>, Option<Arc<dyn Source>>);

/// Reads the property list or, if it is damaged, its copy.
///
/// # Errors
/// As [`InfoPlist::read`] for the property list.
fn read_plist(
    source: &Arc<dyn Source>,
    resolver: &Resolver<'_>,
    context: &OpenContext<'_>,
) -> Result<ReadPlist> {
    let is_copy = source.path().is_some_and(|path| path.ends_with(INFO_COPY));
    let error = match InfoPlist::read(&**source, context.limits) {
        Ok(plist) if is_copy => {
            let warning = format!("{INFO_PLIST} is missing or was not opened: this is its copy");
            return Ok((plist, vec![warning], None));
        }
        Ok(plist) => return Ok((plist, Vec::new(), None)),
        Err(error) => error,
    };
    if is_copy || error.kind() != ErrorKind::Corrupt {
        return Err(error);
    }
    let copy = resolver
        .open_path("copy of the property list", INFO_COPY)
        .and_then(|copy| Ok((InfoPlist::read(&*copy, context.limits)?, copy)));
    match copy {
        Ok((plist, copy)) => {
            let why = error.without_remedy();
            let warning =
                format!("{INFO_PLIST} is damaged, so its copy {INFO_COPY} is used: {why}");
            Ok((plist, vec![warning], Some(copy)))
        }
        Err(_) => Err(error),
    }
}

/// Returns how the copy of the property list differs, if there is one.
fn copy_differs(
    plist: &InfoPlist,
    source: &dyn Source,
    resolver: &Resolver<'_>,
    context: &OpenContext<'_>,
) -> Option<String> {
    if source.path().is_none_or(|path| path.ends_with(INFO_COPY)) {
        return None;
    }
    let copy = match resolver.open_path("copy of the property list", INFO_COPY) {
        Ok(copy) => copy,
        Err(error) => {
            let is_missing = |e: &io::Error| e.kind() == io::ErrorKind::NotFound;
            let is_missing = error.io_error().is_some_and(is_missing);
            return (!is_missing).then(|| error.without_remedy().to_string());
        }
    };
    match InfoPlist::read(&*copy, context.limits) {
        Ok(copy) if copy == *plist => None,
        Ok(copy) => Some(format!(
            "{INFO_COPY} has other sizes: {} bytes in bands of {}",
            copy.size, copy.band_bytes
        )),
        Err(error) => Some(format!("{INFO_COPY} cannot be read: {}", error.without_remedy())),
    }
}

/// Returns true if the disk is encrypted. The file that says so may be missing.
///
/// # Errors
/// As [`Resolver::open_path`].
fn is_encrypted(resolver: &Resolver<'_>) -> Result<bool> {
    match resolver.open_path("token", TOKEN) {
        Ok(token) => Ok(!token.is_empty()),
        Err(e) if e.io_error().is_some_and(|e| e.kind() == io::ErrorKind::NotFound) => Ok(false),
        Err(error) => Err(error),
    }
}

impl Sealed for SparseBundle {}

impl Layer for SparseBundle {
    fn format(&self) -> Format {
        Format::Sparsebundle
    }

    fn disk_layout(&self) -> DiskLayout {
        // The size of a band need not be a power of two.
        let cluster_size = 1 << self.plist.band_bytes.trailing_zeros();
        DiskLayout { size: self.plist.size, cluster_size }
    }

    fn files(&self) -> &[Arc<dyn Source>] {
        &self.files
    }

    fn next_allocated_hint(&self, range: Range<u64>) -> u64 {
        let Some(bands) = &self.bands else { return range.start };
        bands.next_stored(range.start).unwrap_or(range.end).min(range.end)
    }

    fn directories(&self) -> Vec<PathBuf> {
        let bundle = self.files[0].path().and_then(Path::parent).map(Path::to_owned);
        bundle.iter().map(|bundle| bundle.join(BANDS)).chain(bundle.clone()).collect()
    }

    fn map(&self, range: Range<u64>, out: &mut Vec<Extent>) -> Result<()> {
        if self.encrypted {
            return Err(encrypted());
        }
        let bands = self.bands()?;
        let mut at = range.start;
        for band in bands.within(&range) {
            let guest = bands.guest(band.index);
            let len = bands.len_of(band).map_err(|error| error.losing(guest.clone()))?;
            if len > self.plist.band_bytes {
                let message = format!(
                    "the file of band {:x} has {len} bytes, but a band has only {}: the size of \
                     bands in the property list is wrong, or the file is damaged",
                    band.index, self.plist.band_bytes
                );
                return Err(Error::corrupt("sparse bundle band", message).losing(guest));
            }
            let stored_end = guest.start.saturating_add(len).min(guest.end);
            let (start, end) = (guest.start.max(range.start), stored_end.min(range.end));
            if start < end {
                push(out, at..start, Kind::Unallocated);
                let host = HostOffset { file: BANDS_FILE, offset: start };
                push(out, start..end, Kind::Data(host));
                at = end;
            }
        }
        push(out, at..range.end, Kind::Unallocated);
        Ok(())
    }

    fn details(&self) -> Details {
        let mut specific = Vec::new();
        let mut children = vec![("file".into(), 0)];
        let mut notes = self.warnings();
        if let Some(bands) = &self.bands {
            specific.push(("bands", Value::from(to_u64(bands.stored().len()))));
            children.push(("bands".into(), BANDS_FILE));
        }
        if let Some(why) = &self.unlisted {
            notes.push(format!("the bands cannot be listed: {why}"));
        }
        Details {
            cluster_size: Some(self.plist.band_bytes),
            encrypted: self.encrypted,
            specific,
            children,
            notes,
            ..Details::default()
        }
    }

    fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }

    fn check(&self, report: &mut dyn FnMut(Finding)) -> Result<Option<CheckReport>> {
        check::check(self, report).map(Some)
    }
}
