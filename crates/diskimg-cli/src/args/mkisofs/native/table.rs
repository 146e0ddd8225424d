//! The table of xorriso's own commands.

use super::super::values::{self as mkisofs, Value};
use super::job::{Find, ListForm, Query, ReportForm, Setting, Step};
use super::values::{self, ModeChange};
use super::{FAILED, Session};
use crate::args::recipe::{Destination, Graft};
use crate::failure::Failure;
use diskimg::iso::FileType;
use diskimg::iso::write::{Charset, CreateOptions, Joliet, RockRidge};
use std::path::PathBuf;

/// A command.
pub(super) struct Row {
    /// All names, without hyphens.
    pub(super) names: &'static [&'static str],
    /// The placeholders of its values, each of which is one argument.
    pub(super) values: &'static [&'static str],
    /// The placeholder of a list of arguments that ends with `--`.
    pub(super) list: Option<&'static str>,
    /// Text for `-help`.
    pub(super) help: &'static str,
    /// Applies the command to the session.
    pub(super) apply: Apply,
}

/// Applies a command with its values and its list.
type Apply = fn(&mut Session, &[Value<'_>], &[Value<'_>]) -> Result<(), Failure>;

/// Returns the command with this name, without hyphens.
pub(super) fn find(name: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.names.contains(&name))
}

/// Returns whether this is a command of xorriso that is not supported.
pub(super) fn is_unsupported(name: &str) -> bool {
    UNSUPPORTED.contains(&name)
}

const fn row(
    names: &'static [&'static str],
    values: &'static [&'static str],
    help: &'static str,
    apply: Apply,
) -> Row {
    Row { names, values, list: None, help, apply }
}

const fn list(
    names: &'static [&'static str],
    values: &'static [&'static str],
    list: &'static str,
    help: &'static str,
    apply: Apply,
) -> Row {
    Row { names, values, list: Some(list), help, apply }
}

fn ignore(_: &mut Session, _: &[Value<'_>], _: &[Value<'_>]) -> Result<(), Failure> {
    Ok(())
}

/// Checks that the value is one of those that are supported.
fn one_of(value: &Value<'_>, supported: &[&str]) -> Result<(), Failure> {
    match supported.contains(&value.text()?) {
        true => Ok(()),
        false => Err(value.invalid(&supported.join(" or "))),
    }
}

/// Sets one of the identifiers of the volume.
fn text(
    session: &mut Session,
    value: &Value<'_>,
    field: fn(&mut CreateOptions) -> &mut String,
) -> Result<(), Failure> {
    let text = value.text()?.to_owned();
    session.set(Setting::new(move |options| field(options).clone_from(&text)));
    Ok(())
}

const ID: &[&str] = &["ID"];
const FILE: &[&str] = &["FILE"];
const SWITCH: &[&str] = &["on|off"];
const MAP: &[&str] = &["FILE", "PATH"];
const REPORT: &[&str] = &["plain|cmd|as_mkisofs"];

/// The supported commands, in the order of `-help`.
#[rustfmt::skip]
pub(super) static ROWS: &[Row] = &[
    // Images.
    row(&["indev"], FILE, "Load the image FILE", |s, v, _| {
        s.load(&v[0])
    }),
    row(&["outdev"], FILE, "Write the image to FILE, which must be empty or that of -indev", |s, v, _| {
        s.job.outdev = Some(destination(&v[0])?);
        Ok(())
    }),
    row(&["dev"], FILE, "As -indev FILE -outdev FILE; a new image if FILE does not exist", |s, v, _| {
        let path = device(&v[0])?;
        if std::fs::metadata(&path).is_ok_and(|found| found.len() > 0) {
            s.load(&v[0])?;
        }
        s.job.outdev = Some(destination(&v[0])?);
        Ok(())
    }),
    row(&["blank"], &["as_needed|all|fast|full|deformat"], "Overwrite the contents of -outdev", |s, v, _| {
        match v[0].text()? {
            "as_needed" | "all" | "fast" | "full" | "deformat" | "deformat_quickest" => {
                s.job.overwrite = true;
                Ok(())
            }
            _ => Err(v[0].invalid("as_needed, all, fast, full or deformat")),
        }
    }),
    row(&["commit"], &[], "Write the image", |s, _, _| {
        s.job.steps.push(Step::Commit);
        Ok(())
    }),
    row(&["commit_eject"], &["WHICH"], "As -commit", |s, _, _| {
        s.job.steps.push(Step::Commit);
        Ok(())
    }),
    row(&["end"], &[], "Write the image if it was changed, and ignore later commands", |s, _, _| {
        s.ended = true;
        Ok(())
    }),
    row(&["rollback_end"], &[], "Discard the changes, and ignore later commands", |s, _, _| {
        s.ended = true;
        s.job.steps.retain(|step| !step.is_edit());
        s.job.outdev = None;
        Ok(())
    }),
    // Contents.
    row(&["map", "update"], MAP, "Add FILE, or the entries of directory FILE, as PATH", |s, v, _| {
        let at = s.path(&v[1])?;
        s.job.steps.push(Step::Map { from: v[0].path(), at, replace: false });
        Ok(())
    }),
    row(&["update_r"], MAP, "Replace PATH by FILE", |s, v, _| {
        let at = s.path(&v[1])?;
        s.job.steps.push(Step::Map { from: v[0].path(), at, replace: true });
        Ok(())
    }),
    list(&["add"], &[], "FILE", "Add files with their paths; with -pathspecs on, PATH=FILE", |s, _, l| {
        l.iter().try_for_each(|value| s.add(value))
    }),
    row(&["backslash_codes"], SWITCH, "Interpret backslashes in arguments (must be off)", |_, v, _| {
        match values::switch(&v[0])? {
            true => Err(Failure::not_supported("-backslash_codes on")),
            false => Ok(()),
        }
    }),
    row(&["pathspecs"], SWITCH, "Whether -add accepts PATH=FILE", |s, v, _| {
        s.pathspecs = values::switch(&v[0])?;
        Ok(())
    }),
    row(&["follow"], &["on|off|MODE"], "Follow symbolic links on the host", |s, v, _| {
        s.job.follow = match v[0].text()? {
            "on" | "link" => true,
            "off" | "default" | "param" | "pattern" | "mount" | "pattern:mount" => false,
            _ => return Err(v[0].invalid("on, off, link, param, pattern, mount or default")),
        };
        Ok(())
    }),
    list(&["rm"], &[], "PATH", "Remove files", |s, _, l| {
        let paths = s.paths(l)?;
        s.job.steps.push(Step::Remove { paths, recursive: false });
        Ok(())
    }),
    list(&["rm_r"], &[], "PATH", "Remove files, and directories with their contents", |s, _, l| {
        let paths = s.paths(l)?;
        s.job.steps.push(Step::Remove { paths, recursive: true });
        Ok(())
    }),
    list(&["mkdir"], &[], "PATH", "Add directories", |s, _, l| {
        let paths = s.paths(l)?;
        s.job.steps.push(Step::MakeDirectories(paths));
        Ok(())
    }),
    list(&["chmod"], &["MODE"], "PATH", "Set permissions, such as 0644 or a+r,u+w", |s, v, l| {
        s.mode(v, l, false)
    }),
    list(&["chmod_r"], &["MODE"], "PATH", "As -chmod, also for everything below PATH", |s, v, l| {
        s.mode(v, l, true)
    }),
    list(&["chown"], &["UID"], "PATH", "Set the owner", |s, v, l| {
        s.owner(Some(v[0].number()?), None, l, false)
    }),
    list(&["chown_r"], &["UID"], "PATH", "As -chown, also for everything below PATH", |s, v, l| {
        s.owner(Some(v[0].number()?), None, l, true)
    }),
    list(&["chgrp"], &["GID"], "PATH", "Set the group", |s, v, l| {
        s.owner(None, Some(v[0].number()?), l, false)
    }),
    list(&["chgrp_r"], &["GID"], "PATH", "As -chgrp, also for everything below PATH", |s, v, l| {
        s.owner(None, Some(v[0].number()?), l, true)
    }),
    row(&["cd", "cdi"], &["PATH"], "Set the directory of relative paths", |s, v, _| {
        let path = s.path(&v[0])?;
        s.directory = if path == b"/" { Vec::new() } else { path };
        Ok(())
    }),
    // Settings of the image.
    row(&["volid"], ID, "Volume ID", |s, v, _| text(s, &v[0], |o| &mut o.volume_id)),
    row(&["volset_id"], ID, "Volume set ID", |s, v, _| text(s, &v[0], |o| &mut o.volume_set_id)),
    row(&["publisher"], ID, "Publisher", |s, v, _| text(s, &v[0], |o| &mut o.publisher)),
    row(&["application_id"], ID, "Application", |s, v, _| text(s, &v[0], |o| &mut o.application)),
    row(&["preparer_id"], ID, "Data preparer", |s, v, _| text(s, &v[0], |o| &mut o.preparer)),
    row(&["system_id"], ID, "System", |s, v, _| text(s, &v[0], |o| &mut o.system_id)),
    row(&["copyright_file"], FILE, "Name of the file with the copyright statement", |s, v, _| {
        text(s, &v[0], |o| &mut o.copyright_file)
    }),
    row(&["abstract_file"], FILE, "Name of the file with an abstract", |s, v, _| {
        text(s, &v[0], |o| &mut o.abstract_file)
    }),
    row(&["biblio_file"], FILE, "Name of the file with bibliographic records", |s, v, _| {
        text(s, &v[0], |o| &mut o.bibliographic_file)
    }),
    row(&["volume_date"], &["uuid|c|m|all_file_dates", "DATE"], "Date of the volume, or of all files", |s, v, _| {
        s.date(&v[0], &v[1])
    }),
    row(&["uid"], &["UID"], "Owner of all files", |s, v, _| {
        let uid = v[0].number()?;
        s.set(Setting::new(move |o| o.uid = Some(uid)));
        Ok(())
    }),
    row(&["gid"], &["GID"], "Group of all files", |s, v, _| {
        let gid = v[0].number()?;
        s.set(Setting::new(move |o| o.gid = Some(gid)));
        Ok(())
    }),
    row(&["joliet"], SWITCH, "Add Joliet (default: only if the loaded image has it)", |s, v, _| {
        let on = values::switch(&v[0])?;
        s.set(Setting::new(move |o| {
            o.joliet = on.then(|| o.joliet.unwrap_or(Joliet::Standard));
        }));
        Ok(())
    }),
    row(&["rockridge"], SWITCH, "Add Rock Ridge (default)", |s, v, _| {
        let on = values::switch(&v[0])?;
        s.set(Setting::new(move |o| {
            o.rock_ridge = on.then(|| o.rock_ridge.unwrap_or(RockRidge::Preserved));
        }));
        Ok(())
    }),
    row(&["compliance"], &["RULE:..."], "Rules, such as iso_9660_level=3 or joliet_long_names", |s, v, _| {
        values::compliance(&v[0])?.into_iter().for_each(|setting| s.set(setting));
        Ok(())
    }),
    row(&["padding"], &["BYTES"], "Bytes of zeros at the end, such as 300k (default)", |s, v, _| {
        if let Some(sectors) = values::padding(&v[0])? {
            s.set(Setting::new(move |o| o.padding = sectors));
        }
        Ok(())
    }),
    row(&["boot_image"], &["any|grub|isolinux", "ACTION"], "keep, replay, discard, next, bin_path=PATH, efi_path=PATH, ...", |s, v, _| {
        s.boot.boot_image(v)
    }),
    row(&["append_partition"], &["N", "TYPE", "FILE"], "Append FILE as partition N, such as 2 0xef efi.img", |s, v, _| {
        s.boot.append_partition(v)
    }),
    // Extraction.
    row(&["osirrox"], SWITCH, "Allow extraction", |s, v, _| {
        s.can_extract = v[0].text()?.split(':').next() != Some("off");
        Ok(())
    }),
    row(&["extract"], &["PATH", "FILE"], "Extract PATH as FILE", |s, v, _| {
        s.check_extraction(&v[0])?;
        let from = s.path(&v[0])?;
        s.job.steps.push(Step::Extract { from, to: v[1].path() });
        Ok(())
    }),
    list(&["cpx", "cpax"], &[], "PATH... DIR", "Extract files into the directory DIR", |s, _, l| {
        let Some((to, from)) = l.split_last().filter(|(_, from)| !from.is_empty()) else {
            return Err(Failure::error("-cpx: expected PATH... DIR"));
        };
        s.check_extraction(to)?;
        let from = s.paths(from)?;
        s.job.steps.push(Step::CopyOut { from, to: to.path() });
        Ok(())
    }),
    // What is shown.
    list(&["ls"], &[], "PATH", "List files", |s, _, l| s.list(l, false, false)),
    list(&["lsl"], &[], "PATH", "List files with attributes", |s, _, l| s.list(l, true, false)),
    list(&["lsd"], &[], "PATH", "List files; directories themselves", |s, _, l| s.list(l, false, true)),
    list(&["lsdl"], &[], "PATH", "List files with attributes; directories themselves", |s, _, l| s.list(l, true, true)),
    list(&["find"], &[], "PATH TEST", "Find files: -name GLOB, -type X, -maxdepth N, -exec lsdl|report_lba", |s, _, l| {
        let find = find_words(s, l)?;
        s.job.steps.push(Step::Show(Query::Find(find)));
        Ok(())
    }),
    row(&["pvd_info"], &[], "Show the identifiers and dates of the volume", |s, _, _| {
        s.job.steps.push(Step::Show(Query::VolumeDescriptor));
        Ok(())
    }),
    row(&["toc"], &[], "Show sessions and boot records", |s, _, _| {
        s.job.steps.push(Step::Show(Query::Toc));
        Ok(())
    }),
    row(&["report_el_torito"], REPORT, "Show the El Torito boot records", |s, v, _| {
        s.report(&v[0], ReportForm::ElTorito)
    }),
    row(&["report_system_area"], REPORT, "Show boot code and partitions", |s, v, _| {
        s.report(&v[0], ReportForm::SystemArea)
    }),
    row(&["pkt_output"], SWITCH, "Begin the lines of results with R:1:", |s, v, _| {
        s.job.packets = values::switch(&v[0])?;
        Ok(())
    }),
    row(&["overwrite"], &["on|nondir"], "Whether files are replaced; directories never are", |_, v, _| {
        one_of(&v[0], &["on", "nondir"])
    }),
    row(&["in_charset", "out_charset", "charset", "local_charset"], &["utf-8"], "Character set; only UTF-8", |_, v, _| {
        let utf8 = v[0].charset()? == Charset::UTF_8;
        if utf8 { Ok(()) } else { Err(v[0].invalid("utf-8")) }
    }),
    row(&["acl", "xattr", "md5", "for_backup"], &["off"], "Recording of more attributes; only off", |_, v, _| {
        one_of(&v[0], &["off"])
    }),
    // Without effect.
    row(NO_VALUE, &[], "Accepted for compatibility; have no effect", ignore),
    row(ONE_VALUE, &["VALUE"], "Accepted for compatibility; have no effect", ignore),
    row(&["return_with"], &["SEVERITY", "CODE"], "Accepted for compatibility; has no effect", ignore),
];

/// Commands without effect: they concern drives, messages, what is always so, and errors, which
/// always end the program.
const NO_VALUE: &[&str] = &["no_rc", "x"];

const ONE_VALUE: &[&str] = &[
    "abort_on",
    "close",
    "disk_dev_ino",
    "drive_access",
    "fs",
    "hardlinks",
    "report_about",
    "scsi_log",
    "speed",
    "stdio_sync",
    "stream_recording",
    "temp_mem_limit",
    "toc_style",
    "use_readline",
];

/// Commands of xorriso that are not supported.
const UNSUPPORTED: &[&str] = &[
    "add_plainly",
    "alter_date",
    "alter_date_r",
    "assert_volid",
    "calm_drive",
    "cdx",
    "check_md5",
    "check_md5_r",
    "check_media",
    "check_media_defaults",
    "clone",
    "compare",
    "compare_l",
    "compare_r",
    "concat",
    "cp_clone",
    "cpr",
    "cut_out",
    "devices",
    "dialog",
    "du",
    "dus",
    "eject",
    "errfile_log",
    "extract_boot_images",
    "extract_cut",
    "extract_l",
    "extract_single",
    "external_filter",
    "file_size_limit",
    "findd",
    "findx",
    "format",
    "genisofs",
    "getfacl",
    "getfattr",
    "grow_blindly",
    "hfsplus",
    "hide",
    "jigdo",
    "load",
    "ln",
    "lns_iso",
    "lsx",
    "map_l",
    "map_single",
    "mark",
    "mount",
    "mount_cmd",
    "mount_opts_option",
    "mv",
    "mvi",
    "not_leaf",
    "not_list",
    "not_mgt",
    "not_paths",
    "options_from_file",
    "path_list",
    "paste_in",
    "pacifier",
    "print",
    "print_info",
    "print_size",
    "prog",
    "publish",
    "pwd",
    "quoted_not_list",
    "read_fs",
    "read_mkisofsrc",
    "rmdir",
    "rollback",
    "rom_toc_scan",
    "rr_reloc_dir",
    "set_filter",
    "set_filter_r",
    "setfacl",
    "setfattr",
    "show_stream",
    "sh_style_result",
    "status",
    "tell_media_space",
    "truncate_overwritable",
    "update_l",
    "update_lxi",
    "update_li",
    "zisofs",
];

/// Returns the host file that a device address names.
fn device(value: &Value<'_>) -> Result<PathBuf, Failure> {
    let text = value.arg.to_string_lossy();
    match text.strip_prefix("stdio:") {
        Some(_) => Ok(value.text()?.trim_start_matches("stdio:").into()),
        None => Ok(value.path()),
    }
}

fn destination(value: &Value<'_>) -> Result<Destination, Failure> {
    let path = device(value)?;
    let stdout = ["-", "/dev/fd/1", "/dev/stdout"].iter().any(|name| path == **name);
    Ok(if stdout { Destination::Stdout } else { Destination::File(path) })
}

/// Parses the path and the tests of `-find`.
fn find_words(session: &Session, list: &[Value<'_>]) -> Result<Find, Failure> {
    let mut find = Find::default();
    let mut words = list.iter();
    while let Some(word) = words.next() {
        let text = word.text()?;
        if !text.starts_with('-') {
            if find.start.is_some() || text.is_empty() {
                return Err(Failure::error(format!("-find: unexpected '{text}'")));
            }
            find.start = Some(session.path(word)?);
            continue;
        }
        let value = || -> Result<_, Failure> {
            Err(Failure::error(format!("-find {text}: a value is missing")))
        };
        let Some(next) = words.next() else { return value() };
        match text {
            "-name" => find.name = Some(next.text()?.to_owned()),
            "-wholename" => find.whole_name = Some(next.text()?.to_owned()),
            "-type" => find.kind = Some(file_type(next)?),
            "-maxdepth" => find.max_depth = Some(next.signed()?),
            "-exec" | "-doi" => match next.text()? {
                "echo" => {}
                "lsdl" => find.long = true,
                "report_lba" => find.addresses = true,
                action => return Err(Failure::not_supported(&format!("-find -exec {action}"))),
            },
            _ => return Err(Failure::not_supported(&format!("-find {text}"))),
        }
    }
    Ok(find)
}

fn file_type(value: &Value<'_>) -> Result<FileType, Failure> {
    Ok(match value.text()? {
        "f" | "file" => FileType::Regular,
        "d" | "dir" => FileType::Directory,
        "l" | "link" => FileType::Symlink,
        "b" | "block" => FileType::BlockDevice,
        "c" | "char" => FileType::CharacterDevice,
        "p" | "pipe" => FileType::Fifo,
        "s" | "socket" => FileType::Socket,
        _ => return Err(value.invalid("one of f, d, l, b, c, p, s")),
    })
}

impl Session {
    fn load(&mut self, value: &Value<'_>) -> Result<(), Failure> {
        if self.job.indev.is_some() {
            return Err(Failure::not_supported("loading a second image"));
        }
        self.job.indev = Some(device(value)?);
        Ok(())
    }

    fn add(&mut self, value: &Value<'_>) -> Result<(), Failure> {
        let graft = match self.pathspecs {
            true => Graft::parse(value.arg)?,
            false => Graft { place: crate::args::names::bytes(value.arg)?, path: value.path() },
        };
        let at = match graft.place.first() {
            Some(b'/') => graft.place,
            _ => [&self.directory[..], b"/", &graft.place].concat(),
        };
        self.job.steps.push(Step::Map { from: graft.path, at, replace: false });
        Ok(())
    }

    fn mode(&mut self, v: &[Value<'_>], l: &[Value<'_>], recursive: bool) -> Result<(), Failure> {
        let (change, paths) = (ModeChange::parse(&v[0])?, self.paths(l)?);
        self.job.steps.push(Step::Mode { change, paths, recursive });
        Ok(())
    }

    fn owner(
        &mut self,
        uid: Option<u32>,
        gid: Option<u32>,
        list: &[Value<'_>],
        recursive: bool,
    ) -> Result<(), Failure> {
        let paths = self.paths(list)?;
        self.job.steps.push(Step::Owner { uid, gid, paths, recursive });
        Ok(())
    }

    fn date(&mut self, which: &Value<'_>, date: &Value<'_>) -> Result<(), Failure> {
        let which_text = which.text()?;
        let time = mkisofs::file_date(date)?;
        match which_text {
            "uuid" | "c" | "m" => self.set(Setting::new(move |o| o.volume_time = time)),
            "all_file_dates" => self.set(Setting::new(move |o| o.file_time = time)),
            _ => return Err(which.invalid("uuid, c, m or all_file_dates")),
        }
        Ok(())
    }

    fn check_extraction(&self, value: &Value<'_>) -> Result<(), Failure> {
        if self.can_extract {
            return Ok(());
        }
        let message = format!("{}: extraction is not enabled by -osirrox on", value.option);
        Err(Failure::error(message).with_code(FAILED))
    }

    fn list(&mut self, list: &[Value<'_>], long: bool, itself: bool) -> Result<(), Failure> {
        let mut paths = self.paths(list)?;
        if paths.is_empty() {
            paths.push(self.directory.clone());
        }
        let form = ListForm { long, itself };
        self.job.steps.push(Step::Show(Query::List { paths, form }));
        Ok(())
    }

    fn report(&mut self, form: &Value<'_>, plain: ReportForm) -> Result<(), Failure> {
        let form = match form.text()? {
            "plain" | "help" => plain,
            "cmd" => ReportForm::Commands,
            "as_mkisofs" => ReportForm::MkisofsOptions,
            _ => return Err(form.invalid("plain, cmd or as_mkisofs")),
        };
        self.job.steps.push(Step::Show(Query::BootReport(form)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_unique_and_not_also_unsupported() {
        let mut seen = std::collections::HashSet::new();
        for name in ROWS.iter().flat_map(|row| row.names) {
            assert!(seen.insert(*name), "{name}");
            assert!(!is_unsupported(name), "{name}");
        }
    }
}
