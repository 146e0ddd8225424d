//! What an xorriso command line requests.

use super::boot::Boot;
use super::values::ModeChange;
use crate::args::recipe::Destination;
use diskimg::iso::FileType;
use diskimg::iso::write::CreateOptions;
use std::fmt;
use std::path::PathBuf;

/// Commands to run.
#[derive(Debug, Default)]
pub(crate) struct Job {
    /// The image to load; without it, the image is new.
    pub(crate) indev: Option<PathBuf>,
    /// Where the image is written.
    pub(crate) outdev: Option<Destination>,
    /// Whether an existing file may be overwritten (`-blank`).
    pub(crate) overwrite: bool,
    /// Settings of the image.
    pub(crate) settings: Vec<Setting>,
    /// Boot records.
    pub(crate) boot: Boot,
    /// Whether symbolic links on the host are followed (`-follow`).
    pub(crate) follow: bool,
    /// Whether lines of results begin with `R:1:` (`-pkt_output`).
    pub(crate) packets: bool,
    /// What to do, in order.
    pub(crate) steps: Vec<Step>,
}

/// A setting of the image.
pub(crate) struct Setting(Box<dyn Fn(&mut CreateOptions)>);

impl Setting {
    pub(super) fn new(apply: impl Fn(&mut CreateOptions) + 'static) -> Self {
        Self(Box::new(apply))
    }

    /// Applies the setting.
    pub(crate) fn apply(&self, options: &mut CreateOptions) {
        (self.0)(options);
    }
}

impl fmt::Debug for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Setting")
    }
}

/// A step. Paths in the image begin with `/`.
#[derive(Debug)]
pub(crate) enum Step {
    /// Adds a file, or the entries of a directory. If `replace`, what was there is removed first.
    Map {
        from: PathBuf,
        at: Vec<u8>,
        replace: bool,
    },
    /// Removes files and, if `recursive`, directories.
    Remove {
        paths: Vec<Vec<u8>>,
        recursive: bool,
    },
    /// Adds directories.
    MakeDirectories(Vec<Vec<u8>>),
    /// Changes permissions.
    Mode {
        change: ModeChange,
        paths: Vec<Vec<u8>>,
        recursive: bool,
    },
    /// Changes the owner or the group.
    Owner {
        uid: Option<u32>,
        gid: Option<u32>,
        paths: Vec<Vec<u8>>,
        recursive: bool,
    },
    /// Extracts a file or the entries of a directory as `to`.
    Extract {
        from: Vec<u8>,
        to: PathBuf,
    },
    /// Extracts files into the directory `to`.
    CopyOut {
        from: Vec<Vec<u8>>,
        to: PathBuf,
    },
    Show(Query),
    /// Writes the image.
    Commit,
}

impl Step {
    /// Returns whether this changes the image.
    pub(crate) fn is_edit(&self) -> bool {
        !matches!(self, Self::Extract { .. } | Self::CopyOut { .. } | Self::Show(_) | Self::Commit)
    }
}

/// What to show.
#[derive(Debug)]
pub(crate) enum Query {
    /// `-ls`, `-lsl`, `-lsd`, `-lsdl`.
    List { paths: Vec<Vec<u8>>, form: ListForm },
    /// `-find`.
    Find(Find),
    /// `-pvd_info`.
    VolumeDescriptor,
    /// `-toc`.
    Toc,
    /// `-report_el_torito`, `-report_system_area`.
    BootReport(ReportForm),
}

/// Form of a list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ListForm {
    /// With attributes.
    pub(crate) long: bool,
    /// A directory itself, not its entries.
    pub(crate) itself: bool,
}

/// Parameters of `-find`.
#[derive(Debug, Default)]
pub(crate) struct Find {
    /// Where to begin. Without it, the current directory, and paths are shown relative to it.
    pub(crate) start: Option<Vec<u8>>,
    /// Pattern of names.
    pub(crate) name: Option<String>,
    /// Pattern of complete paths.
    pub(crate) whole_name: Option<String>,
    pub(crate) kind: Option<FileType>,
    pub(crate) max_depth: Option<usize>,
    /// Show attributes.
    pub(crate) long: bool,
    /// Show addresses.
    pub(crate) addresses: bool,
}

/// Form of a report about boot records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReportForm {
    /// A table of the El Torito records.
    ElTorito,
    /// A table of the partitions.
    SystemArea,
    /// Commands of xorriso.
    Commands,
    /// Options of mkisofs.
    MkisofsOptions,
}
