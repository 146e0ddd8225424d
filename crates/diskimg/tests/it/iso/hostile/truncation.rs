//! Truncated images, and incomplete or inconsistent raw sectors.

use super::Expected::{Either, Refused, Wholly};
use super::{Hostile, hostile, run_class};
use diskimg_testkit::iso::{
    FREE, GOOD_AT, IsoBuilder, JOLIET_ROOT, PATH_L, PATH_M, ROOT, Record, SECTOR, susp, utf16,
};
use diskimg_testkit::tool::run;

#[test]
fn a_truncated_image_is_an_error_or_partly_readable() {
    run_class("Truncated images", truncated());
}

#[test]
fn a_truncated_image_of_genisoimage_is_an_error_or_partly_readable() {
    run_class("Truncated images of genisoimage", truncated_genisoimage());
}

#[test]
fn invalid_raw_sectors_are_an_error_or_partly_readable() {
    run_class("Sectors of 2352 bytes", raw_sectors());
}

/// Returns an image with Rock Ridge, Joliet, a directory and a continuation area.
fn whole() -> Vec<u8> {
    let long = Record::rock("long", GOOD_AT, 33, &[susp::ce(FREE + 1, 0, 100)]);
    let mut builder = IsoBuilder::rock_ridge(&[long, Record::rock_dir("d", FREE, &[])]);
    builder.joliet(&[Record::file(utf16("f"), GOOD_AT, 33)]);
    builder.dir(FREE, ROOT, &[Record::rock("inside", FREE + 2, 9000, &[])]);
    builder.put(FREE + 1, &susp::nm_flags(0, " name")).put(FREE + 2, &[7; 9000]);
    builder.finish()
}

fn truncated() -> Vec<Hostile> {
    let whole = whole();
    let mut all = vec![hostile("complete", Wholly, whole.clone())];
    let sectors = [
        0,
        1,
        15,
        16,
        17,
        18,
        19,
        PATH_L,
        PATH_M,
        JOLIET_ROOT,
        ROOT,
        GOOD_AT,
        FREE,
        FREE + 1,
        FREE + 2,
        FREE + 4,
    ];
    for sector in sectors {
        for within in [0, 7, 100, 2047] {
            let at = sector as usize * SECTOR + within;
            // Sector 16 contains the primary descriptor with the location of the root.
            let expected = if at < 17 * SECTOR { Refused } else { Either };
            all.push(hostile(
                format!("truncated_{within}_bytes_into_sector_{sector}"),
                expected,
                whole[..at].to_vec(),
            ));
        }
    }
    all
}

fn truncated_genisoimage() -> Vec<Hostile> {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::create_dir_all(path("t/sub/deeper")).unwrap();
    for (name, size) in [("boot", 2048), ("a", 1), ("sub/b", 5000), ("sub/deeper/c", 100)] {
        std::fs::write(path("t").to_owned() + "/" + name, vec![b'x'; size]).unwrap();
    }
    let (out, tree) = (path("g.iso"), path("t"));
    run(
        "genisoimage",
        [
            "-quiet",
            "-J",
            "-R",
            "-T",
            "-udf",
            "-no-pad",
            "-b",
            "boot",
            "-c",
            "catalog",
            "-no-emul-boot",
            "-o",
            &out,
            &tree,
        ],
    );
    let whole = std::fs::read(&out).unwrap();
    let step = whole.len() / 60;
    let truncated = |n: usize| {
        let at = (n * step + n * 37).min(whole.len());
        let expected = if at < 17 * SECTOR { Refused } else { Either };
        hostile(format!("truncated_at_{at}"), expected, whole[..at].to_vec())
    };
    (1..60).map(truncated).collect()
}

/// Returns the image as raw sectors: sync, address, mode, data, and space for error correction.
pub(in crate::iso) fn raw(cooked: &[u8], mode: u8, before: usize, sector: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (n, data) in cooked.chunks(SECTOR).enumerate() {
        let mut one = vec![0; sector];
        if before >= 16 {
            one[1..11].fill(0xFF);
            // Minute, second and frame in BCD. Sector 0 is at 00:02:00.
            let n = n + 150;
            let digits = |n: usize| (n / 10 * 16 + n % 10) as u8;
            one[12..16].copy_from_slice(&[
                digits(n / 4500),
                digits(n / 75 % 60),
                digits(n % 75),
                mode,
            ]);
        }
        one[before..before + data.len()].copy_from_slice(data);
        bytes.extend(one);
    }
    bytes
}

fn raw_sectors() -> Vec<Hostile> {
    let cooked = whole();
    let mode_1 = raw(&cooked, 1, 16, 2352);
    let mode_2 = raw(&cooked, 2, 24, 2352);
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = mode_1.clone();
        change(&mut bytes);
        bytes
    };
    let mut all = vec![
        hostile("mode_1", Wholly, mode_1.clone()),
        hostile("mode_2_form_1", Wholly, mode_2.clone()),
        hostile("only_sync", Refused, [&[0][..], &[0xFF; 10], &[0]].concat().repeat(10_000)),
        hostile(
            "no_sync_at_the_descriptor",
            Either,
            changed(&|b| b[16 * 2352..16 * 2352 + 12].fill(7)),
        ),
        hostile("mode_255", Either, changed(&|b| b.chunks_mut(2352).for_each(|s| s[15] = 255))),
        hostile("mode_0", Either, changed(&|b| b.chunks_mut(2352).for_each(|s| s[15] = 0))),
        hostile(
            "mode_1_and_mode_2_alternate",
            Either,
            changed(&|b| b.chunks_mut(4704).for_each(|s| s[15] = 2)),
        ),
    ];
    for (name, bytes) in [("mode_1", &mode_1), ("mode_2", &mode_2)] {
        for sectors in [0, 15, 16, 17, 32, 33, 63, 65] {
            for within in [0, 12, 1000, 2351] {
                let at = sectors * 2352 + within;
                let expected = if sectors < 16 { Refused } else { Either };
                all.push(hostile(
                    format!("{name}_truncated_at_{at}"),
                    expected,
                    bytes[..at].to_vec(),
                ));
            }
        }
    }
    all
}
