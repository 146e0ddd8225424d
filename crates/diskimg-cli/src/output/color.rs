//! Colors, which are used on terminals only, unless the user says otherwise.

use std::env;
use std::ffi::OsString;
use std::io::{self, IsTerminal};

/// `--color`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum When {
    /// On terminals, as the variables `NO_COLOR`, `CLICOLOR_FORCE`, `CLICOLOR` and `TERM` say.
    #[default]
    Auto,
    /// Also in files and pipes.
    Always,
    /// Nowhere.
    Never,
}

/// The streams that have colors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Colors {
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
}

impl Colors {
    /// Decides for the streams of this process.
    pub(crate) fn choose(when: When) -> Self {
        match when {
            When::Always => Self { stdout: true, stderr: true },
            When::Never => Self::default(),
            When::Auto => {
                let allowed = |is_terminal| allowed(is_terminal, &|name| env::var_os(name));
                Self {
                    stdout: allowed(io::stdout().is_terminal()),
                    stderr: allowed(io::stderr().is_terminal()),
                }
            }
        }
    }
}

/// Follows <https://no-color.org> and <https://bixense.com/clicolors/>.
fn allowed(is_terminal: bool, variable: &dyn Fn(&str) -> Option<OsString>) -> bool {
    let is_set = |name: &str| variable(name).is_some_and(|value| !value.is_empty());
    let is_zero = |name: &str| variable(name).is_some_and(|value| value == "0");
    if is_set("NO_COLOR") {
        return false;
    }
    if is_set("CLICOLOR_FORCE") && !is_zero("CLICOLOR_FORCE") {
        return true;
    }
    is_terminal && !is_zero("CLICOLOR") && variable("TERM").is_none_or(|term| term != "dumb")
}

/// Returns the value of `--color` in a command line that may be invalid: the last one counts.
pub(crate) fn of_command_line(argv: &[OsString]) -> Option<When> {
    let words = argv.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>();
    let options = words.iter().take_while(|word| *word != "--");
    let mut found = None;
    for (index, word) in options.enumerate() {
        let value = match word.strip_prefix("--color") {
            Some("") => words.get(index + 1).map(AsRef::as_ref),
            Some(rest) => rest.strip_prefix('='),
            None => None,
        };
        let when = value.and_then(|value| clap::ValueEnum::from_str(value, false).ok());
        found = when.or(found);
    }
    found
}

/// A color or weight of text: the parameter of an SGR sequence (ECMA-48).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    Error,
    Warning,
    Note,
}

/// Returns the text in this style.
pub(crate) fn paint(text: &str, style: Style) -> String {
    let parameter = match style {
        Style::Error => "1;31",
        Style::Warning => "1;33",
        Style::Note => "1;36",
    };
    format!("\x1b[{parameter}m{text}\x1b[0m")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_decide_where_the_user_does_not() {
        for (terminal, variables, wanted) in [
            (true, &[][..], true),
            (false, &[], false),
            (true, &[("NO_COLOR", "1")], false),
            (true, &[("NO_COLOR", "")], true),
            (true, &[("TERM", "dumb")], false),
            (true, &[("TERM", "xterm")], true),
            (true, &[("CLICOLOR", "0")], false),
            (false, &[("CLICOLOR_FORCE", "1")], true),
            (false, &[("CLICOLOR_FORCE", "0")], false),
            (false, &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")], false),
        ] {
            let variable = |name: &str| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| OsString::from(*value))
            };
            assert_eq!(allowed(terminal, &variable), wanted, "{terminal} {variables:?}");
        }
    }

    #[test]
    fn the_last_option_counts_before_the_operands() {
        for (line, wanted) in [
            ("diskimg info a", None),
            ("diskimg --color=never info --color always a", Some(When::Always)),
            ("diskimg info --color=blue a", None),
            ("diskimg info -- --color=never", None),
            ("diskimg info --color", None),
        ] {
            let argv: Vec<_> = line.split(' ').map(OsString::from).collect();
            assert_eq!(of_command_line(&argv), wanted, "{line}");
        }
    }
}
