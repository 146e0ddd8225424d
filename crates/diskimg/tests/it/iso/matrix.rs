//! Images of every kind, created by other tools: the trees that diskimg lists and extracts must be
//! equal to the source tree and to what other tools read.
//!
//! ```text
//!   tree ──► xorriso · genisoimage · bsdtar · pycdlib · mkudffs ──► image
//!     │                                                               │
//!     └──────── wanted ══ listed, extracted, verified by diskimg ◄────┤
//!                      ══ read by tools that support it ◄─────────────┘
//! ```
//!
//! Not every tool reads every image correctly: bsdtar does not find relocated directories and
//! version 2 trees, xorriso does not read version 2 trees, and 7-Zip ignores Rock Ridge if there is
//! Joliet. Each test prints a table, which `--nocapture` shows if the test succeeds.

mod bsdtar;
mod genisoimage;
mod kernel;
mod pycdlib;
mod real;
mod sessions;
mod tolerance;
mod tree;
mod xorriso;

use crate::iso::reference::{self, Facts, Tree, differences};
use diskimg::Severity;
use diskimg::iso::{FileType, IsoImage, Namespace};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Another tool that reads images.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reader {
    /// bsdtar, with the namespace that it prefers.
    Bsdtar,
    /// bsdtar with options, such as `!rockridge`.
    BsdtarWith(&'static str),
    /// xorriso, with this argument of `-read_fs`, such as `any` or `norock`.
    Xorriso(&'static str),
    /// 7-Zip, as `iso` or `udf`.
    SevenZip(&'static str),
    /// pycdlib with this namespace, if it is installed.
    Pycdlib(&'static str),
}

impl Reader {
    /// Reads the image. Returns `None` if the tool is not installed.
    pub(super) fn read(self, image: &Path) -> Option<Result<Tree, String>> {
        Some(match self {
            Self::Bsdtar => reference::bsdtar(image),
            Self::BsdtarWith(options) => reference::bsdtar_with(image, options),
            Self::Xorriso(names) => reference::xorriso(image, names),
            Self::SevenZip(kind) => reference::seven_zip(image, kind),
            Self::Pycdlib(names) => return reference::pycdlib(image, names),
        })
    }
}

/// A namespace of an image.
pub(super) struct View<'a> {
    pub name: &'a str,
    pub image: &'a Path,
    pub namespace: Namespace,
    /// Whether this namespace is shown by default.
    pub preferred: bool,
    pub wanted: &'a Tree,
    /// Tools that must read the same tree.
    pub readers: &'a [Reader],
}

/// Results for a group of images.
#[derive(Debug)]
pub(super) struct Report {
    title: &'static str,
    images: usize,
    failures: Vec<String>,
}

impl Report {
    #[allow(clippy::print_stdout)]
    pub(super) fn new(title: &'static str) -> Self {
        println!("\n{title:34} {:>11} {:>7} {:>8} {:>6}", "names", "entries", "warnings", "agree");
        Self { title, images: 0, failures: Vec::new() }
    }

    /// Checks a view with diskimg and the other tools.
    #[allow(clippy::print_stdout)]
    pub(super) fn check(&mut self, view: &View<'_>) {
        self.images += 1;
        let checked = catch_unwind(AssertUnwindSafe(|| check_with_diskimg(view)));
        let (mut failures, warnings) = checked.unwrap_or_else(|panic| {
            let message = panic.downcast_ref::<String>().cloned();
            (vec![message.unwrap_or_else(|| "a panic".to_owned())], 0)
        });
        let mut agreeing = 0;
        for reader in view.readers {
            match reader.read(view.image) {
                Some(Ok(tree)) => {
                    let differs = differences(view.wanted, &tree);
                    agreeing += usize::from(differs.is_empty());
                    failures.extend(differs.iter().map(|what| format!("{reader:?}: {what}")));
                }
                Some(Err(error)) => failures.push(format!("{reader:?}: {error}")),
                None => {}
            }
        }
        let (name, entries) = (view.name, view.wanted.len());
        println!("{name:34} {:>11} {entries:7} {warnings:8} {agreeing:6}", view.namespace);
        let shown = failures.len().min(6);
        let more = if failures.len() > shown {
            format!(" … {} in total", failures.len())
        } else {
            String::new()
        };
        if !failures.is_empty() {
            self.failures.push(format!(
                "{name}, {}: {}{more}",
                view.namespace,
                failures[..shown].join("; ")
            ));
        }
    }

    /// Records a failure unless `condition` is true.
    pub(super) fn require(&mut self, condition: bool, what: &str) {
        if !condition {
            self.failures.push(what.to_owned());
        }
    }

    /// # Panics
    /// If there are failures, with a list of them.
    pub(super) fn finish(self) {
        let Self { title, images, failures } = self;
        assert!(images > 0, "{title}: no image was checked");
        assert!(failures.is_empty(), "{title}:\n  {}", failures.join("\n  "));
    }
}

/// Checks a view with diskimg. Returns failures and the number of warnings of `verify`.
fn check_with_diskimg(view: &View<'_>) -> (Vec<String>, u64) {
    let mut failures = Vec::new();
    let image = match reference::open(view.image, view.namespace) {
        Ok(image) => image,
        Err(error) => return (vec![format!("open: {error}")], 0),
    };
    if view.preferred {
        let shown = reference::open(view.image, Namespace::Auto).map(|image| image.namespace());
        if shown.as_ref().ok() != Some(&view.namespace) {
            failures.push(format!("shown by default: {shown:?}"));
        }
    }
    let listed = reference::listed(&image);
    let differs = differences(view.wanted, &listed);
    failures.extend(differs.into_iter().map(|what| format!("listed: {what}")));
    let mut extracted = reference::extracted(&image);
    for (path, facts) in &mut extracted {
        // Attributes that are not recorded have the default of the host.
        let recorded = listed.get(path);
        facts.mode = facts.mode.filter(|_| recorded.is_some_and(|facts| facts.mode.is_some()));
        facts.owner = facts.owner.filter(|_| recorded.is_some_and(|facts| facts.owner.is_some()));
    }
    let mut wanted = view.wanted.clone();
    if !reference::is_root() {
        // Only root can create devices.
        wanted.retain(|_, facts| is_common(facts));
        extracted.retain(|_, facts| is_common(facts));
    }
    let differs = differences(&wanted, &extracted);
    failures.extend(differs.into_iter().map(|what| format!("extracted: {what}")));
    let warnings = verify(&image, &mut failures);
    (failures, warnings)
}

fn is_common(facts: &Facts) -> bool {
    matches!(facts.kind, FileType::Regular | FileType::Directory | FileType::Symlink)
}

/// Verifies the image. Returns the number of warnings.
fn verify(image: &IsoImage, failures: &mut Vec<String>) -> u64 {
    let verified = image.verify(&mut |finding| {
        if finding.severity == Severity::Error {
            failures.push(format!(
                "verify: {:?}: {} ({:?})",
                finding.code, finding.message, finding.path
            ));
        }
    });
    match verified {
        Ok(counts) => counts.warnings,
        Err(error) => {
            failures.push(format!("verify: {error}"));
            0
        }
    }
}
