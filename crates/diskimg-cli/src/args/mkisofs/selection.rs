//! Options that name files: where they are, and which are excluded, hidden or sorted.

use super::Dialect;
use super::table::{FILE, Row, row};
use super::values;
use crate::args::names;
use diskimg::iso::write::Hide;

const GLOB: &[&str] = &["GLOB"];

/// The options, in the order of `-help`.
#[rustfmt::skip]
pub(super) static ROWS: &[Row] = &[
    // Input and output.
    row(&["o", "output"], FILE, "Write the image to FILE (default: standard output)", |d, v| {
        d.output = Some(v[0].arg.to_owned());
        Ok(())
    }),
    row(&["graft-points"], &[], "Accept PLACE=FILE; write = and \\ in names as \\= and \\\\", |d, _| {
        d.graft_points = true;
        Ok(())
    }),
    row(&["path-list"], FILE, "Read more FILE arguments, one per line; - is standard input", |d, v| {
        d.path_lists.push(v[0].path());
        Ok(())
    }),
    row(&["m", "exclude"], &["GLOB"], "Exclude files whose name or path matches GLOB", |d, v| {
        d.excludes.push(v[0].text()?.to_owned());
        Ok(())
    }),
    row(&["x", "old-exclude"], FILE, "Like -m, but FILE is a literal name or path", |d, v| {
        d.excludes.push(values::literal_pattern(v[0].text()?));
        Ok(())
    }),
    row(&["exclude-list"], FILE, "Read patterns to exclude from FILE, one per line", |d, v| {
        d.exclude_lists.push(v[0].path());
        Ok(())
    }),
    row(&["f", "follow-links"], &[], "Follow symbolic links", |d, _| {
        d.options.follow_symlinks = true;
        Ok(())
    }),
    row(&["no-bak", "nobak"], &[], "Exclude names with ~ or # and names that end in .bak (genisoimage only)", |d, _| {
        d.selection.no_backups = d.dialect == Dialect::Mkisofs;
        Ok(())
    }),
    row(&["root"], &["PATH"], "Add all files below the directory PATH of the image", |d, v| {
        d.root = names::bytes(v[0].arg)?;
        Ok(())
    }),
    // Hidden files.
    row(&["hide"], GLOB, "Omit files that match GLOB from ISO 9660 and Rock Ridge", |d, v| {
        d.selection.hidden.push((v[0].text()?.to_owned(), Hide::FromPrimary));
        Ok(())
    }),
    row(&["hide-list"], FILE, "Read patterns for -hide from FILE, one per line", |d, v| {
        d.selection.hidden_lists.push((v[0].path(), Hide::FromPrimary));
        Ok(())
    }),
    row(&["hide-joliet"], GLOB, "Omit files that match GLOB from Joliet", |d, v| {
        d.selection.hidden.push((v[0].text()?.to_owned(), Hide::FromJoliet));
        Ok(())
    }),
    row(&["hide-joliet-list"], FILE, "Read patterns for -hide-joliet from FILE, one per line", |d, v| {
        d.selection.hidden_lists.push((v[0].path(), Hide::FromJoliet));
        Ok(())
    }),
    row(&["hide-udf"], GLOB, "Omit files that match GLOB from UDF", |d, v| {
        d.selection.hidden.push((v[0].text()?.to_owned(), Hide::FromUdf));
        Ok(())
    }),
    row(&["hide-udf-list"], FILE, "Read patterns for -hide-udf from FILE, one per line", |d, v| {
        d.selection.hidden_lists.push((v[0].path(), Hide::FromUdf));
        Ok(())
    }),
    row(&["hidden"], GLOB, "Mark files that match GLOB as hidden", |d, v| {
        d.selection.hidden.push((v[0].text()?.to_owned(), Hide::WithFlag));
        Ok(())
    }),
    row(&["hidden-list"], FILE, "Read patterns for -hidden from FILE, one per line", |d, v| {
        d.selection.hidden_lists.push((v[0].path(), Hide::WithFlag));
        Ok(())
    }),
    // Translation tables, which xorriso does not write.
    row(&["T", "translation-table"], &[], "Add a file TRANS.TBL with the original names to each directory (genisoimage only)", |d, _| {
        d.translation_tables();
        Ok(())
    }),
    row(&["table-name"], &["NAME"], "As -T, with another name than TRANS.TBL", |d, v| {
        d.translation_tables();
        d.tables.name = v[0].text()?.to_owned();
        Ok(())
    }),
    row(&["hide-joliet-trans-tbl"], &[], "Omit TRANS.TBL from Joliet and UDF", |d, _| {
        d.tables.in_joliet = false;
        Ok(())
    }),
    // The order of the contents.
    row(&["sort"], FILE, "Read lines GLOB WEIGHT; contents with a greater weight come first", |d, v| {
        d.selection.sort_lists.push(v[0].path());
        Ok(())
    }),
    row(&["sort-weight"], &["N", "PATH"], "Set the weight of PATH in the image, and of all files below it", |d, v| {
        d.selection.weights.push((v[0].signed()?, names::bytes(v[1].arg)?));
        Ok(())
    }),
    row(&["sort-weight-list"], FILE, "Read lines N PATH for --sort-weight", |d, v| {
        d.selection.weight_lists.push(v[0].path());
        Ok(())
    }),
];
