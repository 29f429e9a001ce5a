//! Captures: packets as somebody recorded them, read one at a time with bounded memory.
//!
//! [`Capture`] reads pcap and pcapng and yields [`Record`]s; [`link`] finds the network
//! packet in a record; [`gateway`] says which side of the capturing gateway a packet was on.
//! A stream works as well as a file: nothing is read twice.
//!
//! ```text
//! bytes ─▶ window (bounded) ─▶ pcap | pcapng: Record ─▶ link: Frame ─▶ gateway: Leg
//! ```
//!
//! A length that a file claims is checked before it is believed; memory does not follow it.
//!
//! Sources: the formats' descriptions, draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng;
//! the registry of link types at tcpdump.org.

pub mod gateway;
pub mod link;
mod pcap;
mod pcapng;
mod window;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use clashtrack_engine::time::Nanos;

use crate::error::Error;
use link::LinkType;
use window::Window;

/// Captured bytes of a packet at most: libpcap's own limit (`MAXIMUM_SNAPLEN`).
pub const RECORD_BYTES_MAX: usize = 262_144;

/// Latest moment that a record may have; later ones are moved to it, so that adding a
/// timeout never overflows. Seen from 1970 it is the year 2262.
const TIMESTAMP_MAX: Nanos = i64::MAX as u64;

/// Why a capture cannot be read, or not to its end.
#[derive(Debug, thiserror::Error)]
#[error("{}: {}; {}", self.place(), self.problem(), self.remedy())]
#[non_exhaustive]
pub enum CaptureError {
    /// The system refused.
    Io {
        /// The file, as it was named.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// The file does not begin as a capture does.
    NotACapture {
        /// The file, as it was named.
        file: String,
        /// What is wrong with its beginning.
        what: String,
    },
    /// Packets of this link layer cannot be taken apart.
    LinkType {
        /// The file, as it was named.
        file: String,
        /// The number in the file's header.
        number: u32,
    },
    /// The last record is not whole: the capture is still being written, or was cut.
    CutOff {
        /// The file, as it was named.
        file: String,
        /// Where the record starts.
        offset: u64,
        /// Bytes that it has.
        present: u64,
        /// Bytes that it should have at least.
        needed: u64,
    },
    /// A record contradicts itself; nothing behind it can be found.
    Damaged {
        /// The file, as it was named.
        file: String,
        /// Where the record starts.
        offset: u64,
        /// What is wrong.
        what: String,
    },
}

impl CaptureError {
    fn place(&self) -> String {
        match self {
            CaptureError::Io { file, .. }
            | CaptureError::NotACapture { file, .. }
            | CaptureError::LinkType { file, .. } => file.clone(),
            CaptureError::CutOff { file, offset, .. }
            | CaptureError::Damaged { file, offset, .. } => {
                format!("{file}, byte {offset}")
            }
        }
    }

    fn problem(&self) -> String {
        match self {
            CaptureError::Io { source, .. } => format!("cannot read: {source}"),
            CaptureError::NotACapture { what, .. } => format!("this is no capture: {what}"),
            CaptureError::LinkType { number, .. } => {
                format!("packets of link type {number} cannot be taken apart")
            }
            CaptureError::CutOff {
                present, needed, ..
            } => {
                format!("the record is cut off: {present} of {needed} bytes are there")
            }
            CaptureError::Damaged { what, .. } => format!("the record is damaged: {what}"),
        }
    }

    fn remedy(&self) -> String {
        match self {
            CaptureError::Io { .. } => "check the path and its permissions".to_owned(),
            CaptureError::NotACapture { .. } => {
                "give a pcap or pcapng file, as tcpdump and Wireshark write them".to_owned()
            }
            CaptureError::LinkType { .. } => {
                format!("known are {}", LinkType::KNOWN_NAMES)
            }
            CaptureError::CutOff { .. } => {
                "all before it was read; is the capture still being written?".to_owned()
            }
            CaptureError::Damaged { .. } => {
                "all before it was read, what follows cannot be found; capture it again".to_owned()
            }
        }
    }
}

impl From<CaptureError> for Error {
    fn from(error: CaptureError) -> Error {
        let (place, problem, remedy) = (error.place(), error.problem(), error.remedy());
        match error {
            CaptureError::Io { file, source } => Error::File {
                action: "read",
                path: file.into(),
                source,
            },
            _ => Error::Input {
                place,
                problem,
                remedy,
            },
        }
    }
}

/// A packet as it stands in a capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// When it was captured, in nanoseconds since 1970. A record without a time of its own
    /// (pcapng's simple packet) has that of the one before.
    pub timestamp_ns: Nanos,
    /// What its bytes begin with; `None` where the link layer is not understood.
    pub link_type: Option<LinkType>,
    /// Captured bytes, from the link header.
    pub bytes: Vec<u8>,
    /// Bytes that it had on the wire.
    pub wire_bytes: u64,
    /// Where its record starts in the file, in bytes.
    pub offset: u64,
}

impl Record {
    /// The capture cut it short.
    #[must_use]
    pub fn is_truncated(&self) -> bool {
        (self.bytes.len() as u64) < self.wire_bytes
    }
}

/// A capture, read record by record. After an error it has ended.
#[derive(Debug)]
pub struct Capture<R> {
    source: Source<R>,
    format: Format,
    ended: bool,
}

/// The stream, and the name that messages give it.
#[derive(Debug)]
struct Source<R> {
    file: String,
    window: Window<R>,
}

#[derive(Debug)]
enum Format {
    Pcap(pcap::Pcap),
    Pcapng(pcapng::Pcapng),
}

impl Capture<Box<dyn Read + Send>> {
    /// Opens a file, or standard input for `-`, and reads its header.
    ///
    /// # Errors
    /// The file cannot be read, is no capture, or is of a link layer that is not understood.
    pub fn open(path: &Path) -> Result<Capture<Box<dyn Read + Send>>, CaptureError> {
        if path == Path::new("-") {
            return Capture::new("(stdin)", Box::new(io::stdin()));
        }
        let name = path.display().to_string();
        match File::open(path) {
            Ok(file) => Capture::new(&name, Box::new(file)),
            Err(source) => Err(CaptureError::Io { file: name, source }),
        }
    }
}

impl<R: Read> Capture<R> {
    /// Reads the header of a capture; `file` is its name in messages.
    ///
    /// # Errors
    /// As [`Capture::open`].
    pub fn new(file: &str, reader: R) -> Result<Capture<R>, CaptureError> {
        let mut source = Source {
            file: file.to_owned(),
            window: Window::new(reader),
        };
        let magic = source.peek(4)?.to_vec();
        let format = match <[u8; 4]>::try_from(magic.as_slice()) {
            Ok(pcapng::SECTION_HEADER) => Format::Pcapng(pcapng::Pcapng::open(&mut source)?),
            Ok(magic) => Format::Pcap(pcap::Pcap::open(&mut source, magic)?),
            Err(_) if magic.is_empty() => return Err(source.not_a_capture("it is empty")),
            Err(_) => return Err(source.not_a_capture("it is shorter than a header")),
        };
        Ok(Capture {
            source,
            format,
            ended: false,
        })
    }

    /// Bytes of the file that have been read so far.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.source.window.position()
    }

    /// The name given to [`Capture::new`].
    #[must_use]
    pub fn file(&self) -> &str {
        &self.source.file
    }
}

impl<R: Read> Iterator for Capture<R> {
    type Item = Result<Record, CaptureError>;

    fn next(&mut self) -> Option<Result<Record, CaptureError>> {
        if self.ended {
            return None;
        }
        let next = match &mut self.format {
            Format::Pcap(pcap) => pcap.next(&mut self.source),
            Format::Pcapng(pcapng) => pcapng.next(&mut self.source),
        };
        self.ended = !matches!(next, Ok(Some(_)));
        next.transpose()
    }
}

impl<R: Read> Source<R> {
    fn peek(&mut self, wanted: usize) -> Result<&[u8], CaptureError> {
        // Two looks: the borrow of an early return would last for the whole function.
        if let Err(source) = self.window.peek(wanted) {
            return Err(self.io(source));
        }
        Ok(self.window.peek(wanted).unwrap_or_default())
    }

    /// The next `wanted` bytes of the record that starts here.
    fn record(&mut self, wanted: usize) -> Result<&[u8], CaptureError> {
        let present = self.peek(wanted)?.len();
        if present < wanted {
            return Err(self.cut_off(self.window.position(), present as u64, wanted as u64));
        }
        self.peek(wanted)
    }

    fn skip(&mut self, count: u64) -> Result<(), CaptureError> {
        let offset = self.window.position();
        match self.window.skip(count) {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.cut_off(offset, self.window.position() - offset, count)),
            Err(source) => Err(self.io(source)),
        }
    }

    fn io(&self, source: io::Error) -> CaptureError {
        CaptureError::Io {
            file: self.file.clone(),
            source,
        }
    }

    fn cut_off(&self, offset: u64, present: u64, needed: u64) -> CaptureError {
        CaptureError::CutOff {
            file: self.file.clone(),
            offset,
            present,
            needed,
        }
    }

    fn not_a_capture(&self, what: impl Into<String>) -> CaptureError {
        CaptureError::NotACapture {
            file: self.file.clone(),
            what: what.into(),
        }
    }

    /// The record that starts here is damaged.
    fn damaged(&self, what: impl Into<String>) -> CaptureError {
        CaptureError::Damaged {
            file: self.file.clone(),
            offset: self.window.position(),
            what: what.into(),
        }
    }
}

/// The byte order that a file was written in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ByteOrder {
    Little,
    Big,
}

impl ByteOrder {
    fn u16(self, bytes: [u8; 2]) -> u16 {
        match self {
            ByteOrder::Little => u16::from_le_bytes(bytes),
            ByteOrder::Big => u16::from_be_bytes(bytes),
        }
    }

    fn u32(self, bytes: [u8; 4]) -> u32 {
        match self {
            ByteOrder::Little => u32::from_le_bytes(bytes),
            ByteOrder::Big => u32::from_be_bytes(bytes),
        }
    }

    /// Word number `index` of a header whose presence has been checked.
    fn word(self, header: &[u8], index: usize) -> u32 {
        let at = index * 4;
        self.u32([header[at], header[at + 1], header[at + 2], header[at + 3]])
    }
}

#[cfg(test)]
mod tests;
