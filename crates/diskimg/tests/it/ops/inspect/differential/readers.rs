//! What other programs read.

use diskimg::Inspection;
use diskimg_testkit::tool::{run, try_run};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The result of `qemu-img info`.
#[derive(Debug)]
pub struct Info(Value);

/// The results of `qemu-img info` without and with a format; `None` if it refuses the file.
pub struct Infos {
    pub probed: Option<Info>,
    pub named: Option<Info>,
}

impl Info {
    fn of(path: &Path, format: Option<&str>) -> Option<Self> {
        let mut args = vec!["info", "--output", "json"];
        args.extend(format.iter().flat_map(|format| ["-f", *format]));
        args.push(path.to_str().unwrap());
        let output = try_run("qemu-img", args);
        let parsed = output.status.success().then(|| serde_json::from_slice(&output.stdout));
        parsed.map(|value| Self(value.unwrap()))
    }

    /// Describes the difference between this and the result of an inspection.
    pub fn unlike(&self, format: &str, found: &Inspection, path: &Path) -> Option<String> {
        let text = |key: &str| self.0[key].as_str();
        if text("format") != Some(format) {
            return Some(format!("the format is {:?}, not {format}", text("format")));
        }
        if let Some(backing) = text("backing-filename") {
            return Some(format!("the backing file {backing}"));
        }
        let data = &self.0["format-specific"]["data"];
        if let Some(file) = data["data-file"].as_str() {
            return Some(format!("the data file {file}"));
        }
        let extents = data["extents"].as_array().into_iter().flatten();
        let mut names = extents.filter_map(|extent| extent["filename"].as_str());
        if let Some(name) = names.find(|name| Path::new(name) != path) {
            return Some(format!("the extent {name}"));
        }
        if data["parent-cid"].as_u64().is_some_and(|cid| cid != u64::from(u32::MAX)) {
            return Some(format!("the parent with CID {}", data["parent-cid"]));
        }
        let size = self.0["virtual-size"].as_u64();
        let expected = match format {
            "raw" => Some(found.file_size.next_multiple_of(512)),
            _ => found.virtual_size,
        };
        (size != expected).then(|| format!("{size:?} bytes, not {expected:?}"))
    }
}

/// Runs `qemu-img info` for all files of a directory.
pub fn qemu(dir: &Path) -> BTreeMap<String, Infos> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let paths: Vec<PathBuf> = entries.collect();
    let infos = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let format = match path.extension().unwrap().to_str().unwrap() {
            format @ ("qcow2" | "vmdk") => Some(format),
            _ => None,
        };
        let named = format.and_then(|format| Info::of(path, Some(format)));
        (name, Infos { probed: Info::of(path, None), named })
    };
    let half = paths.len().div_ceil(2).max(1);
    std::thread::scope(|scope| {
        let parts: Vec<_> = paths
            .chunks(half)
            .map(|part| scope.spawn(|| part.iter().map(infos).collect::<Vec<_>>()))
            .collect();
        parts.into_iter().flat_map(|part| part.join().unwrap()).collect()
    })
}

/// What archive readers and XML parsers find in a file.
#[derive(Debug)]
pub struct Lists(Value);

impl Lists {
    /// Describes the difference between the readers, or between them and the format that was found.
    pub fn unlike(&self, format: &str) -> Option<String> {
        let lists = self.0["lists"].as_object().unwrap();
        if let Some(difference) = self.trees() {
            return Some(difference);
        }
        if format != "ova" {
            // bsdtar reads ISO images, too.
            let mut others =
                lists.iter().filter(|(reader, _)| format != "iso" || *reader != "bsdtar");
            let found =
                others.find(|(_, list)| list.as_array().is_some_and(|list| !list.is_empty()));
            return found.map(|(reader, list)| format!("{reader} lists {list}"));
        }
        let tars = lists
            .iter()
            .filter(|(reader, list)| !matches!(&***reader, "zipfile" | "unzip") && !list.is_null());
        let tars: Vec<_> = tars.collect();
        if let Some(pair) = tars.windows(2).find(|pair| pair[0].1 != pair[1].1) {
            return Some(format!("{pair:?}"));
        }
        if let Some(reader) = ["zipfile", "unzip"]
            .iter()
            .find(|reader| lists.get(**reader).is_some_and(Value::is_array))
        {
            return Some(format!("{reader} opens it"));
        }
        let files = self.0["files"].as_array().unwrap();
        let pair = files.windows(2).find(|pair| pair[0] != pair[1]);
        pair.map(|pair| format!("the descriptor's files: {pair:?}"))
    }
}

impl Lists {
    /// Describes the difference between the trees of an ISO image, or between files of one path.
    fn trees(&self) -> Option<String> {
        let trees = ["Rock Ridge", "Joliet", "ISO 9660"].into_iter();
        let trees: Vec<_> = trees.zip(self.0["trees"].as_array().unwrap()).collect();
        let files = |(title, tree): &(&'static str, &Value)| {
            let files = tree.as_object().unwrap().clone().into_iter();
            files.map(|(name, file)| (*title, name, file)).collect::<Vec<_>>()
        };
        let mut all = trees.iter().flat_map(files);
        all.find_map(|(title, name, file)| {
            if file.as_array().unwrap().len() > 1 {
                return Some(format!("{name} is {file} in {title}"));
            }
            trees.iter().find_map(|(other, tree)| {
                let differs = tree.get(&name).filter(|&known| *known != file)?;
                Some(format!("{name} is {file} in {title} and {differs} in {other}"))
            })
        })
    }
}

/// Runs the archive readers on all files of a directory.
pub fn archives(dir: &Path) -> BTreeMap<String, Lists> {
    let program = include_str!("../../../../../../diskimg-testkit/src/oracles/archive_readers.py");
    let output = run("python3", ["-I", "-c", program, dir.to_str().unwrap()]);
    let parsed = output.lines().map(|line| {
        let value: Value = serde_json::from_str(line).unwrap();
        (value["name"].as_str().unwrap().to_owned(), Lists(value))
    });
    parsed.collect()
}
