//! Changing the size of a disk.
//!
//! Only the last extent changes; those of a split disk that it does not need are removed, and new ones
//! are added. Until a separate descriptor has changed, the last extent may be longer than its line
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
//! there are new extents, a new file replaces it. That in a sparse extent is part of it ([`sparse`]).

mod sparse;

use super::text::{NewExtents, one_sector, with_extents};
use super::{VmdkMut, can_be_written, open_locked, refuse_own_descriptor};
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
use crate::storage::output::{Durability, Output, has_other_names};
use crate::storage::source::HostFileId;
use sparse::ResizedExtent;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The error for layouts that cannot be resized.
const OTHER_LAYOUT: &str = "convert the disk to a layout that can be resized, such as \
                            monolithicSparse or monolithicFlat";

/// What changes.
struct Plan {
    extents: NewExtents,
    /// Names and numbers of sectors of new extents.
    added: Vec<(String, u64)>,
    /// What new extents are like.
    layout: Option<SplitLayout>,
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
        if kept.file == 0 && matches!(kept.layout, Layout::Sparse(_)) {
            return self.resize_last(kept, &plan, Some(text), request);
        }
        if to_u64(text.len()) > self.limits.descriptor_bytes {
            let found = format!("a descriptor of {} bytes", text.len());
            return Err(Error::over_limit("descriptor_bytes", found, self.limits.descriptor_bytes));
        }
        if request.size > old {
            self.resize_last(kept, &plan, None, request)?;
            return self.replace_text(&text, &plan);
        }
        // Opened before the descriptor changes, so that all can be done.
        let unused = self.unused_files(plan.extents.kept)?;
        self.replace_text(&text, &plan)?;
        self.resize_last(kept, &plan, None, request)?;
        remove(unused)
    }

    fn require_possible(&self, request: &ResizeRequest<'_>) -> Result<()> {
        let unsupported = |message: &str| Err(Error::unsupported(message.to_owned()));
        if !request.size.is_multiple_of(SECTOR) {
            return Err(Error::invalid("The new size must be a multiple of 512"));
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
        let Some(path) = self.storage.as_file().and(self.storage.path()) else {
            let message = "a disk that is not a file cannot get further extents";
            return Err(Error::unsupported(message));
        };
        let grain = extents.last().and_then(VmdkExtent::grain_bytes);
        if grain.is_some_and(|grain| grain != SplitLayout::GRAIN_BYTES) {
            let message = "a split disk whose grains have an unusual size cannot get more extents";
            return Err(Error::unsupported(message).hint(OTHER_LAYOUT));
        }
        let directory = path.parent().unwrap_or(Path::new(""));
        let mut index = extents.len();
        while sectors > 0 {
            let name = layout.name(path, index)?;
            index += 1;
            // Another file, or the extent of a change that was interrupted.
            if std::fs::symlink_metadata(directory.join(&name)).is_ok() {
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

    /// Changes the last extent that is kept.
    fn resize_last(
        &self,
        extent: &VmdkExtent,
        plan: &Plan,
        text: Option<Vec<u8>>,
        request: &ResizeRequest<'_>,
    ) -> Result<()> {
        let (old, new) = (extent.line.sectors, plan.extents.last);
        let storage = match extent.file {
            0 => Arc::clone(&self.storage),
            file => open_locked(&*self.image.files()[file])?,
        };
        let path = self.image.files()[extent.file].path().filter(|_| extent.file != 0);
        let changed = match &extent.layout {
            Layout::Flat { offset } => {
                self.resize_flat(extent, &*storage, *offset, new, request.preallocation)
            }
            Layout::Sparse(_) if request.preallocation != Preallocation::Off => {
                let message = "sparse extents cannot be resized with preallocation";
                return Err(Error::unsupported(message));
            }
            Layout::Sparse(sparse) => {
                let resized = ResizedExtent::open(sparse, storage, text)?;
                match new {
                    new if new > old => resized.grow(old, new, &self.limits),
                    new if new < sparse.header().capacity => resized.shrink(new),
                    _ => Ok(()),
                }
            }
            _ if new > old => {
                let message = "the last extent of the disk always reads as zeros, so that it \
                               cannot become longer";
                return Err(Error::unsupported(message).hint(OTHER_LAYOUT));
            }
            _ => Ok(()),
        };
        changed.map_err(|e| match path {
            Some(path) => e.in_file(path),
            None => e,
        })
    }

    /// Changes a flat extent from host offset `begin` on.
    fn resize_flat(
        &self,
        extent: &VmdkExtent,
        storage: &dyn Storage,
        begin: u64,
        new: u64,
        preallocation: Preallocation,
    ) -> Result<()> {
        let shared = self.image.extents().iter().filter(|other| other.file == extent.file).count();
        let (old_end, end) = (begin + extent.line.bytes(), begin + new * SECTOR);
        let len = storage.current_len();
        let cannot = |e| Error::io("cannot modify the extent", e);
        let mut edits = Edits::new();
        if end == old_end {
            return Ok(());
        }
        if end < old_end {
            let may_cut = shared == 1 && end < len && !storage.has_fixed_len();
            edits.phase(may_cut.then_some(Edit::SetLen(end)));
            return edits.apply(storage).map_err(cannot);
        }
        if shared > 1 || storage.has_fixed_len() {
            let message = "the last extent is a part of a file or a device, so that it cannot \
                           become longer";
            return Err(Error::unsupported(message).hint(OTHER_LAYOUT));
        }
        if len < old_end {
            let message = format!("the file has {len} bytes; expected {old_end}");
            return Err(
                Error::corrupt("extent file", message).hint("the file is probably truncated")
            );
        }
        let stale = len.min(end) - old_end;
        edits
            .phase((stale > 0).then_some(Edit::Zero { offset: old_end, len: stale }))
            .phase((len < end).then_some(Edit::SetLen(end)));
        edits.apply(storage).map_err(cannot)?;
        let allocated = match preallocation {
            Preallocation::Off | Preallocation::Metadata => return Ok(()),
            Preallocation::Falloc => storage.preallocate(old_end, end - old_end),
            Preallocation::Full => storage.fill_zeros_at(old_end, end - old_end),
        };
        allocated.and_then(|()| storage.flush()).map_err(cannot)
    }

    /// Writes the text of a separate descriptor, and the files of new extents before.
    fn replace_text(&self, text: &[u8], plan: &Plan) -> Result<()> {
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
            None if is_file => return self.replace_file(text, plan),
            // There is no other file that could replace it.
            None => edits.phase([
                Edit::SetLen(to_u64(text.len())),
                Edit::Write { offset: 0, bytes: text.to_vec() },
            ]),
        };
        edits.apply(&*self.storage).map_err(|e| Error::io("cannot modify the descriptor", e))
    }

    /// Replaces the descriptor's file, after the files of new extents got their names.
    fn replace_file(&self, text: &[u8], plan: &Plan) -> Result<()> {
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
            if let Some(layout) = plan.layout {
                layout.create(sink, *sectors)?;
            }
        }
        output.sink().write_all_at(text, 0).map_err(cannot)?;
        let done = output.commit(Durability::Flushed);
        done.map_err(|e| Error::output("cannot replace the descriptor", e))?;
        self.storage.note_replaced();
        Ok(())
    }

    /// Opens and returns the files of extents from index `first` on that can be removed: those that
    /// are in the directory of the descriptor.
    fn unused_files(&self, first: usize) -> Result<Vec<(PathBuf, Arc<dyn Storage>)>> {
        let (kept, unused) = self.image.extents().split_at(first);
        let mut files = Vec::new();
        let mut seen = Vec::new();
        for extent in unused.iter().filter(|extent| extent.file != 0) {
            let is_used = kept.iter().any(|other| other.file == extent.file);
            let name = extent.line.name.as_deref().unwrap_or_default();
            let is_beside = Path::new(name).file_name().is_some_and(|last| last == name);
            if is_used || !is_beside || seen.contains(&extent.file) {
                continue;
            }
            seen.push(extent.file);
            let file = &*self.image.files()[extent.file];
            if let (Some(path), false) = (file.path(), file.is_device()) {
                files.push((path.to_owned(), open_locked(file)?));
            }
        }
        Ok(files)
    }
}

/// Removes files that still have their names.
fn remove(files: Vec<(PathBuf, Arc<dyn Storage>)>) -> Result<()> {
    for (path, file) in files {
        if HostFileId::at(&path) == file.identity() {
            std::fs::remove_file(&path).map_err(|e| {
                Error::io(
                    "the disk was resized, but an extent's file that it does not use any \
                           more cannot be removed",
                    e,
                )
                .in_file(&path)
            })?;
        }
    }
    Ok(())
}

/// Returns the index of the extent in which the disk ends if it has `size` bytes.
fn index_at(extents: &[VmdkExtent], size: u64) -> usize {
    extents.partition_point(|extent| extent.guest.end < size).min(extents.len() - 1)
}
