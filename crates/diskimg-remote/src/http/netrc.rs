//! Users and passwords of hosts: the file `.netrc`, as ftp(1) and curl(1) read it.

use std::env;
use std::path::PathBuf;

/// Returns where the file is by default, if it exists: `NETRC` in the environment, or `.netrc` in the
/// home directory.
pub(super) fn default_path() -> Option<PathBuf> {
    let home = env::var_os("HOME").or_else(|| env::var_os("USERPROFILE"));
    let path = env::var_os("NETRC").map(PathBuf::from);
    path.or_else(|| Some(PathBuf::from(home?).join(".netrc"))).filter(|path| path.is_file())
}

/// Returns the user and the password of `host` in the text of a file. The entry `default` is for all
/// hosts without an entry before it.
pub(super) fn login<'t>(text: &'t str, host: &str) -> Option<(&'t str, &'t str)> {
    let mut words = words(text);
    let (mut applies, mut user, mut password) = (false, None, None);
    while let Some(word) = words.next() {
        match word {
            "machine" | "default" => {
                if applies {
                    break;
                }
                applies = word == "default"
                    || words.next().is_some_and(|name| name.eq_ignore_ascii_case(host));
            }
            "login" if applies => user = words.next(),
            "password" if applies => password = words.next(),
            "login" | "password" | "account" => drop(words.next()),
            _ => {}
        }
    }
    applies.then_some((user.unwrap_or(""), password?))
}

/// Returns the words of a file without comments and macros. A macro ends with an empty line.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut in_macro = false;
    text.lines().flat_map(move |line| {
        in_macro = !line.trim().is_empty() && (in_macro || line.trim_start().starts_with("macdef"));
        let is_skipped = in_macro || line.trim_start().starts_with('#');
        (if is_skipped { "" } else { line }).split_whitespace()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_of_the_host_or_the_default_is_used() {
        let text = "# comment machine x\nmachine a login u password p\n\
            machine b\n  login v\n  account z\n  password q\nmacdef init\nmachine c login m password n\n\n\
            default login anonymous password guest\n";
        assert_eq!(login(text, "a"), Some(("u", "p")));
        assert_eq!(login(text, "B"), Some(("v", "q")));
        assert_eq!(login(text, "c"), Some(("anonymous", "guest")), "it is in a macro");
        assert_eq!(login("machine a login u", "a"), None);
        assert_eq!(login("machine a login u password p", "b"), None);
        assert_eq!(login("machine", "a"), None);
    }
}
