//! Changing the options of an image: version, width of refcounts, lazy refcounts, size, and what the
//! header says of the external data file.
//!
//! Everything but the size takes effect with one write of the header's first sector. If tables
//! change, too, they are written to free clusters before ([`shadow`](super::shadow)). The size is
//! changed after that, so that a change that fails loses no data; or before it, when it is known that
//! the rest succeeds, if the image is one of version 2 or has another data file afterwards.

use super::header_area::{self, Contents, HeaderArea};
use super::references::Tree;
use super::resize;
use super::shadow::Shadow;
use super::space::TableLocation;
use super::zero_clusters::Expansion;
use super::{Qcow2Mut, clear_unknown_autoclear};
use crate::error::{Error, Result};
use crate::formats::qcow2::bitmaps::OFFSET_MASK;
use crate::formats::qcow2::check::MIN_V3_SNAPSHOT_EXTRA;
use crate::formats::qcow2::extensions::{BITMAPS, DATA_FILE, FEATURE_NAMES, feature_names};
use crate::formats::qcow2::header::{
    Autoclear, Compatible, Header, Incompatible, MAX_BACKING_NAME, RawHeader, Table,
    V2_HEADER_BYTES, V2_REFCOUNT_ORDER,
};
use crate::formats::qcow2::options::{self, AMEND_OPTIONS};
use crate::formats::qcow2::repair;
use crate::formats::qcow2::snapshot::set_l1_offset;
use crate::formats::qcow2::tables::read_words;
use crate::model::flat::Preallocation;
use crate::model::mutable::{AmendRequest, Amended, RepairRequest, ResizeRequest};
use crate::model::options::Options;
use crate::open::OpenContext;
use crate::remedy::Remedy;
use crate::report::check::RepairScope;
use crate::storage::edit::{Edits, Reopened, Storage};
use crate::storage::number::{to_index, to_u32, to_u64};
use std::sync::Arc;

/// Changes the options of an image. One that was not closed properly is repaired before.
///
/// # Errors
/// - [`Invalid`](crate::ErrorKind::Invalid) for an option or a value that images of this format, or
///   this image, cannot have;
/// - [`Unsupported`](crate::ErrorKind::Unsupported) if the image has something that version 2 does
///   not have, or if this option of it cannot be changed;
/// - [`Limit`](crate::ErrorKind::Limit) if a refcount is too large for the new width;
/// - [`Corrupt`](crate::ErrorKind::Corrupt) if it is damaged;
/// - [`Io`](crate::ErrorKind::Io) if reading or writing fails.
pub(in super::super) fn amend(
    storage: &Arc<dyn Storage>,
    context: &OpenContext<'_>,
    request: &mut AmendRequest<'_>,
) -> Result<Amended> {
    request.options.check(AMEND_OPTIONS)?;
    let open = || super::read(Reopened::of(storage), context);
    let mut image = open()?;
    image.require_not_corrupt()?;
    let plan = Plan::new(&image, request)?;
    if image.header().incompatible.contains(Incompatible::DIRTY) {
        let mut repair = RepairRequest {
            scope: RepairScope::All,
            further_files: false,
            report: &mut |_| {},
            repaired: &mut |_| {},
        };
        repair::repair(storage, context, &mut repair)?;
        image = open()?;
        image.require_intact()?;
    }
    let resize = plan.resize_request(&image, request);
    if let Some(resize) = &resize {
        image.require_unencrypted()?;
        resize::verify(&image, resize, plan.version)?;
        // An image of version 2 that has snapshots cannot be resized.
        if plan.version < image.header().version || plan.data_file.is_some() {
            plan.require_possible(&image)?;
            resize::resize(&image, resize)?;
            return plan.apply(&open()?, request.report);
        }
    }
    let amended = plan.apply(&image, request.report)?;
    if let Some(resize) = &resize {
        resize::resize(&open()?, resize)?;
    }
    Ok(amended)
}

/// Is called with how much is done, and of how much.
type Report<'a> = &'a mut dyn FnMut(u64, u64) -> Result<()>;

/// The options as they will be.
#[derive(Debug)]
struct Plan {
    version: u32,
    refcount_order: u32,
    lazy_refcounts: bool,
    data_file_raw: bool,
    /// A new name of the external data file, or an empty one.
    data_file: Option<String>,
    /// A new size in bytes.
    size: Option<u64>,
}

impl Plan {
    /// Parses the options, and verifies that the image can have them.
    fn new(image: &Qcow2Mut, request: &AmendRequest<'_>) -> Result<Self> {
        let (header, given) = (image.header(), request.options);
        let version = options::version(given)?.unwrap_or(header.version);
        let refcount_order = options::refcount_order(given)?.unwrap_or(header.refcount_order);
        let lazy = header.compatible.contains(Compatible::LAZY_REFCOUNTS) && version >= 3;
        let plan = Self {
            version,
            refcount_order,
            lazy_refcounts: given.switch("lazy_refcounts")?.unwrap_or(lazy),
            data_file_raw: given.switch("data_file_raw")?.unwrap_or(header.data_file_raw()),
            data_file: given.get("data_file").map(str::to_owned),
            // As in QEMU, 0 stands for the size that the disk has.
            size: given.size("size")?.filter(|&size| size > 0),
        };
        plan.require_data_file(image)?;
        if plan.size.is_some_and(|size| !size.is_multiple_of(512)) {
            return Err(Error::invalid("The new size must be a multiple of 512"));
        }
        if version < 3 && refcount_order != V2_REFCOUNT_ORDER {
            return Err(match given.get("refcount_bits") {
                Some(_) => Error::invalid(
                    "Refcount widths other than 16 bits require compatibility level 1.1 or above \
                     (use compat=1.1 or greater)",
                ),
                None => Error::unsupported("compat=0.10 requires refcount_bits=16"),
            });
        }
        require_backing(header, given)?;
        if version < 3 && plan.lazy_refcounts {
            return Err(Error::invalid(
                "Lazy refcounts only supported with compatibility level 1.1 and above (use \
                 compat=1.1 or greater)",
            ));
        }
        if version < header.version {
            plan.require_downgrade(image)?;
        }
        Ok(plan)
    }

    fn require_data_file(&self, image: &Qcow2Mut) -> Result<()> {
        let header = image.header();
        if let Some(name) = &self.data_file {
            if !header.external_data() {
                return Err(Error::invalid(
                    "data-file can only be set for images that use an external data file",
                ));
            }
            if name.len() > to_index(MAX_BACKING_NAME) {
                let message = format!("data_file has more than {MAX_BACKING_NAME} bytes");
                return Err(Error::limit(message));
            }
        }
        match self.data_file_raw && !header.data_file_raw() {
            true => Err(Error::invalid("data-file-raw cannot be set on existing images")),
            false => Ok(()),
        }
    }

    /// Verifies that an image can have version 2, as far as its header and its snapshots are
    /// concerned.
    fn require_downgrade(&self, image: &Qcow2Mut) -> Result<()> {
        let header = image.header();
        if header.external_data() {
            return Err(Error::unsupported("Cannot downgrade an image with a data file"));
        }
        let size = self.size.unwrap_or(header.size);
        let is_lost = image.snapshots()?.entries.iter().any(|snapshot| {
            snapshot.info.vm_state_size > u64::from(u32::MAX) || snapshot.disk_size != size
        });
        if is_lost {
            return Err(Error::unsupported("Internal snapshots prevent downgrade of image"));
        }
        let ignored = Incompatible::COMPRESSION | Incompatible::DIRTY;
        let features = header.incompatible.difference(ignored).bits();
        if features != 0 {
            return Err(Error::unsupported(format!(
                "Cannot downgrade an image with incompatible features {features:#x} set"
            )));
        }
        Ok(())
    }

    /// Returns how the size changes, or `None` if it does not.
    fn resize_request<'a>(
        &self,
        image: &Qcow2Mut,
        request: &AmendRequest<'a>,
    ) -> Option<ResizeRequest<'a>> {
        let size = self.size.filter(|&size| size != image.header().size)?;
        Some(ResizeRequest {
            size,
            preallocation: Preallocation::Off,
            format_probed: request.format_probed,
            backing: request.backing,
        })
    }

    /// Returns true if neither the version nor the width of refcounts changes.
    fn keeps_tables(&self, header: &Header) -> bool {
        self.version == header.version && self.refcount_order == header.refcount_order
    }

    /// Verifies that everything but the size can be changed. Nothing is written.
    fn require_possible(&self, image: &Qcow2Mut) -> Result<()> {
        let header = image.header();
        let bytes = header_area::read(&*image.storage, header.cluster_size())?;
        let area = HeaderArea::parse(&bytes)?;
        let mut new = area.contents.clone();
        self.set_header(&mut new);
        area.replace(&new)?;
        if self.keeps_tables(header) {
            return Ok(());
        }
        let none = || Tree::new(&[], 0, image.old.limits.check_bytes);
        let shadow = Shadow::open_with_order(image, none(), none(), self.refcount_order)?;
        match self.version < header.version {
            true => image.require_deflate(&shadow),
            false => Ok(()),
        }
    }

    /// Changes everything but the size.
    fn apply(&self, image: &Qcow2Mut, report: Report<'_>) -> Result<Amended> {
        let header = image.header();
        let is_same = self.keeps_tables(header);
        let mut edits = Edits::new();
        match &self.data_file {
            _ if !is_same => return self.rebuild(image, report),
            Some(name) => {
                let bytes = header_area::read(&*image.storage, header.cluster_size())?;
                let area = HeaderArea::parse(&bytes)?;
                let mut new = area.contents.clone();
                self.set_data_file(&mut new, name);
                self.set_features(&mut new.fields);
                edits = area.replace(&new)?;
            }
            None => {
                let edit = image.change_header(|raw| {
                    if raw.version.get() >= 3 {
                        self.set_features(raw);
                    }
                })?;
                edits.phase([edit]);
            }
        }
        edits.apply(&*image.storage).map_err(|e| Error::io("cannot modify the image", e))?;
        Ok(Amended::default())
    }

    /// Changes the version or the width of refcounts.
    fn rebuild(&self, image: &Qcow2Mut, report: Report<'_>) -> Result<Amended> {
        let header = image.header();
        let bytes = header_area::read(&*image.storage, header.cluster_size())?;
        let area = HeaderArea::parse(&bytes)?;
        let mut new = area.contents.clone();
        self.set_header(&mut new);
        // Whether there is room for it.
        area.replace(&new)?;
        let none = || Tree::new(&[], 0, image.old.limits.check_bytes);
        let mut shadow = Shadow::open_with_order(image, none(), none(), self.refcount_order)?;
        let mut amended = Amended::default();
        let mut snapshots = None;
        if self.version > header.version {
            image.require_no_zero_clusters(&shadow)?;
            snapshots = image.entries_with_extra()?;
        } else if self.version < header.version {
            amended.removed_bitmaps = to_u64(image.bitmaps()?.len());
            release_bitmaps(image, &mut shadow)?;
            snapshots = expand_zero_clusters(image, &mut shadow, &mut new, report)?;
        }
        if let Some(table) = snapshots {
            shadow.release(header.snapshots_offset, image.snapshots()?.bytes, 1)?;
            new.fields.snapshots_offset = shadow.store(&table)?.into();
        }
        shadow.switch_with(|location: TableLocation| {
            new.fields.refcount_table_offset = location.offset.into();
            new.fields.refcount_table_clusters = location.len.into();
            area.replace(&new)
        })?;
        Ok(amended)
    }

    /// Sets everything in the header that does not depend on where tables are.
    fn set_header(&self, new: &mut Contents) {
        let is_upgrade = self.version > new.fields.version.get();
        new.fields.version = self.version.into();
        new.fields.refcount_order = self.refcount_order.into();
        if let Some(name) = &self.data_file {
            self.set_data_file(new, name);
        }
        if self.version < 3 {
            new.fields.header_length = V2_HEADER_BYTES.into();
            new.remove_later_fields();
            new.remove(FEATURE_NAMES);
            new.remove(BITMAPS);
            return;
        }
        if is_upgrade {
            new.fields.header_length = to_u32(RawHeader::BYTES).into();
            new.fields.padding = [0; 7];
            new.set(FEATURE_NAMES, &feature_names(), false);
        }
        self.set_features(&mut new.fields);
    }

    fn set_data_file(&self, new: &mut Contents, name: &str) {
        match name {
            "" => new.remove(DATA_FILE),
            name => new.set(DATA_FILE, name.as_bytes(), true),
        }
    }

    /// Sets the feature bits of a version 3 header.
    fn set_features(&self, raw: &mut RawHeader) {
        let (lazy, is_raw) = (Compatible::LAZY_REFCOUNTS.bits(), Autoclear::DATA_FILE_RAW.bits());
        let set = |bits: u64, mask: u64, yes: bool| if yes { bits | mask } else { bits & !mask };
        let compatible = set(raw.compatible_features.get(), lazy, self.lazy_refcounts);
        raw.compatible_features = compatible.into();
        let autoclear = set(raw.autoclear_features.get(), is_raw, self.data_file_raw);
        raw.autoclear_features = autoclear.into();
        clear_unknown_autoclear(raw);
    }
}

/// Verifies that the backing file does not change: what is given of it must be all that is recorded.
fn require_backing(header: &Header, given: &Options) -> Result<()> {
    let (name, format) = (given.get("backing_file"), given.get("backing_fmt"));
    let is_same =
        name == header.backing.as_deref() && format == header.extensions.backing_format.as_deref();
    match name.is_none() && format.is_none() || is_same {
        true => Ok(()),
        false => Err(Error::invalid("Cannot amend the backing file").with_remedy(Remedy::Rebase)),
    }
}

/// Releases the clusters of bitmaps, which version 2 does not have.
fn release_bitmaps(image: &Qcow2Mut, shadow: &mut Shadow<'_>) -> Result<()> {
    let header = image.header();
    // If they are not up to date, their clusters may be used for something else.
    let is_valid = header.autoclear.contains(Autoclear::BITMAPS);
    let Some(directory) = header.extensions.bitmaps.filter(|_| is_valid) else { return Ok(()) };
    shadow.release(directory.offset, directory.bytes, 1)?;
    for bitmap in image.bitmaps()? {
        let Table { offset, entries } = bitmap.table;
        for entry in read_words(&*image.storage, "bitmap table", offset, entries)? {
            let offset = entry & OFFSET_MASK;
            if offset != 0 {
                shadow.release(offset, header.cluster_size(), 1)?;
            }
        }
        shadow.release(offset, bitmap.table.bytes(), 1)?;
    }
    Ok(())
}

/// Replaces zero clusters of the disk and of snapshots. Returns a new snapshot table if one is
/// needed.
fn expand_zero_clusters(
    image: &Qcow2Mut,
    shadow: &mut Shadow<'_>,
    new: &mut Contents,
    report: Report<'_>,
) -> Result<Option<Vec<u8>>> {
    let header = image.header();
    let mut expansion = Expansion::begin(image, shadow, report)?;
    let active = expansion.expand_at(shadow, header.l1)?;
    new.fields.l1_table_offset = active.offset.into();
    let mut table = Vec::new();
    let mut is_changed = false;
    for snapshot in &image.snapshots()?.entries {
        let l1 = expansion.expand_at(shadow, snapshot.l1)?;
        let mut entry = image.snapshot_entry(snapshot)?;
        if l1 != snapshot.l1 {
            set_l1_offset(&mut entry, l1.offset);
            is_changed = true;
        }
        table.resize(table.len().next_multiple_of(8), 0);
        table.append(&mut entry);
    }
    Ok(is_changed.then_some(table))
}

impl Qcow2Mut {
    /// Returns the snapshot table with the extra data that version 3 requires, or `None` if all
    /// entries have it.
    fn entries_with_extra(&self) -> Result<Option<Vec<u8>>> {
        let snapshots = &self.snapshots()?.entries;
        if snapshots.iter().all(|snapshot| snapshot.extra_bytes >= MIN_V3_SNAPSHOT_EXTRA) {
            return Ok(None);
        }
        let mut table = Vec::new();
        for snapshot in snapshots {
            table.resize(table.len().next_multiple_of(8), 0);
            snapshot.encode_with_extra(&self.snapshot_entry(snapshot)?, &mut table);
        }
        Ok(Some(table))
    }
}
