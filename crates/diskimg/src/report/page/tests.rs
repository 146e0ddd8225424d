//! Tests of the page with names from strangers. How it behaves in a browser is tested with the
//! command.

use super::*;
use crate::report::check::{CheckReport, Code};
use crate::report::finding::{Finding, Severity};
use crate::report::picture::*;

const HOSTILE: &str = "a</script><script>alert(1)</script>\"'&{{data}}\u{1b}[2J\u{202e}gpj<!--";

/// A picture in which every text is hostile.
fn hostile() -> Picture {
    let totals = Totals { data: 4096, unallocated: 4096, ..Totals::default() };
    let file =
        FilePicture { filename: HOSTILE.into(), position: 0, length: 8192, start: 0, count: 1 };
    let layer = LayerPicture {
        filename: HOSTILE.into(),
        format: "qcow2".into(),
        virtual_size: 8192,
        cluster_size: 4096,
        actual_size: None,
        visible: totals,
        own: Some(totals),
        fragmentation: Fragmentation::default(),
        files: vec![file],
    };
    let partition = Partition {
        number: 1,
        kind: HOSTILE.into(),
        name: HOSTILE.into(),
        start: 0,
        length: 8192,
        totals,
    };
    let part = |start, state| Part { start, length: 4096, depth: 0, state, bytes: 4096 };
    let place = Place {
        start: 0,
        length: 4096,
        position: 0,
        host_length: 4096,
        depth: 0,
        state: State::Data,
        bytes: 4096,
    };
    let finding = Finding {
        path: Some(HOSTILE.into()),
        ..Finding::new(Code::Corruption, Severity::Error, HOSTILE)
    };
    Picture {
        filename: HOSTILE.into(),
        format: "qcow2".into(),
        virtual_size: 8192,
        totals,
        fragmentation: Fragmentation::default(),
        layers: vec![layer],
        parts: vec![part(0, State::Data), part(4096, State::Unallocated)],
        part_size: 1,
        places: vec![place],
        place_size: 1,
        partition_table: Some(PartitionTable {
            kind: "GPT",
            partitions: vec![partition],
            omitted: 0,
        }),
        check: Some(Checked { report: CheckReport::default(), findings: vec![finding] }),
        warnings: vec![HOSTILE.into()],
    }
}

/// Returns what is between two texts.
fn between<'a>(page: &'a str, start: &str, end: &str) -> &'a str {
    page.split_once(start).expect(start).1.split_once(end).expect(end).0
}

#[test]
fn names_cannot_add_elements_scripts_or_control_characters() {
    let page = hostile().to_html();
    assert_eq!(page.matches("<script").count(), 2);
    assert_eq!(page.matches("</script").count(), 2);
    assert!(!page.contains("<!--") && !page.contains('\u{1b}') && !page.contains('\u{202e}'));
    assert!(page.contains("&lt;script&gt;alert(1)"), "the name is shown");
    // What looks like a placeholder of the template stays as it is.
    assert!(page.matches("{{data}}").count() > 10);
    assert_eq!(page.matches("id=\"data\"").count(), 1);
    let data = between(&page, "<script type=\"application/json\" id=\"data\">", "</script>");
    let data: serde_json::Value = serde_json::from_str(data).expect("JSON");
    let shown = printable(HOSTILE).into_owned();
    for pointer in [
        "/filename",
        "/layers/0/filename",
        "/layers/0/files/0/filename",
        "/partition-table/partitions/0/name",
        "/partition-table/partitions/0/type",
        "/check/findings/0/message",
        "/warnings/0",
    ] {
        assert_eq!(data.pointer(pointer), Some(&shown.clone().into()), "{pointer}");
    }
    for fragment in [hostile().to_svg(), hostile().to_html_summary()] {
        assert!(!fragment.contains("<script") && !fragment.contains('\u{202e}'), "{fragment}");
    }
}

#[test]
fn the_policy_allows_the_pages_own_script_and_style_only() {
    let page = hostile().to_html();
    let policy = between(&page, "Content-Security-Policy\" content=\"", "\"");
    let digest = |text: &str| BASE64_STANDARD.encode(Sha256::digest(text));
    let script = page.rsplit_once("<script>").expect("a script").1;
    let script = script.split_once("</script>").expect("ends").0;
    let style = between(&page, "<style>", "</style>");
    assert_eq!(
        policy,
        format!(
            "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; img-src data:; \
             base-uri 'none'; form-action 'none'",
            digest(script),
            digest(style)
        )
    );
    // Styles in attributes and handlers would be ignored.
    for attribute in [" style=", " onclick=", " onload=", " onerror="] {
        assert!(!page.contains(attribute), "{attribute}");
    }
    // The only URLs are names of namespaces.
    let urls = page.matches("http").count();
    assert_eq!(urls, page.matches("http://www.w3.org/2000/svg").count() + HTTP_EQUIV);
}

/// `http-equiv`.
const HTTP_EQUIV: usize = 1;

#[test]
fn a_template_is_filled_once() {
    assert_eq!(fill("a{{x}}b{{y}}c", |key| format!("<{key}{{{{x}}}}>")), "a<x{{x}}>b<y{{x}}>c");
    assert_eq!(fill("a{{x", |_| String::new()), "a{{x");
}

#[test]
fn a_disk_of_no_bytes_has_a_page() {
    let none = Picture {
        virtual_size: 0,
        totals: Totals::default(),
        parts: Vec::new(),
        places: Vec::new(),
        partition_table: None,
        check: None,
        ..hostile()
    };
    assert!(none.to_html().contains("0 B"));
    assert!(none.to_svg().starts_with("<svg"));
}

#[test]
fn the_summary_is_small() {
    let alternating = |n: u64| Part {
        start: n * 4096,
        length: 4096,
        depth: (n % 200) as usize,
        state: State::ALL[(n % 4) as usize],
        bytes: 4096,
    };
    let parts: Vec<_> = (0..16_384).map(alternating).collect();
    let picture = Picture { virtual_size: 16_384 * 4096, parts, ..hostile() };
    let (summary, page) = (picture.to_html_summary(), picture.to_html());
    assert!(summary.len() < 40_000, "{}", summary.len());
    assert!(page.len() < 2 << 20, "{}", page.len());
}
