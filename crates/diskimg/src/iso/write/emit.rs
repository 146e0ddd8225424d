//! Output of a planned image.

use super::contents::Data;
use super::descriptors;
use super::directory::{Shift, Space};
use super::host::{self, HostFile, OpenDirs};
use super::path_table;
use super::plan::{Plan, SecondSet};
use super::stream::{self, Stream};
use crate::error::{Error, Result};
use crate::iso::SECTOR;
use crate::iso::boot::tables::{Patch, PatchedSource};
use crate::storage::number::{to_index, to_u64};
use crate::storage::output::{Durability, Output, existing_identity, is_temporary_name};
use crate::storage::sink::Sink;
use crate::storage::source::{Source, segments};
use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Write};

/// Minimum length in bytes of an image that is read ahead in a separate thread.
const MIN_READ_AHEAD: u64 = 4 << 20;

/// Minimum length in bytes of files whose holes are looked up, and of holes that are skipped.
const MIN_SPARSE: u64 = 1 << 20;

/// A sink in which ranges can be skipped.
#[derive(Debug, Clone, Copy)]
struct SparseSink<'s> {
    sink: &'s dyn Sink,
    /// Length of the blocks that the sink can share with host files.
    block: Option<u64>,
}

impl Plan {
    /// Writes the image to `out`, in order and without seeking.
    ///
    /// # Errors
    /// Returns [`Io`](crate::ErrorKind::Io) if reading a file or writing fails, or if a file
    /// changed while the image was being created.
    pub fn emit(&self, out: &mut dyn Write) -> Result<()> {
        self.emit_with(out, &mut |_| Ok(()))
    }

    /// Writes the image to `out`, and calls `tick` repeatedly with the number of bytes written so
    /// far. If it returns an error, writing ends.
    ///
    /// # Errors
    /// As [`emit`](Self::emit), and the errors of `tick`.
    pub fn emit_with(
        &self,
        out: &mut dyn Write,
        tick: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        let mut write = |position: u64, bytes: &[u8]| {
            out.write_all(bytes).map_err(|e| Error::io("cannot write the image", e))?;
            tick(position + to_u64(bytes.len()))
        };
        self.run(None, &mut write)?;
        out.flush().map_err(|e| Error::io("cannot write the image", e))
    }

    /// Writes the image to `output`, which is committed when it is complete. Blocks of host files
    /// are shared (reflinked) if the file system supports it and the
    /// [alignment](super::CreateOptions::alignment) allows it. Holes in host files stay holes.
    ///
    /// Returns the [notes](Output::notes) on how an existing file was treated.
    ///
    /// # Errors
    /// As [`emit_with`](Self::emit_with).
    pub fn write(
        &self,
        mut output: Output,
        durability: Durability,
        tick: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<Vec<String>> {
        let incomplete = |e| Error::output("cannot write the image", e);
        self.protect_inputs(&mut output);
        output.remove_leftovers();
        output.expect_len(self.size()).map_err(incomplete)?;
        self.refuse_inputs(&output)?;
        self.write_sink(&output, tick).map_err(|e| e.with_loss_of(&output))?;
        let notes = output.notes();
        output.commit(durability).map_err(incomplete)?;
        Ok(notes)
    }

    /// Protects the files that are to be read from removal as temporary files of a killed run: host
    /// files with such names, and other sources.
    fn protect_inputs(&self, output: &mut Output) {
        let mut inputs = HashSet::new();
        for id in 0..u32::try_from(self.contents.len()).unwrap_or(u32::MAX) {
            match &self.contents.get(id).data {
                Data::Host(_) => {
                    let path = self.contents.host_path(id, &self.dirs, &self.tree);
                    let named = path.filter(|path| is_temporary_name(path));
                    inputs.extend(named.and_then(|path| existing_identity(&path)));
                }
                Data::Source(source) => inputs.extend(source.identities()),
                Data::Bytes(_) => {}
            }
        }
        output.protect(inputs, "it is one of the files of the new image");
    }

    /// Verifies that the output is none of the files that are to be read. An open file may be
    /// replaced, because it remains readable, but not overwritten.
    fn refuse_inputs(&self, output: &Output) -> Result<()> {
        let Some(existing) = output.existing() else { return Ok(()) };
        let is_file = |path| std::fs::metadata(path).is_ok_and(|found| found.is_file());
        let replaced = output.path().is_some_and(is_file);
        let overwritten = !replaced || !output.notes().is_empty();
        let is_input = |id: u32| match &self.contents.get(id).data {
            Data::Host(_) => {
                let path = self.contents.host_path(id, &self.dirs, &self.tree);
                let input = path.and_then(|path| existing_identity(&path));
                input.is_some_and(|input| input.shares_data_with(existing))
            }
            Data::Source(source) => {
                let inputs = source.identities();
                overwritten && inputs.iter().any(|input| input.shares_data_with(existing))
            }
            Data::Bytes(_) => false,
        };
        let count = u32::try_from(self.contents.len()).unwrap_or(u32::MAX);
        match (0..count).any(is_input) {
            true => Err(Error::refused("the output is one of the files of the new image")
                .hint("write to another name, then rename the image")
                .in_file(output.name())),
            false => Ok(()),
        }
    }

    fn write_sink(&self, output: &Output, tick: &mut dyn FnMut(u64) -> Result<()>) -> Result<()> {
        let sink = output.sink();
        let name = output.name();
        let named = |e: std::io::Error| Error::io("cannot write the image", e).in_file(&name);
        let mut write = |position: u64, bytes: &[u8]| {
            sink.write_all_at(bytes, position).map_err(named)?;
            tick(position + to_u64(bytes.len()))
        };
        let sparse = match sink.is_zeroed() && !sink.is_sequential() {
            true => Some(SparseSink { sink: &*sink, block: self.shareable(&*sink)? }),
            false => None,
        };
        self.run(sparse, &mut write)?;
        sink.set_len(self.size()).map_err(named)
    }

    /// Returns the length of the blocks that the sink can share with host files. Determined for the
    /// first file that is long enough.
    fn shareable(&self, sink: &dyn Sink) -> Result<Option<u64>> {
        let long = |&&content: &&u32| {
            let content = self.contents.get(content);
            content.len >= MIN_SPARSE && matches!(content.data, Data::Host(_))
        };
        let Some(&first) = self.order.iter().find(long) else { return Ok(None) };
        let content = self.contents.get(first);
        let Data::Host(file) = &content.data else { return Ok(None) };
        let opened = OpenDirs::default().open_file(&self.dirs, &self.tree, file, content.len)?;
        let source = self.host_source(file, opened)?;
        let block = sink.shareable_block(&source);
        let block = block.map_err(|e| Error::io("cannot write the image", e))?;
        Ok(block.filter(|&block| u64::from(self.options.alignment).is_multiple_of(block)))
    }

    fn host_source(&self, file: &HostFile, opened: File) -> Result<impl Source + use<>> {
        let named = |e| {
            let path = host::path_of(&self.dirs, file.dir, self.tree.bytes(file.name));
            Error::io("cannot read", e).in_file(path)
        };
        host::source(opened).map_err(named)
    }

    fn run(
        &self,
        sparse: Option<SparseSink<'_>>,
        write: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut open = OpenDirs::default();
        let mut fill = |stream: &mut Stream<'_>| self.fill(stream, &mut open, sparse);
        match self.size() < MIN_READ_AHEAD {
            true => stream::run(&mut fill, write),
            false => stream::run_ahead(&mut fill, write),
        }
    }

    fn fill(
        &self,
        stream: &mut Stream<'_>,
        open: &mut OpenDirs,
        sparse: Option<SparseSink<'_>>,
    ) -> Result<()> {
        stream.write(self.boot.system_area())?;
        stream.zeros_to(16 * SECTOR)?;
        self.fill_descriptors(stream)?;
        if let Some(second) = self.second {
            self.fill_second_descriptors(stream, second)?;
        }
        self.fill_udf_recognition(stream)?;
        self.fill_udf(stream)?;
        self.fill_trees(stream, Shift::default())?;
        if let Some(second) = self.second {
            self.fill_trees(stream, second.shift)?;
        }
        for &content in &self.order {
            stream.zeros_to(u64::from(self.content_lba[to_index(content)]) * SECTOR)?;
            match (self.boot.catalog_bytes(content), self.boot.patches(content)) {
                (Some(catalog), _) => stream.write(catalog)?,
                (None, Some(patches)) => self.fill_patched(stream, open, content, patches)?,
                (None, None) => self.fill_content(stream, open, content, sparse)?,
            }
        }
        for (sector, content) in self.boot.partitions() {
            stream.zeros_to(sector * SECTOR)?;
            self.fill_content(stream, open, content, sparse)?;
        }
        self.fill_last_anchor(stream)?;
        stream.zeros_to(self.size() - to_u64(self.boot.backup().len()))?;
        stream.write(self.boot.backup())
    }

    /// Writes path tables and directories.
    fn fill_trees(&self, stream: &mut Stream<'_>, shift: Shift) -> Result<()> {
        for space in [Space::Primary, Space::Joliet] {
            let Some(hierarchy) = self.hierarchy(space) else { continue };
            for big in [false, true] {
                stream.write(&path_table::table(hierarchy, big, shift))?;
                stream.zeros_to(stream.position().next_multiple_of(SECTOR))?;
            }
        }
        let (mut records, mut areas) = (Vec::new(), Vec::new());
        for space in [Space::Primary, Space::Joliet] {
            let count = self.hierarchy(space).map_or(0, |hierarchy| hierarchy.dirs.len());
            for index in 0..count {
                self.directory(space, index, shift, &mut records, &mut areas);
                stream.write(&records)?;
                stream.write(&areas)?;
                stream.zeros_to(stream.position().next_multiple_of(SECTOR))?;
            }
        }
        Ok(())
    }

    fn fill_descriptors(&self, stream: &mut Stream<'_>) -> Result<()> {
        let record = self.boot.record(&self.content_lba);
        self.fill_descriptor_set(stream, Shift::default(), &self.volume, &record)
    }

    /// Writes the descriptors for the partition that contains the volume. They have no boot record,
    /// because firmware reads only the first ones.
    fn fill_second_descriptors(&self, stream: &mut Stream<'_>, second: SecondSet) -> Result<()> {
        let start = 16 + u64::from(second.partition);
        stream.zeros_to(start * SECTOR)?;
        let sectors = self.volume.sectors.saturating_sub(second.partition);
        let volume = descriptors::Volume { sectors, ..self.volume };
        self.fill_descriptor_set(stream, second.shift, &volume, &[])?;
        let optional =
            [self.boot.has_catalog(), self.joliet.is_some(), self.has_enhanced_descriptor()];
        let count = 2 + optional.into_iter().map(u64::from).sum::<u64>();
        stream.zeros_to((start + count) * SECTOR)
    }

    fn fill_descriptor_set(
        &self,
        stream: &mut Stream<'_>,
        shift: Shift,
        volume: &descriptors::Volume,
        boot_record: &[u8],
    ) -> Result<()> {
        let tables = self.primary_tables.shifted(shift);
        stream.write(&descriptors::primary(&self.options, &tables, volume))?;
        stream.write(boot_record)?;
        if self.joliet.is_some() {
            let joliet = self.joliet_tables.shifted(shift);
            stream.write(&descriptors::joliet(&self.options, &joliet, volume))?;
        }
        if self.has_enhanced_descriptor() {
            stream.write(&descriptors::enhanced(&self.options, &tables, volume))?;
        }
        stream.write(&descriptors::terminator())
    }

    /// Writes a boot image with patches.
    fn fill_patched(
        &self,
        stream: &mut Stream<'_>,
        open: &mut OpenDirs,
        content: u32,
        patches: &[Patch],
    ) -> Result<()> {
        let source = self.source_of(open, content)?;
        copy(stream, &PatchedSource::new(source, patches.to_vec()), None)
    }

    fn fill_content(
        &self,
        stream: &mut Stream<'_>,
        open: &mut OpenDirs,
        content: u32,
        sparse: Option<SparseSink<'_>>,
    ) -> Result<()> {
        let content = self.contents.get(content);
        match &content.data {
            Data::Bytes(bytes) => stream.write(bytes),
            Data::Source(source) => {
                let at = source.path();
                let named = |e: Error| at.iter().fold(e, |e, path| e.in_file(path));
                copy(stream, &**source, sparse).map_err(named)
            }
            Data::Host(file) => {
                let opened = open.open_file(&self.dirs, &self.tree, file, content.len)?;
                let copied = if content.len >= MIN_SPARSE && (file.sparse || sparse.is_some()) {
                    let again = opened.try_clone().map_err(|e| Error::io("cannot read", e));
                    copy(stream, &self.host_source(file, again?)?, sparse)
                } else {
                    read(stream, &opened, content.len)
                };
                copied.map_err(|e| {
                    let name = self.tree.bytes(file.name);
                    e.in_file(host::path_of(&self.dirs, file.dir, name))
                })?;
                open.check_again(&self.dirs, &self.tree, file, content.len, &opened)
            }
        }
    }
}

/// Copies `left` bytes from the current position of `file`.
fn read(stream: &mut Stream<'_>, mut file: &File, mut left: u64) -> Result<()> {
    while left > 0 {
        let buffer = stream.buffer(left)?;
        let read = match file.read(buffer) {
            Ok(0) => {
                let message = format!("the file ended {left} bytes early");
                let error = std::io::Error::other(message);
                return Err(Error::io("changed while the image was being created", error));
            }
            Ok(read) => read,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(Error::io("cannot read", e)),
        };
        stream.advance(read);
        left -= to_u64(read);
    }
    Ok(())
}

/// Copies a whole source. Shares its blocks with the sink if possible, and does not read its holes.
fn copy(
    stream: &mut Stream<'_>,
    source: &dyn Source,
    sparse: Option<SparseSink<'_>>,
) -> Result<()> {
    let len = source.len();
    let mut at = 0;
    if let Some(SparseSink { sink, block: Some(block) }) = sparse {
        let whole = len / block * block;
        let position = stream.position();
        let shared = whole > 0 && position.is_multiple_of(block) && {
            let shared = sink.share(source, 0, position, whole);
            shared.map_err(|e| Error::io("cannot share blocks with the source file", e))?
        };
        if shared {
            stream.skip(whole)?;
            at = whole;
        }
    }
    for (range, hole) in segments(source, at..len) {
        let mut left = range.end - range.start;
        let mut at = range.start;
        match (hole, sparse) {
            // A shorter hole is written as zeros, because skipping flushes the stream.
            (true, Some(_)) if left >= MIN_SPARSE => stream.skip(left)?,
            (true, _) => stream.zeros(left)?,
            (false, _) => {
                while left > 0 {
                    let buffer = stream.buffer(left)?;
                    let read = buffer.len();
                    let done = source.read_exact_at(buffer, at);
                    done.map_err(|e| Error::io("cannot read", e))?;
                    stream.advance(read);
                    at += to_u64(read);
                    left -= to_u64(read);
                }
            }
        }
    }
    Ok(())
}
