//! `iso create` and `mkisofs`: creates an ISO image.

use crate::args::recipe::{Destination, Graft, HybridFiles, Recipe, Selection};
use crate::confine::{self, Rules};
use crate::failure::Failure;
use crate::interrupt;
use crate::output::progress::{Meter, ProgressMode};
use crate::output::{self, Console, human};
use crate::streams::require_stdin;
use diskimg::iso::Timestamp;
use diskimg::iso::write::{Builder, CreateOptions, PartitionContents, Plan};
use diskimg::storage::output::has_other_names;
use diskimg::storage::source::{HostFileId, Source};
use diskimg::{Durability, Error, Options, Output, PlannedFile, Progress};
use std::ffi::OsString;
use std::fs;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Percentage between two progress updates.
const STEP: f64 = 1.0;

/// Bytes in a sector.
const SECTOR: u64 = 2048;

/// Patterns of the names of backup files of editors.
const BACKUPS: [&str; 3] = ["*~*", "*#*", "*.bak"];

/// Creates the image.
pub(in crate::commands) fn run(mut recipe: Recipe, console: &Console) -> Result<u8, Failure> {
    if !recipe.print_size && !recipe.dry_run {
        refuse_terminal(&recipe.output)?;
    }
    refuse_lists(&recipe)?;
    let rules = rules(&recipe.output, true);
    confine::restrict_files(&rules.allow_read(recipe.grafts.iter().map(|graft| &graft.path)))?;
    recipe.options.latest = source_date_epoch()?;
    read_boot_code(&recipe.hybrid, &mut recipe.options, None)?;
    for list in &recipe.path_lists {
        for line in lines(list)? {
            let mut graft = match recipe.grafts_in_lists {
                true => Graft::parse(&line)?,
                false => Graft::root(line.into()),
            };
            graft.move_below(&recipe.root);
            recipe.grafts.push(graft);
        }
    }
    let plan = plan(&recipe, console)?;
    if !recipe.quiet {
        console.warn(plan.warnings());
    }
    if recipe.print_size {
        let sectors = plan.size() / SECTOR;
        if !recipe.quiet {
            console.stderr(&format!("Total extents scheduled to be written = {sectors}"));
        }
        return console.print(&format!("{sectors}\n")).map(|()| 0);
    }
    if recipe.dry_run {
        return show_plan(&plan, &recipe.output, console);
    }
    write(&plan, &recipe.output, recipe.quiet, console)?;
    if recipe.verbose {
        console.message(&format!("{} sectors of 2048 bytes written", plan.size() / SECTOR));
    }
    Ok(0)
}

/// Says what would be written.
fn show_plan(plan: &Plan, output: &Destination, console: &Console) -> Result<u8, Failure> {
    let (mut text, bytes) = (output::plan::heading(), plan.size());
    text += &output::plan::line("format", "iso");
    text += &output::plan::line("size", &human::size_and_bytes(bytes));
    match output {
        Destination::Stdout => text += &output::plan::line("writes", "standard output"),
        Destination::File(path) => {
            let planned = PlannedFile::of(path);
            let file = planned.map_err(|e| Error::io("cannot create", e).in_file(path))?;
            if let Some(free) = file.free_bytes() {
                text += &output::plan::line("free", &human::size(free));
                if free < bytes {
                    console.warn(["the output does not fit"]);
                }
            }
            text += &output::plan::file(&file);
        }
    }
    console.print(&text).map(|()| 0)
}

/// Returns the files opened while an image is written to `output`. With `from_host`, all files may
/// be read, because operands and symbolic links can name any file.
pub(in crate::commands) fn rules(output: &Destination, from_host: bool) -> Rules {
    let rules = match output {
        Destination::File(path) => Rules::new().allow_write(path, &Options::default()),
        Destination::Stdout => Rules::new(),
    };
    if from_host { rules.allow_read_all() } else { rules }
}

/// Verifies that the output is none of the files that are read for the image, except those that
/// become part of it, which are checked when it is written.
fn refuse_lists(recipe: &Recipe) -> Result<(), Failure> {
    let Destination::File(output) = &recipe.output else { return Ok(()) };
    let selection = &recipe.selection;
    let hidden = selection.hidden_lists.iter().map(|(path, _)| path);
    let hybrid = &recipe.hybrid;
    let boot_code = [&hybrid.isohybrid_mbr, &hybrid.grub2_mbr, &hybrid.system_area];
    let boot_code = boot_code.into_iter().filter_map(|contents| match contents {
        Some(PartitionContents::File(path)) => Some(path),
        _ => None,
    });
    let lists = recipe.path_lists.iter().chain(&recipe.exclude_lists).chain(hidden);
    let lists = lists.chain(&selection.sort_lists).chain(&selection.weight_lists);
    match lists.chain(boot_code).any(|path| is_same_file(path, output)) {
        true => Err(Failure::error(format!(
            "{}: the output is one of the files that are read (write to another name)",
            output.display()
        ))),
        false => Ok(()),
    }
}

/// Verifies that an image that is to be replaced by a changed one has no other names, with which it
/// would be overwritten instead, while it is read.
pub(in crate::commands) fn require_one_name(image: &Path) -> Result<(), Failure> {
    if fs::metadata(image).is_ok_and(|found| found.is_file()) && has_other_names(image) {
        return Err(Failure::error(format!(
            "{}: the image has other names (hard links), with which it would be overwritten while \
             it is read (write to another file)",
            image.display()
        )));
    }
    Ok(())
}

/// Returns true if both paths lead to the same file, or to a device and a file with its bytes.
pub(in crate::commands) fn is_same_file(one: &Path, other: &Path) -> bool {
    match (HostFileId::at(one), HostFileId::at(other)) {
        (Some(one), Some(other)) => one.shares_data_with(other),
        // There are no identities on this system.
        _ => {
            one.canonicalize().is_ok_and(|one| other.canonicalize().is_ok_and(|other| one == other))
        }
    }
}

/// Returns an error if the image would be written to a terminal.
pub(in crate::commands) fn refuse_terminal(output: &Destination) -> Result<(), Failure> {
    match output {
        Destination::Stdout if io::stdout().is_terminal() => {
            Err(Failure::error("refusing to write an image to a terminal (use -o IMAGE)"))
        }
        _ => Ok(()),
    }
}

/// Returns the latest time to record, from the environment variable `SOURCE_DATE_EPOCH`.
pub(in crate::commands) fn source_date_epoch() -> Result<Option<Timestamp>, Failure> {
    const NAME: &str = "SOURCE_DATE_EPOCH";
    let text = std::env::var_os(NAME).unwrap_or_default();
    let text = text.to_string_lossy();
    if text.is_empty() {
        return Ok(None);
    }
    let seconds = text.parse().map_err(|_| {
        Failure::error(format!("{NAME}={text}: expected a number of seconds since 1970"))
    })?;
    Ok(Some(Timestamp::from_seconds(seconds)))
}

/// Reads the MBR templates and the system area, which the plan completes. `image` is the image that
/// is modified, if there is one.
pub(in crate::commands) fn read_boot_code(
    files: &HybridFiles,
    options: &mut CreateOptions,
    image: Option<&Arc<dyn Source>>,
) -> Result<(), Failure> {
    for (contents, code) in [
        (&files.isohybrid_mbr, &mut options.hybrid.isohybrid_mbr),
        (&files.grub2_mbr, &mut options.hybrid.grub2_mbr),
        (&files.system_area, &mut options.hybrid.system_area),
    ] {
        if let Some(contents) = contents {
            *code = Some(read_contents(contents, image)?);
        }
    }
    Ok(())
}

/// Reads as much of a file, or of a part of one, as fits in the system area.
fn read_contents(
    contents: &PartitionContents,
    image: Option<&Arc<dyn Source>>,
) -> Result<Vec<u8>, Failure> {
    /// Size of the system area.
    const MAX_LEN: u64 = 32 << 10;
    let mut bytes = Vec::new();
    match contents {
        PartitionContents::File(path) => {
            fs::File::open(path)
                .and_then(|file| file.take(MAX_LEN).read_to_end(&mut bytes))
                .map_err(|e| Error::io("cannot read", e).in_file(path))?;
        }
        PartitionContents::Interval(interval) => {
            let source = interval.open(image)?;
            bytes.resize(source.len().min(MAX_LEN) as usize, 0);
            source.read_exact_at(&mut bytes, 0).map_err(|e| Error::io("cannot read", e))?;
        }
        _ => {}
    }
    Ok(bytes)
}

/// Returns the lines of a file; `-` is standard input.
fn lines(path: &Path) -> Result<Vec<OsString>, Failure> {
    let mut bytes = Vec::new();
    let read = match path == "-" {
        true => require_stdin().and_then(|()| io::stdin().lock().read_to_end(&mut bytes)),
        false => fs::File::open(path).and_then(|mut file| file.read_to_end(&mut bytes)),
    };
    read.map_err(|e| Error::io("cannot read", e).in_file(path))?;
    let lines = bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| crate::args::names::os_string(line.to_vec())).collect()
}

fn plan(recipe: &Recipe, console: &Console) -> Result<Plan, Failure> {
    let mut builder = Builder::new(recipe.options.clone());
    for pattern in &recipe.excludes {
        builder.exclude(pattern);
    }
    for list in &recipe.exclude_lists {
        for line in lines(list)? {
            builder.exclude(&line.to_string_lossy());
        }
    }
    select(&mut builder, &recipe.selection)?;
    let follow = recipe.options.follow_symlinks;
    let skip =
        recipe.skip_links_without_rock_ridge && recipe.options.rock_ridge.is_none() && !follow;
    for graft in &recipe.grafts {
        let (at, path) = add(&mut builder, graft, follow || recipe.follow_operands)?;
        if skip {
            let mut skipped = |path: &Path| {
                if !recipe.quiet {
                    let path = path.display();
                    console.warn([format!("{path} is skipped: recording it requires Rock Ridge")]);
                }
            };
            remove_special(&mut builder, &at, &path, &mut skipped)?;
        }
    }
    set_weights(&mut builder, &recipe.selection)?;
    Ok(builder.plan()?)
}

/// Adds the rules for files of the host.
fn select(builder: &mut Builder, selection: &Selection) -> Result<(), Failure> {
    if selection.no_backups {
        BACKUPS.iter().for_each(|pattern| builder.exclude_name(pattern));
    }
    for (pattern, how) in &selection.hidden {
        builder.hide(pattern, *how);
    }
    for (list, how) in &selection.hidden_lists {
        for line in lines(list)? {
            builder.hide(&line.to_string_lossy(), *how);
        }
    }
    for list in &selection.sort_lists {
        for line in lines(list)? {
            let line = line.to_string_lossy();
            let line = line.trim_end();
            // Names may contain spaces; the weight is the last word.
            let pair = line.rsplit_once([' ', '\t']).map(|(name, n)| (name, n.parse()));
            let Some((pattern, Ok(weight))) = pair else {
                return Err(invalid_line(list, line, "FILE WEIGHT"));
            };
            builder.weigh(pattern, weight);
        }
    }
    Ok(())
}

/// Sets the weights of files in the image.
fn set_weights(builder: &mut Builder, selection: &Selection) -> Result<(), Failure> {
    let mut weights = selection.weights.clone();
    for list in &selection.weight_lists {
        for line in lines(list)? {
            let line = line.to_string_lossy();
            let pair = line.split_once([' ', '\t']).map(|(n, path)| (n.parse(), path));
            let Some((Ok(weight), path)) = pair else {
                return Err(invalid_line(list, &line, "WEIGHT PATH"));
            };
            weights.push((weight, path.as_bytes().to_vec()));
        }
    }
    for (weight, path) in &weights {
        if !builder.set_weight(&normalize(path), *weight) {
            let path = String::from_utf8_lossy(path);
            return Err(Failure::error(format!("--sort-weight {path}: no such file in the image")));
        }
    }
    Ok(())
}

fn invalid_line(list: &Path, line: &str, expected: &str) -> Failure {
    Failure::error(format!("{}: '{line}': expected {expected}", list.display()))
}

/// Adds a file, or the entries of a directory. Returns the path in the image and on the host.
pub(in crate::commands) fn add(
    builder: &mut Builder,
    graft: &Graft,
    follow: bool,
) -> Result<(Vec<u8>, PathBuf), Failure> {
    let cannot_open = |e: io::Error| Error::io("cannot open", e).in_file(&graft.path);
    let kind = fs::symlink_metadata(&graft.path).map_err(cannot_open)?.file_type();
    let path = match follow && kind.is_symlink() {
        true => graft.path.canonicalize().map_err(cannot_open)?,
        false => graft.path.clone(),
    };
    let mut at = normalize(&graft.place);
    if path.is_dir() && (follow || !kind.is_symlink()) {
        builder.add_tree(&at, &path)?;
    } else {
        if graft.place.is_empty() || graft.place.ends_with(b"/") {
            let name = graft.path.file_name().unwrap_or(graft.path.as_os_str());
            if !at.is_empty() {
                at.push(b'/');
            }
            at.extend(crate::args::names::bytes(name)?);
        }
        builder.add_path(&at, &path)?;
    }
    Ok((at, path))
}

/// Removes empty components and `.` from a path.
pub(in crate::commands) fn normalize(path: &[u8]) -> Vec<u8> {
    let parts = path.split(|&byte| byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
    parts.collect::<Vec<_>>().join(&b'/')
}

/// Removes everything that is neither a file nor a directory from the image.
fn remove_special(
    builder: &mut Builder,
    at: &[u8],
    path: &Path,
    skipped: &mut dyn FnMut(&Path),
) -> Result<(), Failure> {
    let cannot_list = |e: io::Error| Error::io("cannot list", e).in_file(path);
    let kind = fs::symlink_metadata(path).map_err(cannot_list)?.file_type();
    if kind.is_dir() {
        for entry in fs::read_dir(path).map_err(cannot_list)? {
            let entry = entry.map_err(cannot_list)?;
            let mut inner = at.to_vec();
            if !inner.is_empty() {
                inner.push(b'/');
            }
            inner.extend(crate::args::names::bytes(&entry.file_name())?);
            remove_special(builder, &inner, &entry.path(), skipped)?;
        }
    } else if !kind.is_file() && builder.remove(at) {
        skipped(path);
    }
    Ok(())
}

/// Returns whether `path` is a pipe or a device.
fn is_special(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir())
}

/// Writes the image; on failure, no file is left behind.
pub(in crate::commands) fn write(
    plan: &Plan,
    output: &Destination,
    quiet: bool,
    console: &Console,
) -> Result<(), Failure> {
    let stdout_taken = matches!(output, Destination::Stdout);
    let mode = ProgressMode { requested: None, quiet, stdout_taken };
    // A signal must not leave a temporary file behind. But opening a pipe without a reader blocks,
    // and until it is open, a signal must end the process. So for pipes and devices, only
    // `Meter::start` installs the handlers, after the output is open.
    let may_block = matches!(output, Destination::File(path) if is_special(path));
    if !may_block {
        interrupt::watch();
    }
    let output = match output {
        Destination::Stdout => output::image_stdout()?,
        Destination::File(path) => {
            output::require_streams(Some(path), false)?;
            Output::create(path).map_err(|e| Error::io("cannot create", e).in_file(path))?
        }
    };
    let meter = Meter::start(mode, STEP, console.colors());
    let total = plan.size();
    let done = plan.write(output, Durability::Flushed, &mut |done| match meter
        .report(Progress::new(done, total))
    {
        std::ops::ControlFlow::Continue(()) => Ok(()),
        std::ops::ControlFlow::Break(()) => Err(Error::cancelled()),
    });
    meter.end();
    let notes = done?;
    if !quiet {
        console.note(notes);
    }
    Ok(())
}
