//! Names that lead out of the directory, duplicate names, links that lead out of it. `run_one`
//! verifies that nothing changes outside the directory.

use super::Expected::{Either, Partly, Wholly};
use super::{Expected, Hostile, hostile, run_class};
use diskimg_testkit::iso::{FREE, GOOD_AT, IsoBuilder, ROOT, Record, susp, utf16};

#[test]
fn names_cannot_lead_out_of_the_directory() {
    run_class("Names", names());
}

#[test]
fn no_link_of_an_image_is_followed() {
    run_class("Links", links());
}

/// Description of a name, the name and the expected result.
const NAMES: [(&str, &str, Expected); 22] = [
    ("parent", "..", Partly),
    ("itself", ".", Partly),
    ("up", "../canary/secret", Partly),
    ("up_and_up", "../../canary/secret", Partly),
    ("absolute", "/tmp/diskimg-hostile-canary", Partly),
    ("slash", "/", Partly),
    ("inner_slash", "a/b", Partly),
    ("trailing_slash", "a/", Partly),
    ("leading_slash", "/a", Partly),
    ("nul", "a\0b", Partly),
    ("only_nul", "\0", Partly),
    ("trailing_nul", "secret\0.txt", Partly),
    // A separator on Windows only.
    ("backslash", "a\\b", if cfg!(windows) { Partly } else { Wholly }),
    ("backslash_up", "..\\..\\canary\\secret", if cfg!(windows) { Partly } else { Wholly }),
    ("drive", "C:\\x", if cfg!(windows) { Partly } else { Wholly }),
    ("dot_dot_dot", "...", Wholly),
    ("dot_dot_space", ".. ", Wholly),
    ("newline", "a\nb", Wholly),
    ("escape", "\x1b[31mred\x1b]0;title\x07", Wholly),
    ("right_to_left", "txt.\u{202e}gpj", Wholly),
    ("device_of_windows", "CON.txt", Wholly),
    ("stream_of_windows", "file:stream", Wholly),
];

fn names() -> Vec<Hostile> {
    let size = 33;
    let mut all = Vec::new();
    for (what, name, expected) in NAMES {
        let plain = Record::file(name, GOOD_AT, size);
        // In the plain namespace, this is the name of the `.` record.
        let expected_plain = if plain.name.len() == 1 && name == "\0" { Either } else { expected };
        all.push(hostile(
            format!("iso_{what}"),
            expected_plain,
            IsoBuilder::new(&[plain]).finish(),
        ));
        let rock = Record::rock(name, GOOD_AT, size, &[]);
        all.push(hostile(format!("rr_{what}"), expected, IsoBuilder::rock_ridge(&[rock]).finish()));
        let dir = Record::rock_dir(name, FREE, &[]);
        let mut builder = IsoBuilder::rock_ridge(&[dir]);
        builder.dir(FREE, ROOT, &[Record::rock("planted", GOOD_AT, size, &[])]);
        all.push(hostile(format!("rr_{what}_dir"), expected, builder.finish()));
        let mut builder = IsoBuilder::new(&[]);
        builder.joliet(&[Record::file(utf16(name), GOOD_AT, size)]);
        all.push(hostile(format!("joliet_{what}"), expected, builder.finish()));
    }
    let named = |entries: &[Vec<u8>]| {
        let record = Record::file("F", GOOD_AT, size)
            .with_system_use(&[susp::px(0o100_644)])
            .with_system_use(entries);
        IsoBuilder::rock_ridge(&[record]).finish()
    };
    fn flags(flags: u8, text: &str) -> Vec<u8> {
        susp::nm_flags(flags, text)
    }
    all.extend([
        hostile("rr_ups_of_255_bytes", Partly, {
            let mut builder = IsoBuilder::rock_ridge(&[Record::file("F", GOOD_AT, size)
                .with_system_use(&[susp::px(0o100_644), susp::ce(FREE, 0, 260)])]);
            let whole = "../".repeat(85);
            let (a, b) = whole.split_at(100);
            builder.put(FREE, &[flags(1, a), flags(0, b)].concat());
            builder.finish()
        }),
        hostile("rr_empty_name", Either, named(&[susp::nm("")])),
        hostile("rr_current_flag", Partly, named(&[flags(2, "")])),
        hostile("rr_parent_flag", Partly, named(&[flags(4, "")])),
        hostile("rr_both_flags", Either, named(&[flags(6, "")])),
        hostile("rr_host_flag", Either, named(&[flags(0x20, "")])),
        hostile("rr_parent_flag_and_text", Partly, named(&[flags(4, "x")])),
        hostile("rr_parent_in_two_parts", Partly, named(&[flags(1, "."), flags(0, ".")])),
        hostile("rr_slash_in_two_parts", Partly, named(&[flags(1, "../"), flags(0, "x")])),
        hostile("rr_name_always_continues", Either, named(&vec![flags(1, "abcdef"); 12])),
        hostile("rr_not_utf8", Wholly, named(&[susp::nm(b"\xFF\xFE\x80")])),
        hostile("joliet_lone_surrogates", Either, {
            let mut builder = IsoBuilder::new(&[]);
            builder.joliet(&[Record::file([0xD8, 0, 0xDC, 0, 0xDC, 0], GOOD_AT, size)]);
            builder.finish()
        }),
        hostile("joliet_odd_length", Partly, {
            let mut builder = IsoBuilder::new(&[]);
            builder.joliet(&[Record::file([0, b'a', 0], GOOD_AT, size)]);
            builder.finish()
        }),
        hostile("joliet_one_byte", Either, {
            let mut builder = IsoBuilder::new(&[]);
            builder.joliet(&[Record::file([b'a'], GOOD_AT, size)]);
            builder.finish()
        }),
        hostile("joliet_maximum_length", Either, {
            let mut builder = IsoBuilder::new(&[]);
            builder.joliet(&[Record::file(utf16(&"\u{FFFD}".repeat(110)), GOOD_AT, size)]);
            builder.finish()
        }),
    ]);
    all
}

fn links() -> Vec<Hostile> {
    let file = |name: &str| Record::rock(name, GOOD_AT, 33, &[]);
    let link = Record::rock_link;
    let image = |records: &[Record]| IsoBuilder::rock_ridge(records).finish();
    // A link, then a directory of the same name with files in it.
    let through = |target: &str| {
        let mut builder =
            IsoBuilder::rock_ridge(&[link("d", target), Record::rock_dir("d", FREE, &[])]);
        builder.dir(FREE, ROOT, &[file("secret"), file("planted")]);
        builder.finish()
    };
    let serial = |name: &str, mode, number, entries: &[Vec<u8>]| {
        Record::file(name, GOOD_AT, 33)
            .with_system_use(&[susp::px_serial(mode, 2, number), susp::nm(name)])
            .with_system_use(entries)
    };
    vec![
        hostile("link_up_then_a_directory_of_the_same_name", Partly, through("../../canary")),
        hostile("link_down_then_a_directory_of_the_same_name", Partly, through(".")),
        hostile("link_to_the_root_then_a_directory", Partly, through("/")),
        hostile("link_then_a_file_of_the_same_name", Partly, {
            image(&[link("secret", "../../canary/secret"), file("secret")])
        }),
        hostile(
            "file_then_a_link_of_the_same_name",
            Partly,
            image(&[file("x"), link("x", "/etc/passwd")]),
        ),
        hostile("directory_then_a_file_of_the_same_name", Partly, {
            let mut builder =
                IsoBuilder::rock_ridge(&[Record::rock_dir("d", FREE, &[]), file("d")]);
            builder.dir(FREE, ROOT, &[file("inside")]);
            builder.finish()
        }),
        hostile("file_then_a_directory_of_the_same_name", Partly, {
            let mut builder =
                IsoBuilder::rock_ridge(&[file("d"), Record::rock_dir("d", FREE, &[])]);
            builder.dir(FREE, ROOT, &[file("inside")]);
            builder.finish()
        }),
        hostile("two_directories_of_the_same_name", Partly, {
            let dirs = [Record::rock_dir("d", FREE, &[]), Record::rock_dir("d", FREE + 1, &[])];
            let mut builder = IsoBuilder::rock_ridge(&dirs);
            builder.dir(FREE, ROOT, &[link("e", "../../../canary"), file("one")]);
            builder.dir(FREE + 1, ROOT, &[Record::rock_dir("e", FREE + 2, &[])]);
            builder.dir(FREE + 2, FREE + 1, &[file("planted")]);
            builder.finish()
        }),
        hostile("link_to_itself", Wholly, image(&[link("l", "l")])),
        hostile("link_out", Wholly, image(&[link("l", "../../canary/secret")])),
        hostile("link_to_a_device", Wholly, image(&[link("l", "/dev/zero")])),
        hostile("link_without_target", Partly, {
            image(&[Record::file("L", 0, 0).with_system_use(&[susp::px(0o120_777), susp::nm("l")])])
        }),
        hostile("hard_link_to_a_link", Either, {
            image(&[
                serial("one", 0o120_777, 7, &[susp::sl("../../canary/secret")]),
                serial("two", 0o100_644, 7, &[]),
                serial("three", 0o100_644, 7, &[]),
            ])
        }),
        hostile("different_files_with_the_same_serial_number", Wholly, {
            image(&[
                serial("one", 0o100_644, 7, &[]),
                serial("two", 0o100_644, 7, &[]),
                Record { sector: FREE, ..serial("other", 0o100_644, 7, &[]) },
            ])
        }),
        hostile("same_name_a_hundred_times", Partly, image(&vec![file("x"); 100])),
        hostile(
            "names_that_differ_in_case",
            Either,
            image(&[file("readme"), file("README"), file("ReadMe")]),
        ),
        hostile(
            "names_that_differ_in_composition",
            Wholly,
            image(&[file("\u{e9}"), file("e\u{301}")]),
        ),
        hostile(
            "devices_and_pipes",
            Wholly,
            image(&[
                Record::file("A", 0, 0).with_system_use(&[
                    susp::px(0o060_666),
                    susp::pn(8, 0),
                    susp::nm("sda"),
                ]),
                Record::file("B", 0, 0).with_system_use(&[
                    susp::px(0o020_666),
                    susp::pn(1, 5),
                    susp::nm("zero"),
                ]),
                Record::file("C", 0, 0).with_system_use(&[susp::px(0o010_666), susp::nm("pipe")]),
                Record::file("D", 0, 0).with_system_use(&[susp::px(0o140_666), susp::nm("socket")]),
            ]),
        ),
        hostile(
            "set_id_files",
            Wholly,
            image(&[
                Record::file("A", GOOD_AT, 33)
                    .with_system_use(&[susp::px(0o106_777), susp::nm("root")]),
                Record::file("B", GOOD_AT, 33)
                    .with_system_use(&[susp::px(0o100_000), susp::nm("unreadable")]),
            ]),
        ),
        hostile(
            "a_mode_without_file_type",
            Partly,
            image(&[
                Record::file("A", GOOD_AT, 33).with_system_use(&[susp::px(0), susp::nm("none")]),
                Record::file("B", GOOD_AT, 33)
                    .with_system_use(&[susp::px(u32::MAX), susp::nm("all")]),
            ]),
        ),
        hostile("a_link_that_the_record_calls_a_directory", Partly, {
            let entries = [susp::px(0o120_777), susp::nm("d"), susp::sl("../../canary")];
            let mut builder =
                IsoBuilder::rock_ridge(&[Record::dir("D", FREE).with_system_use(&entries)]);
            builder.dir(FREE, ROOT, &[file("planted")]);
            builder.finish()
        }),
    ]
}
