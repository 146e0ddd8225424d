//! Images of every kind that others make: what we list and what we extract is what went in, and
//! what others read.
//!
//! ```text
//!   a tree ──► xorriso · genisoimage · bsdtar · pycdlib · mkudffs ──► image
//!     │                                                                │
//!     └────────── wanted ══ listed, extracted, verified by us ◄────────┤
//!                        ══ read by those who read it rightly ◄────────┘
//! ```
//!
//! Who reads what rightly is known: bsdtar loses relocated and version 2 trees, xorriso version 2
//! trees, 7-Zip Rock Ridge beside Joliet. The tables are printed; `--nocapture` shows them when
//! all is well.

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
use diskimg::iso::{FileType, IsoImage, Namespace, Severity};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Who else reads an image.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reader {
    /// bsdtar, of what it prefers.
    Bsdtar,
    /// bsdtar with options, such as `!rockridge`.
    BsdtarWith(&'static str),
    /// xorriso, of what it prefers or with `norock`.
    Xorriso(&'static str),
    /// 7-Zip, as `iso` or `udf`.
    SevenZip(&'static str),
    /// pycdlib, where it is installed.
    Pycdlib(&'static str),
}

impl Reader {
    /// What it reads; `None` if it is not installed.
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

/// One name space of one image.
pub(super) struct View<'a> {
    pub name: &'a str,
    pub image: &'a Path,
    pub namespace: Namespace,
    /// It is the one that is shown if none is asked for.
    pub preferred: bool,
    pub wanted: &'a Tree,
    /// Who reads the same.
    pub agree: &'a [Reader],
}

/// What was seen of images.
#[derive(Debug)]
pub(super) struct Report {
    title: &'static str,
    images: usize,
    faults: Vec<String>,
}

impl Report {
    #[allow(clippy::print_stdout)]
    pub(super) fn new(title: &'static str) -> Self {
        println!("\n{title:34} {:>11} {:>7} {:>8} {:>6}", "names", "entries", "warnings", "agree");
        Self { title, images: 0, faults: Vec::new() }
    }

    /// Lists, extracts, verifies, and asks the others.
    #[allow(clippy::print_stdout)]
    pub(super) fn see(&mut self, view: &View<'_>) {
        self.images += 1;
        let seen = catch_unwind(AssertUnwindSafe(|| look(view)));
        let (mut faults, warnings) = seen.unwrap_or_else(|panic| {
            let words = panic.downcast_ref::<String>().cloned();
            (vec![words.unwrap_or_else(|| "a panic".to_owned())], 0)
        });
        let mut agree = 0;
        for reader in view.agree {
            match reader.read(view.image) {
                Some(Ok(tree)) => {
                    let differs = differences(view.wanted, &tree);
                    agree += usize::from(differs.is_empty());
                    faults.extend(differs.iter().map(|what| format!("{reader:?}: {what}")));
                }
                Some(Err(words)) => faults.push(format!("{reader:?} refuses: {words}")),
                None => {}
            }
        }
        let (name, entries) = (view.name, view.wanted.len());
        println!("{name:34} {:>11} {entries:7} {warnings:8} {agree:6}", view.namespace);
        let shown = faults.len().min(6);
        let more = if faults.len() > shown {
            format!(" … {} in all", faults.len())
        } else {
            String::new()
        };
        if !faults.is_empty() {
            self.faults.push(format!(
                "{name}, {}: {}{more}",
                view.namespace,
                faults[..shown].join("; ")
            ));
        }
    }

    /// Something else that must hold of an image.
    pub(super) fn must(&mut self, holds: bool, what: &str) {
        if !holds {
            self.faults.push(what.to_owned());
        }
    }

    /// # Panics
    /// With all that does not hold.
    pub(super) fn done(self) {
        let Self { title, images, faults } = self;
        assert!(images > 0, "{title}: nothing was looked at");
        assert!(faults.is_empty(), "{title}:\n  {}", faults.join("\n  "));
    }
}

/// Our part: faults, and how many warnings `verify` had.
fn look(view: &View<'_>) -> (Vec<String>, u64) {
    let mut faults = Vec::new();
    let image = match reference::open(view.image, view.namespace) {
        Ok(image) => image,
        Err(error) => return (vec![format!("open: {error}")], 0),
    };
    if view.preferred {
        let shown = reference::open(view.image, Namespace::Auto).map(|image| image.namespace());
        if shown.as_ref().ok() != Some(&view.namespace) {
            faults.push(format!("shown by itself: {shown:?}"));
        }
    }
    let listed = reference::listed(&image);
    let differs = differences(view.wanted, &listed);
    faults.extend(differs.into_iter().map(|what| format!("listed: {what}")));
    let mut extracted = reference::extracted(&image);
    for (path, facts) in &mut extracted {
        // What is not recorded is as the host makes it.
        let recorded = listed.get(path);
        facts.mode = facts.mode.filter(|_| recorded.is_some_and(|facts| facts.mode.is_some()));
        facts.owner = facts.owner.filter(|_| recorded.is_some_and(|facts| facts.owner.is_some()));
    }
    let mut wanted = view.wanted.clone();
    if !reference::is_root() {
        // Others make no devices.
        wanted.retain(|_, facts| is_common(facts));
        extracted.retain(|_, facts| is_common(facts));
    }
    let differs = differences(&wanted, &extracted);
    faults.extend(differs.into_iter().map(|what| format!("extracted: {what}")));
    let warnings = verified(&image, &mut faults);
    (faults, warnings)
}

fn is_common(facts: &Facts) -> bool {
    matches!(facts.kind, FileType::Regular | FileType::Directory | FileType::Symlink)
}

fn verified(image: &IsoImage, faults: &mut Vec<String>) -> u64 {
    let verified = image.verify(&mut |finding| {
        if finding.severity == Severity::Error {
            faults.push(format!(
                "verify: {:?}: {} ({:?})",
                finding.code, finding.message, finding.path
            ));
        }
    });
    match verified {
        Ok(seen) => seen.warnings,
        Err(error) => {
            faults.push(format!("verify: {error}"));
            0
        }
    }
}
