//! `xorriso` with its own commands: loads, changes, shows, extracts and writes an ISO image.
//!
//! ```text
//!   build      the changed image
//!   extract    -extract, -cpx
//!   show       -ls, -find, -pvd_info, -toc
//!   report     -report_el_torito, -report_system_area
//! ```
//!
//! Results go to standard output, what xorriso says about images and files to standard error, in
//! the lines that scripts look for.

mod build;
mod extract;
mod report;
mod show;

use super::iso::build as mkisofs;
use crate::args::mkisofs::native::{FAILED, Job, Query, Step};
use crate::args::recipe::Destination;
use crate::confine::{self, Calls, Extract, Rules};
use crate::failure::Failure;
use crate::interrupt;
use crate::output::Console;
use diskimg::iso::{IsoImage, IsoOptions};
use diskimg::{ExternalFiles, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Exit code of xorriso after a failure that did not end the program, or of the final writing.
const SORRY: u8 = 32;

/// A loaded image.
struct Loaded {
    path: PathBuf,
    image: IsoImage,
}

/// A run of the commands.
struct Run<'a> {
    job: &'a Job,
    console: &'a Console,
    loaded: Option<Loaded>,
    /// The changes that were not written yet.
    edits: Vec<&'a Step>,
    written: bool,
    code: u8,
}

/// Runs the commands.
pub(in crate::commands) fn run(job: &Job, console: &Console) -> Result<u8, Failure> {
    let ran = Run::begin(job, console).and_then(|mut run| {
        for step in &job.steps {
            run.step(step)?;
        }
        run.finish()
    });
    ran.map_err(|failure| match failure {
        Failure::Error { message, code: 1 } => Failure::Error { message, code: FAILED },
        other => other,
    })
}

impl<'a> Run<'a> {
    fn begin(job: &'a Job, console: &'a Console) -> Result<Self, Failure> {
        if let Some(output) = &job.outdev {
            mkisofs::refuse_terminal(output)?;
        }
        // What -blank erases is not loaded.
        let erased = |path: &&Path| job.overwrite && build::is_output(job, path);
        let (rules, indev) = (rules(job), job.indev.as_deref().filter(|path| !erased(path)));
        let loading = indev.map(|path| {
            rules.clone().allow_read([path]).allow_references(path, ExternalFiles::default())
        });
        confine::restrict_files(loading.as_ref().unwrap_or(&rules))?;
        let loaded = indev.map(Loaded::open).transpose()?;
        confine::restrict_files(&rules)?;
        let run = Self { job, console, loaded, edits: Vec::new(), written: false, code: 0 };
        if let Some(loaded) = &run.loaded {
            for line in show::loaded(loaded)? {
                console.stderr(&line);
            }
        }
        Ok(run)
    }

    fn step(&mut self, step: &'a Step) -> Result<(), Failure> {
        match step {
            Step::Show(query) => self.show(query),
            Step::Extract { from, to } => {
                extract::as_file(self.unchanged("-extract")?, from, to, self.console)
            }
            Step::CopyOut { from, to } => {
                extract::into_directory(self.unchanged("-cpx")?, from, to, self.console)
            }
            Step::Commit if self.written || self.job.outdev.is_none() => Ok(()),
            Step::Commit => self.write(),
            _ if self.written => Err(Failure::not_supported("a change after -commit")),
            edit => {
                self.edits.push(edit);
                Ok(())
            }
        }
    }

    /// Returns the loaded image, which must not have been changed.
    fn unchanged(&self, command: &str) -> Result<&Loaded, Failure> {
        if !self.edits.is_empty() {
            return Err(Failure::not_supported(&format!("{command} after a change of the image")));
        }
        let missing = || Failure::error(format!("{command} requires an image: no -indev or -dev"));
        self.loaded.as_ref().ok_or_else(missing)
    }

    fn show(&self, query: &Query) -> Result<(), Failure> {
        let loaded = self.unchanged("showing an image")?;
        let packets = self.job.packets;
        match query {
            Query::List { paths, form } => show::list(loaded, paths, *form, self.console, packets),
            Query::Find(find) => show::find(loaded, find, self.console, packets),
            Query::VolumeDescriptor => self.print(&show::volume_descriptor(loaded)?),
            Query::Toc => self.print(&show::toc(loaded)?),
            Query::BootReport(form) => self.print(&report::boot(loaded, *form, self.console)?),
        }
    }

    /// Prints lines of results.
    fn print(&self, text: &str) -> Result<(), Failure> {
        self.console.print(&show::packets(text, self.job.packets))
    }

    fn write(&mut self) -> Result<(), Failure> {
        let Some(output) = &self.job.outdev else { return Ok(()) };
        build::check_output(self.job, output)?;
        let all = build::write(self.job, self.loaded.as_ref(), &self.edits, output, self.console)?;
        if !all {
            self.code = SORRY;
        }
        self.edits.clear();
        self.written = true;
        Ok(())
    }

    /// Writes the image if it was changed and not written yet.
    fn finish(mut self) -> Result<u8, Failure> {
        let settings = !self.job.settings.is_empty() || self.job.boot.is_given();
        if !self.written && (settings || !self.edits.is_empty()) {
            self.write().map_err(|failure| match failure {
                Failure::Error { message, code: 1 } => Failure::Error { message, code: SORRY },
                other => other,
            })?;
        }
        Ok(self.code)
    }
}

impl Loaded {
    fn open(path: &Path) -> Result<Self, Failure> {
        let image = OpenOptions::new().open(path)?;
        let image = IsoImage::open(Arc::new(image), &IsoOptions::default());
        let image = image.map_err(|e| e.in_file(path))?;
        interrupt::watch();
        Ok(Self { path: path.to_owned(), image })
    }
}

/// Returns the system calls of these commands.
pub(in crate::commands) fn calls(job: &Job) -> Calls {
    let is_extraction = |step: &Step| matches!(step, Step::Extract { .. } | Step::CopyOut { .. });
    let mut calls = job.outdev.as_ref().map_or_else(Calls::read, super::image_calls);
    if job.steps.iter().any(is_extraction) {
        calls.modify = true;
        calls.extract = Some(Extract::default());
    }
    calls
}

/// Returns the files that are opened after the image was loaded.
fn rules(job: &Job) -> Rules {
    let mut rules = Rules::new().allow_time_zone();
    if let Some(output) = &job.outdev {
        rules = mkisofs::rules(output, true);
        // To check whether it is empty.
        if let Destination::File(path) = output {
            rules = rules.allow_read([path]);
        }
    }
    for step in &job.steps {
        match step {
            // Nothing beside a directory that exists.
            Step::Extract { to, .. } if to.is_dir() => rules = rules.allow_extract(to, false),
            Step::Extract { to, .. } => {
                let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty());
                rules = rules.allow_extract(parent.unwrap_or(Path::new(".")), false);
                rules = rules.allow_extract(to, false);
            }
            Step::CopyOut { to, .. } => rules = rules.allow_extract(to, false),
            _ => {}
        }
    }
    rules
}

/// Returns a path of the host with the current directory, as xorriso shows it.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Quotes text as for a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r#"'"'"'"#))
}

/// Quotes a path in the image, with a leading slash.
fn quoted_path(path: &[u8]) -> String {
    let path = String::from_utf8_lossy(path);
    quoted(&format!("/{}", path.trim_matches('/')))
}
