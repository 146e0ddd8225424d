//! File names that differ only in their spelling, for errors about a file that is missing.
//!
//! ```text
//!   descriptor   disk%201.VMDK   .\disk1.vmdk   disk-é.vmdk (one character)
//!   package      disk 1.vmdk     disk1.vmdk     disk-é.vmdk (e, combining accent)
//! ```
//!
//! Such a file is not read instead: which one is meant is for the user to say.

use super::archive::normal_name;
use super::files::percent_decoded;
use unicode_normalization::UnicodeNormalization;

/// Returns the name in a form that is the same for all spellings. `ẞ` and `ß` are `ss`, as in file
/// systems that ignore case: only the lower-case letter has `SS` as its upper case.
pub(super) fn key(name: &str) -> String {
    let name = normal_name(&percent_decoded(name).replace('\\', "/"));
    // Lower case may be denormalized, and the other way round.
    let name = name.nfkc().collect::<String>().to_lowercase().to_uppercase().to_lowercase();
    name.nfkc().collect()
}

/// Returns the first of the names that is another spelling of `wanted`.
pub(super) fn find<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = key(wanted);
    names.into_iter().find(|name| key(name) == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_a_name_are_found() {
        for (wanted, name) in [
            ("Disk.vmdk", "disk.VMDK"),
            ("./d/a.vmdk", "d//a.vmdk"),
            ("d\\a.vmdk", "d/a.vmdk"),
            ("a b.vmdk", "a%20b.vmdk"),
            ("\u{e9}.vmdk", "e\u{301}.vmdk"),
            ("\u{c9}.vmdk", "e\u{301}.vmdk"),
            ("ma\u{df}.vmdk", "MASS.vmdk"),
            ("\u{1e9e}.vmdk", "ss.vmdk"),
            ("\u{fb01}x.vmdk", "fix.vmdk"),
            ("\u{3c3}\u{3c2}.vmdk", "\u{3a3}\u{3a3}.vmdk"),
        ] {
            assert_eq!(find(wanted, ["x", name].into_iter()), Some(name), "{wanted}");
            assert_eq!(find(name, ["x", wanted].into_iter()), Some(wanted), "{name}");
        }
        assert_eq!(find("a", ["b", "a/b"].into_iter()), None);
    }
}
