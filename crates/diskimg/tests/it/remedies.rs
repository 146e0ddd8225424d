//! The library names no option of the command: errors carry a `Remedy`, which front ends word.

use std::path::{Path, PathBuf};

/// Options of other programs that messages may name.
const OTHER_PROGRAMS: [&str; 7] = [
    "vmkfstools -i",
    "ulimit -n",
    "{tool} -d",
    "mount -r -t iso9660",
    "--interval:",
    "hdiutil",
    "affconvert",
];

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

/// Returns the string literals of a source file, without comments and the module `tests`.
fn literals(source: &str) -> Vec<String> {
    let code = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(at) = rest.find(['"', '/', '\'']) {
        let (before, from) = rest.split_at(at);
        if from.starts_with("//") {
            rest = from.split_once('\n').map_or("", |(_, next)| next);
        } else if from.starts_with("'\"'") || from.starts_with("'\\\"'") {
            rest = from[1..].split_once('\'').map_or("", |(_, next)| next);
        } else if let Some(text) = from.strip_prefix('"') {
            let hashes = before.len() - before.trim_end_matches('#').len();
            let is_raw = before.trim_end_matches('#').ends_with('r');
            let end = if is_raw {
                text.find(&format!("\"{}", "#".repeat(hashes)))
            } else {
                let mut escaped = false;
                text.find(|c: char| {
                    let ends = c == '"' && !escaped;
                    escaped = c == '\\' && !escaped;
                    ends
                })
            };
            let end = end.unwrap_or(text.len());
            found.push(text[..end].to_owned());
            rest = text.get(end + 1..).unwrap_or_default();
        } else {
            rest = &from[1..];
        }
    }
    found
}

fn names_an_option(text: &str) -> bool {
    text.split([' ', '\n', '(', '`', '\'']).any(|word| {
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
        for text in literals(&text) {
            let known = OTHER_PROGRAMS.iter().any(|program| text.contains(program));
            assert!(known || !names_an_option(&text), "{}: {text:?}", file.display());
        }
    }
}

#[test]
fn literals_are_found_in_source_code() {
    let source = r##"a("x --y", 'b', '"'); // "no"
        let c = "one \
                 two"; let d = r#"e " f"#; "\\"; "g"
#[cfg(test)]
mod tests { "not here" }"##;
    let found = literals(source);
    let expected = ["x --y", "one \\\n                 two", "e \" f", "\\\\", "g"];
    assert_eq!(found, expected);
}

#[test]
fn options_are_distinguished_from_other_words() {
    for text in ["use --limit", "(--limit=N)", "leave out -C", "`-o help` lists", "-f raw"] {
        assert!(names_an_option(text), "{text}");
    }
    for text in ["a - b", "1-2", "--", "-", "read-only", "x-flat.vmdk", "a -> b", "-1"] {
        assert!(!names_an_option(text), "{text}");
    }
}
