//! `convert`: converts an image to another format.

use crate::args::common::Input;
use crate::args::convert::{Destination, Job};
use crate::commands::files_of_chain;
use crate::confine::{self, Rules};
use crate::failure::Failure;
use crate::output::plan;
use crate::output::progress::{Meter, ProgressMode};
use crate::output::report::{self, ReportFormat};
use crate::output::{self, Console, Program};
use crate::remote::Server;
use diskimg::{
    Convert, DigestAlgorithm, Error, ErrorKind, Format, Output, Plan, Report, printable,
};
use std::fs::File;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Layouts of a VMDK for which qemu-img accepts `-c` but stores data uncompressed.
const UNCOMPRESSED_BY_QEMU: [&str; 3] = ["", "monolithicSparse", "twoGbMaxExtentSparse"];

/// Length of a sector in bytes.
const SECTOR: u64 = 512;

/// Percentage between two progress updates, as in qemu-img.
const STEP: f64 = 1.0;

/// Runs the conversion.
pub(super) fn run(job: Job, console: &Console) -> Result<u8, Failure> {
    let is_image_printed = matches!(job.output, Destination::Stdout) && !job.dry_run;
    if is_image_printed && io::stdout().is_terminal() {
        return Err(Failure::error("refusing to write an image to a terminal"));
    }
    let began = Instant::now();
    let (path, name) = match &job.output {
        Destination::New(path) | Destination::Existing(path) => {
            (Some(path.as_path()), Some(path.clone()))
        }
        Destination::NewOn(server) | Destination::ExistingOn(server) => {
            (None, Some(server.name().into()))
        }
        Destination::Stdout => (None, None),
    };
    let prints = job.dry_run || job.digest.is_some() && name.is_some();
    output::require_streams(path, prints)?;
    let inputs: Vec<_> = job.inputs.iter().collect();
    let source = match job.inputs.as_slice() {
        [one] => one.shown(),
        several => format!("{} images", several.len()),
    };
    confine_target(&job, &inputs)?;
    let open = || inputs.iter().map(|input| input.open(console.program())).collect();
    let images: Vec<_> = confine::open(&rules(&job), &inputs, open)?;
    let compress = compresses(&job, console.program());
    let dry_run = job.dry_run;
    let mode = if dry_run { ProgressMode::silent() } else { job.progress };
    let meter = Meter::start(mode, STEP, console.colors());
    let report_progress = |progress| meter.report(progress);
    let mut images = images.into_iter();
    let first = images.next().ok_or_else(|| Failure::error("Must specify image file name"))?;
    let mut convert = images
        .fold(Convert::new(first), Convert::append)
        .format(job.format)
        .options(job.options)
        .compress(compress)
        .backing_options(job.backing_options)
        .sparse(job.sparse)
        .offload(job.offload)
        .salvage(job.salvage)
        .verify_manifest(job.verify_manifest)
        .reflink(job.reflink)
        .recompress(job.recompress)
        .trust_source(job.trust_source)
        .verify(job.verify)
        .target_is_zero(job.target_is_zero)
        .bitmaps(job.bitmaps)
        .skip_broken_bitmaps(job.skip_broken_bitmaps)
        .durability(job.durability)
        .caching(job.caching)
        .progress(&report_progress);
    if let Some(threads) = job.threads {
        convert = convert.threads(threads);
    }
    if let Some(rate) = job.rate {
        convert = convert.rate_limit(rate);
    }
    if let Some(bytes) = job.max_size {
        convert = convert.max_size(bytes);
    }
    if let Some(algorithm) = job.digest {
        convert = convert.digest(algorithm);
    }
    if let Some(digest) = &job.sha256 {
        convert = convert.source_digest(DigestAlgorithm::Sha256, digest);
    }
    if dry_run {
        if let Destination::New(path) = &job.output
            && job.no_clobber
            && path.symlink_metadata().is_ok()
        {
            let exists = io::Error::new(io::ErrorKind::AlreadyExists, "it exists already");
            return Err(cannot_create(path, exists).into());
        }
        let plan = match &job.output {
            Destination::New(path) => convert.plan(path),
            Destination::Existing(path) => convert.plan_existing(path),
            Destination::NewOn(server) => convert.plan_elsewhere(&server.name()),
            Destination::ExistingOn(server) => {
                let storage = server.protocols().modify(&server.location());
                storage.and_then(|storage| convert.plan_existing_on(storage, server.name()))
            }
            Destination::Stdout => convert.plan("-"),
        };
        meter.end();
        return show_plan(&plan?, Some(&source), compress, job.report, console);
    }
    if let (Destination::Existing(path), Format::Raw) = (&job.output, job.format)
        && console.program() == Program::QemuImg
    {
        complete_last_sector(path)?;
    }
    let outcome = match &job.output {
        Destination::New(path) if job.no_clobber => {
            let output = Output::create_new(path).map_err(|e| cannot_create(path, e));
            output.and_then(|output| convert.run_to(output))
        }
        Destination::New(path) => convert.run(path),
        Destination::Existing(path) => convert.run_existing(path),
        Destination::NewOn(server) => {
            let output = create_on(server, console.program(), job.no_clobber);
            output.and_then(|output| convert.run_to(output))
        }
        Destination::ExistingOn(server) => {
            let storage = server.protocols().modify(&server.location());
            storage.and_then(|storage| convert.run_existing_on(storage, server.name()))
        }
        Destination::Stdout => convert.run_to(output::image_stdout()?),
    };
    if outcome.is_ok() {
        if let Destination::New(path) = &job.output {
            super::first_block::allocate(path, job.format, console);
        }
        meter.complete();
    }
    meter.end();
    let done = Done {
        report: outcome?,
        took: began.elapsed(),
        source,
        output: name,
        format: job.report,
        at_terminal: io::stderr().is_terminal()
            && !job.progress.quiet
            && console.program() == Program::Diskimg,
    };
    conclude(&done, console)?;
    Ok(0)
}

/// Creates an image on a server. As qemu-img, where images cannot be created, an existing one is
/// overwritten, unless that is forbidden.
pub(super) fn create_on(
    server: &Server,
    program: Program,
    no_clobber: bool,
) -> diskimg::Result<Output> {
    let (protocols, at) = (server.protocols(), server.location());
    match protocols.create(&at) {
        Err(e)
            if e.kind() == ErrorKind::Unsupported && program == Program::QemuImg && !no_clobber =>
        {
            Ok(Output::to_storage(protocols.modify(&at)?).named(server.name()))
        }
        created => created,
    }
}

/// Returns the error for a file that cannot be created, with `--no-clobber`.
fn cannot_create(path: &Path, error: io::Error) -> Error {
    let exists = error.kind() == io::ErrorKind::AlreadyExists;
    let error = Error::io("cannot create the output", error).in_file(path);
    if exists { error.hint("without --no-clobber, it is replaced") } else { error }
}

/// Makes a raw file consist of whole sectors, as it does for QEMU.
fn complete_last_sector(path: &Path) -> Result<(), Failure> {
    let found = |e| Error::io("cannot open the existing target", e).in_file(path);
    let length = std::fs::metadata(path).map_err(found)?;
    if length.is_file() && length.len() % SECTOR != 0 {
        let file = File::options().write(true).open(path).map_err(found)?;
        file.set_len(length.len().next_multiple_of(SECTOR)).map_err(found)?;
    }
    Ok(())
}

/// Says what would be written. Under `--report=json`, this is an object on standard error, like that
/// of a conversion.
pub(super) fn show_plan(
    plan: &Plan,
    source: Option<&str>,
    compress: bool,
    format: Option<ReportFormat>,
    console: &Console,
) -> Result<u8, Failure> {
    if format == Some(ReportFormat::Json) {
        console.stderr(&plan::json(plan));
    } else {
        console.warn(plan::warnings(plan));
        console.print(&plan::text(plan, source, compress))?;
    }
    Ok(0)
}

/// A complete conversion.
struct Done {
    report: Report,
    took: Duration,
    /// The source's name, or how many sources there are.
    source: String,
    /// The output's name, unless it is standard output.
    output: Option<PathBuf>,
    /// `--report`.
    format: Option<ReportFormat>,
    /// Somebody watches.
    at_terminal: bool,
}

/// Returns whether the output is compressed.
fn compresses(job: &Job, program: Program) -> bool {
    let layout = job.options.get("subformat").unwrap_or("");
    let ignored = program == Program::QemuImg
        && job.format == Format::Vmdk
        && UNCOMPRESSED_BY_QEMU.contains(&layout);
    job.compress && !ignored
}

/// Restricts files before [`rules`] opens an existing image, which is to be overwritten.
fn confine_target(job: &Job, inputs: &[&Input]) -> Result<(), Failure> {
    let Destination::Existing(path) = &job.output else { return Ok(()) };
    if job.format == Format::Raw {
        return Ok(());
    }
    let rules = Rules::new().allow_cpu_count().allow_read(&job.parents);
    let rules = rules.allow_modify(path, job.external_files);
    confine::restrict_files(&inputs.iter().fold(rules, |rules, input| rules.allow_input(input)))
}

/// Returns the files that are opened after the sources: the output and its backing files.
fn rules(job: &Job) -> Rules {
    let rules = Rules::new().allow_cpu_count().allow_read(&job.parents);
    match &job.output {
        Destination::New(path) => rules.allow_create(path, &job.options, job.external_files),
        // A raw target is the file itself. That of another format may have extents or a data file,
        // which are written, and a backing file, which is read.
        Destination::Existing(path) if job.format == Format::Raw => rules.allow_overwrite(path),
        Destination::Existing(path) => {
            let rules = rules.allow_overwrite(path).allow_references(path, job.external_files);
            files_of_chain(&job.backing_options.clone().format(job.format), path, 1)
                .iter()
                .fold(rules, |rules, file| rules.allow_overwrite(file))
        }
        // The backing file of a new image is named by the options.
        Destination::NewOn(server) => rules
            .allow_backing(Path::new(""), &job.options, job.external_files)
            .allow_servers(&server.files())
            .allow_replace(job.resume.as_deref()),
        Destination::ExistingOn(server) => rules.allow_servers(&server.files()),
        Destination::Stdout => rules,
    }
}

/// Says what the conversion has done.
fn conclude(done: &Done, console: &Console) -> Result<(), Failure> {
    let Done { report, took, .. } = done;
    if done.format == Some(ReportFormat::Json) {
        console.stderr(&report::json(report, *took));
    } else {
        console.warn(&report.warnings);
        console.warn(report::losses(report));
        console.note(&report.notes);
    }
    match (done.format, &done.output) {
        (Some(ReportFormat::Text), _) => console.message(&report::text(report)),
        (None, Some(output)) if done.at_terminal => {
            let (names, result) = report::summary(report, &done.source, output, *took);
            let width = terminal_size::terminal_size_of(io::stderr()).map(|(width, _)| width.0);
            let line = format!("{names}: {result}");
            if width.is_some_and(|width| line.chars().count() > usize::from(width)) {
                console.stderr(&names);
                console.stderr(&format!("  {result}"));
            } else {
                console.stderr(&line);
            }
        }
        _ => {}
    }
    match (&report.digests, &done.output) {
        (Some(digests), Some(_)) => {
            let mut text = report::digests(digests);
            if io::stdout().is_terminal() {
                // Nobody reads it with `sha256sum -c`.
                text = text.lines().map(|line| format!("{}\n", printable(line))).collect();
            }
            console.print_after(&text, "the output is complete")?;
        }
        // Standard output carries the image.
        (Some(digests), None) if done.format != Some(ReportFormat::Json) => {
            console.message(&report::disk_digest(digests));
        }
        _ => {}
    }
    Ok(())
}
