//! Writing an OVA.
//!
//! ```text
//!   ┌───┬─────────────┬───┬──────┬───┬────────────┬───┬────────────┬───────────┐
//!   │ h │ x.ovf + ␣␣␣ │ h │ x.mf │ h │ x-disk1    │ h │ x-disk2    │ zeros, to │
//!   │   │             │   │      │   │ .vmdk      │   │ .vmdk      │ 10 KiB    │
//!   └───┴─────────────┴───┴──────┴───┴────────────┴───┴────────────┴───────────┘
//!     4 ◄──────────────────── 3    2   1 ─────►     2   1 ─────►     5
//! ```
//!
//! The numbers show the order of writing. The descriptor is the first member, but contains the
//! sizes of the disks, which are the last ones. Therefore space for it is reserved (it is padded
//! with blanks to the length that it has with the largest numbers), and descriptor and manifest are
//! written at the end. For a pipe, the archive is first written to an unnamed temporary file.
//!
//! Each disk has its own range of guest offsets and is written by a target of the VMDK format.

use super::member_sink::{MemberSink, Written};
use super::new_envelope::{DiskInfo, disk_name, max_disks, text};
use super::options::Machine;
use super::tar_members::BLOCK;
use super::{GRAIN, manifest};
use crate::error::{Error, Result};
use crate::model::extent::Encoded;
use crate::model::format::Format;
use crate::model::options::{COMPRESSION_LEVEL, Options};
use crate::model::target::{Allocate, CreateRequest, Slot, Target, TargetSpec, UnitEncoder};
use crate::storage::number::{to_u64, to_usize};
use crate::storage::output::Output;
use crate::storage::sink::{FileSink, Sink};
use crate::storage::source::{FileSource, Source, SourceError, temporary_file};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use tar::{EntryType, Header};

/// The length of an archive is a multiple of this size, as with tar (a "record" of 20 blocks).
const RECORD: u64 = 20 * BLOCK;

/// Number of bytes that are copied to a pipe at a time.
const COPY: u64 = 1 << 20;

/// A new appliance.
#[derive(Debug)]
struct OvaSpec {
    options: Options,
    /// The guest range of each disk, and its image.
    disks: Vec<Range<u64>>,
    images: Vec<Box<dyn TargetSpec>>,
}

/// An appliance being written.
#[derive(Debug)]
pub(super) struct OvaTarget {
    /// The output, or the temporary file.
    archive: Arc<dyn Sink>,
    /// The temporary file, and the pipe to which it is copied at the end.
    pipe: Option<(File, Arc<dyn Sink>)>,
    machine: Machine,
    disks: Vec<NewDisk>,
    /// The disks' members.
    files: Vec<Arc<dyn Sink>>,
    /// Index of the current disk.
    current: usize,
    /// The image of the current disk; `None` when all disks are complete.
    image: Option<Box<dyn Target>>,
    /// The images of all disks.
    images: Vec<Box<dyn TargetSpec>>,
    /// Length of the descriptor in bytes, including padding.
    descriptor: u64,
    /// Offset of the current disk's header in the archive.
    position: u64,
}

/// A disk of the appliance.
#[derive(Debug)]
struct NewDisk {
    /// Its range in the guest address space of all disks.
    guest: Range<u64>,
    member: Arc<MemberSink>,
    /// Offset of its header in the archive, once the disk is started.
    header: u64,
    /// Number of guest bytes that are not zeros.
    populated: u64,
}

/// Specifies an appliance with one disk.
///
/// # Errors
/// As [`create_disks`].
pub(super) fn create(request: CreateRequest<'_>) -> Result<Box<dyn TargetSpec>> {
    let disk = 0..request.size;
    create_disks(request, &[disk])
}

/// Specifies an appliance with one disk for each range of guest offsets.
///
/// # Errors
/// [`Invalid`](crate::ErrorKind::Invalid) for invalid options, a backing file or too many disks.
pub(super) fn create_disks(
    request: CreateRequest<'_>,
    disks: &[Range<u64>],
) -> Result<Box<dyn TargetSpec>> {
    if request.backing.is_some() {
        return Err(Error::invalid("the disks of an appliance cannot have a backing file"));
    }
    let options = request.options.clone();
    let machine = Machine::new(&options, None)?;
    let max = max_disks(machine.adapter);
    if disks.is_empty() || disks.len() > max {
        let adapter = machine.adapter.name();
        let message = format!("{} disks; {adapter} controllers support 1 to {max}", disks.len());
        return Err(Error::invalid(message));
    }
    let images = disks.iter().map(|guest| disk_image(&machine, guest)).collect::<Result<_>>()?;
    Ok(Box::new(OvaSpec { options, disks: disks.to_vec(), images }))
}

impl TargetSpec for OvaSpec {
    fn size(&self) -> u64 {
        self.disks.last().map_or(0, |guest| guest.end)
    }

    fn quantum(&self) -> u64 {
        GRAIN
    }

    fn sequential(&self) -> bool {
        true
    }

    fn encoder(&self) -> Option<Box<dyn UnitEncoder>> {
        let starts = self.disks.iter().map(|guest| guest.start).collect();
        let inner = self.images.first()?.encoder()?;
        Some(Box::new(DiskEncoder { starts, inner }))
    }

    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) if the output's name cannot be recorded,
    /// [`Io`](crate::ErrorKind::Io) if a file cannot be created or written.
    fn start(&self, output: &mut Output) -> Result<Box<dyn Target>> {
        let sink = output.sink();
        let name = output.path().filter(|_| !sink.is_sequential());
        let extension = name.and_then(Path::extension);
        if extension.is_some_and(|extension| extension.eq_ignore_ascii_case("ovf")) {
            return Err(Error::unsupported(
                "an appliance is written as one archive, not as a descriptor with separate files",
            )
            .hint("use a name that ends in .ova"));
        }
        let machine = Machine::new(&self.options, name)?;
        let (archive, pipe) = if sink.is_sequential() {
            let cannot_create = |e| Error::io("cannot create a temporary file", e);
            let file = temporary_file().map_err(cannot_create)?;
            let clone = file.try_clone().map_err(cannot_create)?;
            let temporary = FileSink::new(clone, true).map_err(cannot_create)?;
            let temporary: Arc<dyn Sink> = Arc::new(temporary);
            (temporary, Some((file, sink)))
        } else {
            (sink, None)
        };
        let images = self.disks.iter().map(|guest| disk_image(&machine, guest));
        let images = images.collect::<Result<_>>()?;
        Ok(Box::new(OvaTarget::start(archive, pipe, machine, &self.disks, images)?))
    }
}

impl OvaTarget {
    fn start(
        archive: Arc<dyn Sink>,
        pipe: Option<(File, Arc<dyn Sink>)>,
        machine: Machine,
        disks: &[Range<u64>],
        images: Vec<Box<dyn TargetSpec>>,
    ) -> Result<Self> {
        let disk = |guest: &Range<u64>| NewDisk {
            guest: guest.clone(),
            member: Arc::new(MemberSink::new(Arc::clone(&archive))),
            header: 0,
            populated: 0,
        };
        let disks: Vec<_> = disks.iter().map(disk).collect();
        let files = disks.iter().map(|disk| -> Arc<dyn Sink> { disk.member.clone() }).collect();
        let longest = DiskInfo { capacity: u64::MAX, size: u64::MAX, populated: u64::MAX };
        let descriptor = to_u64(text(&machine, &vec![longest; disks.len()]).len());
        let descriptor = (descriptor + 1).next_multiple_of(BLOCK);
        let manifest =
            to_u64(manifest_text(&machine, &[0; 32], disks.iter().map(|_| [0; 32])).len());
        let position = 2 * BLOCK + descriptor + manifest.next_multiple_of(BLOCK);
        let mut target = Self {
            archive,
            pipe,
            machine,
            disks,
            files,
            current: 0,
            image: None,
            images,
            descriptor,
            position,
        };
        target.start_disk()?;
        Ok(target)
    }

    /// Completes all disks before `index`, which may be the number of disks, and starts that disk.
    fn switch_to(&mut self, index: usize) -> Result<()> {
        while self.current < index {
            self.end_disk()?;
            self.current += 1;
            self.start_disk()?;
        }
        Ok(())
    }

    /// Starts the image of the current disk, if there is one more, at the current position.
    fn start_disk(&mut self) -> Result<()> {
        let index = self.current;
        let (Some(disk), Some(image)) = (self.disks.get_mut(index), self.images.get(index)) else {
            return Ok(());
        };
        disk.header = self.position;
        disk.member.start_at(self.position + BLOCK);
        let member: Arc<dyn Sink> = disk.member.clone();
        // The IDs of a disk depend on its name, which is different for each disk.
        let name = disk_name(&self.machine.stem, index);
        self.image = Some(image.start(&mut Output::to_part(member, name))?);
        Ok(())
    }

    /// Completes the current disk's image and member.
    fn end_disk(&mut self) -> Result<()> {
        if let Some(image) = self.image.take() {
            image.finish()?;
        }
        let len = self.disks[self.current].member.written().len;
        let end = self.position + BLOCK + len;
        let header = member_header(&disk_name(&self.machine.stem, self.current), len)?;
        self.write(header.as_bytes(), self.position)?;
        self.position = self.pad(end, BLOCK)?;
        Ok(())
    }

    /// Returns the image of the current disk.
    fn image(&mut self) -> Result<&mut dyn Target> {
        match &mut self.image {
            Some(image) => Ok(&mut **image),
            None => Err(Error::invalid("all disks are complete")),
        }
    }

    fn write(&self, bytes: &[u8], at: u64) -> Result<()> {
        self.archive
            .write_all_at(bytes, at)
            .map_err(|e| Error::io("cannot write to the archive", e).at(at))
    }

    /// Writes zeros from `at` to the next multiple of `unit`, and returns that offset.
    fn pad(&self, at: u64, unit: u64) -> Result<u64> {
        let end = at.next_multiple_of(unit);
        self.write(&vec![0; to_usize(end - at)], at)?;
        Ok(end)
    }

    /// Writes a text member with its header at `at`, and returns the offset after it.
    fn write_member(&self, name: &str, text: &str, at: u64) -> Result<u64> {
        self.write(member_header(name, to_u64(text.len()))?.as_bytes(), at)?;
        self.write(text.as_bytes(), at + BLOCK)?;
        self.pad(at + BLOCK + to_u64(text.len()), BLOCK)
    }

    /// Writes descriptor and manifest, which precede the disks.
    fn write_front(&self) -> Result<()> {
        let written: Vec<Written> = self.disks.iter().map(|disk| disk.member.written()).collect();
        let disks = self.disks.iter().zip(&written).map(|(disk, written)| DiskInfo {
            capacity: disk.guest.end - disk.guest.start,
            size: written.len,
            populated: disk.populated,
        });
        let mut descriptor = text(&self.machine, &disks.collect::<Vec<_>>());
        let blanks = self.descriptor - 1 - to_u64(descriptor.len());
        descriptor.extend(std::iter::repeat_n(' ', to_usize(blanks)));
        descriptor.push('\n');
        let digest = Sha256::digest(descriptor.as_bytes());
        let manifest = manifest_text(&self.machine, &digest, written.iter().map(|w| &w.digest));
        let stem = &self.machine.stem;
        let at = self.write_member(&format!("{stem}.ovf"), &descriptor, 0)?;
        let at = self.write_member(&format!("{stem}.mf"), &manifest, at)?;
        debug_assert_eq!(at, self.disks[0].header);
        Ok(())
    }
}

impl Target for OvaTarget {
    fn files(&self) -> &[Arc<dyn Sink>] {
        &self.files
    }

    fn place(&mut self, at: u64, unit: Allocate) -> Result<Option<Slot>> {
        if let Allocate::Zero { len } = unit {
            return self.place_zeros(at..at + len).map(|()| None);
        }
        let index = self.disks.partition_point(|disk| disk.guest.start <= at).saturating_sub(1);
        self.switch_to(index)?;
        let disk = &mut self.disks[index];
        if at >= disk.guest.end {
            return Ok(None); // in the gap between two disks
        }
        disk.populated += (disk.guest.end - at).min(GRAIN);
        let start = disk.guest.start;
        let slot = self.image()?.place(at - start, unit)?;
        Ok(slot.map(|slot| Slot { file: index, ..slot }))
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.switch_to(self.disks.len())?;
        self.write_front()?;
        // An archive ends with two blocks of zeros.
        self.write(&[0; 2 * to_usize(BLOCK)], self.position)?;
        let len = self.pad(self.position + 2 * BLOCK, RECORD)?;
        let cannot_set = |e| Error::io(format!("cannot set the length to {len}"), e);
        self.archive.set_len(len).map_err(cannot_set)?;
        match self.pipe {
            Some((file, pipe)) => copy(file, &*pipe),
            None => Ok(()),
        }
    }
}

impl OvaTarget {
    /// Places a range of zeros, which may span several disks.
    fn place_zeros(&mut self, zeros: Range<u64>) -> Result<()> {
        for index in self.current..self.disks.len() {
            let guest = self.disks[index].guest.clone();
            let run = zeros.start.max(guest.start)..zeros.end.min(guest.end);
            if run.start < run.end {
                self.switch_to(index)?;
                let unit = Allocate::Zero { len: run.end - run.start };
                self.image()?.place(run.start - guest.start, unit)?;
            }
        }
        Ok(())
    }
}

/// Specifies the image of the disk with this guest range.
fn disk_image(machine: &Machine, guest: &Range<u64>) -> Result<Box<dyn TargetSpec>> {
    let mut options = Options::default();
    options
        .set("subformat", "streamOptimized")
        .set("adapter_type", machine.adapter.name())
        .set("hwversion", machine.hardware.to_string());
    if let Some(level) = machine.compression_level {
        options.set(COMPRESSION_LEVEL.name, level.to_string());
    }
    let image = (Format::Vmdk.creator()?)(CreateRequest {
        size: guest.end - guest.start,
        options: &options,
        backing: None,
        compress: true,
    })?;
    if image.quantum() != GRAIN {
        let unit = image.quantum();
        return Err(Error::invalid(format!("grains of {unit} bytes; expected {GRAIN}")));
    }
    Ok(image)
}

/// The encoder of all disks. Converts guest offsets to those within a disk.
#[derive(Debug)]
struct DiskEncoder {
    /// Guest offsets of the disks, in ascending order.
    starts: Vec<u64>,
    /// The encoder of the first disk. Those of the other disks are equal.
    inner: Box<dyn UnitEncoder>,
}

impl UnitEncoder for DiskEncoder {
    fn encode(&mut self, at: u64, unit: &[u8], out: &mut Vec<u8>) -> Result<bool> {
        self.inner.encode(self.in_disk(at), unit, out)
    }

    fn passes(&self, unit: &Encoded) -> bool {
        self.inner.passes(unit)
    }

    fn pass(
        &mut self,
        at: u64,
        len: usize,
        fill: &mut dyn FnMut(&mut [u8]) -> Result<()>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        self.inner.pass(self.in_disk(at), len, fill, out)
    }
}

impl DiskEncoder {
    /// Converts an offset in the guest address space of all disks to an offset within its disk.
    fn in_disk(&self, at: u64) -> u64 {
        let index = self.starts.partition_point(|&start| start <= at).saturating_sub(1);
        at - self.starts[index]
    }
}

/// Returns a ustar header, which does not depend on the time or the user. A size of 8 GiB or more
/// is encoded in base 256, as GNU tar does.
fn member_header(name: &str, size: u64) -> Result<Header> {
    let mut header = Header::new_ustar();
    header
        .set_path(name)
        .map_err(|e| Error::invalid(format!("'{name}' cannot be the name of a member: {e}")))?;
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    Ok(header)
}

/// Returns the text of the manifest: the digest of the descriptor, then those of the disks.
fn manifest_text<D: AsRef<[u8]>>(
    machine: &Machine,
    descriptor: &[u8],
    disks: impl Iterator<Item = D>,
) -> String {
    let stem = &machine.stem;
    let mut text = manifest::line(&format!("{stem}.ovf"), descriptor);
    for (index, digest) in disks.enumerate() {
        text.push_str(&manifest::line(&disk_name(stem, index), digest.as_ref()));
    }
    text
}

/// Copies the temporary file to the pipe.
fn copy(file: File, pipe: &dyn Sink) -> Result<()> {
    let cannot_read = |e: SourceError| Error::io("cannot read the temporary file", e);
    let archive = FileSource::from_file(file).map_err(|e| cannot_read(e.into()))?;
    let mut block = vec![0; to_usize(COPY)];
    for at in (0..archive.len()).step_by(to_usize(COPY)) {
        let data = &mut block[..to_usize(archive.len().saturating_sub(at).min(COPY))];
        archive.read_exact_at(data, at).map_err(cannot_read)?;
        pipe.write_all_at(data, at).map_err(|e| Error::io("cannot write to the output", e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// POSIX.1-2017 *pax*, "ustar Interchange Format": 11 octal digits. GNU tar's manual,
    /// "Extensions": base 256 after a first byte of 0x80.
    #[test]
    fn sizes_of_8_gib_and_more_are_in_base_256() {
        let field = |size| {
            let header = member_header("x-disk1.vmdk", size).expect("fits");
            header.as_bytes()[124..136].to_vec()
        };
        assert_eq!(field((8 << 30) - 1), b"77777777777\0");
        let mut base256 = vec![0x80, 0, 0, 0];
        base256.extend((9u64 << 30).to_be_bytes());
        assert_eq!(field(9 << 30), base256);
    }
}
