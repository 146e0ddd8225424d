//! The library names no option of the command: errors carry a `Remedy`, which front ends word.

use std::path::{Path, PathBuf};

/// Options of other programs that messages may name.
const OTHER_PROGRAMS: [&str; 5] =
    ["vmkfstools -i", "ulimit -n", "{tool} -d", "GNU tar's --sparse", "mount -r -t iso9660"];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Returns the parts of a line that are inside string literals.
fn literals(line: &str) -> impl Iterator<Item = &str> {
    line.split('"').skip(1).step_by(2)
}

fn names_an_option(text: &str) -> bool {
    text.split([' ', '(', '`', '\'']).any(|word| {
        let word = word.trim_end_matches([',', ';', ')', '.', ':']);
        let name = word.split('=').next().unwrap_or(word);
        let is_long = name.strip_prefix("--").is_some_and(|rest| rest.len() > 1);
        let is_short = name.len() == 2
            && name.starts_with('-')
            && name.ends_with(|c: char| c.is_ascii_alphabetic());
        is_long || is_short
    })
}

#[test]
fn no_message_of_the_library_names_an_option() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    assert!(files.len() > 150, "{}", files.len());
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
            let known = OTHER_PROGRAMS.iter().any(|program| line.contains(program));
            let option = literals(line).find(|text| names_an_option(text));
            assert!(known || option.is_none(), "{}: {line}", file.display());
        }
    }
}

#[test]
fn options_are_told_from_other_words() {
    for text in ["use --limit", "(--limit=N)", "leave out -C", "`-o help` lists", "-f raw"] {
        assert!(names_an_option(text), "{text}");
    }
    for text in ["a - b", "1-2", "--", "-", "read-only", "x-flat.vmdk", "a -> b", "-1"] {
        assert!(!names_an_option(text), "{text}");
    }
}
