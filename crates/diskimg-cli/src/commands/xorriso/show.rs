//! Lists of files and descriptions of the loaded image.

use super::report::{boot_words, entry_options, extent_paths};
use super::{Loaded, quoted, quoted_path};
use crate::args::mkisofs::native::{Find, ListForm};
use crate::commands::iso::texts;
use crate::failure::Failure;
use crate::output::Console;
use diskimg::iso::{FileType, IsoInfo, Node, SECTOR, Timestamp, VolumeKind, matches_pattern};
use diskimg::printable;
use jiff::tz::TimeZone;
use std::fmt::Write;

/// Months before or after today whose dates are shown with the time of day, as by ls(1).
const RECENT_SECONDS: i64 = 182 * 24 * 3600;

/// Begins each line with `R:1:`, as xorriso's frontends expect.
pub(super) fn packets(text: &str, on: bool) -> String {
    if !on {
        return text.to_owned();
    }
    text.lines().map(|line| format!("R:1: {line}\n")).collect()
}

/// Returns what xorriso says about an image when it is loaded.
pub(super) fn loaded(loaded: &Loaded) -> Result<Vec<String>, Failure> {
    let info = loaded.image.info()?;
    let path = quoted(&loaded.path.display().to_string());
    let mut lines = vec![
        format!("Drive current: -indev {path}"),
        "Media current: stdio file, overwriteable".into(),
        "Media status : is written , is appendable".into(),
    ];
    lines.extend(boot_words(loaded, &info).map(|words| format!("Boot record  : {words}")));
    lines.push(format!("Media summary: {}", summary(&info)));
    lines.push(format!("Volume id    : {}", quoted(&info.label)));
    Ok(lines)
}

fn summary(info: &IsoInfo) -> String {
    let sessions = info.sessions.len().max(1);
    let plural = if sessions == 1 { "" } else { "s" };
    let blocks = info.volume_bytes.div_ceil(SECTOR);
    let kib = blocks * 2;
    let size = match kib {
        0..10_000 => format!("{kib:>4}k"),
        _ => format!("{:.1}m", kib as f64 / 1024.0),
    };
    format!("{sessions} session{plural}, {blocks} data blocks, {size} data")
}

/// `-toc`.
pub(super) fn toc(loaded: &Loaded) -> Result<String, Failure> {
    let info = loaded.image.info()?;
    let paths = extent_paths(loaded)?;
    let mut text = String::new();
    let path = quoted(&loaded.path.display().to_string());
    let mut line = |key: &str, value: &str| {
        let _ = writeln!(text, "{key:<13}: {}", printable(value));
    };
    line("Drive current", &format!("-indev {path}"));
    line("Media current", "stdio file, overwriteable");
    line("Media status", "is written , is appendable");
    if let Some(words) = boot_words(loaded, &info) {
        line("Boot record", &words);
    }
    if let Some(catalog) = &info.boot {
        let path = |offset| paths.get(&offset).map(|path| quoted_path(path));
        let catalog_path = path(catalog.offset).unwrap_or_else(|| "-hidden-".into());
        line("Boot catalog", &catalog_path);
        let options = entry_options(loaded);
        for (index, entry) in catalog.entries.iter().enumerate() {
            let image = path(entry.start()).unwrap_or_else(|| "-not-found-any-more-".into());
            let platform = match entry.platform.number() {
                0 => String::new(),
                number => format!(" , platform_id=0x{number:02X}"),
            };
            let table = options.get(index).is_some_and(|options| options.info_table);
            let table = if table { " , boot_info_table=on" } else { "" };
            line("Boot image", &format!("{image}{platform}{table}"));
        }
    }
    line("TOC layout", "Idx ,  sbsector ,       Size , Volume Id");
    for (index, session) in info.sessions.iter().enumerate() {
        let size = format!("{}s", session.volume_sectors);
        let (number, start, label) = (index + 1, session.start_sector, &session.label);
        line("ISO session", &format!("{number:>3} , {start:>9} , {size:>10} , {label}"));
    }
    line("Media summary", &summary(&info));
    Ok(text)
}

/// `-pvd_info`.
pub(super) fn volume_descriptor(loaded: &Loaded) -> Result<String, Failure> {
    let info = loaded.image.info()?;
    let volume = info.volumes.iter().find(|volume| volume.kind == VolumeKind::Primary);
    let volume = volume.or(info.volumes.first());
    let volume = volume.ok_or_else(|| Failure::error("the image has no volume descriptor"))?;
    let path = quoted(&loaded.path.display().to_string());
    let mut text = format!("Drive current: -indev {path}\n");
    let rows = [
        ("PVD address", &format!("{}s", volume.sector)),
        ("Volume Id", &volume.volume_id),
        ("Volume Set Id", &volume.volume_set_id),
        ("Publisher Id", &volume.publisher),
        ("Preparer Id", &volume.preparer),
        ("App Id", &volume.application),
        ("System Id", &volume.system_id),
        ("CopyrightFile", &volume.copyright_file),
        ("Abstract File", &volume.abstract_file),
        ("Biblio File", &volume.bibliographic_file),
        ("Creation Time", &digits(volume.created)),
        ("Modif. Time", &digits(volume.modified)),
        ("Expir. Time", &digits(None)),
        ("Eff. Time", &digits(None)),
    ];
    for (key, value) in rows {
        let _ = writeln!(text, "{key:<13}: {}", printable(value));
    }
    Ok(text)
}

/// Formats a time as 16 digits, in UTC: `YYYYMMDDhhmmsscc`.
pub(super) fn digits(time: Option<Timestamp>) -> String {
    let civil = time.and_then(|time| Some((civil(time, &TimeZone::UTC)?, time)));
    let text = civil.map(|(civil, time)| {
        format!("{}{:02}", civil.strftime("%Y%m%d%H%M%S"), time.nanoseconds / 10_000_000)
    });
    text.unwrap_or_else(|| "0".repeat(16))
}

fn civil(time: Timestamp, zone: &TimeZone) -> Option<jiff::civil::DateTime> {
    Some(zone.to_datetime(jiff::Timestamp::from_second(time.seconds).ok()?))
}

/// `-ls` and its relatives.
pub(super) fn list(
    loaded: &Loaded,
    paths: &[Vec<u8>],
    form: ListForm,
    console: &Console,
    in_packets: bool,
) -> Result<(), Failure> {
    let image = &loaded.image;
    let catalog = catalog_offset(loaded)?;
    let mut text = String::new();
    let mut found = 0;
    let several = paths.len() > 1;
    let mut paths: Vec<_> = paths.iter().collect();
    paths.sort();
    for path in paths {
        let relative = path.strip_prefix(b"/").unwrap_or(path);
        let Ok(node) = image.lookup(relative) else {
            console.warn([format!("not found in ISO image: {}", quoted_path(path))]);
            continue;
        };
        if !node.is_dir() || form.itself {
            row(&mut text, &node, &quoted_path(path), form.long.then_some(catalog));
            found += 1;
            continue;
        }
        if several {
            let _ = writeln!(text, "\n{}:", printable(&quoted_path(path)));
        }
        let mut entries = image.read_dir(&node)?;
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        for entry in &entries {
            let name = quoted(&String::from_utf8_lossy(&entry.name));
            row(&mut text, &entry.node, &name, form.long.then_some(catalog));
        }
        found += entries.len();
    }
    console.stderr(&format!("Valid ISO nodes found: {found}"));
    console.print(&packets(&text, in_packets))
}

/// Returns the byte offset of the boot catalog, which xorriso does not count as a regular file.
fn catalog_offset(loaded: &Loaded) -> Result<Option<u64>, Failure> {
    Ok(loaded.image.info()?.boot.map(|catalog| catalog.offset))
}

fn is_catalog(node: &Node, catalog: Option<u64>) -> bool {
    let first = node.extents().first().and_then(|extent| extent.offset);
    catalog.is_some() && first == catalog
}

/// Appends the line of a file; `name` is quoted. With attributes if `long`, the offset of the boot
/// catalog, is given.
fn row(text: &mut String, node: &Node, name: &str, long: Option<Option<u64>>) {
    if let Some(catalog) = long {
        let columns = long_columns(node);
        let columns = match is_catalog(node, catalog) {
            true => format!("e{}", &columns[1..]),
            false => columns,
        };
        let _ = write!(text, "{columns} ");
    }
    text.push_str(&printable(name));
    if let Some(target) = node.link_target.as_ref().filter(|_| long.is_some()) {
        let _ = write!(text, " -> {}", printable(&quoted(&String::from_utf8_lossy(target))));
    }
    text.push('\n');
}

fn long_columns(node: &Node) -> String {
    let attributes = &node.attributes;
    let size = match attributes.device {
        Some((major, minor)) => format!("{major},{minor}"),
        None if node.is_dir() => "0".into(),
        None => node.size.to_string(),
    };
    let (uid, gid) = (attributes.uid.unwrap_or(0), attributes.gid.unwrap_or(0));
    let date = attributes.modified.map(short_date).unwrap_or_default();
    // xorriso shows one link unless hard links are loaded.
    format!("{}    1 {uid:<8} {gid:<8} {size:>8} {date:<12}", texts::mode(node))
}

/// Formats a time as ls(1): with the time of day if it is recent, else with the year.
fn short_date(time: Timestamp) -> String {
    let now = jiff::Timestamp::now().as_second();
    let recent = (now - time.seconds).abs() < RECENT_SECONDS;
    let form = if recent { "%b %e %H:%M" } else { "%b %e  %Y" };
    civil(time, &TimeZone::system()).map(|c| c.strftime(form).to_string()).unwrap_or_default()
}

/// `-find`.
pub(super) fn find(
    loaded: &Loaded,
    find: &Find,
    console: &Console,
    in_packets: bool,
) -> Result<(), Failure> {
    let start = find.start.as_deref().unwrap_or(b"/");
    let start = start.strip_prefix(b"/").unwrap_or(start);
    let start = start.strip_suffix(b"/").unwrap_or(start);
    let image = &loaded.image;
    let first = image.lookup(start).map_err(|_| {
        Failure::error(format!("cannot find path {} in loaded ISO image", quoted_path(start)))
    })?;
    let mut all = vec![(start.to_vec(), first.clone())];
    if first.is_dir() {
        for found in image.walk_from(first, start) {
            let found = found?;
            all.push((found.path, found.node));
        }
    }
    all.sort_by(|(a, _), (b, _)| components(a).cmp(components(b)));
    let mut text = String::new();
    if find.addresses {
        text.push_str("Report layout: xt , Startlba ,   Blocks , Filesize , ISO image path\n");
    }
    let catalog = catalog_offset(loaded)?;
    let depth_of_start = components(start).count();
    for (path, node) in &all {
        let depth = components(path).count() - depth_of_start;
        let regular = find.kind == Some(FileType::Regular) || find.addresses;
        if !is_match(find, path, node, depth) || regular && is_catalog(node, catalog) {
            continue;
        }
        let shown = match &find.start {
            Some(_) => quoted_path(path),
            None if path.is_empty() => quoted("."),
            None => quoted(&format!("./{}", String::from_utf8_lossy(path))),
        };
        match find.addresses {
            true => addresses(&mut text, node, &shown),
            false => row(&mut text, node, &shown, find.long.then_some(catalog)),
        }
    }
    console.print(&packets(&text, in_packets))
}

fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/').filter(|name| !name.is_empty())
}

fn is_match(find: &Find, path: &[u8], node: &Node, depth: usize) -> bool {
    let name = components(path).last().unwrap_or_default();
    let matches = |pattern: &Option<String>, text: &[u8]| {
        pattern.as_ref().is_none_or(|pattern| matches_pattern(pattern.as_bytes(), text))
    };
    let full = [b"/", path].concat();
    find.max_depth.is_none_or(|max| depth <= max)
        && find.kind.is_none_or(|kind| kind == node.file_type)
        && matches(&find.name, name)
        && matches(&find.whole_name, &full)
}

/// Appends a line for each section of a regular file.
fn addresses(text: &mut String, node: &Node, shown: &str) {
    if node.file_type != FileType::Regular {
        return;
    }
    for (index, extent) in node.extents().iter().enumerate() {
        let start = extent.offset.unwrap_or(0) / SECTOR;
        let blocks = extent.len.div_ceil(SECTOR);
        let size = node.size;
        let shown = printable(shown);
        let _ = writeln!(
            text,
            "File data lba: {index:>2} , {start:>8} , {blocks:>8} , {size:>8} , {shown}"
        );
    }
}
