//! `ls`: lists partitions, and the files in one.

use crate::args::common::OutputFormat;
use crate::args::ls::{Job, Selector};
use crate::commands::iso::ls::List;
use crate::confine::{self, Rules};
use crate::failure::Failure;
use crate::output::{Console, human, json};
use crate::remedy::message;
use diskimg::files::{self, FileSystem, Kind, Recognized, recognize};
use diskimg::iso::{FileType, Node};
use diskimg::partition::{self, Partition, Role, Table};
use diskimg::storage::source::{Source, WindowSource};
use diskimg::{Error, ErrorKind, Format, Image, Remedy, printable};
use serde::Serialize;
use std::fmt::Write as _;
use std::sync::Arc;

/// Prints the list.
pub(super) fn run(job: &Job, console: &Console) -> Result<u8, Failure> {
    let mut inputs = vec![&job.input];
    inputs.extend(job.disk.as_deref());
    let (image, is_disk) = confine::open(&Rules::new(), &inputs, || open(job, console))?;
    let partition = job.partition.as_ref().filter(|_| !is_disk);
    let name = match &job.disk {
        Some(disk) if is_disk => disk.shown(),
        _ => job.input.shown(),
    };
    let disk = Disk::read(Arc::new(image), name, partition, job)?;
    match partition {
        Some(selector) => disk.files(Some(selector), job, console),
        None if !job.paths.is_empty() => disk.files(None, job, console),
        None if job.output == OutputFormat::Json => {
            json::print(console, &disk.description())?;
            Ok(disk.report_failures(console))
        }
        None if disk.table.is_none() && disk.whole.as_ref().is_some_and(|w| w.kind.is_listed()) => {
            disk.files(Some(&Selector::Number(0)), job, console)
        }
        None => {
            let oddities = disk.table.iter().flat_map(|table| &table.oddities);
            console.print(&disk.text())?;
            console.warn(oddities.map(|oddity| format!("{}: {oddity}", disk.name)));
            Ok(disk.report_failures(console))
        }
    }
}

/// Opens the image. Returns true if the number after the colon is that of a disk of an appliance.
fn open(job: &Job, console: &Console) -> Result<(Image, bool), Failure> {
    let opened = job.input.try_open(console.program());
    let is_appliance = match &opened {
        Ok(image) => image.format() == Format::Ova,
        Err(error) => error.remedy() == Some(Remedy::ChooseDisk),
    };
    match job.disk.as_ref().filter(|_| is_appliance) {
        Some(disk) => Ok((disk.open(console.program())?, true)),
        // Again, for the advice that it gives.
        None if opened.is_err() => Ok((job.input.open(console.program())?, false)),
        None => Ok((opened?, false)),
    }
}

/// A disk, its partition table and what its partitions contain.
struct Disk {
    image: Arc<dyn Source>,
    name: String,
    table: Option<Table>,
    /// What the whole disk contains.
    whole: Option<Recognized>,
    /// What each partition contains.
    contents: Vec<Option<Recognized>>,
    /// Why the contents of partitions, or of the disk, are not known.
    failures: Vec<String>,
}

/// The JSON object for a disk.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Description<'a> {
    image: &'a str,
    size: u64,
    partition_table: Option<TableObject<'a>>,
    file_system: Option<&'a Recognized>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct TableObject<'a> {
    scheme: &'a partition::Scheme,
    others: &'a [partition::Scheme],
    sector_bytes: u64,
    id: Option<&'a str>,
    partitions: Vec<PartitionObject<'a>>,
    oddities: &'a [partition::Oddity],
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct PartitionObject<'a> {
    #[serde(flatten)]
    partition: &'a Partition,
    file_system: Option<&'a Recognized>,
}

impl Disk {
    /// Reads the partition table, and the contents as far as `selector` and the job need them.
    fn read(
        image: Arc<dyn Source>,
        name: String,
        selector: Option<&Selector>,
        job: &Job,
    ) -> Result<Self, Failure> {
        let in_file = |error: Error| Failure::from(error.in_file(&name));
        let table = partition::table(&*image, job.sector_bytes).map_err(in_file)?;
        let mut failures = Vec::new();
        let whole = match recognize(&image) {
            Err(error) if !is_passing(&error) => {
                failures.push(message(&error.in_file(&name)));
                None
            }
            found => found.map_err(in_file)?,
        };
        // The boot sector of a partition table may look like that of FAT, but not like others.
        let whole = whole.filter(|found| table.is_none() || found.kind == Kind::Iso);
        // The contents of all partitions are needed for the table, and to find one by them.
        let is_needed = match selector {
            Some(selector) => matches!(selector, Selector::Label(_) | Selector::Uuid(_)),
            None => job.paths.is_empty(),
        };
        let partitions = table.as_ref().map_or(&[][..], |table| &table.partitions);
        let contents = match is_needed {
            true => files::contents(&image, partitions).map_err(in_file)?,
            false => files::Contents::default(),
        };
        failures.extend(contents.errors.into_iter().map(|e| message(&e.in_file(&name))));
        let mut contents = contents.recognized;
        contents.resize(partitions.len(), None);
        Ok(Self { image, name, table, whole, contents, failures })
    }

    /// Prints why contents are not known, and returns the exit code.
    fn report_failures(&self, console: &Console) -> u8 {
        console.warn(&self.failures);
        u8::from(!self.failures.is_empty())
    }

    /// Returns the partitions, with what they contain.
    fn partitions(&self) -> impl Iterator<Item = (&Partition, Option<&Recognized>)> {
        let partitions = self.table.iter().flat_map(|table| &table.partitions);
        partitions.zip(self.contents.iter().map(Option::as_ref))
    }

    /// Lists the files of a partition; of the whole disk without a selector.
    fn files(
        &self,
        selector: Option<&Selector>,
        job: &Job,
        console: &Console,
    ) -> Result<u8, Failure> {
        let name = match selector {
            Some(Selector::Number(0)) | None => self.name.clone(),
            Some(selector) => format!("{}:{selector}", self.name),
        };
        if matches!(selector, Some(Selector::Label(_) | Selector::Uuid(_))) {
            console.warn(&self.failures);
        }
        let source = self.source(selector)?;
        let files = FileSystem::open(source, &job.limits).map_err(|e| e.in_file(&name))?;
        console.warn(files.warnings().iter().map(|warning| format!("{name}: {warning}")));
        let full_paths = job.recursive || job.paths.len() > 1;
        let mut list = List::new(console.stdout(), job.output, job.long, false);
        list.begin()?;
        let root = [Vec::new()];
        let paths = if job.paths.is_empty() { &root[..] } else { &job.paths };
        for path in paths {
            let in_path = |error: Error| error.in_file(&name);
            let node = files.lookup(path).map_err(in_path)?;
            if !is_directory(&files, path, &node).map_err(in_path)? {
                let path = path.strip_prefix(b"/").unwrap_or(path);
                list.row(path, path, &node)?;
                continue;
            }
            let walk = files.walk(path).map_err(in_path)?;
            list.walk(walk, job.recursive, full_paths, console)?;
        }
        list.end()
    }

    /// Returns the bytes of the selected partition.
    fn source(&self, selector: Option<&Selector>) -> Result<Arc<dyn Source>, Failure> {
        let fail = |message: String| Err(Failure::error(format!("{}: {message}", self.name)));
        let selector = match selector {
            None | Some(Selector::Number(0)) => match (&self.table, &self.whole) {
                (Some(table), None) => {
                    let first = table.partitions.first().map_or(1, |first| first.number);
                    return fail(format!(
                        "the disk has partitions (choose one, as in {}:{first})",
                        self.name
                    ));
                }
                _ => return Ok(Arc::clone(&self.image)),
            },
            Some(selector) => selector,
        };
        let wanted = |partition: &Partition, found: Option<&Recognized>| {
            let same = |value: Option<&String>, wanted: &str| {
                value.is_some_and(|value| value.eq_ignore_ascii_case(wanted))
            };
            match selector {
                Selector::Number(number) => partition.number == *number,
                Selector::Label(label) => found.and_then(|f| f.label.as_ref()) == Some(label),
                Selector::Uuid(uuid) => same(found.and_then(|f| f.uuid.as_ref()), uuid),
                Selector::PartLabel(name) => partition.name.as_ref() == Some(name),
                Selector::PartUuid(id) => same(partition.id.as_ref(), id),
            }
        };
        let mut matching = self.partitions().filter(|(p, found)| wanted(p, *found));
        let Some((partition, _)) = matching.next() else {
            let numbers: Vec<_> = self.partitions().map(|(p, _)| p.number.to_string()).collect();
            return fail(match numbers.is_empty() {
                true => format!("no partition {selector}: the disk has no partition table"),
                false => format!("no partition {selector} (partitions: {})", numbers.join(", ")),
            });
        };
        if let Some((other, _)) = matching.next() {
            let numbers = format!("{} and {}", partition.number, other.number);
            return fail(format!("partitions {numbers} are {selector}: use a number"));
        }
        if partition.role == Role::Extended {
            return fail(format!(
                "partition {} is extended (its logical partitions have numbers from 5)",
                partition.number
            ));
        }
        match window(&self.image, partition) {
            Some(source) => Ok(source),
            None => fail(format!("partition {} is beyond the end of the disk", partition.number)),
        }
    }

    fn description(&self) -> Description<'_> {
        let table = self.table.as_ref().map(|table| TableObject {
            scheme: &table.scheme,
            others: &table.others,
            sector_bytes: table.sector_bytes,
            id: table.id.as_deref(),
            partitions: self
                .partitions()
                .map(|(partition, file_system)| PartitionObject { partition, file_system })
                .collect(),
            oddities: &table.oddities,
        });
        Description {
            image: &self.name,
            size: self.image.len(),
            partition_table: table,
            file_system: self.whole.as_ref(),
        }
    }

    /// Returns the table of partitions as text.
    fn text(&self) -> String {
        let mut text = format!("{}: {}", printable(&self.name), human::size(self.image.len()));
        match &self.table {
            Some(table) => {
                let _ = write!(text, ", {}", scheme(table.scheme));
                if table.sector_bytes != 512 {
                    let _ = write!(text, ", sectors of {} bytes", table.sector_bytes);
                }
                if !table.others.is_empty() {
                    let others: Vec<_> = table.others.iter().map(|&other| scheme(other)).collect();
                    let _ = write!(text, " (also: {})", others.join(", "));
                }
            }
            None => text.push_str(", no partition table"),
        }
        if let Some(whole) = &self.whole {
            let label = whole.label.as_deref().map(|label| format!(" {:?}", printable(label)));
            let _ = write!(text, ", {}{}", whole.kind, label.unwrap_or_default());
        }
        text.push('\n');
        let rows: Vec<_> = self.partitions().map(|(p, found)| row(p, found)).collect();
        if !rows.is_empty() {
            columns(&mut text, &rows);
        }
        text
    }
}

/// Returns true if a file is a directory, or a symbolic link to one. A link may lead nowhere.
fn is_directory(files: &FileSystem, path: &[u8], node: &Node) -> Result<bool, Error> {
    if node.file_type != FileType::Symlink {
        return Ok(node.is_dir());
    }
    match files.lookup(&[path, &b"/"[..]].concat()) {
        Err(error) if error.kind() == ErrorKind::Invalid => Ok(false),
        found => found.map(|node| node.is_dir()),
    }
}

/// Returns true for an error that says nothing about what a disk contains.
fn is_passing(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Transient | ErrorKind::Cancelled)
}

/// Returns the bytes of a partition, unless it begins beyond the end of the disk.
fn window(image: &Arc<dyn Source>, partition: &Partition) -> Option<Arc<dyn Source>> {
    let range = partition.range(image.len())?;
    Some(Arc::new(WindowSource::new(Arc::clone(image), range).ok()?))
}

fn scheme(scheme: partition::Scheme) -> &'static str {
    match scheme {
        partition::Scheme::Gpt => "GPT",
        partition::Scheme::Apm => "Apple partition map",
        _ => "MBR",
    }
}

/// Titles of the columns, and whether they are aligned to the right.
const TITLES: [(&str, bool); 7] = [
    ("", true),
    ("Start", true),
    ("Size", true),
    ("Type", false),
    ("Name", false),
    ("Contents", false),
    ("Label", false),
];

/// Returns the cells of a partition.
fn row(partition: &Partition, found: Option<&Recognized>) -> [String; 7] {
    let kind = partition.kind_name.map_or_else(|| partition.kind.clone(), str::to_owned);
    let boot = if partition.bootable { "*" } else { "" };
    let label = found.and_then(|found| found.label.as_deref()).unwrap_or_default();
    [
        format!("{boot}{}", partition.number),
        partition.start.to_string(),
        human::size(partition.length),
        printable(&kind).into_owned(),
        printable(partition.name.as_deref().unwrap_or_default()).into_owned(),
        found.map_or_else(|| "-".to_owned(), |found| found.kind.to_string()),
        printable(label).into_owned(),
    ]
}

/// Appends the rows under their titles. A column that is empty in all rows is left out.
fn columns(text: &mut String, rows: &[[String; 7]]) {
    let width = |cell: &str| cell.chars().count();
    let used: Vec<(usize, usize)> = (0..TITLES.len())
        .filter(|&i| rows.iter().any(|row| !row[i].is_empty()))
        .map(|i| {
            let widest = rows.iter().map(|row| width(&row[i])).max().unwrap_or(0);
            (i, widest.max(width(TITLES[i].0)))
        })
        .collect();
    let titles = TITLES.map(|(title, _)| title.to_owned());
    for row in std::iter::once(&titles).chain(rows) {
        let mut line = String::new();
        for &(i, wide) in &used {
            let pad = " ".repeat(wide - width(&row[i]));
            let (before, after) = if TITLES[i].1 { (pad.as_str(), "") } else { ("", pad.as_str()) };
            let _ = write!(line, "  {before}{}{after}", row[i]);
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
}
