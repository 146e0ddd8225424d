//! The images that are converted. They are created by other tools, so that the layout does not
//! favor diskimg; only the raw 16 TiB disk is created here.

use crate::args::Args;
use crate::interrupt;
use crate::populate;
use crate::tools::{command, run};
use crate::workplace::Workplace;
use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use diskimg_testkit::dmg;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// Bytes of data in the 16 TiB disk, in runs of 1 MiB.
const HUGE_DATA: u64 = 300 << 20;

/// An input image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// A raw ext4 file system with real files.
    Raw,
    /// The same as qcow2.
    Qcow2,
    /// The same as qcow2 with zlib compression.
    Qcow2Zlib,
    /// The same as qcow2 with Zstandard compression.
    Qcow2Zstd,
    /// The same as a monolithicSparse VMDK.
    Vmdk,
    /// The same as a streamOptimized VMDK.
    Stream,
    /// The same as a dynamic VHD.
    Vhd,
    /// The same as a dynamic VHDX.
    Vhdx,
    /// The same as a dynamic VDI.
    Vdi,
    /// The same as QED.
    Qed,
    /// The same as QCOW version 1.
    Qcow,
    /// The same as a Parallels image.
    Parallels,
    /// The same as qcow2, in a file that is compressed by gzip.
    Qcow2Gz,
    /// The same as EWF with fast compression, in one segment.
    Ewf,
    /// The same as cloop, in blocks of 128 KiB.
    Cloop,
    /// The same as a DMG with zlib compression.
    Dmg,
    /// The same as a DMG with bzip2 compression.
    DmgBzip2,
    /// The same as a DMG with LZMA compression.
    DmgLzma,
    /// A raw disk of 16 TiB with little data.
    Huge,
    /// The same as qcow2.
    HugeQcow2,
    /// qcow2 with clusters written in random order.
    Fragmented,
}

impl Form {
    /// Returns qemu-img's name of the format.
    pub(crate) fn format(self) -> &'static str {
        match self {
            Self::Raw | Self::Huge => "raw",
            Self::Qcow2 | Self::Qcow2Zlib | Self::Qcow2Zstd => "qcow2",
            Self::HugeQcow2 | Self::Fragmented => "qcow2",
            Self::Vmdk | Self::Stream => "vmdk",
            Self::Vhd => "vpc",
            Self::Vhdx => "vhdx",
            Self::Vdi => "vdi",
            Self::Qed => "qed",
            Self::Qcow => "qcow",
            Self::Parallels => "parallels",
            Self::Qcow2Gz => "qcow2",
            Self::Ewf => "ewf",
            Self::Cloop => "cloop",
            Self::Dmg | Self::DmgBzip2 | Self::DmgLzma => "dmg",
        }
    }

    fn file(self) -> &'static str {
        match self {
            Self::Raw => "ext4.raw",
            Self::Qcow2 => "ext4.qcow2",
            Self::Qcow2Zlib => "ext4-zlib.qcow2",
            Self::Qcow2Zstd => "ext4-zstd.qcow2",
            Self::Vmdk => "ext4.vmdk",
            Self::Stream => "ext4-stream.vmdk",
            Self::Vhd => "ext4.vhd",
            Self::Vhdx => "ext4.vhdx",
            Self::Vdi => "ext4.vdi",
            Self::Qed => "ext4.qed",
            Self::Qcow => "ext4.qcow",
            Self::Parallels => "ext4.hds",
            Self::Qcow2Gz => "ext4.qcow2.gz",
            Self::Ewf => "ext4.E01",
            Self::Cloop => "ext4.cloop",
            Self::Dmg => "ext4.dmg",
            Self::DmgBzip2 => "ext4-bzip2.dmg",
            Self::DmgLzma => "ext4-lzma.dmg",
            Self::Huge => "huge.raw",
            Self::HugeQcow2 => "huge.qcow2",
            Self::Fragmented => "fragmented.qcow2",
        }
    }

    /// Returns the type of the chunks of a DMG.
    fn chunk_type(self) -> Option<u32> {
        match self {
            Self::Dmg => Some(dmg::ZLIB),
            Self::DmgBzip2 => Some(dmg::BZIP2),
            Self::DmgLzma => Some(dmg::LZMA),
            _ => None,
        }
    }

    /// Returns the source and options from which qemu-img creates this input, or `None` if it is
    /// created otherwise.
    fn recipe(self) -> Option<(Self, &'static [&'static str])> {
        Some(match self {
            Self::Qcow2 => (Self::Raw, &[]),
            Self::Qcow2Zlib => (Self::Raw, &["-c"]),
            Self::Qcow2Zstd => (Self::Raw, &["-c", "-o", "compression_type=zstd"]),
            Self::Vmdk => (Self::Raw, &[]),
            Self::Stream => (Self::Raw, &["-o", "subformat=streamOptimized"]),
            Self::Vhd => (Self::Raw, &["-o", "force_size=on"]),
            Self::Vhdx => (Self::Raw, &[]),
            Self::Vdi => (Self::Raw, &[]),
            Self::Qed | Self::Qcow => (Self::Raw, &[]),
            Self::Parallels => (Self::Raw, &[]),
            Self::HugeQcow2 => (Self::Huge, &[]),
            Self::Dmg | Self::DmgBzip2 | Self::DmgLzma | Self::Ewf | Self::Cloop => return None,
            Self::Qcow2Gz => return None,
            Self::Raw | Self::Huge | Self::Fragmented => return None,
        })
    }
}

/// The inputs in a directory, created on first use.
#[derive(Debug)]
pub(crate) struct Inputs {
    dir: PathBuf,
    /// A directory that may already contain the same inputs.
    existing: Option<PathBuf>,
    size: u64,
    files: u64,
    from: PathBuf,
}

impl Inputs {
    /// Returns the inputs in `place`; those that exist in `existing` are copied from there.
    pub(crate) fn new(place: &Workplace, args: &Args, existing: Option<&Workplace>) -> Self {
        // With --keep, the directory may contain inputs of other sizes.
        let name = format!("inputs-{}M-{}M", args.size >> 20, args.file_bytes() >> 20);
        Self {
            dir: place.path.join(&name),
            existing: existing.map(|place| place.path.join(&name)),
            size: args.size,
            files: args.file_bytes(),
            from: args.from.clone(),
        }
    }

    /// Creates an input if necessary and returns its path.
    pub(crate) fn ready(&self, form: Form) -> Result<PathBuf> {
        let path = self.dir.join(form.file());
        if path.exists() {
            return Ok(path);
        }
        fs::create_dir_all(&self.dir)?;
        // Renamed when complete, because --keep reuses files by name.
        let part = self.dir.join(format!("part-{}", form.file()));
        let _ = fs::remove_file(&part);
        let existing = self.existing.as_ref().map(|dir| dir.join(form.file()));
        match existing.filter(|path| path.exists()) {
            // Not the 16 TiB disk, because the maximum file size depends on the file system.
            Some(existing) if !matches!(form, Form::Huge | Form::HugeQcow2) => {
                copy(&existing, &part)
            }
            _ => self.make(form, &part),
        }
        .with_context(|| format!("cannot create the input {}", path.display()))?;
        interrupt::check()?;
        fs::rename(&part, &path)?;
        // Flushed now, so that the disk is idle during measurements.
        run(command("sync").arg(&path))?;
        Ok(path)
    }

    fn make(&self, form: Form, path: &Path) -> Result<()> {
        eprintln!("creating {} ...", self.dir.join(form.file()).display());
        if let Some((source, options)) = form.recipe() {
            let source_path = self.ready(source)?;
            let mut convert = command("qemu-img");
            convert.args(["convert", "-f", source.format(), "-O", form.format()]).args(options);
            return run(convert.arg(source_path).arg(path));
        }
        match form {
            Form::Qcow2Gz => {
                let source = File::open(self.ready(Form::Qcow2)?)?;
                let mut gzip = command("gzip");
                return run(gzip.arg("-c").stdin(source).stdout(File::create(path)?));
            }
            Form::Ewf => return ewf(&self.ready(Form::Raw)?, path),
            Form::Cloop => {
                let mut create = command("create_compressed_fs");
                create.args(["-q", "-B", "131072"]).arg(self.ready(Form::Raw)?).arg(path);
                return run(&mut create);
            }
            _ => {}
        }
        if let Some(chunk_type) = form.chunk_type() {
            return make_dmg(&self.ready(Form::Raw)?, path, chunk_type);
        }
        let form = form.to_possible_value().context("the form has no name")?;
        let mut this = command(std::env::current_exe()?);
        this.arg("make-input").arg(form.get_name()).arg(path).arg(&self.from);
        run(this.args([self.size.to_string(), self.files.to_string()]))
    }
}

/// The arguments for creating an input in a child process, which keeps this process small: the peak
/// memory of a child is at least that of its parent.
#[derive(Debug, clap::Args)]
pub(crate) struct InputSpec {
    form: Form,
    path: PathBuf,
    from: PathBuf,
    size: u64,
    files: u64,
}

impl InputSpec {
    /// Creates the input.
    pub(crate) fn create(&self) -> Result<()> {
        match self.form {
            Form::Huge => huge(&self.path),
            Form::Fragmented => fragmented(&self.path, self.size, self.files),
            _ => populate::ext4(&self.path, self.size, self.files, &self.from),
        }
    }
}

/// Creates a DMG of one partition in chunks of 1 MiB, as hdiutil does. No program that is available
/// here writes them.
fn make_dmg(raw: &Path, path: &Path, chunk_type: u32) -> Result<()> {
    const SECTORS: u64 = 2048;
    let mut raw = File::open(raw)?;
    let mut chunks = Vec::new();
    let mut crc = flate2::Crc::new();
    let mut buf = Vec::new();
    loop {
        buf.clear();
        Read::by_ref(&mut raw).take(SECTORS * 512).read_to_end(&mut buf)?;
        if buf.is_empty() {
            break;
        }
        crc.update(&buf);
        let sector = chunks.len() as u64 * SECTORS;
        chunks.push(match buf.iter().all(|&byte| byte == 0) {
            true => dmg::Chunk::empty(dmg::ZERO, sector, buf.len() as u64 / 512),
            false => dmg::Chunk::new(chunk_type, sector, &buf),
        });
    }
    let sectors = raw.metadata()?.len() / 512;
    let checksum = (2, 32, crc.sum());
    let table = dmg::Table { sectors, chunks, checksum, ..dmg::Table::new(0, &[], Vec::new()) };
    fs::write(path, dmg::Dmg::of(vec![table]).build())?;
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    run(command("cp").arg("--sparse=always").arg(from).arg(to))
}

/// Creates an EWF image of `raw`. It must have one segment, because only one file is renamed.
fn ewf(raw: &Path, path: &Path) -> Result<()> {
    let stem = path.with_extension("");
    let mut acquire = command("ewfacquirestream");
    acquire.args(["-q", "-f", "encase6", "-c", "fast", "-S", "7EiB", "-t"]).arg(&stem);
    run(acquire.stdin(File::open(raw)?))
}

/// Creates a raw disk of 16 TiB, or 15 TiB if the file system does not support such files (the
/// maximum of ext4 is one block less than 16 TiB).
fn huge(path: &Path) -> Result<()> {
    let mut file = File::create(path)?;
    let tib = if file.set_len(16 << 40).is_ok() { 16 } else { 15 };
    file.set_len(tib << 40).context("this file system does not support files of 15 TiB")?;
    let mut random = Random::default();
    let stripes = HUGE_DATA >> 20;
    let stripe = (tib << 40) / stripes;
    for i in 0..stripes {
        let within = random.below((stripe >> 20) - 1) << 20;
        file.seek(SeekFrom::Start(((i * stripe) >> 20 << 20) + within))?;
        let noise: Vec<u8> = (0..1 << 17).flat_map(|_| random.next().to_le_bytes()).collect();
        file.write_all(&noise)?;
    }
    Ok(())
}

/// Creates a qcow2 image whose clusters are written one by one in random order, so that adjacent
/// guest clusters are not adjacent in the file.
fn fragmented(path: &Path, size: u64, data: u64) -> Result<()> {
    run(command("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(path).arg(size.to_string()))?;
    let mut clusters: Vec<u64> = (0..size >> 16).collect();
    let mut random = Random::default();
    for i in (1..clusters.len()).rev() {
        clusters.swap(i, random.below(i as u64 + 1) as usize);
    }
    let mut script = String::new();
    for (i, cluster) in clusters.iter().take((data >> 16) as usize).enumerate() {
        let _ = writeln!(script, "write -q -P {} {} 64k", 1 + i % 255, cluster << 16);
    }
    let mut qemu_io = command("qemu-io")
        .args(["-f", "qcow2", "-t", "unsafe"])
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .context("cannot run qemu-io")?;
    qemu_io.stdin.take().context("no pipe")?.write_all(script.as_bytes())?;
    ensure!(qemu_io.wait()?.success(), "qemu-io failed");
    Ok(())
}

/// A pseudorandom number generator (SplitMix64).
#[derive(Debug, Default)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }
}
