//! `map --html`: the file that is written, and the page in a browser.

use crate::browser::Browser;
use crate::support::{Lab, diskimg, write_at};
use serde_json::Value;

/// Markup that would be executed if it were not escaped.
const HOSTILE: &str = "<img src=x onerror=document.title=1>";

/// Creates `top.qcow2` over a compressed `base.qcow2`, of 64 MiB, with a GPT whose partition has a
/// hostile name.
fn lab() -> Lab {
    let lab = Lab::new();
    let disk = lab.path("disk.raw");
    std::fs::File::create(&disk).expect("creates").set_len(64 << 20).expect("extends");
    let mut mbr = [0; 512];
    mbr[446 + 4] = 0xee;
    mbr[446 + 8] = 1;
    mbr[446 + 12..446 + 16].copy_from_slice(&131_071u32.to_le_bytes());
    mbr[510..].copy_from_slice(&[0x55, 0xaa]);
    write_at(&disk, 0, &mbr);
    // The reader uses a copy whose checksum is wrong if there is no other.
    let mut header = [0; 512];
    header[..8].copy_from_slice(b"EFI PART");
    let mut put = |at: usize, n: u64| header[at..at + 8].copy_from_slice(&n.to_le_bytes());
    put(24, 1);
    put(32, 131_071);
    put(40, 34);
    put(48, 131_038);
    put(72, 2);
    header[80] = 128;
    header[84] = 128;
    header[12] = 92;
    write_at(&disk, 512, &header);
    let mut entry = [0; 128];
    entry[..16].fill(7);
    entry[32..40].copy_from_slice(&2048u64.to_le_bytes());
    entry[40..48].copy_from_slice(&67_583u64.to_le_bytes());
    for (unit, at) in HOSTILE.encode_utf16().zip((56..128).step_by(2)) {
        entry[at..at + 2].copy_from_slice(&unit.to_le_bytes());
    }
    write_at(&disk, 1024, &entry);
    write_at(&disk, 4 << 20, &[b'x'; 3 << 20]);
    lab.qemu("convert -f raw -O qcow2 -c disk.raw base.qcow2").ok();
    lab.qemu("create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2").ok();
    let commands = ["-c", "write 40M 1M", "-c", "write 20M 512k", "-c", "write -z 4M 256k"];
    let mut qemu_io = lab.command("qemu-io");
    let written = qemu_io.args(["-f", "qcow2"]).args(commands).arg("top.qcow2").output();
    assert!(written.expect("qemu-io runs").status.success());
    lab
}

/// Returns the data in a page.
fn data(page: &str) -> Value {
    let (_, data) = page.split_once("id=\"data\">").expect("data");
    serde_json::from_str(data.split_once("</script>").expect("ends").0).expect("JSON")
}

fn text(lab: &Lab, name: &str) -> String {
    String::from_utf8(lab.read(name)).expect("UTF-8")
}

#[test]
fn the_page_is_written_as_other_outputs_are() {
    let lab = lab();
    assert_eq!(lab.line("map --html a.html top.qcow2").ok(), "");
    let page = text(&lab, "a.html");
    let found = data(&page);
    assert_eq!(found["layers"].as_array().map(Vec::len), Some(2));
    assert_eq!(found["totals"]["zero"], 256 << 10);
    assert_eq!(found["partition-table"]["kind"], "GPT");
    assert!(found["check"]["findings"].as_array().is_some_and(Vec::is_empty));
    // Reproducible, to a file and to standard output, and over an existing page.
    assert_eq!(lab.line("map --html - top.qcow2").ok(), page);
    lab.line("map --html=a.html -f qcow2 -U --external-files same-dir top.qcow2").ok();
    assert_eq!(text(&lab, "a.html"), page);
    lab.line("map --image-opts --html b.html driver=qcow2,file.filename=base.qcow2").ok();
    assert_eq!(data(&text(&lab, "b.html"))["layers"].as_array().map(Vec::len), Some(1));
    let left = std::fs::read_dir(lab.path(".")).expect("lists");
    let temporary =
        left.flatten().filter(|entry| entry.path().extension().is_some_and(|e| e == "diskimg-tmp"));
    assert_eq!(temporary.count(), 0);
}

#[test]
fn nothing_but_a_page_is_replaced() {
    let lab = lab();
    std::fs::write(lab.path("notes"), "text").expect("writes");
    for (name, image) in [
        ("notes", "top.qcow2"),
        ("disk.raw", "top.qcow2"),
        ("top.qcow2", "top.qcow2"),
        ("base.qcow2", "top.qcow2"),
    ] {
        let before = lab.read(name);
        let error = lab.run(["map", "--html", name, image]).fails(1);
        assert!(error.contains("exists and is not an HTML page"), "{error}");
        assert!(lab.read(name) == before, "{name}");
    }
    // A page that is part of an image.
    std::fs::write(lab.path("page.html"), "<!DOCTYPE html>".repeat(100)).expect("writes");
    let error = lab.line("map --html page.html -f raw page.html").fails(1);
    assert!(error.contains("would replace a file of the image"), "{error}");
    lab.line("map --html missing/a.html top.qcow2").fails(1);
    lab.line("map --html a.html missing.qcow2").fails(1);
    assert!(!lab.path("a.html").exists());
}

#[test]
fn the_page_shows_the_whole_disk_and_is_not_an_option_of_qemu_img() {
    let lab = lab();
    for options in ["-s 1M", "-l 1M", "--output=json"] {
        lab.line(&format!("map --html a.html {options} top.qcow2")).fails(1);
    }
    std::os::unix::fs::symlink(diskimg(), lab.path("qemu-img")).expect("links");
    let run = |line: &str| {
        let mut command = lab.command(lab.path("qemu-img"));
        crate::support::Ran::new(command.args(line.split(' ')).output().expect("runs"))
    };
    let error = run("map --html a.html top.qcow2").fails(1);
    assert!(error.contains("unrecognized option '--html'"), "{error}");
    assert!(!run("map --help").ok().contains("html"));
}

#[test]
fn the_page_is_written_in_the_sandbox() {
    let lab = lab();
    if lab.line("info --sandbox=require disk.raw").code != Some(0) {
        return;
    }
    lab.line("map --sandbox=off --html a.html top.qcow2").ok();
    let page = text(&lab, "a.html");
    for name in ["a.html", "b.html"] {
        lab.line(&format!("map --sandbox=require --html {name} top.qcow2")).ok();
        assert_eq!(text(&lab, name), page);
    }
    assert_eq!(lab.line("map --sandbox=require --html - top.qcow2").ok(), page);
}

#[test]
fn damage_is_shown_as_findings() {
    let lab = lab();
    // A refcount of 0 for the last cluster.
    let length = lab.read("base.qcow2").len() as u64;
    assert!(length > 0);
    lab.line("convert -O qcow2 disk.raw plain.qcow2").ok();
    let image = lab.read("plain.qcow2");
    let table = u64::from_be_bytes(image[48..56].try_into().expect("eight bytes"));
    let block = &image[table as usize..table as usize + 8];
    let block = u64::from_be_bytes(block.try_into().expect("eight bytes"));
    write_at(&lab.path("plain.qcow2"), block + 2 * 5, &[0, 9]);
    lab.line("map --html a.html plain.qcow2").ok();
    let page = text(&lab, "a.html");
    let findings = data(&page)["check"]["findings"].as_array().map(Vec::len);
    assert!(findings.is_some_and(|n| n > 0));
    assert!(page.contains("id=\"findings\""));
}

/// Returns the events of a browser that are errors or network requests other than `file`.
fn complaints(browser: &Browser, file: &str) -> Vec<String> {
    let relevant = |event: &&Value| match event["method"].as_str() {
        Some("Log.entryAdded" | "Runtime.exceptionThrown" | "Runtime.consoleAPICalled") => true,
        Some("Network.requestWillBeSent") => {
            let url = event["params"]["request"]["url"].as_str().unwrap_or_default();
            !url.ends_with(file) && url != "data:,"
        }
        _ => false,
    };
    browser.events.iter().filter(relevant).map(Value::to_string).collect()
}

#[test]
#[allow(clippy::print_stderr)]
fn the_page_works_in_a_browser() {
    let lab = lab();
    let hostile = format!("{HOSTILE}.qcow2");
    std::fs::rename(lab.path("top.qcow2"), lab.path(&hostile)).expect("renames");
    lab.run(["map", "--html", "a.html", &hostile]).ok();
    let Some(mut browser) = Browser::start(&lab) else {
        eprintln!("skipped: chromium is not installed");
        return;
    };
    browser.open(&lab.path("a.html"));
    browser.wait_for("document.getElementById('view').textContent !== ''");
    // The hostile names are text.
    assert_eq!(browser.value("document.images.length"), 0);
    assert_eq!(browser.value("document.querySelector('h1').textContent.trim()"), hostile.as_str());
    assert_eq!(browser.value("document.title"), format!("{hostile} – map"));
    // The tables have the values of the data.
    let cells = |table: &str, row: usize| {
        format!(
            "[...document.querySelectorAll('#{table} tbody tr')[{row}].querySelectorAll('[data-v]')]\
             .map((cell) => Number(cell.dataset.v))"
        )
    };
    let found = data(&text(&lab, "a.html"));
    for (row, state) in ["data", "compressed", "zero", "unallocated"].into_iter().enumerate() {
        let shown = browser.value(&cells("states", row));
        assert_eq!(shown[0].as_f64(), found["totals"][state].as_f64(), "{state}");
    }
    let partition = &found["partition-table"]["partitions"][0]["totals"];
    let shown = browser.value(&cells("partitions", 0));
    assert_eq!(shown[1].as_f64(), partition["data"].as_f64());
    // Keys change the view, and its description.
    let view = "document.getElementById('view').textContent";
    let whole = browser.value(view);
    let start = |text: &Value| text.as_str().expect("text").split(',').next().map(str::to_owned);
    assert_eq!(start(&whole).as_deref(), Some("Showing 0x0–0x4000000"));
    browser.value("document.getElementById('chart').focus()");
    for (key, shows) in [
        ("+", "0x1000000–0x3000000"),
        ("+", "0x1800000–0x2800000"),
        ("ArrowRight", "0x1999999–0x2999999"),
        ("Home", "0x0–0x1000000"),
        ("End", "0x3000000–0x4000000"),
        ("-", "0x2000000–0x4000000"),
        ("0", "0x0–0x4000000"),
    ] {
        browser.press(key);
        browser.wait_for(&format!("{view}.startsWith('Showing {shows},')"));
    }
    // A row of the table shows its partition; the cursor is described.
    browser.value("document.querySelector('#partitions button').click()");
    browser.wait_for(&format!("{view}.startsWith('Showing 0x100000–0x2100000,')"));
    browser.value(
        "document.getElementById('offset').value = '20M'; \
         document.getElementById('go').requestSubmit()",
    );
    let at = browser.value("document.getElementById('at').textContent");
    let at = at.as_str().expect("text");
    assert!(at.starts_with("At 0x1400000: ") && at.contains("data in layer 0"), "{at}");
    assert!(at.contains(&format!("in {hostile}")) && at.contains("partition 1"), "{at}");
    assert_eq!(complaints(&browser, "/a.html"), [""; 0]);
    // The canvases have been drawn on, in both themes. (Reading them causes warnings.)
    for theme in ["light", "dark"] {
        let media = serde_json::json!({ "features": [
            { "name": "prefers-color-scheme", "value": theme }
        ] });
        browser.call("Emulation.setEmulatedMedia", media);
        for canvas in ["overview", "guest", "host"] {
            browser.wait_for(&format!(
                "(() => {{ const c = document.getElementById('{canvas}'); \
                 return c.getContext('2d').getImageData(0, 0, c.width, c.height).data\
                 .some((byte) => byte !== 0); }})()"
            ));
        }
    }
}
