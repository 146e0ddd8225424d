//! Changing the size of a disk.
//!
//! Only the last extent changes; those of a split disk that it does not need are removed, and new
//! ones are added. Until a separate descriptor has changed, the last extent may be longer than its line
//! says:
//!
//! ```text
//!   grow                                      then
//!   the last extent                           the descriptor does not show it
//!   files of new extents                      nothing refers to them
//!   descriptor                                the disk has its new size
//!
//!   shrink
//!   descriptor                                the disk has its new size
//!   the last extent                           the descriptor does not show what is lost
//!   files of extents that are not used        nothing refers to them
//! ```
//!
//! A descriptor is changed in place if all bytes that change are in one sector. Otherwise, and if
//! there are new extents, a new file replaces it. That in a sparse extent is part of it
//! ([`sparse`]).
//!
//! Everything that can be known to be impossible is refused before anything is written. Which files
//! may be changed or removed is in [`files`].

mod files;
mod sparse;

use super::text::{NewExtents, one_sector, with_extents};
use super::{VmdkMut, can_be_written, refuse_own_descriptor};
use crate::error::{Error, Result};
use crate::formats::vmdk::SECTOR;
use crate::formats::vmdk::extent::{Layout, VmdkExtent};
use crate::formats::vmdk::write::SplitLayout;
use crate::model::flat::Preallocation;
use crate::model::image::Image;
use crate::model::layer::Layer;
use crate::model::mutable::ResizeRequest;
use crate::remedy::Remedy;
use crate::storage::edit::{Edit, Edits, Storage};
use crate::storage::number::{to_u64, to_usize};
use crate::storage::output::{Destination, Durability, Output, has_other_names};
use files::{LockedFiles, require_whole};
use sparse::ResizedExtent;
use std::path::Path;
use std::sync::Arc;

/// The error for layouts that cannot be resized.
const OTHER_LAYOUT: &str = "convert the disk to a layout that can be resized, such as \
                            monolithicSparse or monolithicFlat";

/// The largest size of a disk in bytes: that of QEMU.
const MAX_SIZE: u64 = 0x7fff_ffff_c000_0000;

/// What changes.
struct Plan {
    extents: NewExtents,
    /// Names and numbers of sectors of new extents.
    added: Vec<(String, u64)>,
    /// What new extents are like.
    layout: Option<SplitLayout>,
}

/// How the last extent that is kept changes.
#[derive(Debug)]
enum LastExtent {
    /// Not at all.
    Unchanged,
    /// The part of a file that it has changes its end, from a host offset to another one.
    Flat { storage: Arc<dyn Storage>, old_end: u64, end: u64 },
    /// From `old` sectors to `new` ones.
    Sparse { extent: Box<ResizedExtent>, old: u64, new: u64 },
}

/// A descriptor that will be stored.
#[derive(Debug)]
enum NewText {
    InPlace(Edits),
    /// A file that replaces the old one, and those of new extents.
    File(Output),
}

impl VmdkMut {
    /// Changes the size of the disk.
    ///
    /// # Errors
    /// As [`MutableLayer::resize`](crate::model::mutable::MutableLayer::resize).
    pub(super) fn change_size(&mut self, request: &ResizeRequest<'_>) -> Result<()> {
        self.require_possible(request)?;
        let old = self.image.disk_layout().size;
        if request.size == old {
            return Ok(());
        }
        let plan = self.plan(request)?;
        let text = with_extents(&self.text()?, self.image.descriptor(), &plan.extents)?;
        let kept = &self.image.extents()[plan.extents.kept - 1];
        let is_embedded = kept.file == 0 && matches!(kept.layout, Layout::Sparse(_));
        if !is_embedded && to_u64(text.len()) > self.limits.descriptor_bytes {
            let found = format!("a descriptor of {} bytes", text.len());
            return Err(Error::over_limit("descriptor_bytes", found, self.limits.descriptor_bytes));
        }
        // Opened and verified before anything is written, so that all can be done.
        let files = self.lock_files(plan.extents.kept, plan.extents.last)?;
        let unused = self.unused_files(plan.extents.kept, &files)?;
        let embedded = is_embedded.then(|| text.clone());
        let last = self.open_last(kept, plan.extents.last, embedded, request, &files)?;
        if is_embedded {
            return self.resize_last(kept, last, request);
        }
        let text = self.prepare_text(&text, &plan)?;
        if request.size > old {
            self.resize_last(kept, last, request)?;
            return self.store_text(text);
        }
        self.store_text(text)?;
        self.resize_last(kept, last, request)?;
        files::remove(unused)
    }

    fn require_possible(&self, request: &ResizeRequest<'_>) -> Result<()> {
        let unsupported = |message: &str| Err(Error::unsupported(message.to_owned()));
        if !request.size.is_multiple_of(SECTOR) {
            return Err(Error::invalid("The new size must be a multiple of 512"));
        }
        if request.size > MAX_SIZE {
            let message = format!("the disk would have more than {MAX_SIZE} bytes, QEMU's maximum");
            return Err(Error::invalid(message));
        }
        if request.preallocation == Preallocation::Metadata {
            return Err(Error::invalid("Unsupported preallocation mode 'metadata'"));
        }
        if request.format_probed && self.image.files().len() > 1 {
            let message = "it names further files, which would be changed, and its format is not \
                           named";
            return Err(Error::refused(message)
                .hint("a guest can write the header of any format into a raw disk")
                .with_remedy(Remedy::NameFormat));
        }
        let (old, extents) = (self.image.disk_layout().size, self.image.extents());
        let first =
            if request.size > old { extents.len() - 1 } else { index_at(extents, request.size) };
        for extent in &extents[first..] {
            if !can_be_written(extent)? || extent.line.kind.is_raw_device() {
                let kind = extent.line.kind.name();
                let what = if extent.is_compressed() { "compressed extents" } else { kind };
                let message = format!("a disk of this layout ({what}) cannot be resized");
                return Err(Error::unsupported(message).hint(OTHER_LAYOUT));
            }
        }
        let has_header = self.image.has_embedded_descriptor()?;
        if has_header && (extents.len() > 1 || extents[0].file != 0) {
            return unsupported(
                "a disk of several files whose descriptor is in a sparse extent \
                                cannot be resized",
            );
        }
        if self.storage.has_fixed_len() {
            return unsupported("a VMDK on a device cannot be resized");
        }
        if request.size > old && request.backing.map_or(0, Image::size) > old {
            return unsupported(
                "the disk is shorter than its parent, of which more would become visible",
            );
        }
        if let Some(warning) = self.image.warnings().into_iter().next() {
            let message = format!("{warning}: a damaged disk is not modified");
            return Err(Error::corrupt("grain directory", message));
        }
        refuse_own_descriptor(&self.image)
    }

    /// Decides which extents the disk will have.
    fn plan(&self, request: &ResizeRequest<'_>) -> Result<Plan> {
        let extents = self.image.extents();
        let sectors = request.size / SECTOR;
        let mut plan = Plan {
            extents: NewExtents { kept: extents.len(), last: 0, added: Vec::new(), sectors },
            added: Vec::new(),
            layout: None,
        };
        if request.size <= self.image.disk_layout().size {
            let last = index_at(extents, request.size);
            plan.extents.kept = last + 1;
            plan.extents.last = sectors - extents[last].guest.start / SECTOR;
            return Ok(plan);
        }
        let Some(last) = extents.last() else {
            return Err(Error::corrupt("VMDK descriptor", "it lists no extents"));
        };
        let layout = SplitLayout::of(&self.image.descriptor().create_type);
        let wanted = sectors - last.guest.start / SECTOR;
        let Some(mut layout) = layout.filter(|_| !self.image.is_in_one_file()) else {
            plan.extents.last = wanted;
            return Ok(plan);
        };
        if let [first, _, ..] = extents {
            layout.extent_sectors = layout.extent_sectors.max(first.line.sectors);
        }
        layout.zeroed_grains = last.has_zeroed_grains();
        layout.preallocation = request.preallocation;
        plan.extents.last = wanted.min(layout.extent_sectors.max(last.line.sectors));
        plan.layout = Some(layout);
        self.plan_added(wanted - plan.extents.last, layout, &mut plan)?;
        Ok(plan)
    }

    /// Plans new extents of `sectors` together.
    fn plan_added(&self, mut sectors: u64, layout: SplitLayout, plan: &mut Plan) -> Result<()> {
        let extents = self.image.extents();
        let count = to_u64(extents.len()) + sectors.div_ceil(layout.extent_sectors);
        if count > self.limits.extent_files {
            let found = format!("a disk of {count} extents");
            return Err(Error::over_limit("extent_files", found, self.limits.extent_files));
        }
        if sectors == 0 {
            return Ok(());
        }
        let Some(given) = self.storage.as_file().and(self.storage.path()) else {
            let message = "a disk that is not a file cannot get further extents";
            return Err(Error::unsupported(message));
        };
        // New extents are created beside the file to which a symbolic link leads. Names are looked
        // for beside the link first.
        let path = &Destination::of(given)
            .map_err(|e| Error::io("cannot find the file of the descriptor", e))?
            .path;
        let grain = extents.last().and_then(VmdkExtent::grain_bytes);
        if grain.is_some_and(|grain| grain != SplitLayout::GRAIN_BYTES) {
            let message = "a split disk whose grains have an unusual size cannot get more extents";
            return Err(Error::unsupported(message).hint(OTHER_LAYOUT));
        }
        let directories = [path, given].map(|path| path.parent().unwrap_or(Path::new("")));
        let is_taken = |name: &String| {
            directories.iter().any(|dir| std::fs::symlink_metadata(dir.join(name)).is_ok())
        };
        let mut index = extents.len();
        while sectors > 0 {
            let name = layout.name(path, index)?;
            index += 1;
            // Another file, or the extent of a change that was interrupted.
            if is_taken(&name) {
                if to_u64(index) > 2 * self.limits.extent_files + count {
                    let message = "all names for further extents are taken";
                    return Err(Error::unsupported(message));
                }
                continue;
            }
            let len = sectors.min(layout.extent_sectors);
            plan.extents.added.push(layout.line(len, &name));
            plan.added.push((name, len));
            sectors -= len;
        }
        Ok(())
    }

    /// Returns the text of the descriptor, which ends at the first zero byte.
    fn text(&self) -> Result<Vec<u8>> {
        let range = self.image.descriptor_range(self.storage.current_len())?;
        let mut text = vec![0; to_usize(range.end - range.start)];
        self.storage
            .read_exact_at(&mut text, range.start)
            .map_err(|e| Error::io("cannot read", e).in_structure("VMDK descriptor"))?;
        text.truncate(text.iter().position(|&byte| byte == 0).unwrap_or(text.len()));
        Ok(text)
    }

    /// Opens the last extent that is kept, which will have `new` sectors, and verifies that its
    /// size can be changed. `text` is the new descriptor that is embedded in it.
    fn open_last(
        &self,
        extent: &VmdkExtent,
        new: u64,
        text: Option<Vec<u8>>,
        request: &ResizeRequest<'_>,
        files: &LockedFiles,
    ) -> Result<LastExtent> {
        let old = extent.line.sectors;
        if !files::changes(extent, new) {
            return Ok(LastExtent::Unchanged);
        }
        let storage = || match extent.file {
            0 => Ok(Arc::clone(&self.storage)),
            file => files.get(file),
        };
        let opened = match &extent.layout {
            Layout::Flat { offset } => {
                let shares = self.image.extents().iter().filter(|e| e.file == extent.file).count();
                let (old_end, end) = (offset + extent.line.bytes(), offset + new * SECTOR);
                let storage = storage()?;
                require_whole(&*storage, shares > 1, old_end, end).map(|()| LastExtent::Flat {
                    storage,
                    old_end,
                    end,
                })
            }
            Layout::Sparse(_) if request.preallocation != Preallocation::Off => {
                let message = "sparse extents cannot be resized with preallocation";
                Err(Error::unsupported(message))
            }
            Layout::Sparse(sparse) => ResizedExtent::open(sparse, storage()?, text)
                .map(|extent| LastExtent::Sparse { extent: Box::new(extent), old, new }),
            _ => {
                let message = "the last extent of the disk always reads as zeros, so that it \
                               cannot become longer";
                Err(Error::unsupported(message).hint(OTHER_LAYOUT))
            }
        };
        opened.map_err(|e| self.in_extent(e, extent))
    }

    /// Adds the path of an extent in another file to an error.
    fn in_extent(&self, error: Error, extent: &VmdkExtent) -> Error {
        match self.image.files()[extent.file].path().filter(|_| extent.file != 0) {
            Some(path) => error.in_file(path),
            None => error,
        }
    }

    /// Changes the last extent that is kept.
    fn resize_last(
        &self,
        extent: &VmdkExtent,
        last: LastExtent,
        request: &ResizeRequest<'_>,
    ) -> Result<()> {
        let changed = match last {
            LastExtent::Unchanged => Ok(()),
            LastExtent::Flat { storage, old_end, end } => {
                resize_flat(&*storage, old_end, end, request.preallocation)
            }
            LastExtent::Sparse { extent, old, new } if new > old => {
                extent.grow(old, new, &self.limits)
            }
            LastExtent::Sparse { extent, new, .. } => extent.shrink(new),
        };
        changed.map_err(|e| self.in_extent(e, extent))
    }

    /// Prepares storing the text of a separate descriptor, and writes temporary files of it and of
    /// new extents if it is a new file.
    fn prepare_text(&self, text: &[u8], plan: &Plan) -> Result<NewText> {
        let mut old = vec![0; to_usize(self.storage.current_len())];
        self.storage
            .read_exact_at(&mut old, 0)
            .map_err(|e| Error::io("cannot read", e).in_structure("VMDK descriptor"))?;
        // Text that is shorter is filled up first, so that no line of the old one remains.
        let mut filled = text.to_vec();
        filled.resize(text.len().max(old.len()), b'\n');
        let place = one_sector(&old, &filled).filter(|_| plan.added.is_empty());
        let (is_file, len) = (self.storage.as_file().is_some(), to_u64(old.len()));
        let mut edits = Edits::new();
        match place {
            Some(place) => edits
                .phase((to_u64(filled.len()) > len).then_some(Edit::SetLen(to_u64(filled.len()))))
                .phase([Edit::Write { offset: to_u64(place.start), bytes: filled[place].to_vec() }])
                .phase((text.len() < filled.len()).then_some(Edit::SetLen(to_u64(text.len())))),
            None if is_file => return self.prepare_file(text, plan).map(NewText::File),
            // There is no other file that could replace it.
            None => edits.phase([
                Edit::SetLen(to_u64(text.len())),
                Edit::Write { offset: 0, bytes: text.to_vec() },
            ]),
        };
        Ok(NewText::InPlace(edits))
    }

    /// Writes a file that will replace that of the descriptor, and those of new extents.
    fn prepare_file(&self, text: &[u8], plan: &Plan) -> Result<Output> {
        let path = self.storage.path().unwrap_or(Path::new(""));
        let cannot = |e| Error::io("cannot replace the descriptor", e);
        if has_other_names(path) {
            let message = "its file has other names (hard links), so that it cannot be replaced by \
                           a new descriptor";
            return Err(Error::unsupported(message).in_structure("VMDK descriptor"));
        }
        let mut output = Output::create(path).map_err(cannot)?;
        if let Some(note) = output.notes().into_iter().next() {
            let message = format!("a new descriptor cannot replace the old one: {note}");
            return Err(Error::unsupported(message));
        }
        let opened = self.image.files().iter().filter_map(|file| file.identity());
        output.protect(opened, "it is a file of the disk");
        for (name, sectors) in &plan.added {
            let sink = output
                .companion(Path::new(name))
                .map_err(|e| Error::output("cannot create the extent", e))?;
            // It was not when the name was chosen. A file that is created later is noticed when the
            // extent gets its name.
            let path = output.path_of(&sink).unwrap_or(Path::new(name));
            if std::fs::symlink_metadata(path).is_ok() {
                let message = "another process has created a file with the name of a new extent";
                return Err(Error::refused(message)
                    .hint("run the command again to choose another name")
                    .in_file(path));
            }
            if let Some(layout) = plan.layout {
                layout.create(sink, *sectors)?;
            }
        }
        output.sink().write_all_at(text, 0).map_err(cannot)?;
        Ok(output)
    }

    /// Stores a descriptor, after the files of new extents got their names.
    fn store_text(&self, text: NewText) -> Result<()> {
        match text {
            NewText::InPlace(edits) => edits
                .apply(&*self.storage)
                .map_err(|e| Error::io("cannot modify the descriptor", e)),
            NewText::File(output) => {
                let done = output.commit(Durability::Flushed);
                done.map_err(|e| Error::output("cannot replace the descriptor", e))?;
                self.storage.note_replaced();
                Ok(())
            }
        }
    }
}

/// Changes the end of a flat extent.
fn resize_flat(
    storage: &dyn Storage,
    old_end: u64,
    end: u64,
    preallocation: Preallocation,
) -> Result<()> {
    let cannot = |e| Error::io("cannot modify the extent", e);
    let is_changed = end < old_end || storage.current_len() < end;
    let mut edits = Edits::new();
    edits.phase(is_changed.then_some(Edit::SetLen(end)));
    edits.apply(storage).map_err(cannot)?;
    let allocated = match preallocation {
        _ if end < old_end => return Ok(()),
        Preallocation::Off | Preallocation::Metadata => return Ok(()),
        Preallocation::Falloc => storage.preallocate(old_end, end - old_end),
        Preallocation::Full => storage.fill_zeros_at(old_end, end - old_end),
    };
    allocated.and_then(|()| storage.flush()).map_err(cannot)
}

/// Returns the index of the extent in which the disk ends if it has `size` bytes.
fn index_at(extents: &[VmdkExtent], size: u64) -> usize {
    extents.partition_point(|extent| extent.guest.end < size).min(extents.len() - 1)
}
