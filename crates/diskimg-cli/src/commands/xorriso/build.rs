//! Building of the changed image.

use super::{Loaded, absolute, quoted, quoted_path, report};
use crate::args::mkisofs::native::{Job, KeepBoot, Step};
use crate::args::recipe::{Destination, Graft};
use crate::commands::iso::build::{self as mkisofs, is_same_file};
use crate::failure::Failure;
use crate::output::Console;
use diskimg::iso::write::{
    Builder, CreateOptions, Hybrid, Level, NameRules, PartitionContents, RockRidge,
};
use diskimg::iso::{Droppable, RemasterOptions, SECTOR, VolumeKind};
use diskimg::{Error, Source};
use std::fs::{File, FileType};
use std::io::Read;
use std::path::Path;

/// Number of bytes that must be zero at the start of a file that may be overwritten.
const BLANK: u64 = 64 << 10;

/// Offset of the application use field in a volume descriptor (ECMA-119, 8.4.32).
const APPLICATION_USE: u64 = 883;

/// Sectors of zeros at the end: 300 KiB.
const PADDING: u32 = 150;

/// Checks that the output is empty, or the image that is loaded.
pub(super) fn check_output(job: &Job, output: &Destination) -> Result<(), Failure> {
    let Destination::File(path) = output else { return Ok(()) };
    let same = job.indev.as_deref().is_some_and(|indev| is_output(job, indev));
    let stored = std::fs::metadata(path).is_ok_and(|found| is_stored(found.file_type()));
    if same && !job.overwrite {
        mkisofs::require_one_name(path)?;
    }
    if job.overwrite || same || !stored {
        return Ok(());
    }
    let mut start = Vec::new();
    let read = File::open(path).and_then(|file| file.take(BLANK).read_to_end(&mut start));
    read.map_err(|e| Error::io("cannot read", e).in_file(path))?;
    if start.iter().any(|&byte| byte != 0) {
        let path = path.display();
        return Err(Failure::error(format!(
            "-outdev {path}: the file exists and is not empty (-blank as_needed overwrites it)"
        )));
    }
    Ok(())
}

/// Returns true if the output is the file at `path`, by whatever name.
pub(super) fn is_output(job: &Job, path: &Path) -> bool {
    let Some(Destination::File(output)) = &job.outdev else { return false };
    is_same_file(output, path) || absolute(output) == absolute(path)
}

/// Returns true for regular files and block devices, which have contents to be lost.
fn is_stored(kind: FileType) -> bool {
    #[cfg(unix)]
    let is_block_device = std::os::unix::fs::FileTypeExt::is_block_device(&kind);
    #[cfg(not(unix))]
    let is_block_device = false;
    kind.is_file() || is_block_device
}

/// Writes the image with these changes. Returns false if a file to be changed does not exist.
pub(super) fn write(
    job: &Job,
    loaded: Option<&Loaded>,
    edits: &[&Step],
    output: &Destination,
    console: &Console,
) -> Result<bool, Failure> {
    let mut builder = match loaded {
        Some(loaded) => changed(job, loaded, console)?,
        None => Builder::new(fresh()),
    };
    let options = builder.options_mut();
    options.latest = mkisofs::source_date_epoch()?;
    options.follow_symlinks = job.follow;
    for setting in job.boot.settings.iter().chain(&job.settings) {
        setting.apply(options);
    }
    if !job.boot.entries.is_empty() {
        options.boot.clone_from(&job.boot.entries);
    }
    let image = loaded.map(|loaded| loaded.image.source());
    mkisofs::read_boot_code(&job.boot.files, options, image)?;
    let hybrid = &mut options.hybrid;
    let appended = hybrid.appended.iter_mut().map(|partition| &mut partition.contents);
    for contents in appended.chain(&mut hybrid.unlisted) {
        if let PartitionContents::Interval(interval) = contents {
            *contents = PartitionContents::Source(interval.open(image)?);
        }
    }
    let mut complete = true;
    for edit in edits {
        complete &= apply(&mut builder, edit, job.follow, console)?;
    }
    let plan = builder.plan()?;
    console.warn(plan.warnings());
    mkisofs::write(&plan, output, true, console)?;
    let sectors = plan.size() / SECTOR;
    console.stderr(&format!("ISO image produced: {sectors} sectors"));
    console.stderr(&format!("Written to medium : {sectors} sectors at LBA 0"));
    if let Destination::File(path) = output {
        let path = quoted(&path.display().to_string());
        console.stderr(&format!("Writing to {path} completed successfully."));
    }
    Ok(complete)
}

/// Returns the defaults of xorriso for a new image.
fn fresh() -> CreateOptions {
    let mut options = CreateOptions::default();
    options.volume_id = "ISOIMAGE".into();
    options.system_id.clear();
    options.names = NameRules::strict();
    options.names.level = Level::Three;
    options.rock_ridge = Some(RockRidge::Preserved);
    options.joliet = None;
    options.padding = PADDING;
    options.boot_catalog = "boot/boot.cat".into();
    options
}

/// Returns the contents of the loaded image, without or with its boot records. Those that cannot be
/// kept are an error.
fn changed(job: &Job, loaded: &Loaded, console: &Console) -> Result<Builder, Failure> {
    let discard = job.boot.loaded == KeepBoot::Discard;
    console.warn(left_out(loaded, discard && !job.boot.is_given())?);
    let mut remaster = RemasterOptions::default();
    if discard {
        remaster.drop = Droppable::ALL.to_vec();
    }
    let mut builder = loaded.image.remaster_with(&remaster)?;
    let options = builder.options_mut();
    options.padding = PADDING;
    if discard {
        options.boot.clear();
        options.hybrid = Hybrid::default();
        (options.volume_time, options.volume_zone) = (None, 0);
    }
    Ok(builder)
}

/// Returns warnings about what is not in the changed image although no command says so.
fn left_out(loaded: &Loaded, boot_records: bool) -> Result<Vec<String>, Failure> {
    let info = loaded.image.info()?;
    let source = &**loaded.image.source();
    let mut warnings = Vec::new();
    if boot_records && let Some(records) = report::boot_words(loaded, &info) {
        warnings.push(format!(
            "the boot records are discarded: {records} (-boot_image any keep keeps them)"
        ));
    }
    for volume in info.volumes.iter().filter(|volume| volume.kind == VolumeKind::Primary) {
        let mut field = [0; 512];
        let at = volume.sector * SECTOR + APPLICATION_USE;
        read(source, &mut field, at)?;
        if field.iter().any(|byte| !matches!(byte, 0 | b' ')) {
            warnings.push(
                "the application use field of the volume descriptor is left out: it may have a \
                 checksum of the old image"
                    .into(),
            );
        }
    }
    let area = &info.system_area;
    let has_partitions = area.gpt.is_some() || area.apm.is_some() || area.mbr.is_some();
    if !has_partitions && let Some(at) = first_after(source, info.volume_bytes)? {
        warnings.push(format!("the data after the volume, from offset {at}, is left out"));
    }
    Ok(warnings)
}

/// Returns the offset, rounded down to a block, of the first byte from `start` on that is not zero.
fn first_after(source: &dyn Source, start: u64) -> Result<Option<u64>, Failure> {
    const BLOCK: usize = 64 << 10;
    let mut block = vec![0; BLOCK];
    let mut at = start;
    while at < source.len() {
        let len = usize::try_from(source.len() - at).map_or(BLOCK, |left| left.min(BLOCK));
        read(source, &mut block[..len], at)?;
        if block[..len].iter().any(|&byte| byte != 0) {
            return Ok(Some(at));
        }
        at += len as u64;
    }
    Ok(None)
}

fn read(source: &dyn Source, bytes: &mut [u8], at: u64) -> Result<(), Failure> {
    Ok(source.read_exact_at(bytes, at).map_err(|e| Error::io("cannot read", e).at(at))?)
}

/// Applies a change. Returns false if the file does not exist.
fn apply(
    builder: &mut Builder,
    edit: &Step,
    follow: bool,
    console: &Console,
) -> Result<bool, Failure> {
    let mut complete = true;
    let mut check = |path: &[u8], done: bool| {
        if !done {
            console.warn([format!("no such file in the image: {}", quoted_path(path))]);
            complete = false;
        }
    };
    match edit {
        Step::Map { from, at, replace } => map(builder, from, at, (*replace, follow), console)?,
        Step::Remove { paths, recursive } => {
            for path in paths {
                let at = mkisofs::normalize(path);
                if !recursive && builder.is_directory(&at) == Some(true) {
                    let path = quoted_path(path);
                    return Err(Failure::error(format!("-rm {path}: a directory (see -rm_r)")));
                }
                check(path, builder.remove(&at));
            }
        }
        Step::MakeDirectories(paths) => {
            for path in paths {
                builder.add_directory(&mkisofs::normalize(path))?;
            }
        }
        Step::Mode { change, paths, recursive } => {
            for path in paths {
                let at = mkisofs::normalize(path);
                let mode = |mode, is_dir| change.apply(mode, is_dir);
                check(path, builder.set_mode(&at, *recursive, &mode));
            }
        }
        Step::Owner { uid, gid, paths, recursive } => {
            for path in paths {
                let at = mkisofs::normalize(path);
                check(path, builder.set_owner(&at, *recursive, *uid, *gid));
            }
        }
        _ => {}
    }
    Ok(complete)
}

/// Adds a file, or the entries of a directory.
fn map(
    builder: &mut Builder,
    from: &Path,
    at: &[u8],
    (replace, follow): (bool, bool),
    console: &Console,
) -> Result<(), Failure> {
    let place = mkisofs::normalize(at);
    if replace {
        builder.remove(&place);
    }
    let is_dir = from.is_dir();
    if place.is_empty() && !is_dir {
        let from = from.display();
        return Err(Failure::error(format!("-map {from}: only a directory can be mapped to /")));
    }
    mkisofs::add(builder, &Graft { place, path: from.to_owned() }, follow)?;
    let kind = if is_dir { "directory" } else { "file" };
    let from = quoted(&absolute(from).display().to_string());
    console.stderr(&format!("Added to ISO image: {kind} {}={from}", quoted_path(at)));
    Ok(())
}
