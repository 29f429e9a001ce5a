//! The pcap format: a header of 24 bytes, then records.
//!
//! ```text
//! file    magic 4 | major 2 | minor 2 | zone 4 | accuracy 4 | longest 4 | link type 4
//! record  seconds 4 | fraction 4 | captured 4 | on the wire 4 | captured bytes
//! ```
//! The magic tells byte order and whether the fraction is micro- or nanoseconds. A patched
//! libpcap of old (`0xa1b2cd34`) put eight more bytes into the record's head.

use std::io::Read;

use super::link::LinkType;
use super::{ByteOrder, CaptureError, RECORD_BYTES_MAX, Record, Source, TIMESTAMP_MAX};

const HEADER_BYTES: usize = 24;
const RECORD_HEADER_BYTES: usize = 16;
const PATCHED_RECORD_HEADER_BYTES: usize = 24;
const VERSION_MAJOR: u16 = 2;

/// What the header of a pcap file says.
#[derive(Debug)]
pub(super) struct Pcap {
    order: ByteOrder,
    fraction_ns: u64,
    record_header_bytes: usize,
    link_type: LinkType,
}

impl Pcap {
    /// Takes the header.
    pub(super) fn open<R: Read>(
        source: &mut Source<R>,
        magic: [u8; 4],
    ) -> Result<Pcap, CaptureError> {
        const MICROSECONDS: u32 = 0xa1b2_c3d4;
        const NANOSECONDS: u32 = 0xa1b2_3c4d;
        const PATCHED: u32 = 0xa1b2_cd34;
        let orders = [ByteOrder::Little, ByteOrder::Big];
        let known = orders.into_iter().find_map(|order| match order.u32(magic) {
            MICROSECONDS => Some((order, 1000, RECORD_HEADER_BYTES)),
            NANOSECONDS => Some((order, 1, RECORD_HEADER_BYTES)),
            PATCHED => Some((order, 1000, PATCHED_RECORD_HEADER_BYTES)),
            _ => None,
        });
        let Some((order, fraction_ns, record_header_bytes)) = known else {
            let [a, b, c, d] = magic;
            return Err(
                source.not_a_capture(format!("it begins with {a:02x} {b:02x} {c:02x} {d:02x}"))
            );
        };
        let header = source.peek(HEADER_BYTES)?;
        let Some(header) = header.first_chunk::<HEADER_BYTES>().copied() else {
            return Err(source.not_a_capture("its header is cut off"));
        };
        let major = order.u16([header[4], header[5]]);
        if major != VERSION_MAJOR {
            return Err(
                source.not_a_capture(format!("its version is {major}, not {VERSION_MAJOR}"))
            );
        }
        // The upper bits may tell the length of a frame check sequence.
        let number = order.word(&header, 5) & 0xffff;
        let link_type = LinkType::from_number(number).ok_or_else(|| CaptureError::LinkType {
            file: source.file.clone(),
            number,
        })?;
        source.skip(HEADER_BYTES as u64)?;
        Ok(Pcap {
            order,
            fraction_ns,
            record_header_bytes,
            link_type,
        })
    }

    /// Takes the next record; `None` at the end of the file.
    pub(super) fn next<R: Read>(
        &mut self,
        source: &mut Source<R>,
    ) -> Result<Option<Record>, CaptureError> {
        if source.peek(1)?.is_empty() {
            return Ok(None);
        }
        let offset = source.window.position();
        let head = source.record(self.record_header_bytes)?;
        let [seconds, fraction, captured, wire] =
            [0, 1, 2, 3].map(|index| self.order.word(head, index));
        if captured as usize > RECORD_BYTES_MAX {
            return Err(source.damaged(format!(
                "it claims {captured} captured bytes, more than the {RECORD_BYTES_MAX} that a packet may have"
            )));
        }
        let length = self.record_header_bytes + captured as usize;
        let bytes = source.record(length)?[self.record_header_bytes..].to_vec();
        source.skip(length as u64)?;
        let timestamp_ns =
            u64::from(seconds) * 1_000_000_000 + u64::from(fraction) * self.fraction_ns;
        Ok(Some(Record {
            timestamp_ns: timestamp_ns.min(TIMESTAMP_MAX),
            link_type: Some(self.link_type),
            bytes,
            wire_bytes: u64::from(wire),
            offset,
        }))
    }
}
