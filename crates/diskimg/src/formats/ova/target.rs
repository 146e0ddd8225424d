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
//! The descriptor comes first and tells how long the disks are, which come
//! last: so its place is kept free (it is padded with blanks to the length it
//! has with the largest numbers), and all of the front is written at the end.
//! A pipe cannot wait for that: there the archive is laid out in an unnamed
//! temporary file first.
//!
//! Each disk is written by the VMDK format's own target, in a stretch of guest
//! bytes of its own.

use super::member_sink::{MemberSink, Written};
use super::new_envelope::{DiskFacts, disk_name, max_disks, text};
use super::options::Machine;
use super::tar_members::BLOCK;
use super::{GRAIN, manifest};
use crate::error::{Error, Result};
use crate::model::extent::Encoded;
use crate::model::format::Format;
use crate::model::layer::DiskLayout;
use crate::model::options::{COMPRESSION_LEVEL, Options};
use crate::model::target::{Allocate, CreateRequest, Slot, Target, UnitEncoder};
use crate::storage::number::{to_u64, to_usize};
use crate::storage::output::Output;
use crate::storage::sink::{FileSink, Sink};
use crate::storage::source::{FileSource, Source};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use tar::{EntryType, Header};

/// An archive's length is a multiple of this many bytes, as tar writes it
/// ("record", 20 blocks).
const RECORD: u64 = 20 * BLOCK;

/// Bytes copied to a pipe at a time.
const COPY: u64 = 1 << 20;

/// An appliance being written.
#[derive(Debug)]
pub(super) struct OvaTarget {
    /// Where the archive is laid out.
    archive: Arc<dyn Sink>,
    /// The archive's temporary file, and the pipe that it goes to.
    pipe: Option<(File, Arc<dyn Sink>)>,
    machine: Machine,
    disks: Vec<NewDisk>,
    /// The disks' members.
    files: Vec<Arc<dyn Sink>>,
    /// The disk that is being written.
    current: usize,
    /// Its image; `None` when all are complete.
    image: Option<Box<dyn Target>>,
    /// Bytes set aside for the descriptor.
    descriptor: u64,
    /// Where the current disk's header is.
    position: u64,
}

/// A disk of the appliance.
#[derive(Debug)]
struct NewDisk {
    /// Its place in the guest bytes of all.
    guest: Range<u64>,
    member: Arc<MemberSink>,
    /// Where its header is, once it has a place.
    header: u64,
    /// Guest bytes that are not zeros.
    populated: u64,
}

/// Starts an appliance with one disk.
pub(super) fn create(request: CreateRequest<'_>) -> Result<Box<dyn Target>> {
    let disk = 0..request.size;
    create_disks(request, &[disk])
}

/// Starts an appliance with a disk for each range.
pub(super) fn create_disks(
    request: CreateRequest<'_>,
    disks: &[Range<u64>],
) -> Result<Box<dyn Target>> {
    if request.backing.is_some() {
        return Err(Error::invalid("an appliance's disks cannot have a backing file"));
    }
    let output = request.output.sink();
    let name = request.output.path().filter(|_| !output.is_sequential());
    let machine = Machine::new(request.options, name)?;
    let most = max_disks(machine.adapter);
    if disks.is_empty() || disks.len() > most {
        let adapter = machine.adapter.name();
        let message = format!("{} disks; {adapter} controllers take 1 to {most}", disks.len());
        return Err(Error::invalid(message));
    }
    let (archive, pipe) = if output.is_sequential() {
        let cannot = |e| Error::io("cannot make a temporary file", e);
        let file = tempfile::tempfile().map_err(cannot)?;
        let sink = FileSink::new(file.try_clone().map_err(cannot)?, true).map_err(cannot)?;
        let sink: Arc<dyn Sink> = Arc::new(sink);
        (sink, Some((file, output)))
    } else {
        (output, None)
    };
    OvaTarget::start(archive, pipe, machine, disks)
        .map(|target| -> Box<dyn Target> { Box::new(target) })
}

impl OvaTarget {
    fn start(
        archive: Arc<dyn Sink>,
        pipe: Option<(File, Arc<dyn Sink>)>,
        machine: Machine,
        disks: &[Range<u64>],
    ) -> Result<Self> {
        let disk = |guest: &Range<u64>| NewDisk {
            guest: guest.clone(),
            member: Arc::new(MemberSink::new(Arc::clone(&archive))),
            header: 0,
            populated: 0,
        };
        let mut disks: Vec<_> = disks.iter().map(disk).collect();
        let files = disks.iter().map(|disk| -> Arc<dyn Sink> { disk.member.clone() }).collect();
        let longest = DiskFacts { capacity: u64::MAX, size: u64::MAX, populated: u64::MAX };
        let descriptor = to_u64(text(&machine, &vec![longest; disks.len()]).len());
        let descriptor = (descriptor + 1).next_multiple_of(BLOCK);
        let manifest =
            to_u64(manifest_text(&machine, &[0; 32], disks.iter().map(|_| [0; 32])).len());
        let position = 2 * BLOCK + descriptor + manifest.next_multiple_of(BLOCK);
        let image = Some(start_disk(&machine, &mut disks[0], 0, position)?);
        Ok(Self { archive, pipe, machine, disks, files, current: 0, image, descriptor, position })
    }

    /// Goes on to the disk with this index, or to behind the last one.
    fn turn_to(&mut self, index: usize) -> Result<()> {
        while self.current < index {
            self.end_disk()?;
            self.current += 1;
            if let Some(disk) = self.disks.get_mut(self.current) {
                let image = start_disk(&self.machine, disk, self.current, self.position)?;
                self.image = Some(image);
            }
        }
        Ok(())
    }

    /// Completes the current disk's image and its member.
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

    /// The current disk's image.
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

    /// Writes zeros from `at` to a multiple of `unit`, which it gives.
    fn pad(&self, at: u64, unit: u64) -> Result<u64> {
        let end = at.next_multiple_of(unit);
        self.write(&vec![0; to_usize(end - at)], at)?;
        Ok(end)
    }

    /// Writes a member into the front.
    fn write_member(&self, name: &str, text: &str, at: u64) -> Result<u64> {
        self.write(member_header(name, to_u64(text.len()))?.as_bytes(), at)?;
        self.write(text.as_bytes(), at + BLOCK)?;
        self.pad(at + BLOCK + to_u64(text.len()), BLOCK)
    }

    /// Writes descriptor and manifest.
    fn write_front(&self) -> Result<()> {
        let written: Vec<Written> = self.disks.iter().map(|disk| disk.member.written()).collect();
        let facts = self.disks.iter().zip(&written).map(|(disk, written)| DiskFacts {
            capacity: disk.guest.end - disk.guest.start,
            size: written.len,
            populated: disk.populated,
        });
        let mut descriptor = text(&self.machine, &facts.collect::<Vec<_>>());
        let blanks = self.descriptor - 1 - to_u64(descriptor.len());
        descriptor.extend(std::iter::repeat_n(' ', to_usize(blanks)));
        descriptor.push('\n');
        let own = Sha256::digest(descriptor.as_bytes());
        let manifest = manifest_text(&self.machine, &own, written.iter().map(|w| &w.digest));
        let stem = &self.machine.stem;
        let at = self.write_member(&format!("{stem}.ovf"), &descriptor, 0)?;
        let at = self.write_member(&format!("{stem}.mf"), &manifest, at)?;
        debug_assert_eq!(at, self.disks[0].header);
        Ok(())
    }
}

impl Target for OvaTarget {
    fn disk_layout(&self) -> DiskLayout {
        let size = self.disks.last().map_or(0, |disk| disk.guest.end);
        DiskLayout { size, cluster_size: GRAIN }
    }

    fn files(&self) -> &[Arc<dyn Sink>] {
        &self.files
    }

    fn sequential(&self) -> bool {
        true
    }

    fn encoder(&self) -> Option<Box<dyn UnitEncoder>> {
        let starts = self.disks.iter().map(|disk| disk.guest.start).collect();
        let inner = self.image.as_ref()?.encoder()?;
        Some(Box::new(DiskEncoder { starts, inner }))
    }

    fn place(&mut self, at: u64, unit: Allocate<'_>) -> Result<Option<Slot>> {
        if let Allocate::Zero { len } = unit {
            return self.place_zeros(at..at + len).map(|()| None);
        }
        let index = self.disks.partition_point(|disk| disk.guest.start <= at).saturating_sub(1);
        self.turn_to(index)?;
        let disk = &mut self.disks[index];
        if at >= disk.guest.end {
            return Ok(None); // between two disks
        }
        disk.populated += (disk.guest.end - at).min(GRAIN);
        let start = disk.guest.start;
        let slot = self.image()?.place(at - start, unit)?;
        Ok(slot.map(|slot| Slot { file: index, ..slot }))
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.turn_to(self.disks.len())?;
        self.write_front()?;
        // Two blocks of zeros end an archive.
        self.write(&[0; 2 * to_usize(BLOCK)], self.position)?;
        let len = self.pad(self.position + 2 * BLOCK, RECORD)?;
        let cannot = |e| Error::io(format!("cannot set the length to {len}"), e);
        self.archive.set_len(len).map_err(cannot)?;
        match self.pipe {
            Some((file, pipe)) => send(file, &*pipe),
            None => Ok(()),
        }
    }
}

impl OvaTarget {
    /// Tells each disk of the part that it has of these zeros.
    fn place_zeros(&mut self, zeros: Range<u64>) -> Result<()> {
        for index in self.current..self.disks.len() {
            let guest = self.disks[index].guest.clone();
            let part = zeros.start.max(guest.start)..zeros.end.min(guest.end);
            if part.start < part.end {
                self.turn_to(index)?;
                let unit = Allocate::Zero { len: part.end - part.start };
                self.image()?.place(part.start - guest.start, unit)?;
            }
        }
        Ok(())
    }
}

/// Starts a disk's image, whose header comes at `position`.
fn start_disk(
    machine: &Machine,
    disk: &mut NewDisk,
    index: usize,
    position: u64,
) -> Result<Box<dyn Target>> {
    disk.header = position;
    disk.member.start_at(position + BLOCK);
    let member: Arc<dyn Sink> = disk.member.clone();
    let mut options = Options::default();
    options
        .set("subformat", "streamOptimized")
        .set("adapter_type", machine.adapter.name())
        .set("hwversion", machine.hardware.to_string());
    if let Some(level) = machine.compression_level {
        options.set(COMPRESSION_LEVEL.name, level.to_string());
    }
    // The name tells the disks of a machine apart: their IDs depend on it.
    let mut output = Output::to_sink(member).called(disk_name(&machine.stem, index));
    let image = (Format::Vmdk.driver().create)(CreateRequest {
        output: &mut output,
        size: disk.guest.end - disk.guest.start,
        options: &options,
        backing: None,
        compress: true,
    })?;
    if image.disk_layout().cluster_size != GRAIN {
        let unit = image.disk_layout().cluster_size;
        return Err(Error::invalid(format!("grains of {unit} bytes, not {GRAIN}")));
    }
    Ok(image)
}

/// A disk's own encoder, told of the disk's own guest offsets.
#[derive(Debug)]
struct DiskEncoder {
    /// Where the disks start, ascending.
    starts: Vec<u64>,
    /// They are all of one kind, and so are their encoders.
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
    /// The disk's own guest offset of what is at `at` in the space of all disks.
    fn in_disk(&self, at: u64) -> u64 {
        let index = self.starts.partition_point(|&start| start <= at).saturating_sub(1);
        at - self.starts[index]
    }
}

/// A ustar header. Nothing in it depends on where and when it is written. Sizes
/// of 8 GiB and more are in base 256, as GNU tar writes them.
fn member_header(name: &str, size: u64) -> Result<Header> {
    let mut header = Header::new_ustar();
    header
        .set_path(name)
        .map_err(|e| Error::invalid(format!("'{name}' cannot be a member's name: {e}")))?;
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    Ok(header)
}

/// The manifest's text: the descriptor's digest, then the disks'.
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

/// Copies the laid-out archive to its pipe.
fn send(file: File, pipe: &dyn Sink) -> Result<()> {
    let cannot_read = |e| Error::io("cannot read the temporary file", e);
    let archive = FileSource::from_file(file).map_err(cannot_read)?;
    let mut block = vec![0; to_usize(COPY)];
    for at in (0..archive.len()).step_by(to_usize(COPY)) {
        let part = &mut block[..to_usize((archive.len() - at).min(COPY))];
        archive.read_exact_at(part, at).map_err(cannot_read)?;
        pipe.write_all_at(part, at).map_err(|e| Error::io("cannot write to the output", e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// POSIX.1-2017 *pax*, "ustar Interchange Format": 11 octal digits; GNU tar's
    /// manual, "Extensions": base 256 behind a first byte of 0x80.
    #[test]
    fn sizes_from_8_gib_on_are_in_base_256() {
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
