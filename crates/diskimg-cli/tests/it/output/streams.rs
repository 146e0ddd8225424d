//! Tests of standard output, standard error and signals.

use crate::support::{Lab, diskimg};
use std::process::Stdio;

#[test]
fn progress_in_a_pipe_has_qemu_imgs_format() {
    let lab = Lab::new();
    lab.raw("a.raw");
    let ours = lab.line("convert -p -O raw a.raw b.raw").ok();
    assert!(ours.starts_with("    (0.00/100%)\r"), "{ours:?}");
    assert!(ours.ends_with("    (100.00/100%)\r    (100.00/100%)\r\n"), "{ours:?}");
    assert_eq!(lab.line("convert -p -q -O raw a.raw c.raw").ok(), "");
    assert_eq!(lab.line("convert -O raw a.raw d.raw").ok(), "");
}

#[test]
fn progress_increases_by_more_than_one_percent() {
    let lab = Lab::new();
    std::fs::write(lab.path("a.raw"), vec![7; 64 << 20]).expect("writes");
    let stdout = lab.line("convert -p -O qcow2 a.raw b.qcow2").ok();
    let percents: Vec<f64> = stdout
        .trim_end_matches('\n')
        .split_terminator('\r')
        .map(|line| {
            let number = line.strip_prefix("    (").and_then(|l| l.strip_suffix("/100%)"));
            number.unwrap_or_else(|| panic!("{line:?}")).parse().expect("a number")
        })
        .collect();
    assert!(percents.len() > 10, "{percents:?}");
    for pair in percents.windows(2) {
        assert!(pair[1] > pair[0] + 1.0 || pair[1] >= 100.0, "{pair:?}");
    }
}

#[test]
fn a_closed_pipe_gives_no_error_message() {
    let lab = Lab::new();
    std::fs::write(lab.path("a.raw"), vec![7; 1 << 20]).expect("writes");
    for args in [&["info", "a.raw"][..], &["convert", "-O", "raw", "a.raw", "-"], &["--help"]] {
        let mut child = lab
            .command(diskimg())
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("ends");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{args:?}");
    }
}

/// Runs diskimg with the arguments and redirections in `line`.
#[cfg(target_os = "linux")]
fn shell(lab: &Lab, line: &str) -> std::process::Output {
    let command = format!("exec {} {line}", diskimg());
    lab.command("sh").args(["-c", &command]).output().expect("runs")
}

#[cfg(target_os = "linux")]
#[test]
fn a_closed_or_full_standard_output_is_an_error_if_something_is_printed() {
    let lab = Lab::new();
    lab.raw("a.raw");
    lab.line("iso create -q -o a.iso a.raw").ok();
    for line in [
        "info a.raw",
        "info --output json a.raw",
        "map a.raw",
        "check a.iso",
        "measure -O qcow2 a.raw",
        "compare a.raw a.raw",
        "inspect a.raw",
        "create b 1M",
        "resize -f raw a.raw +0",
        "convert a.raw -",
        "iso create -o - a.raw",
        "iso ls a.iso",
        "iso cat a.iso a.raw",
        "iso verify a.iso",
        "iso extract -v a.iso -C x",
        "mkisofs -print-size a.raw",
        "--help",
        "--version",
    ] {
        for (to, error) in [(">&-", "Bad file descriptor"), (">/dev/full", "No space left on")] {
            let output = shell(&lab, &format!("{line} {to}"));
            let message = String::from_utf8_lossy(&output.stderr);
            assert!(matches!(output.status.code(), Some(1 | 2)), "{line}: {output:?}");
            let last = message.lines().last().unwrap_or_default();
            assert!(last.contains(error), "{line} {to}: {message}");
            let _ = std::fs::remove_dir_all(lab.path("x"));
        }
        // /dev/null is not a closed stream, however it was opened.
        for to in [">/dev/null", "<>/dev/null >&0"] {
            let output = shell(&lab, &format!("{line} {to}"));
            assert_eq!(output.status.code(), Some(0), "{line} {to}: {output:?}");
            let _ = std::fs::remove_dir_all(lab.path("x"));
        }
    }
    for line in ["convert -q a.raw b", "convert -p a.raw b", "create -q b 1M", "check -q a.iso"] {
        for to in [">&-", ">/dev/full"] {
            let output = shell(&lab, &format!("{line} {to}"));
            assert_eq!(output.status.code(), Some(0), "{line} {to}: {output:?}");
        }
    }
}

/// Where that is possible, printing fails before anything is written; otherwise the message says
/// what was done.
#[cfg(target_os = "linux")]
#[test]
fn what_cannot_be_printed_replaces_no_file_or_says_so() {
    let lab = Lab::new();
    lab.raw("a.raw");
    for (line, to, done) in [
        ("convert --digest sha256 -O raw a.raw o", ">&-", None),
        ("convert --digest sha256 -O raw a.raw o", ">/dev/full", Some("output is complete")),
        ("create -f raw o 1M", ">&-", None),
        ("create -f raw o 1M", ">/dev/full", None),
        ("resize -f raw o +1M", ">&-", None),
        ("resize -f raw o +1M", ">/dev/full", Some("image was resized")),
    ] {
        std::fs::write(lab.path("o"), [7; 512]).expect("writes");
        let output = shell(&lab, &format!("{line} {to}"));
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{line} {to}: {error}");
        assert_eq!(lab.read("o") == [7; 512], done.is_none(), "{line} {to}: {error}");
        assert!(done.is_none_or(|done| error.contains(done)), "{line} {to}: {error}");
    }
}

/// The names of a stream that was closed lead to `/dev/null`.
#[cfg(target_os = "linux")]
#[test]
fn a_closed_stream_is_no_output_under_any_name() {
    let lab = Lab::new();
    lab.raw("a.raw");
    std::os::unix::fs::symlink("/dev/stdout", lab.path("link")).expect("links");
    for (path, stream) in [
        ("-", "1"),
        ("/dev/stdout", "1"),
        ("/dev/fd/1", "1"),
        ("/proc/self/fd/1", "1"),
        ("/proc/thread-self/fd/1", "1"),
        ("link", "1"),
        ("/dev/stderr", "2"),
        ("/dev/fd/0", "0"),
    ] {
        for line in [
            format!("convert -O raw a.raw {path}"),
            format!("iso create -q -o {path} a.raw"),
            format!("mkisofs -quiet -o {path} a.raw"),
            format!("create -q -f raw {path} 1M"),
        ] {
            if path == "-" && line.starts_with("create") {
                continue; // A file of that name.
            }
            let output = shell(&lab, &format!("{line} {stream}>&-"));
            assert!(!output.status.success(), "{line}: {output:?}");
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(stream == "2" || error.contains("Bad file descriptor"), "{line}: {error}");
            let output = shell(&lab, &format!("{line} {stream}>/dev/null"));
            assert!(output.status.success(), "{line}: {output:?}");
        }
    }
}

#[test]
fn progress_is_lines_of_json_on_standard_error() {
    let lab = Lab::new();
    lab.raw("a.raw");
    for line in ["convert --progress=json a.raw b.qcow2", "compare --progress=json a.raw a.raw"] {
        let ran = lab.line(line);
        assert_eq!(ran.code, Some(0), "{line}: {}", ran.err);
        assert!(!ran.out.contains('{'), "{line}: {}", ran.out);
        let updates: Vec<serde_json::Value> =
            ran.err.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let done: Vec<_> = updates.iter().map(|update| update["done-bytes"].as_u64()).collect();
        assert!(done.is_sorted() && !done.is_empty(), "{line}: {done:?}");
        let last = updates.last().expect("is there");
        assert_eq!((&last["event"], &last["percent"]), (&"progress".into(), &100.0.into()));
        assert_eq!(last["done-bytes"], last["total-bytes"]);
    }
    // Values are joined to the option; what follows it is an operand, as in qemu-img.
    assert!(lab.line("convert -pq a.raw c.raw").ok().is_empty());
    assert!(lab.line("convert --progress a.raw c.raw").ok().contains("(100.00/100%)"));
    let error = lab.line("convert --progress=xml a.raw c.raw").fails(1);
    assert!(error.contains("text, json"), "{error}");
}

/// Runs diskimg in a terminal of `columns` columns, and returns what is shown.
#[cfg(target_os = "linux")]
fn in_a_terminal(lab: &Lab, columns: u32, line: &str) -> String {
    let command = format!("stty rows 24 cols {columns} && '{}' {line}", diskimg());
    let mut script = lab.command("script");
    script.args(["--quiet", "--return", "--command", &command, "/dev/null"]);
    let output = script.env_remove("COLUMNS").env("TERM", "xterm").output().expect("runs");
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[cfg(target_os = "linux")]
#[test]
#[ignore = "needs script(1)"]
fn a_terminal_shows_a_bar_of_its_width_or_percentages() {
    let lab = Lab::new();
    std::fs::write(lab.path("a.raw"), vec![1; 4 << 20]).expect("writes");
    for columns in [80, 60] {
        let shown = in_a_terminal(&lab, columns, "convert -r 8M a.raw b.raw");
        let lines = shown.split(['\r', '\n']).map(|line| {
            // Without escape sequences.
            let mut parts = line.split("\x1b[");
            let first = parts.next().unwrap_or_default().to_owned();
            let ended =
                |part: &str| part.trim_start_matches(|c| !char::is_alphabetic(c)).to_owned();
            first + &parts.map(|part| ended(part).split_off(1)).collect::<String>()
        });
        let bars: Vec<_> = lines.filter(|line| line.contains("left")).collect();
        assert!(!bars.is_empty(), "{shown:?}");
        for bar in bars {
            assert!(bar.contains("B/s") && bar.chars().count() <= columns as usize, "{bar:?}");
        }
        assert!(!shown.contains("100%)"), "{shown:?}");
    }
    let shown = in_a_terminal(&lab, 80, "convert a.raw b.qcow2");
    let line = "a.raw -> b.qcow2: disk of 4 MiB, 4 MiB stored, ";
    assert!(shown.contains(line), "{shown:?}");
    assert!(!in_a_terminal(&lab, 80, "convert -q a.raw b.qcow2").contains("->"));
    let shown = in_a_terminal(&lab, 80, "convert -p a.raw b.raw");
    assert!(shown.contains("(100.00/100%)") && !shown.contains("left"), "{shown:?}");
}

/// The number of a closed stream must not become that of the output.
#[cfg(target_os = "linux")]
#[test]
fn nothing_is_written_into_files_in_place_of_closed_streams() {
    let lab = Lab::new();
    lab.raw("a.raw");
    std::fs::hard_link(lab.path("a.raw"), lab.path("c.raw")).expect("links");
    // Prints progress and a note.
    lab.raw("b.raw");
    std::fs::hard_link(lab.path("b.raw"), lab.path("d.raw")).expect("links");
    for streams in [">&-", "2>&-", "<&- >&- 2>&-"] {
        let output = shell(&lab, &format!("convert -p -f raw -O raw a.raw b.raw {streams}"));
        assert_eq!(output.status.code(), Some(0), "{streams}: {output:?}");
        assert_eq!(lab.read("b.raw"), lab.read("a.raw"), "{streams}");
    }
    assert_eq!(shell(&lab, "info - <&-").status.code(), Some(1));
    let output = shell(&lab, "mkisofs -quiet -o x.iso -path-list - <&-");
    assert!(String::from_utf8_lossy(&output.stderr).contains("Bad file descriptor"), "{output:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_gives_the_systems_error_message() {
    let lab = Lab::new();
    lab.raw("a.raw");
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("opens");
    let ran = lab.command(diskimg()).args(["info", "a.raw"]).stdout(full).output().expect("runs");
    let error = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(ran.status.code(), Some(1));
    assert!(error.contains("No space left on device"), "{error}");
    let error = lab.line("convert -S 0 -O raw a.raw /dev/full").fails(1);
    assert!(error.contains("No space left on device"), "{error}");
}

#[cfg(unix)]
#[test]
fn a_signal_interrupts_opening_a_pipe_without_a_reader() {
    let lab = Lab::new();
    lab.raw("a.raw");
    assert!(lab.command("mkfifo").arg("pipe").status().expect("mkfifo runs").success());
    let mut child = lab
        .command(diskimg())
        .args(["convert", "-O", "raw", "a.raw", "pipe"])
        .spawn()
        .expect("starts");
    std::thread::sleep(std::time::Duration::from_millis(500));
    let pid = child.id().to_string();
    assert!(lab.command("kill").args(["-TERM", &pid]).status().expect("kills").success());
    std::thread::sleep(std::time::Duration::from_millis(500));
    let ended = child.try_wait().expect("waits");
    child.kill().expect("kills");
    assert_eq!(ended.and_then(|status| status.code()), Some(143));
}

#[cfg(unix)]
#[test]
fn a_signal_interrupts_a_conversion_and_no_files_are_left() {
    for (signal, code) in
        [("-INT", 130), ("-TERM", 143), ("-HUP", 129), ("-QUIT", 131), ("-XCPU", 152)]
    {
        let lab = Lab::new();
        std::fs::write(lab.path("a.raw"), vec![7; 32 << 20]).expect("writes");
        let child = lab
            .command(diskimg())
            .args(["convert", "-r", "2M", "-O", "qcow2", "a.raw", "b.qcow2"])
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        std::thread::sleep(std::time::Duration::from_millis(500));
        let pid = child.id().to_string();
        assert!(lab.command("kill").args([signal, &pid]).status().expect("kills").success());
        let output = child.wait_with_output().expect("ends");
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        let message = "diskimg: the limit on processor time is reached\n";
        let expected = if signal == "-XCPU" { message } else { "" };
        assert_eq!(String::from_utf8_lossy(&output.stderr), expected);
        let left: Vec<_> = std::fs::read_dir(lab.path(".")).expect("lists").collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }
}

#[cfg(unix)]
#[test]
fn a_signal_interrupts_preallocation_and_no_files_are_left() {
    use std::os::unix::fs::MetadataExt;
    for options in [
        "-f raw -o preallocation=full",
        "-f qcow2 -o preallocation=full",
        "-f vmdk -o subformat=twoGbMaxExtentFlat,preallocation=full",
    ] {
        let lab = Lab::new();
        let mut child = lab
            .command(diskimg())
            .args(format!("create {options} a.img 200G").split_whitespace())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let written = || -> u64 {
            let files = std::fs::read_dir(lab.path(".")).expect("lists").flatten();
            files.filter_map(|file| file.metadata().ok()).map(|m| m.blocks() * 512).sum()
        };
        while written() < 16 << 20 {
            assert_eq!(child.try_wait().expect("waits"), None, "{options}");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let pid = child.id().to_string();
        assert!(lab.command("kill").args(["-TERM", &pid]).status().expect("kills").success());
        let output = child.wait_with_output().expect("ends");
        assert_eq!(output.status.code(), Some(143), "{options}: {output:?}");
        assert!(output.stdout.starts_with(b"Formatting 'a.img', "), "{options}: {output:?}");
        assert_eq!(output.stderr, b"", "{options}");
        assert_eq!(std::fs::read_dir(lab.path(".")).expect("lists").count(), 0, "{options}");
    }
}

#[cfg(unix)]
#[test]
fn after_a_signal_a_message_says_what_is_left() {
    let lab = Lab::new();
    std::fs::write(lab.path("a.raw"), vec![7; 4 << 20]).expect("writes");
    for name in ["old.raw", "linked.raw"] {
        std::fs::write(lab.path(name), vec![8; 4 << 20]).expect("writes");
    }
    std::fs::hard_link(lab.path("linked.raw"), lab.path("other.raw")).expect("links");
    for (line, left) in [
        ("convert -r 2M -n -O raw a.raw old.raw", "the target may be partly overwritten"),
        ("convert -r 2M -O raw a.raw linked.raw", "its old content is lost"),
    ] {
        let mut command = lab.command(diskimg());
        command.args(line.split_whitespace()).stderr(Stdio::piped());
        let child = command.spawn().expect("starts");
        std::thread::sleep(std::time::Duration::from_millis(700));
        let pid = child.id().to_string();
        assert!(lab.command("kill").args(["-TERM", &pid]).status().expect("kills").success());
        let output = child.wait_with_output().expect("ends");
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(143), "{line}: {error}");
        assert!(error.lines().count() == 1 && error.contains(left), "{line}: {error}");
    }
}

/// The output's temporary file exists before the source is read.
#[cfg(target_os = "linux")]
#[test]
fn a_signal_while_the_source_is_awaited_leaves_no_files() {
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let lab = Lab::new();
        let mut child = lab
            .command(diskimg())
            .args(["convert", "-f", "raw", "-O", "qcow2", "-", "b"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("starts");
        let input = child.stdin.take();
        std::thread::sleep(std::time::Duration::from_millis(500));
        kill(&lab, signal, &child);
        let output = child.wait_with_output().expect("ends");
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        let left: Vec<_> = std::fs::read_dir(lab.path(".")).expect("lists").collect();
        assert!(left.is_empty(), "{left:?}");
        drop(input);
    }
}

/// The runtime aborts the process if a small allocation fails, or a thread cannot start.
#[cfg(unix)]
#[test]
fn an_abort_leaves_no_temporary_files() {
    use std::os::unix::process::ExitStatusExt;
    for arguments in ["-O raw a.raw b", "-O qcow2 -o data_file=data a.raw b", "-O raw a.raw ./b"] {
        let lab = Lab::new();
        let names = || {
            let entries = std::fs::read_dir(lab.path(".")).expect("lists");
            entries.map(|entry| entry.expect("entry").file_name()).collect::<Vec<_>>()
        };
        let child = slow(&lab, "ulimit -c 0; exec", arguments);
        assert!(names().len() > 1, "{arguments}: {:?}", names());
        kill(&lab, "-ABRT", &child);
        let output = child.wait_with_output().expect("ends");
        assert_eq!(output.status.signal(), Some(6), "{arguments}: {output:?}");
        assert_eq!(names(), ["a.raw"], "{arguments}");
    }
}

/// Starts a conversion that takes some seconds, with the command that `prefix` runs.
#[cfg(target_os = "linux")]
fn slow_conversion(lab: &Lab, prefix: &str) -> std::process::Child {
    slow(lab, prefix, "-O raw a.raw b.raw")
}

/// Starts a conversion with these arguments.
#[cfg(target_os = "linux")]
fn slow(lab: &Lab, prefix: &str, arguments: &str) -> std::process::Child {
    std::fs::write(lab.path("a.raw"), vec![7; 4 << 20]).expect("writes");
    let command = format!("{prefix} {} convert -r 2M {arguments}", diskimg());
    let child = lab.command("sh").args(["-c", &command]).stderr(Stdio::piped()).spawn();
    let child = child.expect("starts");
    std::thread::sleep(std::time::Duration::from_millis(700));
    child
}

#[cfg(target_os = "linux")]
fn kill(lab: &Lab, signal: &str, child: &std::process::Child) {
    let pid = child.id().to_string();
    assert!(lab.command("kill").args([signal, &pid]).status().expect("kills").success());
}

#[cfg(target_os = "linux")]
#[test]
fn a_signal_that_was_ignored_at_the_start_remains_ignored() {
    for (prefix, signal) in [
        ("exec nohup", "-HUP"),
        ("trap '' INT; exec", "-INT"),
        ("trap '' TERM; exec", "-TERM"),
        ("trap '' USR1; exec", "-USR1"),
    ] {
        let lab = Lab::new();
        let child = slow_conversion(&lab, prefix);
        kill(&lab, signal, &child);
        let output = child.wait_with_output().expect("ends");
        assert_eq!(output.status.code(), Some(0), "{prefix}: {output:?}");
        assert!(!String::from_utf8_lossy(&output.stderr).contains("100%"), "{output:?}");
        assert_eq!(std::fs::read(lab.path("b.raw")).expect("reads"), vec![7; 4 << 20]);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn sigusr1_prints_a_line_of_progress() {
    let lab = Lab::new();
    let child = slow_conversion(&lab, "exec");
    kill(&lab, "-USR1", &child);
    let output = child.wait_with_output().expect("ends");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let lines = String::from_utf8_lossy(&output.stderr);
    let percent = lines.strip_prefix("    (").and_then(|rest| rest.strip_suffix("/100%)\n"));
    let percent: f64 = percent.expect(&lines).parse().expect("a number");
    assert!(percent > 0.0 && percent < 100.0, "{lines}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_limit_on_the_size_of_files_is_an_error_and_no_file_is_left() {
    for arguments in ["convert -O raw a.raw b", "convert -O qcow2 a.raw b", "iso create -o b ."] {
        let lab = Lab::new();
        std::fs::write(lab.path("a.raw"), vec![7; 4 << 20]).expect("writes");
        let command = format!("ulimit -f 1024; exec {} {arguments}", diskimg());
        let output = lab.command("sh").args(["-c", &command]).output().expect("runs");
        assert_eq!(output.status.code(), Some(1), "{arguments}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("File too large"), "{output:?}");
        assert_eq!(std::fs::read_dir(lab.path(".")).expect("lists").count(), 1, "{arguments}");
    }
}

/// The target of `-n` is no longer what it was, unlike any other output.
#[cfg(target_os = "linux")]
#[test]
fn a_signal_during_a_conversion_into_an_existing_target_says_what_it_leaves() {
    for format in ["qcow2", "raw"] {
        let lab = Lab::new();
        lab.qemu(&format!("create -q -f {format} t 4M")).ok();
        let child = slow(&lab, "exec", &format!("-n -O {format} a.raw t"));
        kill(&lab, "-TERM", &child);
        let output = child.wait_with_output().expect("ends");
        assert!(!output.status.success(), "{output:?}");
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(message.contains("the target may be partly overwritten"), "{message}");
        if format == "qcow2" {
            lab.qemu("check t").ok();
        }
    }
}
