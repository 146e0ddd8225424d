//! Requests with the places for their replies.

use crate::nbd::wire::{
    BlockStatus, CommandFlags, Descriptor, MAX_DESCRIPTORS, Request, command, error,
};
use diskimg::storage::source::SourceError;
use std::io;
use std::ops::Range;

/// A request of at most the length that the server accepts.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) kind: Kind<'a>,
    /// The whole reply is there.
    pub(super) done: bool,
    /// What the server says about a request that failed.
    pub(super) error: Option<SourceError>,
    /// Parts of the buffer of a READ that are filled, in the order of their arrival.
    pub(super) filled: Vec<Range<usize>>,
    /// Number of chunks of the reply so far.
    pub(super) chunks: usize,
}

#[derive(Debug)]
pub(super) enum Kind<'a> {
    Read {
        offset: u64,
        buf: &'a mut [u8],
    },
    Write {
        offset: u64,
        data: &'a [u8],
    },
    /// Without data: FLUSH, TRIM, WRITE_ZEROES.
    Plain {
        command: u16,
        flags: CommandFlags,
        offset: u64,
        len: u32,
    },
    /// BLOCK_STATUS: the descriptors of the context with this number.
    Status {
        offset: u64,
        len: u32,
        context: u32,
        found: Vec<Descriptor>,
    },
}

impl<'a> Call<'a> {
    pub(super) fn new(kind: Kind<'a>) -> Self {
        Self { kind, done: false, error: None, filled: Vec::new(), chunks: 0 }
    }

    pub(super) fn read(offset: u64, buf: &'a mut [u8]) -> Self {
        Self::new(Kind::Read { offset, buf })
    }

    pub(super) fn write(offset: u64, data: &'a [u8]) -> Self {
        Self::new(Kind::Write { offset, data })
    }

    /// Forgets what arrived of a reply, before the request is sent again.
    pub(super) fn reset(&mut self) {
        self.filled.clear();
        self.chunks = 0;
        self.error = None;
        if let Kind::Status { found, .. } = &mut self.kind {
            found.clear();
        }
    }

    /// Returns the header of the request, and its data.
    pub(super) fn request(&self, cookie: u64) -> (Request, &[u8]) {
        let no_flags = CommandFlags::empty();
        let (command, flags, offset, len, data) = match &self.kind {
            Kind::Read { offset, buf } => {
                (command::READ, no_flags, *offset, buf.len() as u32, &[][..])
            }
            Kind::Write { offset, data } => {
                (command::WRITE, no_flags, *offset, data.len() as u32, *data)
            }
            Kind::Plain { command, flags, offset, len } => {
                (*command, *flags, *offset, *len, &[][..])
            }
            Kind::Status { offset, len, .. } => {
                (command::BLOCK_STATUS, no_flags, *offset, *len, &[][..])
            }
        };
        (Request { flags, command, cookie, offset, len }, data)
    }

    /// Returns the number of bytes of data in the reply, or about that.
    pub(super) fn expected_len(&self) -> usize {
        match &self.kind {
            Kind::Read { buf, .. } => buf.len(),
            Kind::Write { .. } | Kind::Plain { .. } => 0,
            Kind::Status { .. } => BlockStatus::len(MAX_DESCRIPTORS),
        }
    }

    /// Returns true if the server may work on it for long without sending anything.
    pub(super) fn is_slow(&self) -> bool {
        matches!(self.kind, Kind::Plain { .. })
    }

    /// Returns true if the request changes the export.
    pub(super) fn is_change(&self) -> bool {
        match &self.kind {
            Kind::Write { .. } => true,
            Kind::Plain { command, .. } => *command != command::FLUSH,
            Kind::Read { .. } | Kind::Status { .. } => false,
        }
    }
}

/// Returns the error that a server reports by a number and perhaps a message.
pub(super) fn server_error(number: u32, message: &str) -> SourceError {
    use io::ErrorKind as Kind;
    let (kind, text) = match number {
        error::EPERM => (Kind::PermissionDenied, "Operation not permitted"),
        error::EIO => (Kind::Other, "Input/output error"),
        error::ENOMEM => (Kind::OutOfMemory, "Cannot allocate memory"),
        error::EINVAL => (Kind::InvalidInput, "Invalid argument"),
        error::ENOSPC => (Kind::StorageFull, "No space left on device"),
        error::EOVERFLOW => (Kind::Other, "Value too large for defined data type"),
        error::ENOTSUP => (Kind::Unsupported, "Operation not supported"),
        error::ESHUTDOWN => {
            let message = "the server is shutting down";
            return SourceError::Transient(io::Error::new(Kind::ConnectionAborted, message));
        }
        _ => (Kind::Other, "unknown error"),
    };
    let message = super::printable(message);
    let text = match &*message {
        "" => format!("the server reports: {text}"),
        message => format!("the server reports: {text} ({message})"),
    };
    SourceError::Storage(io::Error::new(kind, text))
}
