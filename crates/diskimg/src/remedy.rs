//! What a caller can change so that an operation that failed succeeds.

use std::fmt;

/// What the caller can change so that an operation that failed succeeds.
///
/// [`Error::remedy`](crate::Error::remedy) gives it. `Display` words it for Rust programs, as part
/// of the error's own `Display`; other front ends word it in their own terms, with
/// [`Error::describe`](crate::Error::describe).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Remedy {
    /// Raise this field of [`Limits`](crate::Limits).
    RaiseLimit(&'static str),
    /// Raise the `max_size` of the operation: [`Convert::max_size`](crate::Convert::max_size),
    /// [`Create::max_size`](crate::Create::max_size), or that of `InspectOptions`.
    RaiseMaxSize,
    /// Allow the image to name files in its own directory:
    /// [`ExternalFiles::SameDir`](crate::ExternalFiles::SameDir).
    AllowFilesInSameDir,
    /// Allow the image to name any file: [`ExternalFiles::Any`](crate::ExternalFiles::Any).
    AllowExternalFiles,
    /// Also search the directory above the image's own directory for the parent image:
    /// [`ExternalFiles::Any`](crate::ExternalFiles::Any).
    SearchParentDirectory,
    /// Name files that may be the parent:
    /// [`OpenOptions::possible_parents`](crate::OpenOptions::possible_parents).
    NameParents,
    /// Name the image's format: [`OpenOptions::format`](crate::OpenOptions::format).
    NameFormat,
    /// Name the image's format; if it is a raw disk,
    /// [`Format::Raw`](crate::Format::Raw).
    NameFormatRaw,
    /// Name the backing file's format: [`Backing::format`](crate::Backing::format).
    NameBackingFormat,
    /// Have the backing file opened: leave out
    /// [`Create::unsafe_backing`](crate::Create::unsafe_backing).
    OpenBackingFile,
    /// Accept a parent whose content ID differs:
    /// [`OpenOptions::ignore_content_id`](crate::OpenOptions::ignore_content_id).
    IgnoreContentId,
    /// Read what is left of a damaged image: [`OpenOptions::salvage`](crate::OpenOptions::salvage)
    /// and [`Convert::salvage`](crate::Convert::salvage).
    Salvage,
    /// Accept contradictions: leave
    /// [`OpenOptions::strict`](crate::OpenOptions::strict) unset.
    AcceptContradictions,
    /// Do not verify the appliance against its manifest:
    /// [`Convert::verify_manifest`](crate::Convert::verify_manifest).
    SkipManifest,
    /// Open the image without locking it, although another process is writing to it:
    /// [`OpenOptions::force_share`](crate::OpenOptions::force_share).
    ForceShare,
    /// Allow the disk to become smaller: [`Resize::shrink`](crate::Resize::shrink).
    AllowShrinking,
    /// Repair the image first: [`Repair`](crate::Repair) with
    /// [`RepairScope::All`](crate::check::RepairScope::All).
    Repair,
    /// Change the backing file in another way: [`Rebase`](crate::Rebase).
    Rebase,
    /// Remove the inconsistent bitmap: `formats::qcow2::Qcow2Mut::remove_bitmap`.
    RemoveBitmap,
    /// Remove the inconsistent bitmap, or leave it out:
    /// [`Convert::skip_broken_bitmaps`](crate::Convert::skip_broken_bitmaps).
    SkipBrokenBitmaps,
    /// Give the size of the new disk: [`Create::size`](crate::Create::size).
    GiveSize,
    /// Look up the options of the format:
    /// [`Format::options`](crate::Format::options).
    ListOptions,
    /// Compress the output: [`Convert::compress`](crate::Convert::compress).
    Compress,
    /// Copy what cannot be shared: [`Reflink::Auto`](crate::Reflink::Auto).
    AllowCopying,
    /// Leave out [`Convert::offload`](crate::Convert::offload).
    LeaveOutOffload,
    /// Write through the page cache: [`Caching::Buffered`](crate::Caching::Buffered).
    UsePageCache,
    /// Write a new image instead of one that exists: leave out
    /// [`Convert::run_existing`](crate::Convert::run_existing).
    WriteNewImage,
    /// Write into the existing image:
    /// [`Convert::run_existing`](crate::Convert::run_existing).
    OverwriteExisting,
    /// Choose one disk of the appliance: [`OpenOptions::disk`](crate::OpenOptions::disk).
    ChooseDisk,
    /// Read the ISO image in spite of its damage:
    /// [`IsoOptions::strict`](crate::iso::IsoOptions::strict).
    TolerateDamage,
    /// Read another tree of the ISO image:
    /// [`IsoOptions::namespace`](crate::iso::IsoOptions::namespace).
    ChooseNamespace,
    /// Write ISO 9660 interchange level 3, which allows files of 4 GiB and more:
    /// [`Level::Three`](crate::iso::write::Level::Three).
    IsoLevel3,
    /// Record the files' attributes with Rock Ridge:
    /// [`CreateOptions::rock_ridge`](crate::iso::write::CreateOptions::rock_ridge).
    EnableRockRidge,
    /// Leave directories at their depth:
    /// [`CreateOptions::deep_directories`](crate::iso::write::CreateOptions::deep_directories).
    KeepDeepDirectories,
    /// Record symbolic links as such:
    /// [`CreateOptions::follow_symlinks`](crate::iso::write::CreateOptions::follow_symlinks).
    KeepSymlinks,
    /// Set the number of sectors of a boot image to load:
    /// [`BootEntry::load_sectors`](crate::iso::write::BootEntry::load_sectors).
    SetLoadSectors,
    /// Give the boot catalog another path:
    /// [`CreateOptions::boot_catalog`](crate::iso::write::CreateOptions::boot_catalog).
    MoveBootCatalog,
    /// Leave out this part of the ISO image, a word of `iso::Droppable`:
    /// `iso::RemasterOptions::drop`.
    DropFromImage(&'static str),
    /// Build the ISO image from files: [`iso::write`](crate::iso::write).
    BuildIsoImage,
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RaiseLimit(name) => return write!(f, "raise Limits::{name}"),
            Self::RaiseMaxSize => "raise max_size",
            Self::AllowFilesInSameDir => "ExternalFiles::SameDir allows it",
            Self::AllowExternalFiles => "ExternalFiles::Any allows it",
            Self::SearchParentDirectory => {
                "ExternalFiles::Any searches the directory above as well"
            }
            Self::NameParents => "OpenOptions::possible_parents names files to search",
            Self::NameFormat => "set the format with OpenOptions::format",
            Self::NameFormatRaw => {
                "if it is a raw disk, set the format with OpenOptions::format(Format::Raw)"
            }
            Self::NameBackingFormat => "set Backing::format",
            Self::OpenBackingFile => "leave out Create::unsafe_backing",
            Self::IgnoreContentId => "OpenOptions::ignore_content_id opens the image anyway",
            Self::Salvage => "OpenOptions::salvage and Convert::salvage read what is left",
            Self::AcceptContradictions => "with OpenOptions::strict unset, it is a warning",
            Self::SkipManifest => "Convert::verify_manifest(false) skips the verification",
            Self::ForceShare => "OpenOptions::force_share opens it without a lock",
            Self::AllowShrinking => "Resize::shrink allows it",
            Self::Repair => "Repair with RepairScope::All repairs it",
            Self::Rebase => "Rebase changes it",
            Self::RemoveBitmap => "Qcow2Mut::remove_bitmap deletes it",
            Self::SkipBrokenBitmaps => {
                "Convert::skip_broken_bitmaps leaves it out, Qcow2Mut::remove_bitmap deletes it"
            }
            Self::GiveSize => "set Create::size, or name a backing file to take it from",
            Self::ListOptions => "Format::options lists the options",
            Self::Compress => "Convert::compress compresses the output",
            Self::AllowCopying => "Reflink::Auto copies what cannot be shared",
            Self::LeaveOutOffload => "leave out Convert::offload",
            Self::UsePageCache => "write through the page cache: Caching::Buffered",
            Self::WriteNewImage => "convert into a new file",
            Self::OverwriteExisting => "convert into the existing one",
            Self::ChooseDisk => "OpenOptions::disk chooses one",
            Self::TolerateDamage => "with IsoOptions::strict unset, it is tolerated",
            Self::ChooseNamespace => "IsoOptions::namespace selects another tree",
            Self::IsoLevel3 => "set the interchange level to Level::Three",
            Self::EnableRockRidge => "set CreateOptions::rock_ridge",
            Self::KeepDeepDirectories => "set CreateOptions::deep_directories",
            Self::KeepSymlinks => "unset CreateOptions::follow_symlinks",
            Self::SetLoadSectors => "set BootEntry::load_sectors",
            Self::MoveBootCatalog => "set CreateOptions::boot_catalog to another path",
            Self::DropFromImage(what) => {
                return write!(f, "RemasterOptions::drop with '{what}' leaves it out");
            }
            Self::BuildIsoImage => "build one from files with iso::write",
        })
    }
}
