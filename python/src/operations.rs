//! The operations other than `convert`, and the lists of formats and limits.

use crate::arguments::{self, Input, OpenArgs};
use crate::errors::{Raise, exception};
use crate::image::{CheckFinding, Image, finding_fields, json};
use crate::work;
use diskimg::check::RepairStage;
use diskimg::{
    Amend, Bench, Caching, Commit, Compare, Comparison, Create, Error, Format, InspectOptions,
    Limits, OpenOptions, Rebase, Repair, Resize,
};
use pyo3::prelude::*;
use std::num::NonZeroU64;
use std::path::PathBuf;

/// The fields of `Created`, in order.
type CreatedFields = (u64, Vec<(String, String)>, Vec<String>);

/// Creates an empty image.
#[pyfunction]
#[allow(clippy::too_many_arguments, reason = "they are keyword arguments in Python")]
pub(crate) fn create(
    py: Python<'_>,
    path: PathBuf,
    format: &str,
    size: Option<u64>,
    pairs: Vec<(String, String)>,
    backing: Option<(String, Option<String>)>,
    external_files: &str,
    limits: Vec<(String, u64)>,
    force_share: bool,
    max_size: Option<u64>,
    progress: Option<Bound<'_, PyAny>>,
) -> PyResult<CreatedFields> {
    let format = arguments::format(py, format)?;
    let backing_options = OpenOptions::new()
        .external_files(arguments::word("external_files", external_files)?)
        .limits(arguments::limits(py, &limits)?)
        .force_share(force_share);
    let options = arguments::options(pairs);
    let backing = backing.map(|(name, format)| arguments::backing(name, format));
    let created = work::run(py, progress.as_ref(), |callback| {
        Create::new(format)
            .size(size)
            .options(options)
            .backing(backing)
            .backing_options(backing_options)
            .max_size(max_size)
            .progress(callback)
            .run(arguments::plain(path))
    })?;
    let options = created.options.iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
    Ok((created.size, options.collect(), created.notes.clone()))
}

/// Measures requests, and returns the seconds that they took. `numbers`: requests, depth, length,
/// offset, step, requests between two flushes.
#[pyfunction]
pub(crate) fn bench(
    py: Python<'_>,
    path: PathBuf,
    how: OpenArgs,
    numbers: (u64, usize, usize, u64, u64, u64),
    pattern: Option<u8>,
) -> PyResult<f64> {
    let (requests, depth, length, offset, step, interval) = numbers;
    let bench = Bench::new().requests(requests).depth(depth).length(length);
    let mut bench = bench.offset(offset).step(step);
    if let Some(interval) = NonZeroU64::new(interval) {
        bench = bench.flush_interval(interval);
    }
    let options = how.options(py)?;
    let took = work::run(py, None, |_| match pattern {
        Some(byte) => {
            bench.open_options(options.clone()).pattern(byte).write(arguments::plain(path))
        }
        None => bench.read(&options.open(arguments::plain(path))?),
    })?;
    Ok(took.as_secs_f64())
}

/// Changes the size of a disk. Returns the old and the new size.
#[pyfunction]
pub(crate) fn resize(
    py: Python<'_>,
    path: PathBuf,
    size: &str,
    how: OpenArgs,
    shrink: bool,
    preallocation: &str,
    fix_gpt: bool,
) -> PyResult<(u64, u64)> {
    let resize = Resize::new(size.parse().or_raise(py)?)
        .open_options(how.options(py)?)
        .shrink(shrink)
        .preallocation(preallocation.parse().or_raise(py)?)
        .fix_gpt(fix_gpt);
    let done = work::run(py, None, |_| resize.run(arguments::plain(path)))?;
    Ok((done.old_size, done.new_size))
}

/// Changes options of an image. Returns the number of bitmaps that were removed.
#[pyfunction]
pub(crate) fn amend(
    py: Python<'_>,
    path: PathBuf,
    pairs: Vec<(String, String)>,
    how: OpenArgs,
    progress: Option<Bound<'_, PyAny>>,
) -> PyResult<u64> {
    let (options, open_options) = (arguments::options(pairs), how.options(py)?);
    let done = work::run(py, progress.as_ref(), |callback| {
        let amend = Amend::new(options).open_options(open_options).progress(callback);
        amend.run(arguments::plain(path))
    })?;
    Ok(done.removed_bitmaps)
}

fn caching(direct: bool) -> Caching {
    if direct { Caching::Direct } else { Caching::Buffered }
}

/// Changes the backing file of an image. Returns the number of bytes that were written.
#[pyfunction]
#[allow(clippy::too_many_arguments, reason = "they are keyword arguments in Python")]
pub(crate) fn rebase(
    py: Python<'_>,
    path: PathBuf,
    backing: Option<(String, Option<String>)>,
    how: OpenArgs,
    header_only: bool,
    compress: bool,
    threads: Option<usize>,
    direct: bool,
    progress: Option<Bound<'_, PyAny>>,
) -> PyResult<u64> {
    let options = how.options(py)?;
    let backing = backing.map(|(name, format)| arguments::backing(name, format));
    let done = work::run(py, progress.as_ref(), |callback| {
        let mut rebase = Rebase::new(backing)
            .backing_options(options.clone())
            .open_options(options)
            .header_only(header_only)
            .compress(compress)
            .caching(caching(direct))
            .progress(callback);
        if let Some(threads) = threads {
            rebase = rebase.threads(threads);
        }
        rebase.run(arguments::plain(path))
    })?;
    Ok(done.stored_bytes)
}

/// Writes what an image stores into a backing file. Returns the fields of `Committed`.
#[pyfunction]
#[allow(clippy::too_many_arguments, reason = "they are keyword arguments in Python")]
pub(crate) fn commit(
    py: Python<'_>,
    path: PathBuf,
    base: Option<String>,
    how: OpenArgs,
    keep: bool,
    threads: Option<usize>,
    rate_limit: Option<u64>,
    direct: bool,
    progress: Option<Bound<'_, PyAny>>,
) -> PyResult<(String, u64, bool)> {
    let options = how.options(py)?;
    let done = work::run(py, progress.as_ref(), |callback| {
        let mut commit = Commit::new()
            .open_options(options)
            .keep(keep)
            .caching(caching(direct))
            .progress(callback);
        if let Some(base) = base {
            commit = commit.base(base);
        }
        if let Some(threads) = threads {
            commit = commit.threads(threads);
        }
        if let Some(rate) = rate_limit {
            commit = commit.rate_limit(rate);
        }
        commit.run(arguments::plain(path))
    })?;
    Ok((done.base, done.stored_bytes, done.emptied))
}

/// Checks and repairs an image. Returns the format, what was found before, what is left, and the
/// counts of the check after the repair as JSON; `None` if images of the format cannot be repaired.
#[pyfunction]
#[allow(clippy::type_complexity, reason = "the Python code names the parts")]
pub(crate) fn repair(
    py: Python<'_>,
    path: PathBuf,
    scope: &str,
    how: OpenArgs,
    backup: Option<PathBuf>,
) -> PyResult<Option<(&'static str, Vec<CheckFinding>, Vec<CheckFinding>, String)>> {
    let mut repair = Repair::new(scope.parse().or_raise(py)?).open_options(how.options(py)?);
    if let Some(path) = backup {
        let created = std::fs::File::create_new(&path);
        let failed = |e| Error::io("cannot create the file of the backup", e).in_file(&path);
        repair = repair.backup(created.map_err(failed).or_raise(py)?);
    }
    let (mut found, mut left) = (Vec::new(), Vec::new());
    let repaired = work::run(py, None, |_| {
        repair.run(arguments::plain(path), &mut |stage, finding| match stage {
            RepairStage::Found => found.push(finding_fields(finding)),
            RepairStage::Left => left.push(finding_fields(finding)),
            // It was found before.
            _ => {}
        })
    })?;
    let Some(repaired) = repaired else { return Ok(None) };
    Ok(Some((repaired.format.name(), found, left, json(&repaired.after)?)))
}

/// Compares two images. Returns the result and the offset of the first difference.
#[pyfunction]
pub(crate) fn compare(
    py: Python<'_>,
    a: &Image,
    b: &Image,
    strict: bool,
    threads: Option<usize>,
    progress: Option<Bound<'_, PyAny>>,
) -> PyResult<(&'static str, Option<u64>)> {
    let (first, second) = (a.get()?, b.get()?);
    let found = work::run(py, progress.as_ref(), |callback| {
        let mut compare = Compare::new(&first, &second).strict(strict).progress(callback);
        if let Some(threads) = threads {
            compare = compare.threads(threads);
        }
        compare.run().map_err(|failed| failed.error)
    });
    let found = b.raised().or(a.raised().or(found))?;
    Ok(match found {
        Comparison::Identical { .. } => ("identical", None),
        Comparison::ContentMismatch { offset } => ("content", Some(offset)),
        Comparison::SizeMismatch => ("size", None),
        Comparison::StatusMismatch { offset } => ("status", Some(offset)),
    })
}

/// Returns the space that an image of an empty disk would take as qemu-img's JSON.
#[pyfunction]
pub(crate) fn measure_size(
    py: Python<'_>,
    format: &str,
    pairs: Vec<(String, String)>,
    size: u64,
) -> PyResult<String> {
    let (format, options) = (arguments::format(py, format)?, arguments::options(pairs));
    json(&diskimg::measure_size(format, &options, size).or_raise(py)?)
}

/// Detects the format of a file by its signature.
#[pyfunction]
pub(crate) fn detect(py: Python<'_>, file: &Bound<'_, PyAny>) -> PyResult<&'static str> {
    let input = Input::new(file)?;
    if matches!(&input, Input::File(crate::file::InputFile::Stream(_), ..)) {
        let error =
            Error::invalid("cannot detect the format of a stream: it could not be read again")
                .hint("pass a file object that seeks");
        return Err(exception(py, &error));
    }
    let raised = input.raised();
    raised.or(py.detach(|| Format::probe(&*input.source()?)).map(Format::name).or_raise(py))
}

/// Returns true if, since the last call, a file was modified whose file system has no locks.
#[pyfunction]
pub(crate) fn take_modified_without_locks() -> bool {
    diskimg::storage::locking::take_modified_without_locks()
}

/// Returns the resource limits: name, default, help.
#[pyfunction]
pub(crate) fn limits() -> Vec<(&'static str, u64, &'static str)> {
    Limits::default().iter().map(|limit| (limit.name, limit.value, limit.help)).collect()
}

/// Inspects an untrusted image and returns the result as JSON. `maxima`: size of the file, size of
/// the virtual disk, and ratio of the second to the first.
#[pyfunction]
pub(crate) fn inspect(
    py: Python<'_>,
    file: &Bound<'_, PyAny>,
    claimed: Option<&str>,
    maxima: (Option<u64>, Option<u64>, Option<u64>),
    allow: Vec<String>,
    limits: Vec<(String, u64)>,
) -> PyResult<String> {
    let mut options = InspectOptions::new()
        .max_size(maxima.0)
        .max_virtual_size(maxima.1)
        .max_ratio(maxima.2)
        .limits(arguments::limits(py, &limits)?);
    if let Some(claimed) = claimed {
        options = options.claimed(claimed).or_raise(py)?;
    }
    for code in &allow {
        options = options.allow(code.parse().or_raise(py)?);
    }
    let input = Input::new(file)?;
    let (name, raised) = (input.name(), input.raised());
    let inspect = || diskimg::inspect_source(input.source()?, name, &options);
    json(&raised.or(py.detach(inspect).or_raise(py))?)
}

/// Returns the formats with their create options: name, kind, help, default.
#[pyfunction]
#[allow(clippy::type_complexity, reason = "the Python code names the parts")]
pub(crate) fn formats()
-> Vec<(&'static str, Vec<(&'static str, String, &'static str, Option<&'static str>)>)> {
    let options = |format: &Format| {
        let specs = format.options().iter();
        specs.map(|s| (s.name, s.kind.to_string(), s.help, s.default)).collect()
    };
    Format::ALL.iter().map(|format| (format.name(), options(format))).collect()
}
