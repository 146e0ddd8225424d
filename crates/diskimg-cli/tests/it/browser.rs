//! Drives headless Chromium through a pair of pipes, with the Chrome DevTools Protocol.
//!
//! ```text
//!   test ──► to-browser ──► descriptor 3 ┐
//!                                        │ chromium --remote-debugging-pipe
//!   test ◄── from-browser ◄─ descriptor 4┘      messages: JSON, each followed by a zero byte
//! ```

use crate::support::Lab;
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A browser with one page.
pub(crate) struct Browser {
    process: Child,
    to: File,
    from: BufReader<File>,
    session: Option<String>,
    count: u64,
    /// What the page has reported: console messages, exceptions, requests.
    pub(crate) events: Vec<Value>,
}

impl Browser {
    /// Starts a browser. Returns `None` if Chromium is not installed.
    pub(crate) fn start(lab: &Lab) -> Option<Self> {
        let program =
            ["chromium", "chromium-browser", "google-chrome"].into_iter().find(|name| {
                let asked = Command::new(name).arg("--version").stdout(Stdio::null()).status();
                asked.is_ok_and(|status| status.success())
            })?;
        let pipes = ["to-browser", "from-browser"];
        assert!(lab.command("mkfifo").args(pipes).status().expect("mkfifo").success());
        let script = format!(
            "exec {program} --headless --no-sandbox --disable-gpu --remote-debugging-pipe \
             --user-data-dir=profile about:blank 3<to-browser 4>from-browser"
        );
        let process = lab
            .command("sh")
            .args(["-c", &script])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        let to = OpenOptions::new().write(true).open(lab.path(pipes[0])).expect("opens");
        let from = BufReader::new(File::open(lab.path(pipes[1])).expect("opens"));
        let mut browser = Self { process, to, from, session: None, count: 0, events: Vec::new() };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let session = browser.call("Target.attachToTarget", attach)["sessionId"].clone();
        browser.session = session.as_str().map(str::to_owned);
        for domain in ["Runtime", "Log", "Network", "Page"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        Some(browser)
    }

    /// Calls a method and returns its result.
    pub(crate) fn call(&mut self, method: &str, params: Value) -> Value {
        self.count += 1;
        let mut message = json!({ "id": self.count, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        self.to.write_all(format!("{message}\0").as_bytes()).expect("sends");
        loop {
            let mut message = Vec::new();
            self.from.read_until(0, &mut message).expect("receives");
            assert_eq!(message.pop(), Some(0), "the browser has ended");
            let message: Value = serde_json::from_slice(&message).expect("JSON");
            if message["id"] == self.count {
                assert!(message["error"].is_null(), "{method}: {message}");
                return message["result"].clone();
            }
            self.events.push(message);
        }
    }

    /// Opens a file and waits until the page is complete.
    pub(crate) fn open(&mut self, file: &Path) {
        let path = file.to_str().expect("UTF-8").replace('%', "%25").replace('#', "%23");
        self.call("Page.navigate", json!({ "url": format!("file://{path}") }));
        self.wait_for("document.readyState === 'complete'");
    }

    /// Returns the value of an expression.
    pub(crate) fn value(&mut self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "returnByValue": true });
        let result = self.call("Runtime.evaluate", params);
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    pub(crate) fn wait_for(&mut self, expression: &str) {
        let end = Instant::now() + Duration::from_secs(60);
        while self.value(expression) != true {
            assert!(Instant::now() < end, "{expression} remains false");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Presses and releases a key.
    pub(crate) fn press(&mut self, key: &str) {
        let text = if key.chars().count() == 1 { key } else { "" };
        let key_down = json!({ "type": "keyDown", "key": key, "text": text });
        self.call("Input.dispatchKeyEvent", key_down);
        self.call("Input.dispatchKeyEvent", json!({ "type": "keyUp", "key": key }));
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
