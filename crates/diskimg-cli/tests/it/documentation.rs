//! What the pages in docs/ show: the examples run as written, help is as the command prints it, and
//! links lead somewhere.

use crate::support::{Lab, diskimg};
use std::fs;
use std::path::{Path, PathBuf};

/// Returns the top directory of the project.
fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Returns the Markdown files below a directory, with their texts.
fn pages(directory: &Path) -> Vec<(PathBuf, String)> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| match path.extension().is_some_and(|extension| extension == "md") {
            true => vec![(path.clone(), fs::read_to_string(&path).unwrap())],
            false if path.is_dir() => pages(&path),
            false => Vec::new(),
        })
        .collect()
}

/// Returns the fenced blocks of `language` in a page.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let start = format!("```{language}\n");
    let parts = text.split(start.as_str()).skip(1);
    parts.map(|part| part.split_once("```").expect("is closed").0).collect()
}

/// Runs the shell commands of a page, in order, in a checkout.
fn run_examples(page: &str) {
    let text = fs::read_to_string(project().join("docs").join(page)).unwrap();
    let lab = Lab::new();
    std::os::unix::fs::symlink(project().join("testdata"), lab.path("testdata")).unwrap();
    fs::create_dir(lab.path("bin")).unwrap();
    std::os::unix::fs::symlink(diskimg(), lab.path("bin/diskimg")).unwrap();
    let path = format!("{}:{}", lab.path("bin").display(), std::env::var("PATH").unwrap());
    let examples = blocks(&text, "sh");
    assert!(!examples.is_empty(), "{page} has no examples");
    for example in examples {
        let mut shell = lab.command("sh");
        shell.args(["-euc", example]).env("PATH", &path).env("HOME", lab.path("home"));
        let output = shell.output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{page}: {example}{error}");
    }
}

#[test]
fn the_first_steps_run_as_written() {
    run_examples("getting-started.md");
}

#[test]
fn completions_manual_pages_and_links_are_installed_as_written() {
    run_examples("installation.md");
}

#[test]
#[ignore = "needs coreutils, gzip and dd"]
fn the_recipes_run_as_written() {
    run_examples("recipes.md");
}

/// Returns the block of a page for a line that asks for help, as it should be.
fn help_block(line: &str) -> String {
    let arguments = line.strip_prefix("$ diskimg ").expect("runs diskimg");
    let lab = Lab::new();
    let output = lab.command(diskimg()).args(arguments.split(' ')).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    // No space at the end of a line, as in the files of this project.
    let text: Vec<_> = text.trim_end().lines().map(str::trim_end).collect();
    format!("{line}\n{}\n", text.join("\n"))
}

/// `DISKIMG_UPDATE_DOCS=1` writes the current help into the pages instead.
#[test]
fn the_help_in_the_documentation_is_current() {
    let update = std::env::var_os("DISKIMG_UPDATE_DOCS").is_some();
    let mut count = 0;
    for (path, text) in pages(&project().join("docs/commands")) {
        let mut current = text.clone();
        for block in blocks(&text, "text").iter().filter(|block| block.starts_with("$ diskimg ")) {
            count += 1;
            let line = block.lines().next().unwrap();
            current = current.replace(block, &help_block(line));
        }
        if update {
            fs::write(&path, &current).unwrap();
        }
        let hint = "DISKIMG_UPDATE_DOCS=1 cargo test current";
        assert!(update || current == text, "{} is outdated: run {hint}", path.display());
    }
    assert!(count > 20, "only {count} commands are shown with their help");
}

/// Returns the names that a page gives its headings as link targets, as GitHub and mdBook do.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |line: &str| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

/// Returns the targets of the links in a page.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0))
}

#[test]
fn links_in_the_documentation_lead_to_files_and_headings() {
    let mut all = pages(&project().join("docs"));
    for name in ["README.md", "SECURITY.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"] {
        let path = project().join(name);
        all.push((path.clone(), fs::read_to_string(path).unwrap()));
    }
    let mut broken = Vec::new();
    for (path, text) in &all {
        for link in links(text).filter(|link| !link.contains("://")) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => path.clone(),
                file => path.parent().unwrap().join(file),
            };
            let found = match fs::read_to_string(&target) {
                Ok(text) => heading.is_empty() || anchors(&text).iter().any(|a| a == heading),
                // A directory or an image.
                Err(_) => target.exists() && heading.is_empty(),
            };
            if !found {
                broken.push(format!("{}: {link}", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "broken links:\n{}", broken.join("\n"));
}

#[test]
fn the_table_of_contents_names_all_pages() {
    let docs = project().join("docs");
    let summary = fs::read_to_string(docs.join("SUMMARY.md")).unwrap();
    let listed: Vec<_> = links(&summary).map(|link| docs.join(link)).collect();
    for (path, _) in pages(&docs) {
        assert!(path.ends_with("SUMMARY.md") || listed.contains(&path), "{}", path.display());
    }
}
