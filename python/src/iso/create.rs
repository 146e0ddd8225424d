//! Creation of ISO images.

use super::boot::BootArgs;
use crate::arguments::{plain, word};
use crate::errors::{Raise, bad_value};
use crate::file::{self, Raised};
use crate::work;
use diskimg::iso::Timestamp;
use diskimg::iso::write::{
    Builder, Charset, CreateOptions, Level, NameRules, Plan, TranslationTables,
};
use diskimg::storage::source::HostFileId;
use diskimg::{Durability, Error, Output, Progress};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;
use std::path::PathBuf;

/// How an image is created. Corresponds to `CreateArgs` in `iso/_create.py`.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct CreateArgs {
    volume_id: String,
    system_id: String,
    volume_set_id: String,
    publisher: String,
    preparer: String,
    application: String,
    level: u8,
    strict_names: bool,
    rock_ridge: Option<String>,
    joliet: Option<String>,
    udf: bool,
    uid: Option<u32>,
    gid: Option<u32>,
    dir_mode: Option<u32>,
    file_mode: Option<u32>,
    deep_directories: bool,
    follow_symlinks: bool,
    times: Times,
    padding: u32,
    alignment: u32,
    exclude: Vec<String>,
    hide: Vec<(String, String)>,
    weights: Vec<(String, i32)>,
    translation_tables: Option<String>,
    charset: String,
    boot: Option<BootArgs>,
}

/// Times in seconds since 1970: the latest allowed, that of the volume and that of all files.
#[derive(Clone, Copy, FromPyObject)]
pub(super) struct Times(Option<i64>, Option<i64>, Option<i64>);

/// A path in the image with its contents; `None` means a directory.
pub(crate) type Addition = (PyBackedBytes, Option<Content>);

/// Contents of a file, or the name of a file or directory on the host.
#[derive(FromPyObject)]
pub(crate) enum Content {
    Bytes(PyBackedBytes),
    Host(PathBuf),
}

impl Times {
    pub(super) fn set(self, options: &mut CreateOptions) {
        let Self(latest, volume, files) = self;
        options.latest = latest.map(Timestamp::from_seconds);
        options.volume_time = volume.map(Timestamp::from_seconds);
        options.file_time = files.map(Timestamp::from_seconds);
    }
}

impl CreateArgs {
    fn options(&self) -> PyResult<CreateOptions> {
        let mut options = CreateOptions::default();
        options.volume_id.clone_from(&self.volume_id);
        options.system_id.clone_from(&self.system_id);
        options.volume_set_id.clone_from(&self.volume_set_id);
        options.publisher.clone_from(&self.publisher);
        options.preparer.clone_from(&self.preparer);
        options.application.clone_from(&self.application);
        options.names = self.names()?;
        let rock_ridge = self.rock_ridge.as_deref();
        options.rock_ridge = rock_ridge.map(|mode| word("rock_ridge", mode)).transpose()?;
        let joliet = self.joliet.as_deref();
        options.joliet = joliet.map(|mode| word("joliet", mode)).transpose()?;
        options.udf = self.udf;
        (options.uid, options.gid) = (self.uid, self.gid);
        (options.dir_mode, options.file_mode) = (self.dir_mode, self.file_mode);
        options.deep_directories = self.deep_directories;
        options.follow_symlinks = self.follow_symlinks;
        options.translation_tables = self.translation_tables.as_ref().map(|name| {
            let mut tables = TranslationTables::default();
            tables.name.clone_from(name);
            tables
        });
        let charset = Charset::from_name(&self.charset);
        options.charsets.host = charset.ok_or_else(|| bad_value("charset is not known"))?;
        self.times.set(&mut options);
        (options.padding, options.alignment) = (self.padding, self.alignment);
        if let Some(boot) = &self.boot {
            boot.set(&mut options)?;
        }
        Ok(options)
    }

    fn names(&self) -> PyResult<NameRules> {
        let level = match self.level {
            1 => Level::One,
            2 => Level::Two,
            3 => Level::Three,
            4 => Level::Four,
            _ => return Err(bad_value("level must be 1, 2, 3 or 4")),
        };
        let mut names = if self.strict_names { NameRules::strict() } else { NameRules::default() };
        names.level = level;
        names.full_length = level > Level::One;
        Ok(names)
    }

    /// Returns a builder with these options and no files.
    pub(super) fn builder(&self) -> PyResult<Builder> {
        let mut builder = Builder::new(self.options()?);
        self.exclude.iter().for_each(|pattern| builder.exclude(pattern));
        for (pattern, how) in &self.hide {
            builder.hide(pattern, word("hide", how)?);
        }
        for (pattern, weight) in &self.weights {
            builder.weigh(pattern, *weight);
        }
        Ok(builder)
    }
}

/// Adds a file or a directory to the image.
pub(super) fn add(builder: &mut Builder, (at, content): &Addition) -> diskimg::Result<()> {
    match content {
        None => builder.add_directory(at),
        Some(Content::Bytes(bytes)) => builder.add_bytes(at, &**bytes),
        Some(Content::Host(path)) if at.is_empty() => builder.add_tree(at, path),
        Some(Content::Host(path)) => builder.add_path(at, path),
    }
}

/// Creates an image in memory, without a thread or a file.
#[pyfunction]
pub(crate) fn iso_bytes<'py>(
    py: Python<'py>,
    how: CreateArgs,
    additions: Vec<Addition>,
) -> PyResult<Bound<'py, PyBytes>> {
    let mut builder = how.builder()?;
    let plan = py.detach(|| {
        additions.iter().try_for_each(|addition| add(&mut builder, addition))?;
        builder.plan()
    });
    in_memory(py, &plan.or_raise(py)?)
}

pub(super) fn in_memory<'py>(py: Python<'py>, plan: &Plan) -> PyResult<Bound<'py, PyBytes>> {
    PyBytes::new_with(py, plan.size() as usize, |mut image| {
        py.detach(|| plan.emit(&mut image)).or_raise(py)
    })
}

/// Creates an image. Returns its size and the warnings.
#[pyfunction]
pub(crate) fn iso_create(
    py: Python<'_>,
    destination: &Bound<'_, PyAny>,
    how: CreateArgs,
    additions: Vec<Addition>,
    durable: bool,
    progress: Option<Bound<'_, PyAny>>,
) -> PyResult<(u64, Vec<String>)> {
    let mut builder = how.builder()?;
    let plan = || {
        additions.iter().try_for_each(|addition| add(&mut builder, addition))?;
        builder.plan()
    };
    to_output(py, destination, &[], durable, progress.as_ref(), plan)
}

/// Writes the image that `plan` returns. The destination must not be one of the `read` files.
pub(super) fn to_output(
    py: Python<'_>,
    destination: &Bound<'_, PyAny>,
    read: &[HostFileId],
    durable: bool,
    progress: Option<&Bound<'_, PyAny>>,
    plan: impl FnOnce() -> diskimg::Result<Plan> + Send,
) -> PyResult<(u64, Vec<String>)> {
    let path = destination.extract::<PathBuf>().ok().map(plain);
    if path.is_none() {
        file::require_output(destination)?;
    }
    let object = destination.clone().unbind();
    let durability = if durable { Durability::Flushed } else { Durability::Cached };
    let raised = Raised::default();
    let written = work::run(py, progress, |report| {
        let plan = plan()?;
        let (output, by_position) = match &path {
            Some(path) => {
                let output = Output::create(path);
                (output.map_err(|e| Error::io("cannot write it", e).in_file(path))?, false)
            }
            None => Python::attach(|py| file::output(object.bind(py), read, raised.clone()))
                .map_err(|e| Error::io("cannot write", std::io::Error::other(e)))?,
        };
        let total = plan.size();
        let mut tick = |done| match report(Progress::new(done, total)).is_continue() {
            true => Ok(()),
            false => Err(Error::cancelled()),
        };
        let notes = plan.write(output, durability, &mut tick)?;
        Ok((plan.size(), [plan.warnings(), &notes].concat(), by_position))
    });
    let (size, warnings, by_position) = raised.or(written)?;
    if by_position {
        destination.call_method1("seek", (0, 2))?; // to the end of the image
    }
    Ok((size, warnings))
}
