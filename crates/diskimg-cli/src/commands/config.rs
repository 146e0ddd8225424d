//! `config`: shows the defaults of options that are set.

use crate::failure::Failure;
use crate::output::Console;
use crate::settings::Settings;
use diskimg::printable;
use std::fmt::Write;

/// Prints the settings in effect as a configuration file, with where each is set.
pub(super) fn run(settings: &Settings, console: &Console) -> Result<u8, Failure> {
    let mut text = match &settings.file {
        Some(file) => format!("# {}\n", printable(&file.display().to_string())),
        None => "# no configuration file\n".to_owned(),
    };
    let mut in_table = false;
    for setting in settings.in_effect() {
        let key = match setting.key.strip_prefix("limits.") {
            Some(limit) => {
                if !std::mem::replace(&mut in_table, true) {
                    text.push_str("\n[limits]\n");
                }
                limit
            }
            None => &setting.key,
        };
        // Values are words and numbers, which need no escapes.
        let line = format!("{key} = \"{}\"", setting.value);
        let _ = writeln!(text, "{line:<32} # {}", printable(&setting.origin));
    }
    console.print(&text)?;
    Ok(0)
}
