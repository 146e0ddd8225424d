//! The library's remedies in terms of the Python package's arguments.

use diskimg::Remedy;

/// Names the argument that helps.
pub(crate) fn argument(remedy: Remedy) -> Option<String> {
    let text = match remedy {
        Remedy::RaiseLimit(name) => {
            return Some(format!("limits={{\"{name}\": N}} raises the limit"));
        }
        Remedy::DropFromImage(what) => return Some(format!("drop=[\"{what}\"] leaves it out")),
        Remedy::RaiseMaxSize => "max_size= raises the limit",
        Remedy::AllowFilesInSameDir => "external_files=\"same-dir\" allows it",
        Remedy::AllowExternalFiles => "external_files=\"any\" allows it",
        Remedy::SearchParentDirectory => {
            "external_files=\"any\" searches the directory above as well"
        }
        Remedy::NameParents => "possible_parents= names files to search",
        Remedy::NameFormat => "name its format with format=, or src_format= in convert",
        Remedy::NameFormatRaw => {
            "if it is a raw disk, say so with format=\"raw\", or src_format=\"raw\" in convert"
        }
        Remedy::NameBackingFormat => "set backing_format=",
        Remedy::OpenBackingFile => "the backing file must be opened",
        Remedy::IgnoreContentId => "ignore_content_id=True opens the image anyway",
        Remedy::Salvage => "convert(…, salvage=True) reads what is left",
        Remedy::AcceptContradictions => "without strict=True, it is a warning",
        Remedy::SkipManifest => "verify_manifest=False skips the verification",
        Remedy::ForceShare => "force_share=True reads it anyway",
        Remedy::AllowShrinking => "shrink=True allows it",
        Remedy::Repair => "check(…, repair=\"all\") repairs it",
        Remedy::Rebase => "diskimg.rebase() changes it",
        Remedy::RemoveBitmap => "diskimg.remove_bitmap() deletes it",
        Remedy::SkipBrokenBitmaps => {
            "skip_broken_bitmaps=True leaves it out, diskimg.remove_bitmap() deletes it"
        }
        Remedy::GiveSize => "give size=, or backing= to take it from",
        Remedy::ListOptions => "diskimg.create_options() lists the options",
        Remedy::Compress => "compress=True compresses the output",
        Remedy::AllowCopying => "reflink=\"auto\" copies what cannot be shared",
        Remedy::LeaveOutOffload => "leave out offload=True",
        Remedy::UsePageCache => "leave out direct=True",
        Remedy::WriteNewImage => "leave out in_place=True to create a new file",
        Remedy::OverwriteExisting => "in_place=True overwrites an existing one",
        Remedy::ChooseDisk => "disk= chooses one",
        Remedy::TolerateDamage => "strict=False tolerates it",
        Remedy::ChooseNamespace => "namespace= selects another tree",
        Remedy::IsoLevel3 => "level=3 allows it",
        Remedy::EnableRockRidge => "leave out rock_ridge=False",
        Remedy::KeepDeepDirectories => "deep_directories=True leaves them where they are",
        Remedy::KeepSymlinks => "leave out follow_symlinks=True",
        Remedy::SetLoadSectors => "set load_sectors=",
        Remedy::MoveBootCatalog => "set boot_catalog= to another path",
        Remedy::BuildIsoImage => "diskimg.iso.create() creates one from files",
        other => return Some(other.to_string()),
    };
    Some(text.to_owned())
}
