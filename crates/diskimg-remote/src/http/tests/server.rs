//! A server that does what real ones do not do on request.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) method: String,
    pub(crate) path: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Received {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| &**value)
    }

    pub(crate) fn range(&self) -> Range<u64> {
        let range = self.header("range").expect("has a range");
        let (first, last) =
            range.strip_prefix("bytes=").and_then(|r| r.split_once('-')).expect("is a range");
        first.parse().expect("is a number")..last.parse::<u64>().expect("is a number") + 1
    }
}

/// What is sent: bytes, after which the connection is closed unless more requests are expected.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    pub(crate) bytes: Vec<u8>,
    /// Closes the connection after the bytes.
    pub(crate) closes: bool,
    /// Sends nothing more and keeps the connection open for this time.
    pub(crate) stalls: Option<Duration>,
    /// Waits this long between any two bytes.
    pub(crate) pace: Option<Duration>,
}

impl Reply {
    /// A response with these headers and a body.
    pub(crate) fn new(status: &str, headers: &[(&str, &str)], body: &[u8]) -> Self {
        let mut bytes = format!("HTTP/1.1 {status}\r\n").into_bytes();
        for (name, value) in headers {
            bytes.extend(format!("{name}: {value}\r\n").into_bytes());
        }
        bytes.extend(format!("Content-Length: {}\r\n\r\n", body.len()).into_bytes());
        bytes.extend(body);
        Self { bytes, ..Self::default() }
    }

    /// The right answer to a request for a range of `file`.
    pub(crate) fn part(received: &Received, file: &[u8], etag: &str) -> Self {
        let Range { start, end } = received.range();
        let end = end.min(file.len() as u64);
        let range = format!("bytes {start}-{}/{}", end - 1, file.len());
        let body = &file[start as usize..end as usize];
        Self::new("206 Partial Content", &[("Content-Range", &range), ("ETag", etag)], body)
    }

    /// Cuts the last bytes off, and closes the connection.
    pub(crate) fn cut(mut self, bytes: usize) -> Self {
        self.bytes.truncate(self.bytes.len().saturating_sub(bytes));
        self.closes = true;
        self
    }
}

/// A server on the loopback interface. Its threads end with the test's process.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Server {
    /// Starts a server that answers each request with what `answer` returns for it and its number.
    pub(crate) fn start(
        answer: impl Fn(&Received, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = listener.local_addr().expect("has an address");
        let received = Arc::new(Mutex::new(Vec::new()));
        let (answer, log) = (Arc::new(answer), Arc::clone(&received));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, log) = (Arc::clone(&answer), Arc::clone(&log));
                std::thread::spawn(move || serve(&stream, &*answer, &log));
            }
        });
        Self { address, received }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Returns the requests so far.
    pub(crate) fn received(&self) -> Vec<Received> {
        self.received.lock().expect("no panic").clone()
    }
}

fn serve(
    stream: &TcpStream,
    answer: &dyn Fn(&Received, usize) -> Reply,
    log: &Mutex<Vec<Received>>,
) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|&n| n > 0)?;
        let mut words = line.split(' ').map(str::to_owned);
        let (method, path) = (words.next()?, words.next()?);
        let mut headers = Vec::new();
        loop {
            line.clear();
            reader.read_line(&mut line).ok().filter(|&n| n > 0)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut received = Received { method, path, headers, body: Vec::new() };
        let len = received.header("content-length").and_then(|len| len.parse().ok());
        received.body.resize(len.unwrap_or(0), 0);
        reader.read_exact(&mut received.body).ok()?;
        let number = {
            let mut log = log.lock().ok()?;
            log.push(received.clone());
            log.len() - 1
        };
        let reply = answer(&received, number);
        let mut writer = stream;
        match reply.pace {
            None => writer.write_all(&reply.bytes).ok()?,
            Some(pace) => {
                for byte in &reply.bytes {
                    std::thread::sleep(pace);
                    writer.write_all(&[*byte]).ok()?;
                }
            }
        }
        if let Some(time) = reply.stalls {
            std::thread::sleep(time);
        }
        if reply.closes {
            return None;
        }
    }
}
