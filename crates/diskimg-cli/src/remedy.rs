//! The library's remedies in terms of command-line options.

use diskimg::{Error, Remedy};

/// The error in one line, with the option that helps.
pub(crate) fn message(error: &Error) -> String {
    error.describe(|remedy| Some(option(remedy)))
}

/// Like [`message`], for the second image of `compare`, whose format is set with `-F`.
pub(crate) fn second_image_message(error: &Error) -> String {
    error.describe(|remedy| Some(option(remedy).replace("-f", "-F")))
}

fn option(remedy: Remedy) -> String {
    let text = match remedy {
        Remedy::RaiseLimit(name) => return format!("--limit {name}=N raises the limit"),
        Remedy::DropFromImage(what) => return format!("--drop {what} leaves it out"),
        Remedy::RaiseMaxSize => "--max-size raises the limit",
        Remedy::AllowFilesInSameDir => "--external-files=same-dir allows it",
        Remedy::AllowExternalFiles => "--external-files=any allows it",
        Remedy::SearchParentDirectory => {
            "--external-files=any searches the directory above as well"
        }
        Remedy::NameParents => "--parent names a file to search",
        Remedy::NameFormat => "name the format with -f",
        Remedy::NameFormatRaw => "if it is a raw disk, use -f raw",
        Remedy::NameBackingFormat => "name its format with -F",
        Remedy::OpenBackingFile => "the backing file must be opened: leave out -u",
        Remedy::IgnoreContentId => "--ignore-cid opens the image anyway",
        Remedy::Salvage => "'diskimg convert --salvage' reads what is left",
        Remedy::AcceptContradictions => "without --strict, it is a warning",
        Remedy::SkipManifest => "--no-verify skips the verification",
        Remedy::ForceShare => "-U reads it anyway",
        Remedy::AllowShrinking => "Use the --shrink option to perform a shrink operation.",
        Remedy::Repair => "'diskimg check -r all' repairs it",
        Remedy::Rebase => "'diskimg rebase' changes it",
        Remedy::RemoveBitmap => "'diskimg bitmap --remove' deletes it",
        Remedy::SkipBrokenBitmaps => {
            "--skip-broken-bitmaps leaves it out, 'diskimg bitmap --remove' deletes it"
        }
        Remedy::GiveSize => "give SIZE, or a backing file to take it from",
        Remedy::ListOptions => "-o help lists the options",
        Remedy::Compress => "-c compresses the output",
        Remedy::AllowCopying => "--reflink=auto copies what cannot be shared",
        Remedy::LeaveOutOffload => "leave out -C",
        Remedy::UsePageCache => "write through the page cache with -t writeback",
        Remedy::WriteNewImage => "leave out -n to write a new image",
        Remedy::OverwriteExisting => "-n overwrites an existing one",
        Remedy::ChooseDisk => "choose one, as in appliance.ova:1",
        Remedy::TolerateDamage => "leave out --strict to tolerate it",
        Remedy::ChooseNamespace => "--namespace selects another tree",
        Remedy::IsoLevel3 => "use --level 3 (mkisofs: -iso-level 3)",
        Remedy::EnableRockRidge => "use --rock-ridge=rationalized (mkisofs: -r)",
        Remedy::KeepDeepDirectories => "mkisofs's -D leaves them where they are",
        Remedy::KeepSymlinks => "leave out --follow (mkisofs: -f)",
        Remedy::SetLoadSectors => {
            "set the number of sectors to load with mkisofs's -boot-load-size"
        }
        Remedy::MoveBootCatalog => "give the boot catalog another path with mkisofs's -c",
        Remedy::BuildIsoImage => "'diskimg iso create' builds one from files",
        other => return other.to_string(),
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remedy_is_worded_as_an_option() {
        let error = Error::refused("no").with_remedy(Remedy::AllowExternalFiles);
        assert_eq!(message(&error), "no (--external-files=any allows it)");
        let error = Error::limit("too many").with_remedy(Remedy::RaiseLimit("ovf_disks"));
        assert_eq!(message(&error), "too many (--limit ovf_disks=N raises the limit)");
    }
}
