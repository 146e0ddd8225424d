//! The table of formats, the only code outside `formats/` that names their modules.
//!
//! It depends on `formats/`, which depends on this layer: the only dependency of a layer on a
//! higher one.

use crate::error::{Error, ErrorKind, Result};
use crate::formats;
#[cfg(feature = "inspect")]
use crate::formats::inspect::Inspect;
pub(crate) use crate::formats::signatures::{Kind as SignatureKind, SIGNATURES, Signature};
use crate::model::format::Format;
use crate::model::image::Image;
use crate::model::layer::Layer;
use crate::model::mutable::{AmendRequest, Amended, MutableLayer, RepairRequest};
use crate::model::options::OptionSpec;
use crate::model::target::{CreateRequest, Measure, MeasureRequest, TargetSpec};
use crate::open::OpenContext;
pub(crate) use crate::open::node::NodeKeys;
use crate::open::probe::ProbeBuffer;
use crate::storage::edit::Storage;
use crate::storage::source::Source;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

/// Opens a layer of a format.
type Open = fn(Arc<dyn Source>, &OpenContext<'_>) -> Result<Arc<dyn Layer>>;

/// Opens an image for modification.
pub(crate) type OpenMutable =
    fn(Arc<dyn Storage>, &OpenContext<'_>) -> Result<Box<dyn MutableLayer>>;

/// Repairs a damaged image in place. Guest data is not changed, and after a crash at any point the
/// image is not worse than before.
pub(crate) type Repair =
    fn(&Arc<dyn Storage>, &OpenContext<'_>, &mut RepairRequest<'_>) -> Result<()>;

/// Changes the options of an image in place. After a crash at any point, the image is consistent, and
/// guest data is not changed.
pub(crate) type Amend =
    fn(&Arc<dyn Storage>, &OpenContext<'_>, &mut AmendRequest<'_>) -> Result<Amended>;

/// Specifies a new image.
type Create = fn(CreateRequest<'_>) -> Result<Box<dyn TargetSpec>>;

/// Specifies a new image with several disks.
type CreateDisks = fn(CreateRequest<'_>, &[Range<u64>]) -> Result<Box<dyn TargetSpec>>;

/// An entry of the table of formats. To add a format, add a folder in `formats/`, a variant of
/// [`Format`] and an arm in [`Format::driver`].
pub(crate) struct Driver {
    /// Returns true if the bytes are in this format. Always false for raw, which is the fallback.
    pub(crate) probe: fn(&ProbeBuffer<'_>) -> bool,
    /// Returns true if QEMU recognizes this format in the bytes. True for an OVA as well, which QEMU
    /// treats as raw, because an OVA is useless as a raw disk.
    pub(crate) probe_like_qemu: fn(&ProbeBuffer<'_>) -> bool,
    /// Size in bytes of which the size of a new image must be a multiple.
    pub(crate) sector: u64,
    /// Opens one layer.
    pub(crate) open: Open,
    /// Checks that the format can store this disk; `None` if it can store any disk.
    pub(crate) require: Option<fn(&Image) -> Result<()>>,
    /// Specifies a new image; `None` if images of the format are only read.
    pub(crate) create: Option<Create>,
    /// Opens an image for modification; `None` if the format does not support it.
    pub(crate) open_mutable: Option<OpenMutable>,
    /// Whether an image that is open for modification locks its further files itself, each for
    /// reading or writing once it is known whether it is written.
    pub(crate) locks_further_files: bool,
    /// Repairs an image; `None` if the format does not support it.
    pub(crate) repair: Option<Repair>,
    /// Changes the options of an image; `None` if the format does not support it.
    pub(crate) amend: Option<Amending>,
    /// Create options, including `size`, `backing_file` and `backing_fmt` where they apply.
    pub(crate) options: &'static [OptionSpec],
    /// Computes the size of a new image, if the layout of the format allows it.
    pub(crate) measure: Option<fn(&mut MeasureRequest<'_>) -> Result<Measure>>,
    /// Inspects an untrusted image.
    #[cfg(feature = "inspect")]
    pub(crate) inspect: Inspect,
    /// Options of a node of this format, in a description of an image.
    pub(crate) node: NodeKeys,
    /// For a format with several disks per file, of which one is read at a time; each source of a
    /// conversion becomes a disk.
    pub(crate) appliance: Option<Appliance>,
}

impl Driver {
    /// What the entries of formats that are only read have in common. They set `open` and, as needed,
    /// the rest.
    pub(crate) const READ_ONLY: Self = Self {
        probe: |_| false,
        probe_like_qemu: |_| false,
        sector: 512,
        open: |_, _| Err(Error::unsupported("the format is not read")),
        require: None,
        create: None,
        open_mutable: None,
        locks_further_files: false,
        repair: None,
        amend: None,
        options: &[],
        measure: None,
        #[cfg(feature = "inspect")]
        inspect: Inspect { also_matches: |_| false, examine: |_, _| {} },
        node: NodeKeys::NONE,
        appliance: None,
    };
}

/// How the options of an existing image are changed.
pub(crate) struct Amending {
    /// The options that can be changed, and those that may be given unchanged.
    pub(crate) options: &'static [OptionSpec],
    /// Changes them in place.
    pub(crate) amend: Amend,
}

/// Operations of a format with several disks per file.
pub(crate) struct Appliance {
    /// Specifies a new file with one disk for each of the ranges. The ranges are in ascending order
    /// and do not overlap; guest bytes between them are not on any disk.
    pub(crate) create: CreateDisks,
    /// Alignment in bytes of the start of each range: a multiple of the engine's transfer size, so
    /// that no transfer spans two disks.
    pub(crate) alignment: u64,
}

impl Format {
    /// Returns the format's entry of the table.
    pub(crate) fn driver(self) -> &'static Driver {
        match self {
            Self::Raw => &formats::raw::DRIVER,
            #[cfg(feature = "qcow2")]
            Self::Qcow2 => &formats::qcow2::DRIVER,
            #[cfg(feature = "vmdk")]
            Self::Vmdk => &formats::vmdk::DRIVER,
            #[cfg(feature = "vhd")]
            Self::Vhd => &formats::vhd::DRIVER,
            #[cfg(feature = "vhdx")]
            Self::Vhdx => &formats::vhdx::DRIVER,
            #[cfg(feature = "vdi")]
            Self::Vdi => &formats::vdi::DRIVER,
            #[cfg(feature = "qed")]
            Self::Qed => &formats::qed::DRIVER,
            #[cfg(feature = "qcow")]
            Self::Qcow => &formats::qcow::DRIVER,
            #[cfg(feature = "parallels")]
            Self::Parallels => &formats::parallels::DRIVER,
            #[cfg(feature = "sparseimage")]
            Self::Sparseimage => &formats::sparseimage::DRIVER,
            #[cfg(feature = "sparsebundle")]
            Self::Sparsebundle => &formats::sparsebundle::DRIVER,
            #[cfg(feature = "asif")]
            Self::Asif => &formats::asif::DRIVER,
            #[cfg(feature = "ewf")]
            Self::Ewf => &formats::ewf::DRIVER,
            #[cfg(feature = "cloop")]
            Self::Cloop => &formats::cloop::DRIVER,
            #[cfg(feature = "bochs")]
            Self::Bochs => &formats::bochs::DRIVER,
            #[cfg(feature = "dmg")]
            Self::Dmg => &formats::dmg::DRIVER,
            #[cfg(feature = "ova")]
            Self::Ova => &formats::ova::DRIVER,
            #[cfg(feature = "iso")]
            Self::Iso => &formats::iso::DRIVER,
        }
    }

    /// Returns true if images of this format can be created.
    pub fn is_writable(self) -> bool {
        self.driver().create.is_some()
    }

    /// Returns what specifies a new image.
    ///
    /// # Errors
    /// Returns [`Unsupported`](crate::ErrorKind::Unsupported) if images of this format are only
    /// read.
    pub(crate) fn creator(self) -> Result<Create> {
        self.driver().create.ok_or_else(|| {
            let message = format!("Format driver '{self}' does not support image creation");
            let writable = Self::ALL.iter().filter(|format| format.is_writable());
            let names: Vec<_> = writable.map(|format| format.name()).collect();
            Error::unsupported(message)
                .hint(format!("formats that are written: {}", names.join(", ")))
        })
    }

    /// Returns the format of a new file of this name if no other is named: that of its
    /// [extension](Self::from_extension), otherwise raw.
    ///
    /// # Errors
    /// Returns [`Unsupported`](crate::ErrorKind::Unsupported) if the extension is that of a format
    /// that is not written, such as `.dmg`: nobody expects a raw disk there.
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) for `.qcow`, which most people mean as qcow2,
    /// and for the extensions of compressed files, such as `.gz`.
    pub fn of_new_file(path: &Path) -> Result<Self> {
        if let Some(format) = Self::from_extension(path) {
            return Ok(format);
        }
        let extension = path.extension().map(|name| name.to_string_lossy().to_ascii_lowercase());
        if extension.as_deref() == Some("qcow") {
            let message = "the extension .qcow may mean QCOW version 1 or qcow2";
            return Err(Error::invalid(message).hint("name the format: qcow2 or qcow"));
        }
        if let Some(name @ ("gz" | "tgz" | "zst" | "xz" | "bz2")) = extension.as_deref() {
            let message = format!("the extension .{name} is that of a compressed file");
            let hint = "name the format raw; with its option subformat=gzip, zstd or gce (a tar.gz) \
                        the disk is compressed";
            return Err(Error::invalid(message).hint(hint));
        }
        let named = extension.map(|name| name.parse::<Self>());
        match named.map(|named| named.and_then(Self::creator)) {
            Some(Err(error)) if error.kind() == ErrorKind::Unsupported => {
                Err(error.hint("name the format raw if a raw disk is to have this name"))
            }
            _ => Ok(Self::Raw),
        }
    }

    /// Returns the options that [`Create`](crate::Create) and [`Convert`](crate::Convert) accept
    /// for a new image of this format.
    pub fn options(self) -> &'static [OptionSpec] {
        self.driver().options
    }

    /// Returns the options that [`Amend`](crate::Amend) accepts for an image of this format, or
    /// `None` if they cannot be changed.
    pub fn amend_options(self) -> Option<&'static [OptionSpec]> {
        self.driver().amend.as_ref().map(|amending| amending.options)
    }
}

/// Returns the file by which a bundle is opened, if the path stands for one.
type FileOfBundle = fn(&Path) -> Option<PathBuf>;

/// The formats whose images may be bundles: directories.
const BUNDLES: &[(Format, FileOfBundle)] = &[
    #[cfg(feature = "parallels")]
    (Format::Parallels, formats::parallels::file_of_bundle),
    #[cfg(feature = "sparsebundle")]
    (Format::Sparsebundle, formats::sparsebundle::file_of_bundle),
];

/// Returns the file to open and its format if `path` stands for a bundle, an image that is a
/// directory, and the image is in the bundle's format or in one that is to be probed.
pub(crate) fn file_of_bundle(path: &Path, format: Option<Format>) -> Option<(PathBuf, Format)> {
    let is_wanted = |&&(of, _): &&(Format, FileOfBundle)| format.is_none_or(|format| format == of);
    let found = |&(of, find): &(Format, FileOfBundle)| find(path).map(|file| (file, of));
    BUNDLES.iter().filter(is_wanted).find_map(found)
}

/// Returns the directory whose files an image at `path` opens after it was opened, when they are
/// read, if it has one: the bands of a sparse bundle. A process that restricts which files it opens
/// must allow it as long as it reads the image.
#[cfg_attr(
    not(feature = "sparsebundle"),
    expect(unused_variables, reason = "there is no such format")
)]
pub fn directory_read_later(path: &Path) -> Option<PathBuf> {
    #[cfg(feature = "sparsebundle")]
    return formats::sparsebundle::directory_read_later(path);
    #[cfg(not(feature = "sparsebundle"))]
    None
}

/// Returns the format of a file whose last bytes say what its first ones are: a DMG may start with a
/// compressed chunk, which is not the file.
pub(crate) fn format_by_end(buffer: &ProbeBuffer<'_>) -> Option<Format> {
    #[cfg(feature = "dmg")]
    let formats = [Format::Dmg];
    #[cfg(not(feature = "dmg"))]
    let formats = [];
    formats.into_iter().find(|format: &Format| (format.driver().probe)(buffer))
}

/// Returns true if the format is recognized by what a disk contains, so that a file in another format
/// may start with the same bytes.
pub(crate) fn is_of_contents(format: Format) -> bool {
    #[cfg(feature = "iso")]
    let formats = [Format::Iso];
    #[cfg(not(feature = "iso"))]
    let formats = [];
    formats.contains(&format)
}

/// Returns true if the path has the extension of a DMG.
pub(crate) fn is_named_dmg(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("dmg"))
}

impl FromStr for Format {
    type Err = Error;

    /// Parses a format's [name](Format::name), or the one that [OpenStack](Format::openstack_name)
    /// uses.
    fn from_str(name: &str) -> Result<Self> {
        let is_named = |format: &Self| [format.name(), format.openstack_name()].contains(&name);
        if let Some(format) = Self::ALL.iter().copied().find(is_named) {
            return Ok(format);
        }
        if let Some((_, feature)) = Self::LEFT_OUT.iter().find(|(left_out, _)| *left_out == name) {
            return Err(Error::unsupported(format!(
                "this build does not include the format '{name}' (cargo feature {feature})"
            )));
        }
        let is_named = |known: &&Signature| known.name == name || known.alias == Some(name);
        let known = SIGNATURES.iter().filter(|known| known.kind == SignatureKind::Image);
        let error = match known.into_iter().find(is_named) {
            Some(known) => Error::unsupported(format!(
                "the format '{name}' ({}) is recognized, but not supported",
                known.what
            )),
            None => Error::invalid(format!("Unknown driver '{name}'")),
        };
        let supported: Vec<_> = Self::ALL.iter().map(|format| format.name()).collect();
        Err(error.hint(format!("supported formats: {}", supported.join(", "))))
    }
}
